"""Large images to RLE: time and peak memory by image size, and a comparison with MONAI's sliding window.

    python benchmarks/large_image.py [--sides 4096,8192,16384,30000] [--against 8192] [--repeats 2]

Each run is a fresh process; its peak memory includes Python, torch and the network. The slides are generated tile by
tile: tissue and glass, as TIFFs of JPEG tiles. The network is small and has random weights: a larger one takes longer,
but does not need more memory for the image. In the comparison both sides have the same file, network, float32, tiles,
overlap, Gaussian window, batch size and threads, and no tile is skipped.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated

import numpy as np
import tifffile
import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from interleave import spread  # noqa: E402

from pipeline import config, rle  # noqa: E402
from pipeline.config import Tiles  # noqa: E402
from pipeline.data.reader import Reader  # noqa: E402
from pipeline.data.sample import Sample  # noqa: E402
from pipeline.demos.large import draw_slide  # noqa: E402
from pipeline.demos.salt import TRAIN  # noqa: E402
from pipeline.inference.predictor import Predictor  # noqa: E402
from pipeline.inference.tiles import gaussian  # noqa: E402
from pipeline.models import build_model  # noqa: E402

MODEL = config.Model(encoder="tu-mobilenetv3_small_050", weights="none", decoder_channels=(64, 32, 16, 16, 8))
TILES = Tiles(size=512, stride=384)
BATCH = 8  # tiles
TILE = 512  # pixels: side of the tiles in the files
PATCH = (3072, 4096)  # height and width of the generated slide that is repeated
THRESHOLD = 0.5
GLASS = 3.0  # standard deviation below which a tile is skipped as background
err = Console(stderr=True)


def network() -> torch.nn.Module:
    """The network of all runs, with the same random weights."""
    torch.manual_seed(0)
    return build_model(MODEL).eval()


def write_slide(path: Path, side: int) -> None:
    """Write a square slide of `side` pixels: one generated slide repeated, with alternating colours."""
    patch = draw_slide(0, TRAIN, 0, PATCH).image
    options = {"tile": (TILE, TILE), "compression": "jpeg", "photometric": "rgb", "metadata": None}
    tifffile.imwrite(path, _tiles_of(patch, side), shape=(side, side, 3), dtype=np.uint8, bigtiff=True, **options)


def _tiles_of(patch: np.ndarray, side: int) -> Iterator[np.ndarray]:
    for top in range(0, side, TILE):
        for left in range(0, side, TILE):
            (down, row), (across, column) = divmod(top, PATCH[0]), divmod(left, PATCH[1])
            tile = patch[row : row + TILE, column : column + TILE]
            yield np.ascontiguousarray(tile[:, :, ::-1] if (down + across) % 2 else tile)


# ---------------------------------------------------------------------------------------------- one run in a process


def ours(path: Path, background: float, keep: Path | None) -> int:
    """Encode the mask strip by strip; returns the length of the RLE. The probabilities are written to `keep`."""
    tiles = TILES.model_copy(update={"background": background})
    predictor = Predictor(network(), ("identity",), "float32" if keep else "auto", tiles=tiles, batch_size=BATCH)
    with Reader(3).open_windows(Sample.from_file(path)) as image, (keep or Path(os.devnull)).open("wb") as probs_file:

        def masks() -> Iterator[np.ndarray]:
            for strip in predictor.strips(image):
                if keep:
                    np.save(probs_file, strip[0].numpy())
                yield (strip[0] > THRESHOLD).numpy()

        return len(rle.Dialect().encode_strips(masks()))


def monai(path: Path, keep: Path) -> int:
    """The usual use of MONAI: read the whole image, sliding-window inference, mask, RLE.

    With our Gaussian window: MONAI's own has a minimum of .001, which gives equal weights along the image border.
    """
    from monai.inferers import sliding_window_inference

    model, bell = network().to(memory_format=torch.channels_last), gaussian(TILES.size)
    image = torch.from_numpy(tifffile.imread(path)).permute(2, 0, 1)[None]
    with torch.inference_mode():
        probs = sliding_window_inference(
            image.float(),
            (TILES.size, TILES.size),
            BATCH,
            lambda tiles: model(tiles).sigmoid(),
            overlap=TILES.overlap / TILES.size,
            roi_weight_map=torch.from_numpy(np.outer(bell, bell)).float(),
        )[0, 0].numpy()
    length = len(rle.encode(probs > THRESHOLD))
    np.save(keep, probs)
    return length


def run_in_process(what: str, path: Path, background: float, keep: Path | None) -> dict[str, float]:
    """A run in a fresh process: seconds, peak MiB, and the length of the RLE."""
    command = [sys.executable, __file__, "--one", what, "--path", str(path), "--background", str(background)]
    done = subprocess.run([*command, *(["--keep", str(keep)] if keep else [])], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{what} on {path.name} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def one(what: str, path: Path, background: float, keep: Path | None) -> None:
    began = perf_counter()
    length = ours(path, background, keep) if what == "ours" else monai(path, keep)
    print(json.dumps({"seconds": perf_counter() - began, "peak": peak(), "length": length}))


def peak() -> float:
    """Peak MiB of this process. (The value of `getrusage` starts at that of the parent process.)"""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


# ---------------------------------------------------------------------------------------------- the tables


def measure_sizes(folder: Path, sides: list[int]) -> Table:
    table = Table("pixels", "file", "time", "speed", "peak memory", "text")
    for side in track(sides, "sizes", console=err):
        path = folder / f"{side}.tif"
        write_slide(path, side)
        found = run_in_process("ours", path, GLASS, None)
        table.add_row(
            f"{side:,} x {side:,}",
            f"{path.stat().st_size >> 20} MiB",
            f"{found['seconds']:.0f} s",
            f"{side**2 / 1e6 / found['seconds']:.2f} Mpx/s",
            f"{found['peak']:.0f} MiB",
            f"{found['length'] / 1e6:.1f} MB",
        )
        path.unlink()
    return table


def compare_with_monai(folder: Path, side: int, repeats: int) -> Table:
    path = folder / f"{side}.tif"
    write_slide(path, side)
    probs_files = {name: folder / f"{name}.npy" for name in ("ours", "monai")}
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in probs_files}
    for _ in track(range(repeats), f"comparison with MONAI at {side}", console=err):
        for name, keep in probs_files.items():
            runs[name].append(run_in_process(name, path, 0.0, keep))
    table = Table(f"{side:,} x {side:,}", "time", "peak memory")
    for name, found in runs.items():
        table.add_row(
            name, spread([run["seconds"] for run in found], " s"), f"{max(run['peak'] for run in found):.0f} MiB"
        )
    slower = [theirs["seconds"] / own["seconds"] for own, theirs in zip(runs["ours"], runs["monai"], strict=True)]
    larger = median(run["peak"] for run in runs["monai"]) / median(run["peak"] for run in runs["ours"])
    table.add_row("MONAI / ours", spread(slower, "x"), f"{larger:.2f}x")
    largest = largest_difference(probs_files["ours"], np.load(probs_files["monai"], mmap_mode="r"))
    table.add_row("largest difference", f"{largest:.1e}", "of probabilities")
    return table


def largest_difference(strips: Path, whole: np.ndarray) -> float:
    """The largest difference between an array and the strips of columns in a file."""
    largest, column = 0.0, 0
    with strips.open("rb") as file:
        while column < whole.shape[1]:
            strip = np.load(file)
            largest = max(largest, float(np.abs(strip - whole[:, column : column + strip.shape[1]]).max()))
            column += strip.shape[1]
    return largest


def compare_with_untiled(side: int) -> Table:
    """Tiled against untiled prediction of an image that fits into memory, by a pointwise network and the U-Net."""
    image = torch.from_numpy(draw_slide(0, TRAIN, 1, (side, side)).image).permute(2, 0, 1)[None].contiguous()
    table = Table(f"tiled and untiled at {side:,} x {side:,}", "largest difference", "mean", "pixels of the mask")
    for name, model in (("pointwise", Pointwise()), ("U-Net", network())):
        whole = Predictor(model, ("identity",), "float32")(image)
        tiled = Predictor(model, ("identity",), "float32", tiles=TILES, batch_size=BATCH)(image)
        off, masks = (whole - tiled).abs(), (whole > THRESHOLD) != (tiled > THRESHOLD)
        table.add_row(name, f"{off.max():.1e}", f"{off.mean():.1e}", f"{masks.sum()} of {masks.numel()} differ")
    return table


class Pointwise(torch.nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.float().mean(dim=1, keepdim=True) - 128) / 32


def main(
    sides: Annotated[str, typer.Option(help="of the images, pixels")] = "4096,8192,16384,30000",
    against: Annotated[
        int, typer.Option(help="side of the image in the comparison with MONAI; 0: no comparison")
    ] = 8192,
    repeats: Annotated[int, typer.Option(help="runs of each in the comparison with MONAI")] = 2,
    one_run: Annotated[str, typer.Option("--one", hidden=True)] = "",
    path: Annotated[Path, typer.Option(hidden=True)] = Path(),
    background: Annotated[float, typer.Option(hidden=True)] = 0.0,
    keep: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    if one_run:
        one(one_run, path, background, keep)
        return
    console = Console(width=110)
    console.print(compare_with_untiled(2048))
    with tempfile.TemporaryDirectory() as name:
        if against:
            console.print(compare_with_monai(Path(name), against, repeats))
        console.print(measure_sizes(Path(name), [int(side) for side in sides.split(",") if side]))


if __name__ == "__main__":
    typer.run(main)
