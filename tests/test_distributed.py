"""Two processes with half a batch each train the same weights as one process with the whole batch."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from timm.layers import BatchNormAct2d
from torch import nn

from pipeline import config, stages
from pipeline.inference.prediction_store import PredictionStore
from pipeline.training.sync_batch_norm import sync_batch_norms

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
CONFIG = "configs/tiny.toml"

# ---------------------------------------------------------------------------------------------- batch norm alone


def network():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3),
        BatchNormAct2d(5, momentum=0.3),
        nn.Conv2d(5, 1, 1),
    )
    for norm in (model[1], model[4]):
        nn.init.normal_(norm.weight, 1, 0.3)
        nn.init.normal_(norm.bias)
    return model


def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(8, 2, 12, 10, generator=generator) * 3 + 50  # a mean far from 0: where squares lose digits
    return images, torch.randn(8, 1, 8, 6, generator=generator)


def train_on_batch(model, images, target):
    """Gradients and batch statistics after one batch, and the prediction with them."""
    model.train()
    (model(images) - target).square().mean().backward()
    found = {f"gradient of {name}": weight.grad for name, weight in model.named_parameters()}
    found |= {name: buffer.double() for name, buffer in model.named_buffers()}
    return found | {"prediction": model.eval()(images).detach()}


def sync(model):
    sync_batch_norms(model, torch.device("cpu"))


def share_of_a_batch(rank, folder):
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    images, target = batch()
    for name, prepare in (("synced", sync), ("each its own", lambda model: None)):
        model = network()
        prepare(model)
        found = train_on_batch(model, images[rank::2], target[rank::2])
        for values in (values for key, values in found.items() if key.startswith("gradient")):
            dist.all_reduce(values)
            values /= 2
        save_file({key: values.contiguous() for key, values in found.items()}, f"{folder}/{name} {rank}.safetensors")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    """Results of two processes on half a batch each: folder of `<synced | each its own> <rank>.safetensors`."""
    folder = tmp_path_factory.mktemp("halves")
    torch.multiprocessing.spawn(share_of_a_batch, (str(folder),), nprocs=2)
    return folder


@pytest.mark.parametrize("rank", [0, 1])
def test_sync_batch_norm_on_two_halves_gives_the_gradients_of_the_whole_batch(halves, rank):
    whole, half = train_on_batch(network(), *batch()), load_file(halves / f"synced {rank}.safetensors")
    assert half.keys() == whole.keys()
    torch.testing.assert_close(half.pop("prediction"), whole.pop("prediction")[rank::2], rtol=1e-4, atol=1e-5)
    for name, values in half.items():
        torch.testing.assert_close(values, whole[name], rtol=1e-4, atol=1e-6)


def test_without_sync_batch_norm_two_halves_give_other_gradients(halves):
    whole, half = train_on_batch(network(), *batch()), load_file(halves / "each its own 0.safetensors")
    far = (half["gradient of 0.weight"] - whole["gradient of 0.weight"]).abs().max()
    assert far > 0.01 * whole["gradient of 0.weight"].abs().max(), "otherwise the test above proves nothing"


def test_sync_batch_norm_in_one_process_equals_batch_norm(tmp_path):
    model = network()
    sync(model)
    assert model.state_dict().keys() == network().state_dict().keys()
    found, plain = train_on_batch(model, *batch()), train_on_batch(network(), *batch())
    for name, values in plain.items():
        torch.testing.assert_close(found[name], values, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------------------------- a fold


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def two_processes():
    return "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", free_port()


def train(name, batch_size, launcher=(), more=()):
    """Train fold 0 of the tiny competition; `launcher` starts the processes, `more` overrides further options."""
    # With scSE the decoder's last block has weights that no loss reaches, which several processes must support.
    scse = ("model.attention=scse", "model.decoder_channels=[16, 16, 16, 16, 16]")
    slow = ("train.phases.0.lr=1e-4", "train.phases.1.lr=1e-4")  # at 3e-3 Adam amplifies rounding errors to percents
    sets = (f"name={name}", f"train.batch_size={batch_size}", "train.ema=0.9", *scse, *slow, *more)
    options = [word for each in sets for word in ("--set", each)]
    command = [sys.executable, *launcher, "-m", "pipeline", "train", CONFIG, "--fold", "0", *options]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return Path("runs") / name / "fold0"


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_train_the_weights_of_one_process_with_the_same_global_batch(tiny):
    stages.make_context(config.load(CONFIG))
    alone = train("alone", 4)
    two = train("two", 4, two_processes())
    # float32 sums in another order. Without the shared statistics, the first epoch's losses differ by .009.
    for one, other in zip(lines(alone), lines(two), strict=True):
        assert (one["phase"], one["epoch"]) == (other["phase"], other["epoch"])
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-3)
        assert other["score"] == pytest.approx(one["score"], abs=2e-3)
    assert distance(load_file(alone / "phase1.safetensors"), load_file(two / "phase1.safetensors")) < 1e-4
    stores = [PredictionStore(folder / "oof") for folder in (alone, two)]
    context = stages.make_context(config.load(CONFIG))
    held_out = set(context.folds["image_id"][context.folds["fold"] == 0])
    assert stores[0].ids() == stores[1].ids() == held_out
    far = [np.abs(stores[0].read(key).astype(int) - stores[1].read(key)) for key in held_out]
    assert max(each.max() for each in far) <= 2, "of 255"
    assert len(list((two / "oof").glob("001-*.safetensors"))) == 1, "the second process did its share"


def test_two_processes_unfreeze_and_checkpoint_as_one(tiny):
    # Epoch 1 trains the decoder, epoch 2 half of the encoder too, epoch 3 all of it; activations are computed twice.
    stages.make_context(config.load(CONFIG))
    frozen = {"epochs": 3, "freeze_encoder": 1, "unfreeze_epochs": 1}
    more = [f"train.phases.0.{key}={value}" for key, value in frozen.items()]
    more += ["model.grad_checkpointing=true", "train.phases.1.freeze_bn=true"]
    alone = train("alone", 4, more=more)
    two = train("two", 4, two_processes(), more)
    for phase in (1, 2):
        one, other = (load_file(folder / f"phase{phase}.safetensors") for folder in (alone, two))
        assert distance(one, other) < 1e-4
        assert all(torch.equal(one[key], other[key]) for key in one if key.endswith("num_batches_tracked"))


def distance(weights, others):
    """The norm of the difference, relative to the weights' norm."""
    names = [name for name in weights if weights[name].is_floating_point()]
    off = sum((weights[name] - others[name]).square().sum() for name in names)
    return (off / sum(weights[name].square().sum() for name in names)).sqrt().item()
