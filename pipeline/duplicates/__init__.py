"""Near-duplicates: copies, turned copies, crops of one larger image, neighbours of one mosaic.

Images of one scene must not be parted by the folds: a model that was trained on one of them knows the other.

    signatures ─▶ candidates ─▶ confirm
    small, kept    cheap, many   pixel by pixel, few

Not found: a crop that was turned or scaled, a scene taken twice from another angle, and neighbours in a mosaic so fine
or noisy that lines beside each other correlate below 0.9. Crops that share less than a quarter are found by luck.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.data.reader import AS_SEEN, Reader
from pipeline.duplicates import confirm
from pipeline.duplicates.candidates import propose
from pipeline.duplicates.signatures import Signature, sign
from pipeline.duplicates.table import COLUMNS, merge_groups, read_duplicates, write_duplicates
from pipeline.progress import track

LEAST = {"copy": 0.75, "crop": 0.75, "neighbour": 0.6}  # score of a pair that is believed, by kind
THREADS = min(8, os.cpu_count() or 1)  # that read images; what is found does not depend on them

__all__ = ["find_duplicates", "merge_groups", "read_duplicates", "write_duplicates"]


def find_duplicates(images: pd.DataFrame, reader: Reader = AS_SEEN) -> pd.DataFrame:
    """Related images, one row per pair, with the columns of `table.COLUMNS`.

    Kinds: "copy" (re-encoded, brightened, turned by `view`), "crop" (the second's corner lies `down` and `right` pixels
    from the first's) and "neighbour" (edges continue). The score is the correlation of the details of what both show,
    for neighbours the smoothness of their seam; 0 to 1. A pair is listed once, by the first of these kinds.

    Some tens of KiB are kept of each image of 256², and a few dozen images are in memory at a time.

    Args:
        images: `image_id`, `path`, and `part`, "train" or "test".
        reader: as the config wants its images.

    Raises:
        ImageError: for an image that cannot be read.
    """
    paths = list(images["path"])
    with ThreadPoolExecutor(THREADS) as pool:
        signatures = list(track(_ahead(pool, paths, reader), "look at images", total=len(paths)))
    pairs = propose(signatures).sort_values(["first", "second"], kind="stable")
    read = lru_cache(maxsize=64)(partial(_grey, reader))
    tracked = track(pairs.itertuples(), "compare pairs", total=len(pairs))
    pairs["score"] = [_score(read(paths[row.first]), read(paths[row.second]), row) for row in tracked]
    pairs["rank"] = pairs["kind"].map(list(LEAST).index)
    pairs["unlike"] = -pairs["score"]
    believed = pairs[pairs["score"] >= pairs["kind"].map(LEAST)]
    found = believed.sort_values(["first", "second", "rank", "unlike"], kind="stable")
    return _named(found.drop_duplicates(["first", "second"]), images)


def _named(pairs: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    """Positions replaced by ids and parts."""
    names = {
        f"{end}{suffix}": images[column].to_numpy()[pairs[end].to_numpy(dtype=int)]
        for end in ("first", "second")
        for suffix, column in (("", "image_id"), ("_part", "part"))
    }
    return pairs.assign(**names)[COLUMNS].reset_index(drop=True)


def _grey(reader: Reader, path: Path) -> np.ndarray:
    return reader.glance(path, channels=1)[..., 0]


def _ahead(pool: ThreadPoolExecutor, paths: Sequence[Path], reader: Reader) -> Iterator[Signature]:
    """Signatures in order, made by the pool a few images ahead: all at once would be read into memory."""
    remaining = iter(paths)
    waiting = [pool.submit(lambda path: sign(_grey(reader, path)), path) for path in islice(remaining, 4 * THREADS)]
    while waiting:
        yield waiting.pop(0).result()
        waiting += [pool.submit(lambda path: sign(_grey(reader, path)), path) for path in islice(remaining, 1)]


def _score(first: np.ndarray, second: np.ndarray, pair: object) -> float:
    if pair.kind == "copy":
        return confirm.copies(first, second, pair.view)
    compare = confirm.overlapping if pair.kind == "crop" else confirm.continuing
    return compare(first, second, pair.down, pair.right)
