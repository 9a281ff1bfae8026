"""RLE: time of encoding and decoding, against other implementations.

    python benchmarks/rle.py

Encoding, a C-contiguous (H, W) uint8 mask to Kaggle's text:
    ours         pipeline.rle.encode
    snippet      the numpy lines found in most public kernels
    pycocotools  mask.encode(np.asfortranarray(mask)), with the copy, because it needs Fortran order.
                 It writes COCO's compressed bytes, not Kaggle's text, which is less work.
Decoding, Kaggle's text to a C-contiguous (H, W) uint8 mask:
    ours         pipeline.rle.decode, with all its checks
    cumsum       +1 at the starts, -1 at the ends, cumulative sum over all pixels, in int8 (less memory)
                 and in int64 (numpy's default); no checks

All results are checked for equality before they are timed. Times depend on the machine; the ratios less so.
"""

import sys
from pathlib import Path

import numpy as np
from interleave import interleave, milliseconds, ratios, spread
from pycocotools import mask as coco
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline import rle

CASES = [((101, 101), 300), ((1280, 1918), 60), ((5000, 5000), 15)]  # (H, W) in pixels, rounds


def blobs(shape: tuple[int, int], cells: int = 6, seed: int = 0) -> np.ndarray:
    """A mask of a few large smooth blobs: interpolated noise on a coarse grid, thresholded."""
    grid = np.random.default_rng(seed).standard_normal((cells + 1, cells + 1))
    rows, columns = (np.linspace(0, cells, size) for size in shape)
    knots = np.arange(cells + 1)
    tall = np.stack([np.interp(rows, knots, column) for column in grid.T], axis=1)
    smooth = np.stack([np.interp(columns, knots, row) for row in tall])
    return (smooth > 0.3).astype(np.uint8)


def encode_snippet(mask: np.ndarray) -> str:
    pixels = mask.T.flatten()
    pixels = np.concatenate([[0], pixels, [0]])
    runs = np.where(pixels[1:] != pixels[:-1])[0] + 1
    runs[1::2] -= runs[::2]
    return " ".join(str(x) for x in runs)


def decode_cumsum(text: str, shape: tuple[int, int], dtype: type) -> np.ndarray:
    numbers = np.array(text.split(), dtype=np.int64)
    starts = numbers[::2] - 1
    steps = np.zeros(shape[0] * shape[1] + 1, dtype=dtype)
    steps[starts] = 1
    steps[starts + numbers[1::2]] = -1
    pixels = np.cumsum(steps[:-1], dtype=dtype)
    return pixels.reshape(shape[::-1]).T.astype(np.uint8, order="C")


def encoders(mask: np.ndarray) -> dict:
    text = rle.encode(mask)
    assert text == encode_snippet(mask)
    assert np.array_equal(coco.decode(coco.encode(np.asfortranarray(mask))), rle.decode(text, mask.shape))
    return {
        "ours": lambda: rle.encode(mask),
        "snippet": lambda: encode_snippet(mask),
        "pycocotools": lambda: coco.encode(np.asfortranarray(mask)),
    }


def decoders(mask: np.ndarray) -> dict:
    text = rle.encode(mask)
    assert np.array_equal(rle.decode(text, mask.shape), mask)
    assert np.array_equal(decode_cumsum(text, mask.shape, np.int8), mask)
    assert np.array_equal(decode_cumsum(text, mask.shape, np.int64), mask)
    return {
        "ours": lambda: rle.decode(text, mask.shape),
        "cumsum int8": lambda: decode_cumsum(text, mask.shape, np.int8),
        "cumsum int64": lambda: decode_cumsum(text, mask.shape, np.int64),
    }


def add_rows(table: Table, label: str, seconds: dict[str, list[float]]) -> None:
    for name, values in seconds.items():
        faster = "" if name == "ours" else spread(ratios(seconds, name, "ours"), "x")
        table.add_row(label, name, milliseconds(values), faster)
    table.add_section()


def main() -> None:
    table = Table("task", "by", "median (range)", "time / ours, per round")
    for shape, repeats in CASES:
        mask = blobs(shape)
        size = f"{shape[0]} x {shape[1]}"
        add_rows(table, f"encode {size}", interleave(encoders(mask), repeats))
        add_rows(table, f"decode {size}", interleave(decoders(mask), repeats))
    # The longest texts found in competitions have 600,000 characters: many small runs.
    dense = blobs((3000, 3000), cells=60)
    add_rows(table, f"encode {len(rle.encode(dense)):,} characters", interleave(encoders(dense), 15))
    add_rows(table, f"decode {len(rle.encode(dense)):,} characters", interleave(decoders(dense), 15))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
