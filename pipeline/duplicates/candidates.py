"""Pairs that may be related, from signatures alone. What is proposed here is looked at pixel by pixel afterwards."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from pipeline.duplicates.signatures import Signature

ALIKE = 0.85  # least correlation of thumbnails
CONTINUES = 0.9  # least correlation of two edges
MARGIN = 0.02  # by which the best partner of an edge must beat the second best
VOTES = 3  # patches that agree on one shift
CROWD = 32  # a patch that more images share says nothing
NEAREST = 8  # partners kept of an image: a chain holds a large group together as well as all its pairs
BLOCK = 1024  # images compared at once

# The symmetries of the square, as turns of the second image that lay it on the first.
VIEWS = {
    "identity": lambda image: image,
    "rotate_90": lambda image: np.rot90(image, 1),
    "rotate_180": lambda image: np.rot90(image, 2),
    "rotate_270": lambda image: np.rot90(image, 3),
    "flip_horizontal": lambda image: image[:, ::-1],
    "flip_vertical": lambda image: image[::-1],
    "transpose": lambda image: image.T,
    "anti_transpose": lambda image: np.rot90(image, 2).T,
}
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
    for name, view in VIEWS.items():
        turned = np.stack([view(each) for each in small]).reshape(len(small), -1)
        for rows, similarity in _blocks(flat, turned):
            similarity[np.arange(len(rows))[:, None] + rows[0] >= np.arange(len(small))[None]] = 0  # first < second
            found += [(first, second, "copy", name, 0, 0) for first, second in _nearest(rows, similarity, ALIKE)]
    return pd.DataFrame(found, columns=COLUMNS)


def _blocks(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(first), BLOCK):
        part = first[start : start + BLOCK]
        yield np.arange(start, start + len(part)), part @ second.T


def _nearest(rows: np.ndarray, similarity: np.ndarray, least: float) -> Iterator[tuple[int, int]]:
    """The pairs of a block above `least`, at most NEAREST for each row."""
    for position in np.flatnonzero((similarity > least).any(axis=1)):
        partners = np.flatnonzero(similarity[position] > least)
        best = partners[np.argsort(-similarity[position, partners], kind="stable")[:NEAREST]]
        yield from ((int(rows[position]), int(partner)) for partner in best)


def _crops(signatures: Sequence[Signature]) -> pd.DataFrame:
    """Images that share patches in one arrangement: crops of one larger image, or one a crop of the other."""
    owner = np.repeat(np.arange(len(signatures)), [len(each.points) for each in signatures])
    points = np.concatenate([each.points for each in signatures])
    keys = np.concatenate([each.keys for each in signatures])
    met = np.concatenate([_meetings(keys[:, table], owner) for table in range(keys.shape[1])])
    first, second = np.unique(met, axis=0).T if len(met) else np.empty((2, 0), np.int64)
    shift = points[first] - points[second]
    votes = pd.DataFrame(
        {"first": owner[first], "second": owner[second], "down": shift[:, 0], "right": shift[:, 1]}
    ).assign(rough_down=shift[:, 0] // 8, rough_right=shift[:, 1] // 8)
    agreed = votes.groupby(["first", "second", "rough_down", "rough_right"], as_index=False).agg(
        down=("down", "median"), right=("right", "median"), votes=("down", "size")
    )
    agreed = agreed[agreed["votes"] >= VOTES].sort_values("votes", ascending=False, kind="stable")
    agreed = agreed.drop_duplicates(["first", "second"]).groupby("first").head(NEAREST)
    whole = agreed.assign(
        kind="crop", view="identity", down=agreed["down"].astype(int), right=agreed["right"].astype(int)
    )
    return whole[COLUMNS]


def _meetings(keys: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """(n, 2) positions of patches of different images with one key; the lower image first."""
    order = np.lexsort((owner, keys))
    ranked = keys[order]
    size = np.unique(ranked, return_counts=True)[1]
    crowded = np.repeat(size > CROWD, size)
    pairs = [np.empty((0, 2), np.int64)]
    for gap in range(1, min(CROWD, size.max(initial=1))):
        same = (ranked[gap:] == ranked[:-gap]) & ~crowded[gap:]
        one, other = order[:-gap][same], order[gap:][same]
        apart = owner[one] != owner[other]
        pairs.append(np.stack([one[apart], other[apart]], axis=1))
    return np.concatenate(pairs)


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
    return pd.DataFrame(found, columns=COLUMNS).drop_duplicates(["first", "second"])


def _best_buddies(ending: np.ndarray, starting: np.ndarray, length: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i, j) where j's starting edge suits i's ending edge best, and the other way round, by a margin."""
    forward, ahead = _best(ending, starting, length)
    backward, _ = _best(starting, ending, length)
    return [(i, int(j)) for i, j in enumerate(forward) if j >= 0 and backward[j] == i and i != j and ahead[i] >= MARGIN]


def _best(edges: np.ndarray, partners: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each edge the partner of the same length that continues it best (-1: none), and its lead over the second."""
    best, lead = np.full(len(edges), -1), np.zeros(len(edges))
    for rows, similarity in _blocks(edges, partners):
        similarity[length[rows][:, None] != length[None]] = -1
        similarity[np.arange(len(rows)), rows] = -1
        order = np.partition(similarity, -2, axis=1)[:, -2:] if similarity.shape[1] > 1 else np.zeros((len(rows), 2))
        top = similarity.argmax(axis=1)
        good = order[:, 1] >= CONTINUES
        best[rows[good]], lead[rows] = top[good], order[:, 1] - order[:, 0]
    return best, lead
