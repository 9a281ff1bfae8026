"""RLE of whole tables: reading and checking 100,000 rows, writing 10,000 masks.

    python benchmarks/rle_table.py

Reading a CSV of 100,000 rows of 100 runs each:
    pandas       pandas.read_csv, without decoding
    one by one   also `Dialect.runs` of each text
    at once      also `Dialect.runs_of` of all texts: the same runs and checks
Writing 10,000 masks of 256 x 1600 pixels like a test set of Severstal: 86 of 100 are empty (the share of (image, class)
pairs without a defect in its train.csv), the others have ten blobs; then each kind alone, and masks of which a third is
covered, in 1,000 runs:
    ours         pipeline.rle.encode
    processes    the same in two running processes, with the transfer of the masks
    snippet      the numpy lines found in most public kernels

All results are checked for equality before they are timed.
"""

import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from interleave import interleave, milliseconds, ratios, spread
from rich.console import Console
from rich.table import Table
from rle import blobs, encode_snippet

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline import rle

ROWS, RUNS, SIDE = 100_000, 100, 512  # texts, runs in each, pixels
MASKS, SHAPE, FULL = 10_000, (256, 1600), 14  # masks, their shape, non-empty ones of 100
DIFFERENT = 100  # masks of 41 MB together: larger than the CPU caches


def write_table(path: Path) -> None:
    """Write rows of sorted runs at random positions."""
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(ROWS):
        borders = np.sort(rng.choice(SIDE * SIDE, 2 * RUNS, replace=False))
        numbers = np.stack([borders[::2] + 1, borders[1::2] - borders[::2]], axis=1)
        texts.append(" ".join(map(str, numbers.ravel().tolist())))
    pd.DataFrame({"id": [f"{i:010x}" for i in range(ROWS)], "rle": texts}).to_csv(path, index=False)


def readers(path: Path) -> dict:
    dialect, shapes = rle.Dialect(), [(SIDE, SIDE)] * ROWS

    def texts() -> list[str]:
        return pd.read_csv(path, dtype=str, keep_default_na=False)["rle"].tolist()

    singly, together = [dialect.runs(text, (SIDE, SIDE)) for text in texts()], dialect.runs_of(texts(), shapes)
    assert all(np.array_equal(a, b) for a, b in zip(singly, together, strict=True))
    del singly, together
    return {
        "pandas": texts,
        "one by one": lambda: [dialect.runs(text, (SIDE, SIDE)) for text in texts()],
        "at once": lambda: dialect.runs_of(texts(), shapes),
    }


def sheet(rng: np.random.Generator) -> np.ndarray:
    """A mask of ten ellipses that cover a few percent."""
    rows, columns = np.ogrid[: SHAPE[0], : SHAPE[1]]
    mask = np.zeros(SHAPE, dtype=np.uint8)
    for _ in range(10):
        y, x = rng.uniform(0, SHAPE[0]), rng.uniform(0, SHAPE[1])
        tall, wide = rng.uniform(8, 40), rng.uniform(4, 30)
        mask |= ((rows - y) / tall) ** 2 + ((columns - x) / wide) ** 2 < 1
    return mask


def encode_all(masks: list[np.ndarray]) -> list[str]:
    return [rle.encode(mask) for mask in masks]


def writers(masks: list[np.ndarray], pool: ProcessPoolExecutor) -> dict:
    rounds = MASKS // len(masks)
    assert encode_all(masks) == [encode_snippet(mask) for mask in masks]

    def by_processes() -> list[str]:
        return [
            text for _ in range(rounds) for part in pool.map(encode_all, (masks[::2], masks[1::2])) for text in part
        ]

    return {
        "ours": lambda: [text for _ in range(rounds) for text in encode_all(masks)],
        "processes": by_processes,
        "snippet": lambda: [encode_snippet(mask) for _ in range(rounds) for mask in masks],
    }


def add_rows(table: Table, label: str, seconds: dict[str, list[float]], against: str) -> None:
    for name, values in seconds.items():
        ratio = "" if name == against else spread(ratios(seconds, name, against), "x")
        table.add_row(label, name, milliseconds(values), f"{ratio} {against}" if ratio else "")
    table.add_section()


def main() -> None:
    console = Console(width=120)
    table = Table("task", "by", "median (range)", "time, per round")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        write_table(path)
        add_rows(table, f"read {ROWS:,} rows", interleave(readers(path), 3), "pandas")
    rng = np.random.default_rng(0)
    empty, full = np.zeros(SHAPE, dtype=np.uint8), [sheet(rng) for _ in range(DIFFERENT)]
    kinds = {
        "as in a test set": [full[i] if i < FULL else empty.copy() for i in rng.permutation(DIFFERENT)],
        "all empty": [empty.copy() for _ in range(DIFFERENT)],
        f"{np.mean([len(rle.Dialect().runs(rle.encode(m))[0]) for m in full]):.0f} runs": full,
        "a third covered": [blobs(SHAPE, cells=3, seed=seed) for seed in range(DIFFERENT)],
    }
    with ProcessPoolExecutor(2) as pool:
        for kind, masks in kinds.items():
            add_rows(table, f"write {MASKS:,}: {kind}", interleave(writers(masks, pool), 3), "ours")
    console.print(table)


if __name__ == "__main__":
    main()
