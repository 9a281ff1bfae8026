"""The memory of a step: batch_size = "auto", and what gradient checkpointing saves."""

import json
import logging
from pathlib import Path

import pytest
import torch

from pipeline import config, stages
from pipeline.cli import main
from pipeline.training import batch_size, step_memory, trainer
from pipeline.training.batch_size import choose_batch_size
from pipeline.training.checkpoint import load_weights, read_record
from pipeline.training.distributed import Processes, processes
from pipeline.training.step_memory import most_images
from pipeline.training.trainer import Trainer
from tests.fitting import RUN, fit_tiny, history, job_of_tiny, stopped_after

CPU, GPU = torch.device("cpu"), torch.device("cuda")
CHOSEN, KNOWN = Path("runs/tiny/batch_size.json"), Path("runs/batch_sizes.json")
FOLD = Path("runs/tiny/fold0")


def load(*pairs):
    return config.load("configs/tiny.toml", pairs)


def full(*_, **__):
    """Any call on a GPU without memory."""
    raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.fixture
def gpu(monkeypatch):
    """A GPU with memory for `pixels` pixels of a batch; lists the batches that were tried."""
    tried = []

    def step(pixels):
        def train_on_copies(self, images, updates):
            image, _ = self.loader.dataset[0, 0]
            tried.append((self.state.phase, images))
            if images * image[0].numel() > pixels:
                raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(Trainer, "train_on_copies", train_on_copies)
        return tried

    return step


# ---------------------------------------------------------------------------------------------- the search


def test_the_batch_is_doubled_until_the_memory_is_full(tiny, gpu):
    tried = gpu(pixels=20 * 36 * 44)
    assert most_images(job_of_tiny(), CPU, limit=128) == 16
    assert tried == [(1, 2), (1, 4), (1, 8), (1, 16), (1, 32)]


def test_the_phase_with_the_largest_images_decides(tiny, gpu):
    tried = gpu(pixels=9 * 32 * 32)
    crops = ("train.phases.0.crop=16", "train.phases.1.crop=32")
    assert most_images(job_of_tiny(*crops, phases=2), CPU, limit=32) == 8
    assert tried == [(1, 2), (1, 4), (1, 8), (1, 16), (1, 32), (2, 2), (2, 4), (2, 8), (2, 16)]


@pytest.mark.parametrize(("pixels", "limit", "found"), [(10**9, 8, 8), (10**9, 2, 2), (36 * 44, 8, 0)])
def test_the_limit_is_not_exceeded_and_nothing_may_fit(tiny, gpu, pixels, limit, found):
    gpu(pixels)
    assert most_images(job_of_tiny(), CPU, limit) == found


def test_a_model_that_does_not_fit_itself_leaves_no_memory_for_images(tiny, monkeypatch):
    monkeypatch.setattr(trainer, "ModelEmaV3", full)
    assert most_images(job_of_tiny(), CPU, limit=8) == 0


@pytest.mark.parametrize("pairs", [(), ("train.accumulate=3", "train.optimizer=sgd")], ids=str)
def test_real_steps_leave_the_model_as_it_was(tiny, pairs):
    job = job_of_tiny(*pairs, phases=2)
    before = {key: value.clone() for key, value in job.model.state_dict().items()}
    assert most_images(job, CPU, limit=4) == 4
    after = job.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(weight.grad is None for weight in job.model.parameters())


def test_a_trial_step_runs_the_backward_pass_and_the_optimizer_twice(tiny, monkeypatch):
    steps, build = [], trainer.build_optimizer

    def build_counted(*args):
        optimizer = build(*args)
        optimizer.register_step_post_hook(lambda *_: steps.append(len(optimizer.state)))
        return optimizer

    monkeypatch.setattr(trainer, "build_optimizer", build_counted)
    assert most_images(job_of_tiny(), CPU, limit=2) == 2
    weights = len(list(job_of_tiny().model.parameters()))
    assert steps == [weights, weights]


# ---------------------------------------------------------------------------------------------- the choice


@pytest.fixture
def searches(monkeypatch):
    """The limits with which a GPU named "Fake" was searched; 8 images fit, or as many as the limit allows."""
    limits = []

    def search(job, device, limit):
        limits.append(limit)
        return min(8, limit)

    monkeypatch.setattr(batch_size, "most_images", search)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Fake")
    return limits


def choose(*pairs, group=None):
    CHOSEN.unlink(missing_ok=True)
    choose_batch_size(job_of_tiny(*pairs), group or Processes(GPU), CHOSEN, KNOWN)
    return json.loads(CHOSEN.read_text())["batch_size"]


def test_what_fits_is_remembered_for_the_same_step_on_the_same_gpu(tiny, searches, monkeypatch):
    assert choose() == 8
    assert choose("train.phases.0.lr=1e-5", "seed=3") == 8
    # Twelve training images, as many as a batch may have: 8 is the power of two below.
    assert searches == [8]
    assert choose("train.phases.0.crop=16") == 8
    assert choose("train.precision=bfloat16") == 8
    assert searches == [8] * 3
    assert choose("train.optimizer_options={betas=[0.9,0.99]}") == 8
    assert choose("train.optimizer_options={betas=[0.9,0.99]}") == 8
    assert searches == [8] * 4
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Other")
    assert choose() == 8
    assert len(searches) == 5
    assert [entry["step"]["device"] for entry in json.loads(KNOWN.read_text())] == [*["Fake"] * 4, "Other"]


def test_an_epoch_keeps_enough_images_for_an_update(tiny, searches):
    assert choose("train.accumulate=3") == 4  # of twelve images
    assert choose("train.accumulate=3", "train.phases.0.repeats=100") == 8
    assert searches == [4, 128]


def test_processes_agree_on_what_fits_on_the_smallest_gpu(tiny, searches, monkeypatch):
    monkeypatch.setattr(Processes, "gather", lambda self, value: [value, 2, 4])
    assert choose(group=Processes(GPU, rank=0, world=3)) == 6
    assert searches == [4], "a third of twelve images"


def test_of_two_folds_that_choose_at_the_same_time_the_first_decides(tiny, searches, monkeypatch):
    def search_longer(*_):
        CHOSEN.parent.mkdir(parents=True)
        CHOSEN.write_text('{"batch_size": 2}')  # by another process, which has begun to train
        return 8

    monkeypatch.setattr(batch_size, "most_images", search_longer)
    assert choose() == 2


def test_too_little_memory_for_the_smallest_batch_is_one_line(tiny, searches, monkeypatch):
    monkeypatch.setattr(batch_size, "most_images", lambda *_: 0)
    with pytest.raises(
        ValueError,
        match=r'train\.batch_size = "auto": .*full with 2 images or less: lower .* crop, or .*encoder, or set mod',
    ):
        choose()
    assert not CHOSEN.exists()
    assert not KNOWN.exists()


@pytest.mark.parametrize(("world", "size"), [(1, 16), (2, 16), (3, 15), (16, 32)])
def test_without_a_gpu_it_is_the_default_for_any_number_of_processes(tiny, world, size, monkeypatch):
    monkeypatch.setattr(Processes, "wait", lambda self: None)
    assert choose(group=Processes(CPU, rank=0, world=world)) == size


# ---------------------------------------------------------------------------------------------- a run


@pytest.mark.slow
def test_a_run_keeps_the_batch_size_that_it_chose_on_any_machine(tiny, monkeypatch):
    auto = ("train.batch_size=auto",)
    stages.train(load(*auto), 0)
    assert json.loads(CHOSEN.read_text()) == {"batch_size": 16}
    assert read_record(FOLD / "best.safetensors")["settings"]["train"]["batch_size"] == 16
    found = load_weights(FOLD / "best.safetensors")
    stages.train(load("name=fixed", "train.batch_size=16"), 0)
    fixed = load_weights(Path("runs/fixed/fold0/best.safetensors"))
    assert all(torch.equal(found[key], fixed[key]) for key in found)
    monkeypatch.setattr(batch_size, "WITHOUT_GPU", 4)  # another machine
    stages.train(load(*auto), 0)
    stages.train(load(*auto), 1)
    assert read_record(Path("runs/tiny/fold1/best.safetensors"))["settings"]["train"]["batch_size"] == 16
    stages.train(load("train.batch_size=16"), 0)  # the number instead of "auto" is the same run
    CHOSEN.write_text('{"batch_size": 4}')
    with pytest.raises(ValueError, match=r"was trained with train\.batch_size = 16, now it is 4"):
        stages.train(load(*auto), 0)


@pytest.mark.parametrize("text", ["{}", "", '{"batch_size": "many"}', '{"batch_size": 0}'])
def test_a_damaged_file_of_the_batch_size_is_one_line(tiny, capsys, text):
    CHOSEN.parent.mkdir(parents=True)
    CHOSEN.write_text(text)
    assert main(["train", "configs/tiny.toml", "--fold", "0", "--set", "train.batch_size=auto"]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("pipeline train: runs/tiny/batch_size.json: ")
    assert "write the batch size of the run's folds into it" in line


def test_another_word_than_auto_is_refused(tiny):
    with pytest.raises(ValueError, match=r"train\.batch_size: 'large': expected a whole number, or 'auto'$"):
        load("train.batch_size=large")
    with pytest.raises(ValueError, match=r"tiny\.toml: train\.batch_size: 0: expected 1 or more, or 'auto'$"):
        load("train.batch_size=0")


# ---------------------------------------------------------------------------------------------- gradient checkpointing


@pytest.mark.slow
def test_checkpointed_training_gives_the_same_weights_and_resumes_a_run_without_it(tiny):
    fit_tiny(epochs=(2,))
    plain, lines = load_weights(RUN / "phase1.safetensors"), history()
    for path in RUN.iterdir():
        path.unlink()
    fit_tiny("model.grad_checkpointing=true", epochs=(2,))
    found = load_weights(RUN / "phase1.safetensors")
    assert all(torch.equal(plain[key], found[key]) for key in plain)
    assert history() == lines

    with stopped_after(1):
        stages.train(load(), 0)
    stages.train(load("model.grad_checkpointing=true"), 0)
    stages.train(load("name=whole"), 0)
    found, whole = (load_weights(Path(f"runs/{name}/fold0/best.safetensors")) for name in ("tiny", "whole"))
    assert all(torch.equal(found[key], whole[key]) for key in whole)


def test_the_memory_of_a_step_is_logged_without_and_with_checkpointing(tiny, caplog, monkeypatch):
    monkeypatch.setattr("pipeline.stages.training.fit", lambda job: None)
    monkeypatch.setattr("pipeline.stages.training.fill_store", lambda *_: None)
    caplog.set_level(logging.INFO)
    stages.training.train_fold(stages.make_context(load("model.grad_checkpointing=true")), 0)
    (line,) = [text for text in caplog.messages if text.startswith("a step on 4 images needs ")]
    without, with_it = (int(word) for word in line.split() if word.isdigit() and word != "4")
    assert "MiB of activations without gradient checkpointing" in line
    assert with_it < without


def test_an_update_that_needs_more_memory_than_is_free_is_refused(tiny, monkeypatch):
    job, free = job_of_tiny("train.phases.0.crop=32"), [1 << 40]
    monkeypatch.setattr(step_memory, "free_memory", lambda: free[0])
    step_memory.check_memory(job, 8, CPU)
    free[0] = 1000
    needs = r"on 8 crops of 32×32 needs about \d.* MiB of memory, 1000 bytes are free: .*batch"
    with pytest.raises(ValueError, match=needs):
        step_memory.check_memory(job, 8, CPU)
    step_memory.check_memory(job, 8, torch.device("cuda"))  # which says so itself


def test_the_memory_of_an_update_grows_with_its_images(tiny, monkeypatch):
    job, said = job_of_tiny(), []
    monkeypatch.setattr(step_memory, "format_bytes", lambda count: said.append(count) or "")
    monkeypatch.setattr(step_memory, "free_memory", lambda: 0)
    for images in (2, 4, 8):
        with pytest.raises(ValueError, match="needs about"):
            step_memory.check_memory(job, images, CPU)
    two, four, eight = said[::2]
    assert eight - four == pytest.approx(2 * (four - two))
    assert four > two > 5 * sum(each.nbytes for each in job.model.parameters())


def test_the_memory_of_a_step_is_measured_on_few_images(tiny, monkeypatch):
    trained = []
    monkeypatch.setattr(trainer.Trainer, "train_on_copies", lambda self, images, updates: trained.append(images))
    step_memory.log_checkpointing(job_of_tiny("train.batch_size=64"), processes())
    assert trained == [2, 2]


def test_a_gpu_without_room_for_the_network_names_the_encoder(tiny, monkeypatch):
    monkeypatch.setattr(trainer, "ModelEmaV3", full)
    with pytest.raises(ValueError, match=r"full before the first update of phase 1, .* a smaller model\.encoder"):
        fit_tiny()


def test_a_gpu_that_is_full_names_batch_crop_and_checkpointing_in_this_order(tiny, monkeypatch):
    monkeypatch.setattr(trainer, "train_one_epoch", full)
    with pytest.raises(ValueError, match=r"halve train\.batch_size .*the phase's crop, or set model\.grad_ch"):
        fit_tiny()
    with pytest.raises(ValueError, match=r"halve train\.batch_size .*the phase's crop$"):
        fit_tiny("model.grad_checkpointing=true")
