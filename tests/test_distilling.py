"""Knowledge distillation: the targets of a student, whose models may teach a fold, and what a student resumes with."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline import config, rle, stages
from pipeline.data import dataset
from pipeline.data.mask_files import read_pixels
from pipeline.data.sample import samples_of
from pipeline.inference.prediction_store import PredictionStore, StoreWriter, start_store
from pipeline.metrics import VOID
from pipeline.serving.bundle_prediction import predict_test
from pipeline.stages.bundling import write_code, write_weights
from pipeline.stages.distilling import refuse_other_channels
from pipeline.stages.ensembling import load_members
from pipeline.stages.preparing import make_context
from pipeline.stages.training import _with_defaults, settings, train_full
from pipeline.training.checkpoint import load_weights, read_record
from pipeline.training.distributed import processes
from pipeline.training.fold_data import TeacherData, build_loader
from tests.conftest import CONFIG
from tests.fitting import fit_tiny, fold_data, history, stopped_after


def load(name="student", *pairs):
    return config.load(f"configs/{name}.toml", pairs)


@pytest.fixture
def student(tiny):
    """The tiny competition with a config that learns from the tiny config."""
    Path("configs/student.toml").write_text(CONFIG.replace("[train]", '[train]\nteacher = "tiny"'))
    return tiny


def store_of(folder, index, value, fold=0):
    """A store with one stored value for every pixel; a function gives the values of an image."""
    start_store(folder, {"fold": fold})
    writer = StoreWriter(folder)
    for sample in samples_of(index):
        values = value(sample) if callable(value) else np.full((1, *sample.size), value, np.uint8)
        writer.write(sample.image_id, values)
    writer.flush()
    return folder


def teaching(*values, weight=0.5, phases=(1,), fold=0):
    """The tiny fold, taught by models that predict these values."""
    data = fold_data()
    stores = [store_of(Path(f"teacher{n}"), data.train_index, value, fold) for n, value in enumerate(values)]
    return replace(data, teacher=TeacherData(tuple(stores), weight, phases))


def targets(data, *pairs, number=1):
    """Every target of an epoch by image id, without augmentation."""
    cfg = config.load("configs/tiny.toml", ["train.phases.0.augment=none", "train.phases.1.augment=none", *pairs])
    loader = build_loader(data, cfg.train, number, 0, processes())
    images = loader.dataset
    return {sample.image_id: images[position, 0][1] for position, sample in enumerate(images.samples)}


def test_the_target_is_label_and_probability_by_weight_by_hand(tiny):
    # Two teachers with 51 and 153 of 255, .2 and .6, mean .4: .75 · label + .25 · .4 is .1 outside and .85 inside.
    data = teaching(51, 153, weight=0.25)
    found = targets(data)
    assert found.keys() == set(data.train_index["image_id"])
    for sample in samples_of(data.train_index):
        label = torch.from_numpy(data.labels.read(sample)).permute(2, 0, 1)
        expected = torch.where(label == 1, 0.85, 0.1)
        assert found[sample.image_id].dtype == torch.float32
        assert torch.allclose(found[sample.image_id], expected, atol=1e-7)


def test_weight_1_leaves_nothing_of_the_label(tiny):
    assert all((target == 1).all() for target in targets(teaching(255, weight=1)).values())


def test_certain_and_correct_teachers_leave_the_label(tiny):
    data = fold_data()
    certain = teaching(lambda sample: data.labels.read(sample).transpose(2, 0, 1) * 255, weight=0.3)
    for sample in samples_of(data.train_index):
        label = torch.from_numpy(data.labels.read(sample)).permute(2, 0, 1)
        assert torch.equal(targets(certain)[sample.image_id], label.float())


def test_void_pixels_stay_void(tiny, monkeypatch):
    data = teaching(51)
    read = type(data.labels).read

    def read_with_void(self, sample):
        label = read(self, sample)
        label[:3] = VOID
        return label

    monkeypatch.setattr(type(data.labels), "read", read_with_void)
    for target in targets(data).values():
        assert (target[:, :3] == VOID).all()
        assert (target[:, 3:] <= 1).all()


def test_probabilities_are_augmented_as_the_label_and_the_image_are(tiny):
    # The teacher's probability of a pixel is its grey value, so it has to follow the image wherever that goes.
    def grey(sample):
        return read_pixels(sample.sources[0], None, exif=True)[0][..., 0][None].copy()

    data = teaching(grey, weight=1)
    cfg = config.load("configs/tiny.toml", ["train.phases.0.augment=light"])
    images = build_loader(data, cfg.train, 1, 0, processes()).dataset
    moved = 0
    for seed in range(8):
        plain, (image, target) = grey(images.samples[0]), images[0, seed]
        moved += not np.array_equal(target.numpy(), np.float32(plain) / 255)
        edges = np.corrcoef(image.float().flatten(), target.flatten())[0, 1]
        assert edges > 0.999  # brightness and contrast of the image may change
    assert moved


def test_probabilities_follow_the_size_of_the_network(tiny):
    # Half of the columns are 0 and half are 255: at half the size too, and each pixel is a mean of four.
    def halves(sample):
        values = np.zeros((1, *sample.size), np.uint8)
        values[..., sample.size[1] // 2 :] = 255
        return values

    data = teaching(halves, weight=1)
    found = next(iter(targets(data, "train.phases.0.size={factor=0.5}").values()))
    assert found.shape == (1, 18, 22)
    assert torch.equal(found[0, 0], torch.cat([torch.zeros(11), torch.ones(11)]))


def test_a_phase_without_the_teacher_is_bit_identical_to_training_without_it(tiny):
    fit_tiny()
    expected = [each["loss"] for each in history()]
    shutil.rmtree("runs")
    fit_tiny(data=teaching(51, phases=(2,)))
    assert [each["loss"] for each in history()] == expected
    shutil.rmtree("runs")
    shutil.rmtree("teacher0")
    fit_tiny(data=teaching(51))
    assert [each["loss"] for each in history()] != expected


@pytest.mark.parametrize(("fold", "message"), [(1, "held out fold 1, not fold 0"), ("full", "held out fold full")])
def test_probabilities_of_a_model_that_saw_the_held_out_images_are_refused(tiny, fold, message):
    with pytest.raises(ValueError, match=message):
        teaching(51, fold=fold)


def test_probabilities_of_too_few_images_are_refused(tiny):
    data = fold_data()
    store = store_of(Path("teacher"), data.train_index[1:], 51)
    with pytest.raises(ValueError, match="no label for 1 of 12 images"):
        replace(data, teacher=TeacherData((store,), 0.5, (1,)))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["train.teacher={from='tiny',weight=0}"], "train.teacher.weight"),
        (["train.teacher={from='tiny',phases=[3]}"], "teacher.phases: there is no phase 3"),
        (["train.teacher=[]"], "train.teacher.from"),
        (["train.teacher=tiny", "data.crops={size=64}"], "data.crops never does"),
        (["train.teacher=tiny", "data.boundary=2", "train.phases.0.mix={cutmix=0.5}"], "remove mix"),
    ],
)
def test_options_that_do_not_go_with_a_teacher_are_refused(tiny, pairs, message):
    with pytest.raises(ValueError, match=message):
        config.load("configs/tiny.toml", pairs)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["train.teacher=student"], "student from student: a config cannot learn from itself"),
        (["train.teacher=nobody"], "nobody.toml: no such file"),
        (["train.teacher={from='tiny',phases=[1,2]}"], r"train\.phases\.1\.loss: .*lovasz"),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused_before_any_training(student, pairs, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        stages.train(load("student", *pairs), 0)
    assert not list(Path("runs").glob("*/fold*/*.safetensors"))


def test_a_teacher_of_other_channels_is_refused(student):
    for pair, message in (
        ("data.boundary=2.0", "data.boundary = 2.0, expected None"),
        ("model.classes=3", "= 3, expected 1"),
    ):
        with pytest.raises(ValueError, match=f"tiny has .*{message}"):
            refuse_other_channels(load(), load("tiny", pair))


def test_a_full_fit_that_a_teacher_on_pseudo_labels_cannot_have_is_refused_before_the_folds_are_trained(student):
    text = Path("configs/tiny.toml").read_text()
    Path("configs/other.toml").write_text(text)
    Path("configs/tiny.toml").write_text(text.replace("[train]", '[train]\npseudo = { from = "other" }'))
    with pytest.raises(ValueError, match=r"a full fit on pseudo-labels is not supported: .* the labels of tiny\."):
        train_full(stages.make_context(load()))
    assert not list(Path("runs").glob("*/fold*"))


def test_a_string_a_list_and_a_table_name_the_same_teacher(tiny):
    forms = (
        "train.teacher=tiny",
        "train.teacher=['tiny']",
        "train.teacher={from='tiny'}",
        "train.teacher={from=['tiny']}",
    )
    first, *others = (config.load("configs/tiny.toml", [form]).train.teacher for form in forms)
    assert first.from_ == ("tiny",)
    assert all(other == first for other in others)


def test_a_teacher_trained_with_other_settings_is_noticed(student):
    before = settings(stages.make_context(load()))
    assert before["teacher"]["tiny"]["train"]["phases"][0]["lr"] == 0.003
    text = Path("configs/tiny.toml").read_text()
    Path("configs/tiny.toml").write_text(text.replace("3e-3", "2e-3"))
    after = settings(stages.make_context(load()))
    assert {key for key in before if before[key] != after[key]} == {"teacher"}
    # So does another way to predict, which gives other probabilities.
    Path("configs/tiny.toml").write_text(f'{text}\n[predict]\nviews = ["identity"]\n')
    assert settings(stages.make_context(load()))["teacher"] != before["teacher"]
    # Options that do not change weights or probabilities do not count.
    Path("configs/tiny.toml").write_text(text.replace("[train]", "[train]\nworkers = 1") + "\n[predict]\nfull = true\n")
    assert settings(stages.make_context(load())) == before


def test_options_that_came_after_a_student_was_trained_have_their_defaults_in_its_teacher_too(student):
    now = settings(stages.make_context(load()))
    before = json.loads(json.dumps(now))
    del before["teacher"]["tiny"]["model"]["drop_path"], before["teacher"]["tiny"]["train"]["phases"][0]["freeze_bn"]
    assert before != now
    assert _with_defaults(before) == now


def move_mask(image_id):
    """Draw an image's mask elsewhere, with the same number of pixels, so that the folds stay."""
    table = pd.read_csv("tiny/train.csv", dtype=str, keep_default_na=False)
    row = table["id"] == image_id
    mask = rle.decode(table.loc[row, "rle_mask"].item(), (36, 44))
    moved = np.roll(mask, (9, 11), axis=(0, 1))
    assert not np.array_equal(mask, moved)
    table.loc[row, "rle_mask"] = rle.encode(moved)
    table.to_csv("tiny/train.csv", index=False)


def write_one_epoch(name, teacher=""):
    """A config of one phase of one epoch: no choice of weights by their score on the held-out images."""
    text = CONFIG.split("[[train.phases]]")
    Path(f"configs/{name}.toml").write_text(
        text[0].replace("[train]", f"[train]\n{teacher}") + "[[train.phases]]" + text[1].replace("= 2", "= 1")
    )


@pytest.mark.slow
@pytest.mark.parametrize("of_held_out", [True, False])
def test_only_labels_that_the_fold_trains_on_change_what_its_student_learns(tiny, monkeypatch, of_held_out):
    learned = {}
    original = dataset.MaskedImages._checked_mask

    def spy(self, sample, position):
        mask = original(self, sample, position)
        if mask.dtype == np.float32:  # of the student; its teacher learns masks of 0 and 1
            learned[sample.image_id] = mask
        return mask

    monkeypatch.setattr(dataset.MaskedImages, "_checked_mask", spy)
    write_one_epoch("tiny")
    write_one_epoch("student", 'teacher = "tiny"')
    stages.train(load(), 0)
    before = dict(learned)
    context = stages.make_context(load())
    rows = context.index.merge(context.folds, on="image_id").query("coverage > 0")
    assert before.keys() == set(context.index["image_id"]) - set(context.folds.query("fold == 0")["image_id"])
    shutil.rmtree("runs")
    learned.clear()
    moved = rows[(rows["fold"] == 0) == of_held_out]["image_id"].iloc[0]
    move_mask(moved)
    stages.train(load(), 0)
    assert learned.keys() == before.keys()
    changed = {name for name in before if not np.array_equal(learned[name], before[name])}
    assert (not changed) if of_held_out else (moved in changed and len(changed) > 1)  # the teacher learned it


@pytest.mark.slow
def test_a_student_is_trained_to_a_submission_and_its_teacher_is_trained_and_predicts_once(student, monkeypatch):
    done = stages.ensemble([load("student", "predict.full=true")])
    submission = pd.read_csv(done.csv, dtype=str, keep_default_na=False)
    assert len(submission) == 5
    for fold in ("fold0", "fold1", "fold2"):
        held_out = PredictionStore(Path("runs/tiny") / fold / "oof").ids()
        taught = PredictionStore(Path("runs/tiny") / fold / "trained").ids()
        assert (len(held_out | taught), held_out & taught) == (18, set())
    assert len(PredictionStore(Path("runs/tiny/full/trained")).ids()) == 18
    assert load_weights(Path("runs/student/fold0/best.safetensors")).keys()
    assert read_record(Path("runs/student/full/best.safetensors"))["settings"]["teacher"].keys() == {"tiny"}

    def trained_again(*_args):
        raise AssertionError("trained again")

    monkeypatch.setattr("pipeline.stages.training._fit", trained_again)
    stages.ensemble([load("student", "predict.full=true")])
    bundle = write_weights(Path("bundle"), load_members([load("student", "predict.full=true")]), done)
    Path("configs/tiny.toml").unlink()  # a bundle needs nothing of the teacher
    predicted = predict_test(bundle, Path("tiny"), Path("submission.csv"))
    assert submission.equals(pd.read_csv(predicted.csv, dtype=str, keep_default_na=False))


@pytest.mark.slow
def test_a_student_that_was_stopped_resumes_to_the_same_weights(student):
    stages.train(load(), 0)
    expected = load_weights(Path("runs/student/fold0/best.safetensors"))
    shutil.rmtree("runs/student")
    with stopped_after(1):
        stages.train(load(), 0)
    assert len(history_of("student")) == 1
    stages.train(load(), 0)
    assert len(history_of("student")) == 4
    found = load_weights(Path("runs/student/fold0/best.safetensors"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    with pytest.raises(ValueError, match="teacher"):
        stages.train(load("student", "train.teacher={from='tiny',weight=0.9}"), 0)


def history_of(name):
    return [json.loads(line) for line in Path(f"runs/{name}/fold0/metrics.jsonl").read_text().splitlines()]


def test_a_code_bundle_has_the_files_of_the_teachers_too(student, monkeypatch):
    text = CONFIG.replace("[train]", '[train]\nteacher = "student"')
    Path("configs/second.toml").write_text(text)
    monkeypatch.setattr("pipeline.stages.bundling.write_wheels", lambda folder, wheels: folder.mkdir())
    write_code(Path("code"), [make_context(load("second"))])
    layout = json.loads(Path("code/layout.json").read_text())
    assert {"configs/second.toml", "configs/student.toml", "configs/tiny.toml"} <= set(layout.values())
