"""Several processes of one training: what they exchange, how they share a batch, and how they end."""

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d, SyncBatchNormAct
from torch import nn

from pipeline import config
from pipeline.models import build_model
from pipeline.training.distributed import CONTROL_TIMEOUT, Processes, _own_gpu, has_unused_weights
from pipeline.training.epoch import Arithmetic, train_one_epoch
from pipeline.training.fold_data import build_loader
from pipeline.training.sync_batch_norm import needs_sync, sync_batch_norms
from pipeline.training.validation import Validator
from tests import fitting
from tests.test_distributed import free_port

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


def join(rank, folder, timeout=timedelta(minutes=2)):
    """One of two processes whose default group, like NCCL's, has no backend for CPU tensors."""
    dist.init_process_group(
        "cuda:gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2, timeout=timeout
    )
    return Processes(CPU, rank, 2, dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT))


def exchange_everything(rank, folder):
    group = join(rank, folder)
    with pytest.raises(RuntimeError, match="No backend type associated with device type cpu"):
        dist.all_reduce(torch.ones(1))
    model = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(model.weight)
    batches = [(torch.full((1, 1, 2, 2), 1.0 + rank), torch.zeros(1))]
    loss = train_one_epoch(
        model,
        batches,
        lambda logits, target: logits.mean(),
        torch.optim.SGD(model.parameters()),
        Arithmetic.of(group, "float32"),
        learning_rates=[0.1],
        accumulate=1,
        clip=1.0,
        after_update=lambda update: None,
    )
    assert loss == 1.5, "the mean of both processes' losses, 1 and 2"
    order = []
    with group.main_first():
        order.append(time.monotonic())
    first, second = group.gather(order[0])
    assert first < second
    # Image k has k pixels above every threshold; each process predicts every other image.
    validator = object.__new__(Validator)
    validator.group, validator.data = group, SimpleNamespace(tiles=None, labels=SimpleNamespace(exclusive=False))
    validator._batches = lambda _: [
        (
            [str(k)],
            torch.where(torch.arange(4) < k, 255, 0).view(1, 1, 2, 2).to(torch.uint8),
            torch.ones(1, 1, 2, 2, dtype=torch.uint8),
        )
        for k in range(5)[rank::2]
    ]
    assert [hard.predicted[0, 0] for _, hard, _ in validator.counts(None)] == [0, 1, 2, 3, 4]
    dist.destroy_process_group()


def meet(rank, folder):
    """Wait until both processes have imported their libraries, which may take longer than the timeout."""
    (folder / f"ready{rank}").touch()
    while not all((folder / f"ready{number}").exists() for number in range(2)):
        time.sleep(0.01)


def prepare_for_longer_than_the_timeout(rank, folder):
    meet(rank, Path(folder))
    group = join(rank, folder, timedelta(seconds=1))
    with group.main_first():
        if group.is_main:
            time.sleep(3)
    dist.destroy_process_group()


@pytest.mark.slow
@pytest.mark.parametrize("run", [exchange_everything, prepare_for_longer_than_the_timeout])
def test_objects_and_barriers_use_neither_the_backend_nor_the_timeout_of_the_device(tmp_path, run):
    torch.multiprocessing.spawn(run, (str(tmp_path),), nprocs=2)


DIES = """
import sys
from pipeline.cli import main
from pipeline.cli.terminal import app
from pipeline.training.distributed import processes

@app.command()
def dies():
    group = processes()
    if group.rank == 1:
        raise ValueError("image 'a7' is damaged")
    group.wait()

sys.exit(main(["dies"]))
"""


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_and_its_message_is_shown(tmp_path):
    script = tmp_path / "dies.py"
    script.write_text(DIES)
    started = time.monotonic()
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, *launcher, script], env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert time.monotonic() - started < 600  # gloo waits for 30 minutes
    assert "pipeline dies: image 'a7' is damaged" in done.stderr


# ---------------------------------------------------------------------------------------------- shares of a batch


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_the_batches_of_one_process(tiny, world):
    cfg = config.load("configs/tiny.toml", ["train.batch_size=6"]).train
    data = fitting.fold_data()

    def batches(group):
        loader = build_loader(data, cfg, 1, 0, group)
        return [images for images, _ in loader]

    alone = batches(Processes(CPU))
    shares = [batches(Processes(CPU, rank, world)) for rank in range(world)]
    assert len(alone) == 2
    for number, whole in enumerate(alone):
        for rank, share in enumerate(shares):
            assert len(share) == len(alone)
            assert torch.equal(share[number], whole[rank::world])


def test_a_batch_that_cannot_be_divided_is_refused():
    assert Processes(CPU, 0, 4).batch_size_per_process(16) == 4
    with pytest.raises(ValueError, match=r"train.batch_size = 16 .* 3 processes: set a multiple of 3, such as 18"):
        Processes(CPU, 0, 3).batch_size_per_process(16)


def test_more_processes_than_gpus_are_refused():
    assert _own_gpu(1, 2) == 1
    with pytest.raises(ValueError, match=r"2 GPUs for more processes on this machine: .*--nproc-per-node 2"):
        _own_gpu(2, 2)


def test_gpus_that_would_compute_in_different_precisions_are_refused(monkeypatch):
    monkeypatch.setattr(Processes, "gather", lambda self, value: [torch.float16, torch.bfloat16])
    with pytest.raises(ValueError, match=r"compute in torch.bfloat16 and torch.float16: set train.precision"):
        Arithmetic.of(Processes(CPU), "auto")


# ---------------------------------------------------------------------------------------------- the network


@pytest.mark.parametrize(
    ("options", "unused"),
    [
        ({"decoder_channels": [16, 16, 16, 16, 16]}, False),
        ({"decoder_channels": [16, 16, 16, 16, 16], "attention": "scse"}, True),  # of the finest level, without a skip
        ({"arch": "fcn8s"}, False),
        ({"deep_supervision": 0.4, "image_head": 0.1}, False),
    ],
    ids=["unet", "scse", "fcn", "heads"],
)
def test_weights_without_a_gradient_are_found(options, unused):
    model = build_model(config.Model(encoder="tu-resnet18", weights="none", in_channels=1, **options))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert has_unused_weights(model) is unused
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize(
    ("setting", "images", "synced"),
    [(None, 2, True), (None, 15, True), (None, 16, False), (True, 64, True), (False, 2, False)],
)
def test_batch_norms_of_small_batches_are_synchronised(setting, images, synced):
    assert needs_sync(setting, images) is synced


def test_gpus_use_torchs_sync_batch_norm_with_the_same_names_and_activations():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), BatchNormAct2d(4), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2))
    names = list(model.state_dict())
    for _phase in range(2):
        sync_batch_norms(model, torch.device("cuda"))
        assert isinstance(model[1], SyncBatchNormAct)
        assert isinstance(model[1].act, nn.ReLU)
        assert type(model[3]) is nn.SyncBatchNorm
        assert list(model.state_dict()) == names


def test_weights_without_a_gradient_are_found_beside_torchs_sync_batch_norm(tmp_path):
    # In training it refuses tensors that are not on a GPU: every training on several GPUs ended at its start.
    model = build_model(config.Model(encoder="tu-resnet18", weights="none", in_channels=1))
    sync_batch_norms(model, torch.device("cuda"))
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        assert not has_unused_weights(model)
    finally:
        dist.destroy_process_group()


def test_sync_batch_norm_is_applied_once(monkeypatch):
    model = nn.Sequential(nn.BatchNorm2d(2))
    sync_batch_norms(model, CPU)
    kind = type(model[0])
    sync_batch_norms(model, CPU)
    assert type(model[0]) is kind


# ---------------------------------------------------------------------------------------------- gradients


class SquareRoot(nn.Module):
    """A network whose output is finite at 0, and whose gradient is not."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images):
        return images + self.weight.sqrt()


def train_square_root(accumulate=1):
    model = SquareRoot()
    batches = [(torch.ones(1, 1, 2, 2), torch.zeros(1))] * accumulate
    train_one_epoch(
        model,
        batches,
        lambda logits, target: logits.mean(),
        torch.optim.SGD(model.parameters()),
        Arithmetic.of(Processes(CPU), "float32"),
        learning_rates=[0.1],
        accumulate=accumulate,
        clip=1.0,
        after_update=lambda update: None,
    )


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_gradient_that_is_not_finite_ends_a_training_before_a_weight_changes(accumulate, monkeypatch):
    changed = []
    monkeypatch.setattr(torch.optim.SGD, "step", lambda self: changed.append(1))
    with pytest.raises(FloatingPointError, match=rf"norm of the gradient is (inf|nan) at batch {accumulate}, .*lower"):
        train_square_root(accumulate)
    assert not changed


@pytest.mark.parametrize(("wrong", "batch"), [(0, 1), (1, 2), (4, 5)])
def test_a_loss_that_is_not_finite_is_reported_with_its_batch(wrong, batch):
    model = nn.Conv2d(1, 1, 1)
    batches = [(torch.ones(1, 1, 2, 2), torch.tensor(np.nan if number == wrong else 1.0)) for number in range(6)]
    before = model.weight.clone()
    with pytest.raises(FloatingPointError, match=rf"loss is nan at batch {batch},"):
        train_one_epoch(
            model,
            batches,
            lambda logits, target: logits.mean() * target,
            torch.optim.SGD(model.parameters(), lr=0),
            Arithmetic.of(Processes(CPU), "float32"),
            learning_rates=[0.0] * 2,
            accumulate=3,
            clip=1.0,
            after_update=lambda update: None,
        )
    assert torch.equal(model.weight, before)


def test_float16_that_overflows_in_every_update_ends_a_training():
    model = SquareRoot()
    with pytest.raises(FloatingPointError, match=r"norm of the gradient is (inf|nan) for 20 updates at batch 20,"):
        train_one_epoch(
            model,
            [(torch.ones(1, 1, 2, 2), torch.zeros(1))] * 40,
            lambda logits, target: logits.float().mean(),
            torch.optim.SGD(model.parameters()),
            Arithmetic.of(Processes(CPU), "float16"),
            learning_rates=[0.1] * 40,
            accumulate=1,
            clip=1.0,
            after_update=lambda update: None,
        )
    assert model.weight.item() == 0
