"""Checks encoders by running them: a training step and a prediction in each architecture that they are listed for."""

import csv
import ctypes
import gc
import math
import platform
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import timm
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from pipeline.config import Config
from pipeline.files import atomic_write
from pipeline.inference.predictor import Predictor
from pipeline.models import ARCHITECTURES, build_model, check_model, dry_run, encoder
from pipeline.models.image_size import with_image_size
from pipeline.models.segmenter import Outputs, Segmenter
from pipeline.progress import track
from pipeline.quoting import shortened

SIDE = 64  # pixels, square, of the training images of an encoder that takes more than its native size
BATCH = 2  # images, the fewest that batch norm can train on
SHAPE = (300, 200)  # height and width of the image that is predicted
GIB_OF_LIBRARIES = 1.0  # Python, torch, timm and smp, before the first network
BYTES_PER_WEIGHT = 8  # of the network: the weight takes 4, activations and the copies of the largest layer 0.5 to 3.5
PROBED = {"unet", "fcn8s", "deeplabv3_aspp", "deeplabv3_cascade", "dpt"}  # which encoders.csv was made with
PASSED, FAILED, REFUSED, NOT_CHECKED = "passed", "failed", "refused", "not checked"


class Checked(NamedTuple):
    """The result of one encoder in one architecture."""

    encoder: str
    arch: str
    result: str  # PASSED; FAILED; REFUSED by the check of a config, as the table does not cover it; NOT_CHECKED
    reason: str
    parameters: float  # millions, of the encoder
    seconds: float
    timm: str  # its version


def check_encoders(names: Sequence[str], count: int, *, seed: int, path: Path, memory: float) -> list[Checked]:
    """Check random encoders, the smallest first; results in the file are kept, and not computed again.

    Args:
        names: of the encoders to draw from.
        count: of encoders.
        seed: of the draw.
        path: of the CSV with all results.
        memory: GiB; networks that need more are listed as not checked.

    Returns:
        the results of the drawn encoders, one for each architecture.

    Writes: path, after each encoder
    """
    drawn = random.Random(seed).sample(sorted(names), min(count, len(names)))
    rows = sorted((encoder.known()[name] for name in drawn), key=lambda row: (row.parameters, row.name))
    results = {(each.encoder, each.arch): each for each in _read(path) if each.timm == timm.__version__}
    with _skip_existing_objects():
        for row in track(rows, "check encoders"):
            archs = [arch for arch in ARCHITECTURES if ARCHITECTURES[arch].requires in row.supports.split()]
            missing = [arch for arch in archs if results.get((row.name, arch), NOTHING).result in ("", NOT_CHECKED)]
            results |= {(each.encoder, each.arch): each for each in _check(row, missing, memory)}
            if missing:
                _write(path, list(results.values()))
    return [each for each in results.values() if each.encoder in drawn]


@contextmanager
def _skip_existing_objects() -> Iterator[None]:
    """Let `gc.collect` look at what is made inside only: a look at all that was imported takes half a second."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


NOTHING = Checked("", "", "", "", 0, 0, "")


def _check(row: encoder.Encoder, archs: list[str], memory: float) -> Iterator[Checked]:
    for arch in archs:
        started = time.monotonic()
        result, reason = _try(row, arch, memory)
        _free_memory()
        seconds = round(time.monotonic() - started, 1)
        yield Checked(row.name, arch, result, reason, row.parameters, seconds, timm.__version__)


def _free_memory() -> None:
    """Free the last network: a failed one is in a cycle with its error, and glibc keeps what is freed for itself."""
    gc.collect()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _try(row: encoder.Encoder, arch: str, memory: float) -> tuple[str, str]:
    """The result of one encoder in one architecture, and its reason."""
    cfg = with_image_size(_config(row, arch))
    try:
        check_model(cfg.model)
    except ValueError as error:
        return FAILED if arch in PROBED else REFUSED, shortened(" ".join(str(error).split()), 200)
    needed = memory_needed(cfg)
    if needed > memory:
        return NOT_CHECKED, f"needs about {needed:.1f} GiB"
    try:
        run_once(cfg)
    except Exception as error:  # of timm, smp or torch: the table reports it
        return FAILED, shortened(f"{type(error).__name__}: {' '.join(str(error).split())}", 200)
    return PASSED, ""


def _config(row: encoder.Encoder, arch: str) -> Config:
    side = int(row.native_size) if row.image_size == "native" else SIDE
    phase = {"loss": {"bce": 1.0}, "epochs": 1, "lr": 1e-3, "crop": side}
    strides = [int(stride) for stride in row.strides.split() if stride != "32"]
    options = {"output_stride": max(strides)} if "output_stride" in ARCHITECTURES[arch].options else {}
    model = {"arch": arch, "encoder": row.name, "weights": "none", **options}
    return Config.model_validate({"name": row.name, "competition": "", "model": model, "train": {"phases": [phase]}})


def memory_needed(cfg: Config) -> float:
    """GiB of one training step, by the weights of the network: a decoder can have five times those of its encoder."""
    weights = sum(weight.numel() for weight in dry_run(cfg.model).parameters())
    return GIB_OF_LIBRARIES + weights * BYTES_PER_WEIGHT / 2**30


def run_once(cfg: Config) -> None:
    """Train a model for a step on noise, and predict an image of SHAPE.

    Raises:
        ArithmeticError: if the loss, a gradient or a probability is not finite, or the encoder has no gradient.
        ValueError: if the probabilities have another size than the image.
        Exception: what timm, smp or torch raise.
    """
    torch.manual_seed(0)
    model = build_model(cfg.model)
    _train_step(model, cfg.train.phases[0].crop, cfg.train.clip)
    images = torch.randint(0, 256, (1, cfg.model.in_channels, *SHAPE), dtype=torch.uint8)
    probs = Predictor(model, ("identity",), "float32", tiles=cfg.predict.tiles)(images)
    if probs.shape[-2:] != SHAPE:
        raise ValueError(f"probabilities of {tuple(probs.shape[-2:])}, expected {SHAPE}")
    if not probs.isfinite().all():
        raise ArithmeticError("a probability is not finite")


def _train_step(model: Segmenter, side: int, clip: float) -> None:
    images = torch.randint(0, 256, (BATCH, model.mean.shape[1], side, side), dtype=torch.uint8)
    output = model.train()(images)
    logits = output.logits if isinstance(output, Outputs) else output
    loss = binary_cross_entropy_with_logits(logits, (torch.rand_like(logits) > 0.5).float())
    if not loss.isfinite():
        raise ArithmeticError(f"the loss is {loss.item()}")
    with step_in_backward(model, clip) as stepped:
        loss.backward()
    if not any(weight in stepped for weight in model.encoder.parameters()):
        raise ArithmeticError("no weight of the encoder has a gradient")


@contextmanager
def step_in_backward(model: torch.nn.Module, clip: float) -> Iterator[set[torch.nn.Parameter]]:
    """Let each weight take its SGD step as soon as it has its gradient, so that the gradients are never all in memory.

    See PyTorch's tutorial "How to save memory by fusing an optimizer step into the backward pass".

    Args:
        model: its weights are changed by a backward pass inside.
        clip: the largest norm of a gradient. Those of random weights have up to 1e7, and such a step ruins the weights.

    Yields:
        the weights that had a gradient, filled by the backward pass.
    """
    stepped: set[torch.nn.Parameter] = set()

    def step(weight: torch.nn.Parameter) -> None:
        # The scores of an FCN start at zero, so its encoder's first gradients are zero: they must exist, and be finite.
        norm = weight.grad.norm().item()
        if not math.isfinite(norm):
            raise ArithmeticError("a gradient is not finite")
        weight.add_(weight.grad, alpha=-1e-3 * clip / max(norm, clip))
        weight.grad = None
        stepped.add(weight)

    trained = [weight for weight in model.parameters() if weight.requires_grad]
    hooks = [weight.register_post_accumulate_grad_hook(step) for weight in trained]
    try:
        yield stepped
    finally:  # the garbage collection does not see that a weight's hook refers to the weight
        for hook in hooks:
            hook.remove()


def _read(path: Path) -> list[Checked]:
    """Earlier results; none if there is no file.

    Raises:
        ValueError: if it is a folder, or not a CSV of results.
    """
    if path.is_dir():
        raise ValueError(f"--results: {path} is a folder: give the path of a CSV file")
    if not path.is_file():
        return []
    rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
    if tuple(rows.fieldnames or ()) != Checked._fields:
        raise ValueError(
            f"{path}: not a CSV of results, whose columns are {', '.join(Checked._fields)}: remove it, or give another "
            "path with --results"
        )
    return [
        Checked(**{**row, "parameters": float(row["parameters"]), "seconds": float(row["seconds"])}) for row in rows
    ]


def _write(path: Path, results: list[Checked]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Checked._fields)
        writer.writerows(sorted(results, key=lambda each: (each.parameters, each.encoder)))
