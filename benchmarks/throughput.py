"""Speed on this machine's GPU or CPU: the network alone, the whole loop from PNG files, a plain script, prediction.

    python benchmarks/throughput.py                                             a GPU, in under four minutes
    python benchmarks/throughput.py --encoders tu-resnet18 --side 128 --batches 8 --images 48       a CPU

    network   the pipeline's loop (BCE + Dice, AdamW, averaged weights) on batches that lie on the device
    files     the same loop from PNG files: Reader, augmentation "light", Loader with the default number of workers
    plain     smp.Unet, float32, default memory format, torch's DataLoader without workers, AdamW
    predict   five networks, the eight symmetries of the square, from PNG files to a CSV of RLE

Each is an untimed round and then `--rounds` rounds, which alternate; a ratio is that of the medians. The share of peak
is relative to the largest matrix products in the same precision; the operations are those of convolutions and matrix
products. A case that would begin after `--seconds` is left out, and named.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from time import monotonic
from typing import Annotated, NamedTuple

import cv2
import numpy as np
import pandas as pd
import segmentation_models_pytorch as smp
import torch
import typer
from interleave import interleave
from peak import flops_of, matrix_peak
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from training_loop import MIX, training_loop  # noqa: E402

from pipeline import competition, config, hardware, rle  # noqa: E402
from pipeline.data.augment import Augment, make_recipe  # noqa: E402
from pipeline.data.dataset import MaskedImages  # noqa: E402
from pipeline.data.index import read_index  # noqa: E402
from pipeline.data.labels import Labels  # noqa: E402
from pipeline.data.loader import Loader, on_device  # noqa: E402
from pipeline.data.reader import Reader  # noqa: E402
from pipeline.data.sampler import EpochSampler  # noqa: E402
from pipeline.inference.predictor import Predictor, predict_images  # noqa: E402
from pipeline.losses import build_loss  # noqa: E402
from pipeline.models import build_model  # noqa: E402
from pipeline.symmetries import SYMMETRIES  # noqa: E402
from pipeline.training.epoch import Batch  # noqa: E402

STEPS = 4  # of training per round
MODELS = 5  # that predict
RATE = 1e-4


class Case(NamedTuple):
    """One network at one batch size."""

    encoder: str
    batch: int
    precision: str
    compiled: bool = False


class Result(NamedTuple):
    """Images per second of a case, by what was run; None: not run."""

    case: Case
    speed: dict[str, float]
    share: float  # of peak, of "network"
    memory: float  # peak MiB of "network"


def write_images(root: Path, count: int, side: int) -> pd.DataFrame:
    """Write PNGs of discs in noise with their RLE in the layout of the demo; returns their index."""
    rng, rows = np.random.default_rng(0), []
    (root / "train/images").mkdir(parents=True)
    down, across = np.mgrid[:side, :side]
    for number in range(count):
        row, column, radius = rng.uniform(0.2, 0.8, 3) * (side, side, side / 3)
        mask = ((down - row) ** 2 + (across - column) ** 2 < radius**2).astype(np.uint8)
        image = (
            cv2.GaussianBlur(rng.integers(0, 160, (side, side, 3), dtype=np.uint8), (5, 5), 0) + 60 * mask[..., None]
        )
        cv2.imwrite(str(root / f"train/images/{number:04}.png"), image)
        rows.append((f"{number:04}", rle.encode(mask)))
    pd.DataFrame(rows, columns=["id", "rle_mask"]).to_csv(root / "train.csv", index=False)
    return read_index(competition.load("demo"), root)


def network(case: Case) -> nn.Module:
    """The network of a case, on the device."""
    torch.manual_seed(0)
    model = hardware.place(build_model(config.Model(encoder=case.encoder, weights="none")), hardware.device())
    if case.compiled:
        model.compile(dynamic=False)
    return model.train()


def device_batch(batch: int, side: int) -> Batch:
    """Random images and masks, on the device."""
    images = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    target = (torch.rand(batch, 1, side, side) < 0.2).to(torch.uint8)
    return images.to(hardware.device()), target.to(hardware.device())


def file_batches(index: pd.DataFrame, batch: int, side: int) -> Iterator[Batch]:
    """Batches from the files, for ever."""
    workers = hardware.num_workers(None)
    images = MaskedImages(
        index, Labels.of(competition.load("demo")), Reader(3), Augment(make_recipe("light", side, 3)), workers
    )
    images.cache = None  # so that every image is decoded whenever it is drawn, as in a set larger than memory
    sampler = EpochSampler(len(images), 0, labels=None, repeats=-(-batch * STEPS * 4 // len(images)))
    loader = Loader(images, batch, sampler=sampler, drop_last=True, num_workers=workers, persistent_workers=workers > 0)
    return on_device((pair for _ in cycle([None]) for pair in loader), hardware.device())


class PlainImages(Dataset):
    """Reads, augments and normalises an image, as a plain script does."""

    def __init__(self, index: pd.DataFrame, side: int):
        self.rows, self.augment = list(index.itertuples()), Augment(make_recipe("light", side, 3))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        row = self.rows[position]
        image = cv2.cvtColor(cv2.imread(str(row.path)), cv2.COLOR_BGR2RGB)
        mask = rle.decode(row.rle, image.shape[:2])[..., None]
        image, mask = self.augment(image, mask, int(np.random.randint(2**31)))
        image = (image / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
        return torch.from_numpy(image.transpose(2, 0, 1)).float(), torch.from_numpy(mask.transpose(2, 0, 1)).float()


def plain(case: Case, index: pd.DataFrame, side: int) -> Callable[[], object]:
    """A function that trains as a plain script does, for STEPS updates."""
    torch.manual_seed(0)
    device = hardware.device()
    model = smp.Unet(case.encoder, encoder_weights=None).to(device).train()
    optimizer, dice = torch.optim.AdamW(model.parameters(), lr=RATE), smp.losses.DiceLoss("binary")
    loader = DataLoader(PlainImages(index, side), case.batch, shuffle=True, drop_last=True)
    batches = (pair for _ in cycle([None]) for pair in loader)

    def run() -> None:
        torch.backends.cudnn.allow_tf32 = True  # torch's default, which the pipeline changes
        for images, target in islice(batches, STEPS):
            logits, target = model(images.to(device)), target.to(device)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, target) + dice(logits, target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()  # as scripts do for their progress bar
        torch.backends.cudnn.allow_tf32 = False

    return run


def measure(case: Case, index: pd.DataFrame, side: int, rounds: int, peak: float) -> Result:
    """Measure a case: the network alone, and, unless it is compiled, also from files and by the plain script."""
    pair = device_batch(case.batch, side)
    model = network(case)
    dtype = hardware.precision(case.precision, hardware.device())
    flops = _step_flops(case._replace(compiled=False), pair, dtype)
    reset_peak()
    runs = {"network": partial(training_loop(model, lambda updates: [pair] * updates, case.precision, RATE), STEPS)}
    runs["network"]()
    used = memory()
    if not case.compiled:
        batches = file_batches(index, case.batch, side)
        loop = training_loop(model, lambda updates: islice(batches, updates), case.precision, RATE)
        runs["files"] = partial(loop, STEPS)
        runs["plain"] = plain(case, index, side)
    seconds = {what: median(each) for what, each in interleave(runs, rounds).items()}
    speed = {what: case.batch * STEPS / each for what, each in seconds.items()}
    return Result(case, speed, flops * STEPS / seconds["network"] / peak, used)


def _step_flops(case: Case, pair: Batch, dtype: torch.dtype) -> int:
    model, loss = network(case), build_loss(MIX)

    def step() -> None:
        with hardware.autocast(hardware.device(), dtype):
            logits = model(pair[0])
        loss(logits, pair[1]).backward()

    return flops_of(step)


def prediction(encoder: str, index: pd.DataFrame, batch: int, folder: Path) -> Callable[[], object]:
    """A function that predicts all images with MODELS networks in all symmetries and writes a CSV."""
    torch.manual_seed(0)
    predictors = [
        Predictor(
            build_model(config.Model(encoder=encoder, weights="none")),
            tuple(SYMMETRIES),
            backend="fuse_conv_bn",
            batch_size=batch,
        )
        for _ in range(MODELS)
    ]
    options = {"reader": Reader(3), "batch_size": batch, "workers": hardware.num_workers(None), "what": "predict"}

    def run() -> None:
        rows = []
        members = (predict_images(predictor, index, **options) for predictor in predictors)
        for images in zip(*members, strict=True):
            mean = np.mean([stored.values[0] for _, stored in images], axis=0)
            rows.append((images[0][0], rle.encode((mean >= 128).astype(np.uint8))))
        pd.DataFrame(rows, columns=["id", "rle_mask"]).to_csv(folder / "submission.csv", index=False)

    return run


def reset_peak() -> None:
    """Reset the peak of memory."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def memory() -> float:
    """Peak MiB: of tensors on the GPU, or of the process on a CPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def cases_of(encoders: list[str], batches: list[int], compiled: bool) -> Iterator[Case]:
    """The cases, the most wanted first."""
    other = ["float16"] if torch.cuda.is_available() else []
    for encoder in encoders:
        for batch in batches:
            yield Case(encoder, batch, "auto")
    for encoder in encoders:
        for precision in other:
            yield Case(encoder, batches[0], precision)
        if compiled:
            yield Case(encoder, batches[0], "auto", compiled=True)


def show(results: list[Result], title: str) -> None:
    """Print the table of all cases."""
    columns = (
        "encoder",
        "batch",
        "precision",
        "network /s",
        "files /s",
        "files / network",
        "plain /s",
        "files / plain",
    )
    table = Table(*columns, "share of peak", "MiB", title=title)
    for case, speed, share, used in results:
        files, alone, script = (speed.get(what, np.nan) for what in ("files", "network", "plain"))
        table.add_row(
            case.encoder + ", compiled" * case.compiled,
            str(case.batch),
            case.precision,
            *(f"{each:.3g}" for each in (alone, files, files / alone, script, files / script)),
            f"{share:.0%}",
            f"{used:,.0f}",
        )
    Console(width=150).print(table)


ENCODERS = ["tu-resnet34", "tu-tf_efficientnet_lite0", "tu-convnext_tiny"]


def main(
    encoders: Annotated[str, typer.Option(help="of U-Nets, separated by commas")] = ",".join(ENCODERS),
    side: Annotated[int, typer.Option(help="of the images, pixels")] = 512,
    batches: Annotated[str, typer.Option(help="images per batch, separated by commas")] = "16,64",
    images: Annotated[int, typer.Option(help="PNG files")] = 256,
    rounds: Annotated[int, typer.Option(help="timed rounds")] = 3,
    compiled: Annotated[bool, typer.Option(help="also measure torch.compile")] = True,
    seconds: Annotated[float, typer.Option(help="after which no further case begins")] = 170,
) -> None:
    device, began = hardware.device(), monotonic()
    names, sizes = encoders.split(","), [int(size) for size in batches.split(",")]
    dtype = hardware.precision("auto", device)
    peak = matrix_peak(device, dtype)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    title = f"{name}: {side}×{side}, {dtype}, peak {peak / 1e12:.3g} TFLOP/s, {hardware.num_workers(None)} workers"
    with tempfile.TemporaryDirectory() as folder:
        index = write_images(Path(folder), images, side)
        results = []
        for case in cases_of(names, sizes, compiled):
            if monotonic() - began > seconds:
                print(f"left out, --seconds is over: {case}", file=sys.stderr)
                continue
            results.append(measure(case, index, side, rounds, peak))
        show(results, title)
        predicted = interleave({"predict": prediction(names[0], index, sizes[0], Path(folder))}, 1)["predict"][0]
    print(f"{names[0]}, {MODELS} networks, {len(SYMMETRIES)} views, files to CSV: {images / predicted:.3g} images/s")


if __name__ == "__main__":
    typer.run(main)
