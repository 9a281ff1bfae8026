"""Near-duplicates: copies (also rotated or flipped), crops of one larger image, neighbours in one mosaic.

Near-duplicates must stay in one fold: otherwise a model is validated on images that it was trained on.

    signatures ─▶ candidates ─▶ confirm
    small, kept    cheap, many   pixel by pixel, few

Not detected: a crop that was rotated or scaled, a scene taken from two angles, and neighbours in a mosaic so fine or
noisy that adjacent lines correlate below 0.9. Crops that share less than a quarter of their area are often missed.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import islice

import numpy as np
import pandas as pd

from pipeline.data.reader import DEFAULT_READER, Reader
from pipeline.data.sample import Sample, samples_of
from pipeline.duplicates import confirm
from pipeline.duplicates.candidates import propose_pairs
from pipeline.duplicates.signatures import Signature, compute_signature
from pipeline.duplicates.table import (
    PAIR_COLUMNS,
    merge_groups,
    merge_groups_of_both,
    read_duplicates,
    write_duplicates,
)
from pipeline.progress import track

MIN_SCORE = {"copy": 0.75, "crop": 0.75, "neighbour": 0.6}  # of a pair that is kept, by kind
NUM_THREADS = min(8, os.cpu_count() or 1)  # threads that read images; the result does not depend on their number

__all__ = ["find_duplicates", "merge_groups", "merge_groups_of_both", "read_duplicates", "write_duplicates"]


def find_duplicates(images: pd.DataFrame, reader: Reader = DEFAULT_READER) -> pd.DataFrame:
    """Find near-duplicate images: one row per pair, with `table.PAIR_COLUMNS`.

    Kinds: "copy" (re-encoded, brightened, or transformed by `view`), "crop" (the second's corner is `down` and `right`
    pixels from the first's) and "neighbour" (edges continue each other). The score, 0 to 1, is the correlation of the
    details of the shared area, or for neighbours the smoothness of their seam. A pair is listed once, with the first
    kind that applies.

    Memory: some tens of KiB per image of 256 × 256, and a few dozen whole images at a time.

    Args:
        images: a row per image, with `image_id`, `path` and `part`, "train" or "test".
        reader: reads the images as the config asks.

    Returns:
        the pairs, with ids in `first` and `second`, in the order of `images`.

    Raises:
        ImageError: if an image cannot be read.
    """
    samples = samples_of(images)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        signatures = list(track(_compute_signatures(pool, samples, reader), "compute signatures", total=len(samples)))
    pairs = propose_pairs(signatures).sort_values(["first", "second"], kind="stable")
    read = lru_cache(maxsize=64)(partial(_read_grey, reader))
    tracked = track(pairs.itertuples(), "compare pairs", total=len(pairs))
    pairs["score"] = [_score(read(samples[row.first]), read(samples[row.second]), row) for row in tracked]
    pairs["rank"] = pairs["kind"].map(list(MIN_SCORE).index)
    pairs["negative_score"] = -pairs["score"]
    confirmed = pairs[pairs["score"] >= pairs["kind"].map(MIN_SCORE)]
    found = confirmed.sort_values(["first", "second", "rank", "negative_score"], kind="stable")
    return _replace_positions(found.drop_duplicates(["first", "second"]), images)


def _replace_positions(pairs: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """The pairs with image ids and parts in place of positions."""
    names = {
        f"{end}{suffix}": images[column].to_numpy()[pairs[end].to_numpy(dtype=int)]
        for end in ("first", "second")
        for suffix, column in (("", "image_id"), ("_part", "part"))
    }
    return pairs.assign(**names)[PAIR_COLUMNS].reset_index(drop=True)


def _read_grey(reader: Reader, sample: Sample) -> np.ndarray:
    """A grey image, (H, W) uint8."""
    return reader.preview(sample, channels=1)[..., 0]


def _compute_signatures(pool: ThreadPoolExecutor, samples: Sequence[Sample], reader: Reader) -> Iterator[Signature]:
    """Signatures in the order of the samples. Few images are submitted at a time, to limit memory."""

    def compute(sample: Sample) -> Signature:
        return compute_signature(_read_grey(reader, sample))

    remaining = iter(samples)
    pending = [pool.submit(compute, sample) for sample in islice(remaining, 4 * NUM_THREADS)]
    while pending:
        yield pending.pop(0).result()
        pending += [pool.submit(compute, sample) for sample in islice(remaining, 1)]


def _score(first: np.ndarray, second: np.ndarray, pair: object) -> float:
    if pair.kind == "copy":
        return confirm.copy_score(first, second, pair.view)
    compare = confirm.crop_score if pair.kind == "crop" else confirm.neighbour_score
    return compare(first, second, pair.down, pair.right)
