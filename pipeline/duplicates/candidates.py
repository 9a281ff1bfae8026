"""Candidate pairs of near-duplicates, from signatures alone. `confirm` then compares each candidate pixel by pixel."""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from pipeline.duplicates.signatures import BITS_PER_TABLE, Signature
from pipeline.symmetries import SYMMETRIES

MIN_THUMBNAIL_CORRELATION = 0.85  # of a copy
MIN_EDGE_CORRELATION = 0.9  # of neighbours
MIN_EDGE_LEAD = 0.02  # by which the correlation of an edge's best partner must exceed that of the second best
MIN_VOTES = 3  # matching patches that must agree on one shift
MAX_BUCKET = 32  # a hash shared by more patches is too common to identify a place
MAX_HAMMING = 20  # differing bits of two matching patches, of 132; random patches differ in 66
MAX_PARTNERS = 8  # kept for each image: a chain of pairs connects a large group as well as all pairs would
IMAGE_BLOCK = 256  # images that are compared with all others at once
PATCH_BLOCK = 1 << 18  # patches that are compared with their neighbours in hash order at once

# Positions of two images; the kind and the view; the second image's corner in the first's coordinates, pixels.
CANDIDATE_COLUMNS = ["first", "second", "kind", "view", "down", "right"]


def propose_pairs(signatures: Sequence[Signature]) -> pd.DataFrame:
    """Candidate pairs of positions, first < second, with CANDIDATE_COLUMNS, once per kind and view."""
    tables = [_propose_copies(signatures), _propose_crops(signatures), _propose_neighbours(signatures)]
    return pd.concat(tables, ignore_index=True)


def _propose_copies(signatures: Sequence[Signature]) -> pd.DataFrame:
    """Pairs whose thumbnails correlate, as they are, rotated or flipped."""
    small = np.stack([each.thumbnail for each in signatures])
    flat = small.reshape(len(small), -1)
    found = []
    for name, symmetry in SYMMETRIES.items():
        transformed = np.stack([symmetry(each) for each in small]).reshape(len(small), -1)
        for start in range(0, len(flat), IMAGE_BLOCK):
            similarity = flat[start : start + IMAGE_BLOCK] @ transformed[start:].T
            candidates = np.triu(similarity > MIN_THUMBNAIL_CORRELATION, 1)  # first < second
            first, second = _most_similar(similarity, candidates)
            found.append(pd.DataFrame({"first": start + first, "second": start + second, "view": name}))
    return pd.concat(found).assign(kind="copy", down=0, right=0)[CANDIDATE_COLUMNS]


def _most_similar(similarity: np.ndarray, candidates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, (P,) each, of each row's MAX_PARTNERS most similar candidates; both inputs are (N, M)."""
    row, column = np.nonzero(candidates)
    order = np.lexsort((column, -similarity[row, column], row))
    row, column = row[order], column[order]
    kept = np.arange(len(row)) - np.searchsorted(row, row) < MAX_PARTNERS
    return row[kept], column[kept]


def _propose_crops(signatures: Sequence[Signature]) -> pd.DataFrame:
    """Pairs that share patches at one shift: crops of one larger image, or one image a crop of the other."""
    counts = [len(each.points) for each in signatures]
    owner, begins = np.repeat(np.arange(len(counts), dtype=np.int32), counts), np.cumsum([0, *counts])
    keys, points = (np.concatenate([getattr(each, part) for each in signatures]) for part in ("keys", "points"))
    tables = range(keys.shape[1])
    matches = np.concatenate([_matching_patches(_bucket_codes(keys, table), keys, owner) for table in tables])
    matches.sort()  # in place: there are millions, most of them by chance
    found = []
    for start in range(0, len(counts), IMAGE_BLOCK):
        ends = begins[[start, min(start + IMAGE_BLOCK, len(counts))]] * len(owner)
        first, second = np.divmod(pd.unique(matches[slice(*np.searchsorted(matches, ends))]), max(1, len(owner)))
        found.append(_vote_on_shift(owner[first], owner[second], points[first] - points[second]))
    return pd.concat(found).assign(kind="crop", view="identity")[CANDIDATE_COLUMNS]


def _bucket_codes(keys: np.ndarray, table: int) -> np.ndarray:
    """The bucket of each patch in one hash table, (P,) int64; −1 if it is too common.

    In a bucket with more than MAX_BUCKET patches, the next table's bits are appended to the code.

    Shapes:
        keys: (P, tables) int32.
    """
    code = keys[:, table].astype(np.int64)
    crowded = np.flatnonzero(np.bincount(code)[code] > MAX_BUCKET)
    code[crowded] += (keys[crowded, (table + 1) % keys.shape[1]].astype(np.int64) + 1) << BITS_PER_TABLE
    _, bucket, size = np.unique(code[crowded], return_inverse=True, return_counts=True)
    code[crowded[size[bucket] > MAX_BUCKET]] = -1
    return code


def _matching_patches(code: np.ndarray, keys: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Pairs of patches of different images with one code and nearly equal hashes, as `first * len(keys) + second`.

    Patches are sorted by their code, so patches of one bucket are consecutive. Pairs are formed one position apart,
    then two, and so on, so that all pairs of a bucket are never in memory at once.

    Shapes:
        code: (P,) int64, as `_bucket_codes` returns it.
        keys: (P, tables) int32.
        owner: (P,) int32, the image of each patch.
    """
    order = np.argsort(code, kind="stable").astype(np.int32)
    order = order[np.count_nonzero(code < 0) :]
    code, matches = code[order], [np.empty(0, np.int64)]
    for start in range(0, len(order), PATCH_BLOCK):
        place = np.arange(start, min(start + PATCH_BLOCK, len(order)))
        for step in range(1, MAX_BUCKET):
            place = place[place + step < len(order)]
            place = place[code[place + step] == code[place]]
            first, second = order[place], order[place + step]
            hamming = np.bitwise_count(keys[first] ^ keys[second]).sum(axis=1, dtype=np.int32)
            near = (hamming <= MAX_HAMMING) & (owner[first] != owner[second])
            matches.append(first[near].astype(np.int64) * len(keys) + second[near])
    return np.concatenate(matches)


def _vote_on_shift(first: np.ndarray, second: np.ndarray, shift: np.ndarray) -> pd.DataFrame:
    """The pairs of images with MIN_VOTES matches at about one shift, and the median of these shifts.

    Shapes:
        first, second: (M,) images of the matching patches.
        shift: (M, 2) rows and columns between the patches, pixels.
    """
    place = np.column_stack([first, second, shift // 8])
    order = np.lexsort(place.T[::-1])
    place, shift = place[order], shift[order]
    begins = np.flatnonzero(np.r_[True, (place[1:] != place[:-1]).any(axis=1)]) if len(place) else np.empty(0, int)
    votes = np.diff(np.r_[begins, len(place)])
    kept = np.repeat(votes >= MIN_VOTES, votes)
    table = pd.DataFrame(place[kept], columns=["first", "second", "rough_down", "rough_right"])
    table = table.assign(down=shift[kept, 0], right=shift[kept, 1])
    agreed = table.groupby(["first", "second", "rough_down", "rough_right"], as_index=False).agg(
        down=("down", "median"), right=("right", "median"), votes=("down", "size")
    )
    agreed = agreed.sort_values("votes", ascending=False, kind="stable").drop_duplicates(["first", "second"])
    return agreed.groupby("first").head(MAX_PARTNERS).astype({"down": int, "right": int})


def _propose_neighbours(signatures: Sequence[Signature]) -> pd.DataFrame:
    """Pairs of neighbours in a mosaic: each one's edge is clearly the best partner of the other's."""
    edges = np.stack([each.edges for each in signatures])
    sizes = np.array([each.size for each in signatures])
    top, bottom, left, right = edges.transpose(1, 0, 2)
    below = [(i, j, sizes[i, 0], 0) for i, j in _mutual_best_partners(bottom, top, sizes[:, 1])]
    beside = [(i, j, 0, sizes[i, 1]) for i, j in _mutual_best_partners(right, left, sizes[:, 0])]
    found = [
        (i, j, "neighbour", "identity", down, across) if i < j else (j, i, "neighbour", "identity", -down, -across)
        for i, j, down, across in [*below, *beside]
    ]
    return pd.DataFrame(found, columns=CANDIDATE_COLUMNS)


def _mutual_best_partners(ending: np.ndarray, starting: np.ndarray, length: np.ndarray) -> list[tuple[int, int]]:
    """Pairs (i, j) where ending edge i and starting edge j are each other's best partner, i's by MIN_EDGE_LEAD.

    Shapes:
        ending, starting: (N, EDGE_SAMPLES) float32, normalized.
        length: (N,) pixels of the edges; only edges of one length can be partners.
    """
    forward, lead = _best_partner(ending, starting, length)
    backward, _ = _best_partner(starting, ending, length)
    return [
        (i, int(j))
        for i, j in enumerate(forward)
        if j >= 0 and backward[j] == i and i != j and lead[i] >= MIN_EDGE_LEAD
    ]


def _similarity_blocks(first: np.ndarray, second: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """For each block of rows of `first`: its first row, and its dot products with all rows of `second`."""
    for start in range(0, len(first), IMAGE_BLOCK):
        yield start, first[start : start + IMAGE_BLOCK] @ second.T


def _best_partner(edges: np.ndarray, partners: np.ndarray, length: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each edge its best partner of the same length, −1 if there is none, and the lead over the second best."""
    best, lead = np.full(len(edges), -1), np.zeros(len(edges))
    for start, similarity in _similarity_blocks(edges, partners):
        rows = np.arange(len(similarity))
        similarity[length[start + rows][:, None] != length[None]] = -1
        similarity[rows, start + rows] = -1
        top = similarity.argmax(axis=1)
        highest = similarity[rows, top]
        similarity[rows, top] = -1
        good = highest >= MIN_EDGE_CORRELATION
        best[start + rows[good]], lead[start + rows] = top[good], highest - similarity.max(axis=1)
    return best, lead
