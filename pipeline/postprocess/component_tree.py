"""Pixel counts for every minimum component size at every threshold, from one pass over an image.

As the threshold falls from 255 to 1, components appear, grow and merge, and none splits. A component that does not
change over a range of levels is a node of the image's component tree (max-tree). Its area and its overlap with the
target are added to all levels of that range at once:

    node at levels (level of its parent, its own level]; there it survives the minimum area a if its area >= a

Pixels are visited in order of descending value, and a union-find holds the components. A node is recorded, as a
difference at both ends of its range, when a darker pixel joins it. The tree itself is never stored.

The loop is compiled by numba, because no array operation does it: it is at least 20 times faster than a loop of cc3d
over thresholds (`benchmarks/postprocess.py`). scikit-image's max_tree, with array operations over its levels, is no
faster than that loop: it builds and returns a tree of all pixels, which is not needed here.

Source:
    Najman and Couprie, Building the component tree in quasi-linear time, 2006,
    https://doi.org/10.1109/TIP.2006.877518; Carlinet and Géraud, A comparative review of component tree computation
    algorithms, 2014, https://doi.org/10.1109/TIP.2014.2336551.
"""

import numpy as np

from pipeline.inference.prediction_store import MAX_VALUE
from pipeline.metrics import VOID, Counts
from pipeline.numba_jit import cached_njit


def component_counts(values: np.ndarray, target: np.ndarray, areas: np.ndarray) -> Counts:
    """Count the pixels of one image at all 255 thresholds after removal of components smaller than each area.

    Pixels that touch at a side or a corner are one component (8-connectivity), as in `rules.apply`.

    Shapes:
        values: (H, W) uint8, 0 … 255.
        target: (H, W), 0 or 1; 255 for void, which is part of a component's area and of no other count.
        areas: (A,) pixels, ascending.
        returns: Counts of (A, 255) int64.

    Raises:
        ValueError: for values that are not uint8, two shapes, not two axes, or areas that do not ascend.
    """
    areas = np.array(areas, dtype=np.int64)
    if values.dtype != np.uint8 or values.ndim != 2:
        raise ValueError(f"values of {values.dtype} {values.shape}: expected stored probabilities, uint8 (H, W)")
    if values.shape != target.shape:
        raise ValueError(f"values {values.shape} and target {target.shape} differ in shape")
    if areas.ndim != 1 or (np.diff(areas) <= 0).any():
        raise ValueError(f"areas {areas.tolist()} do not ascend: sort them, each once")
    # With a border of zeros, which no threshold reaches, every pixel has eight neighbours.
    changes = _node_changes(*(np.pad(each, 1) for each in (values, target == 1, target != VOID)), areas)
    # At level k: all nodes that start at k or above and have not ended; surviving area a: all bins above it.
    predicted, intersection = changes[:, ::-1, ::-1].cumsum(axis=1).cumsum(axis=2)[:, ::-1, ::-1][:, 1:, 1:]
    return Counts(intersection, predicted, np.full((len(areas), MAX_VALUE), np.count_nonzero(target == 1)))


@cached_njit
def _brightest_first(values: np.ndarray) -> np.ndarray:
    """Flat positions of all pixels above 0, by descending value; of equal ones, in reading order."""
    end = np.zeros(257, np.int64)
    for value in values:
        end[value] += 1
    for value in range(254, 0, -1):
        end[value] += end[value + 1]
    order = np.empty(end[1], np.int32)
    for position in range(values.size - 1, -1, -1):  # backwards: each value's range fills from its end
        value = values[position]
        if value > 0:
            end[value] -= 1
            order[end[value]] = position
    return order


@cached_njit
def _root(parent: np.ndarray, position: int) -> int:
    while parent[position] != position:
        parent[position] = parent[parent[position]]
        position = parent[position]
    return position


@cached_njit
def _record_node(changes: np.ndarray, bin_: int, above: int, born: int, counted: int, shared: int) -> None:
    """Record one node, at the levels above + 1 … born."""
    changes[0, bin_, born] += counted
    changes[0, bin_, above] -= counted
    changes[1, bin_, born] += shared
    changes[1, bin_, above] -= shared


@cached_njit
def _node_changes(values: np.ndarray, target: np.ndarray, valid: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """The changes of the counts at the levels where nodes start and end.

    Shapes:
        values: (H, W) uint8; target, valid: (H, W) bool, true and not void; all with a border of zeros.
        returns: (2, A + 1, 256): predicted and shared pixels, by number of areas that a node survives, and level.
    """
    changes = np.zeros((2, areas.size + 1, 256), np.int64)
    width = values.shape[1]
    around = (-1, 1, -width, width, -width - 1, -width + 1, width - 1, width + 1)
    values = values.ravel()
    parent = np.full(values.size, -1, np.int32)  # -1: not visited
    area, born = np.ones(values.size, np.int32), values.copy()  # of roots; area includes void
    shared, counted = target.ravel().astype(np.int32), valid.ravel().astype(np.int32)
    order = _brightest_first(values)
    for position in order:
        level, root = values[position], position
        parent[position] = position
        for step in around:
            if parent[position + step] < 0:
                continue
            other = _root(parent, position + step)
            if other == root:
                continue
            if born[other] > level:  # the pixel joins a brighter node, which ends above this level
                survived = np.searchsorted(areas, area[other], side="right")
                _record_node(changes, survived, level, born[other], counted[other], shared[other])
            if area[other] > area[root]:
                root, other = other, root
            parent[other] = root
            area[root] += area[other]
            shared[root] += shared[other]
            counted[root] += counted[other]
            born[root] = level
    for position in order:
        if parent[position] == position:
            survived = np.searchsorted(areas, area[position], side="right")
            _record_node(changes, survived, 0, born[position], counted[position], shared[position])
    return changes
