"""Pairs that may be related, from signatures alone. What is proposed here is looked at pixel by pixel afterwards."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from pipeline.duplicates.signatures import BITS, Signature
from pipeline.symmetries import SYMMETRIES

ALIKE = 0.85  # least correlation of thumbnails
CONTINUES = 0.9  # least correlation of two edges
MARGIN = 0.02  # by which the best partner of an edge must beat the second best
VOTES = 3  # patches that agree on one shift
CROWD = 32  # a patch that more images share says nothing
DIFFERING = 20  # of the 132 bits of two patches; chance differs in 66
NEAREST = 8  # partners kept of an image: a chain holds a large group together as well as all its pairs
BLOCK = 256  # images compared with all others at once
SOME = 1 << 18  # patches compared with those beside them at once

# Transforms of the second image that are tried: keys of SYMMETRIES.
VIEWS = (
    "identity",
    "rotate_90",
    "rotate_180",
    "rotate_270",
    "flip_horizontal",
    "flip_vertical",
    "transpose",
    "anti_transpose",
)
COLUMNS = ["first", "second", "kind", "view", "down", "right"]  # a shift in pixels of the second image's corner


def propose(signatures: Sequence[Signature]) -> pd.DataFrame:
    """Candidate pairs of positions, first < second, each pair and kind once; columns as COLUMNS."""
    tables = [_copies(signatures), _crops(signatures), _neighbours(signatures)]
    return pd.concat(tables, ignore_index=True)


def _copies(signatures: Sequence[Signature]) -> pd.DataFrame:
    """Images that look alike in small, as they are or turned."""
    small = np.stack([each.thumbnail for each in signatures])
    flat = small.reshape(len(small), -1)
    found = []
    for name in VIEWS:
        turned = np.stack([SYMMETRIES[name](each) for each in small]).reshape(len(small), -1)
        for start in range(0, len(flat), BLOCK):
            similarity = flat[start : start + BLOCK] @ turned[start:].T
            first, second = _nearest(similarity, np.triu(similarity > ALIKE, 1))  # first < second
            found.append(pd.DataFrame({"first": start + first, "second": start + second, "view": name}))
    return pd.concat(found).assign(kind="copy", down=0, right=0)[COLUMNS]


def _nearest(similarity: np.ndarray, near: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pairs that are `near`, the NEAREST most similar ones of each row."""
    row, column = np.nonzero(near)
    order = np.lexsort((column, -similarity[row, column], row))
    row, column = row[order], column[order]
    kept = np.arange(len(row)) - np.searchsorted(row, row) < NEAREST
    return row[kept], column[kept]


def _crops(signatures: Sequence[Signature]) -> pd.DataFrame:
    """Images that share patches in one arrangement: crops of one larger image, or one a crop of the other."""
    counts = [len(each.points) for each in signatures]
    owner, begins = np.repeat(np.arange(len(counts), dtype=np.int32), counts), np.cumsum([0, *counts])
    keys, points = (np.concatenate([getattr(each, part) for each in signatures]) for part in ("keys", "points"))
    met = np.concatenate([_meetings(_uncrowded(keys, table), keys, owner) for table in range(keys.shape[1])])
    met.sort()  # in place: by far most patches that meet do so by chance, and there are millions of them
    found = []
    for start in range(0, len(counts), BLOCK):
        ends = begins[[start, min(start + BLOCK, len(counts))]] * len(owner)
        first, second = np.divmod(pd.unique(met[slice(*np.searchsorted(met, ends))]), max(1, len(owner)))
        found.append(_agreed(owner[first], owner[second], points[first] - points[second]))
    return pd.concat(found).assign(kind="crop", view="identity")[COLUMNS]


def _uncrowded(keys: np.ndarray, table: int) -> np.ndarray:
    """One hash of each patch; where that is a crowd, with the next one's bits too; −1 where it still is one."""
    code = keys[:, table].astype(np.int64)
    crowded = np.flatnonzero(np.bincount(code)[code] > CROWD)
    code[crowded] += (keys[crowded, (table + 1) % keys.shape[1]].astype(np.int64) + 1) << BITS
    _, bucket, size = np.unique(code[crowded], return_inverse=True, return_counts=True)
    code[crowded[size[bucket] > CROWD]] = -1
    return code


def _meetings(code: np.ndarray, keys: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Patches of different images that share a code and nearly all other hashes, as `first * len(keys) + second`.

    In the order of their codes, those of one lie side by side. So pairs are met one step apart, then those of them two
    steps apart, and so on; all pairs at once are never in memory.
    """
    order = np.argsort(code, kind="stable").astype(np.int32)
    order = order[np.count_nonzero(code < 0) :]
    code, met = code[order], [np.empty(0, np.int64)]
    for start in range(0, len(order), SOME):
        place = np.arange(start, min(start + SOME, len(order)))
        for step in range(1, CROWD):
            place = place[place + step < len(order)]
            place = place[code[place + step] == code[place]]
            first, second = order[place], order[place + step]
            differing = np.bitwise_count(keys[first] ^ keys[second]).sum(axis=1, dtype=np.int32)
            near = (differing <= DIFFERING) & (owner[first] != owner[second])
            met.append(first[near].astype(np.int64) * len(keys) + second[near])
    return np.concatenate(met)


def _agreed(first: np.ndarray, second: np.ndarray, shift: np.ndarray) -> pd.DataFrame:
    """The pairs of images whose meetings agree on a shift: the median of those that do, for each image the NEAREST."""
    place = np.column_stack([first, second, shift // 8])
    order = np.lexsort(place.T[::-1])
    place, shift = place[order], shift[order]
    begins = np.flatnonzero(np.r_[True, (place[1:] != place[:-1]).any(axis=1)]) if len(place) else np.empty(0, int)
    votes = np.diff(np.r_[begins, len(place)])
    kept = np.repeat(votes >= VOTES, votes)
    table = pd.DataFrame(place[kept], columns=["first", "second", "rough_down", "rough_right"])
    table = table.assign(down=shift[kept, 0], right=shift[kept, 1])
    agreed = table.groupby(["first", "second", "rough_down", "rough_right"], as_index=False).agg(
        down=("down", "median"), right=("right", "median"), votes=("down", "size")
    )
    agreed = agreed.sort_values("votes", ascending=False, kind="stable").drop_duplicates(["first", "second"])
    return agreed.groupby("first").head(NEAREST).astype({"down": int, "right": int})


def _neighbours(signatures: Sequence[Signature]) -> pd.DataFrame:
    """Images whose edges continue in each other: neighbours of one mosaic. Each must be the other's clear best."""
    edges = np.stack([each.edges for each in signatures])
    sizes = np.array([each.size for each in signatures])
    top, bottom, left, right = edges.transpose(1, 0, 2)
    below = [(i, j, sizes[i, 0], 0) for i, j in _best_buddies(bottom, top, sizes[:, 1])]
    beside = [(i, j, 0, sizes[i, 1]) for i, j in _best_buddies(right, left, sizes[:, 0])]
    found = [
        (i, j, "neighbour", "identity", down, across) if i < j else (j, i, "neighbour", "identity", -down, -across)
        for i, j, down, across in [*below, *beside]
    ]
    return pd.DataFrame(found, columns=COLUMNS)


def _best_buddies(ending: np.ndarray, starting: np.ndarray, length: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i, j) where j's starting edge suits i's ending edge best, and the other way round, by a margin."""
    forward, ahead = _best(ending, starting, length)
    backward, _ = _best(starting, ending, length)
    return [(i, int(j)) for i, j in enumerate(forward) if j >= 0 and backward[j] == i and i != j and ahead[i] >= MARGIN]


def _blocks(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """The products of some rows of `first` with all of `second`, and the number of the first of these rows."""
    for start in range(0, len(first), BLOCK):
        yield start, first[start : start + BLOCK] @ second.T


def _best(edges: np.ndarray, partners: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each edge the partner of the same length that continues it best (-1: none), and its lead over the second."""
    best, lead = np.full(len(edges), -1), np.zeros(len(edges))
    for start, similarity in _blocks(edges, partners):
        rows = np.arange(len(similarity))
        similarity[length[start + rows][:, None] != length[None]] = -1
        similarity[rows, start + rows] = -1
        top = similarity.argmax(axis=1)
        highest = similarity[rows, top]
        similarity[rows, top] = -1
        good = highest >= CONTINUES
        best[start + rows[good]], lead[start + rows] = top[good], highest - similarity.max(axis=1)
    return best, lead
