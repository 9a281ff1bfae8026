"""Decoded pairs: what was added comes back, to every forked worker, without being decoded again."""

import multiprocessing
import pickle

import numpy as np
import pytest
from torch.utils.data import DataLoader

from pipeline.data import array_cache
from pipeline.data.array_cache import ArrayCache, make_cache
from pipeline.data.augment import Augment, make_recipe
from pipeline.data.dataset import MaskedImages
from pipeline.data.index import read_index
from pipeline.data.labels import Labels
from pipeline.data.reader import Reader

SIZES = [(3, 5), (4, 4), (1, 1), (7, 2)]
SHAPES = [[(*size, 3), (*size, 2)] for size in SIZES]
THOUSAND_BYTES = [[(10, 10, 3), (10, 10, 2)], [(5, 20, 3), (5, 20, 2)]]
forked = pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="workers share no memory")


def random_pair(size, dtype, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (*size, 3)).astype(dtype), rng.integers(0, 2, (*size, 2), dtype=np.uint8)


@pytest.mark.parametrize("dtypes", [["uint8"] * 4, ["float32"] * 4, ["uint8", "float32", "uint8", "float32"]])
def test_pairs_come_back_as_they_were_added(dtypes):
    cache = ArrayCache(SHAPES, 10_000)
    pairs = [random_pair(size, dtype, seed) for seed, (size, dtype) in enumerate(zip(SIZES, dtypes, strict=True))]
    for position in (2, 0, 3, 1):
        assert cache.read(position) is None
        cache.add(position, pairs[position])
    for position, pair in enumerate(pairs):
        for found, expected in zip(cache.read(position), pair, strict=True):
            assert found.dtype == expected.dtype
            assert np.array_equal(found, expected)
            with pytest.raises(ValueError, match="read-only"):
                found[0] = 0


def test_arrays_of_different_sizes_and_dtypes_come_back():
    shapes = [[(2, 3), (0, 4), (5,)], [(1,), (2, 2), (3, 1)]]
    cache = ArrayCache(shapes, 1000)
    rng = np.random.default_rng(0)
    added = [
        tuple(rng.integers(0, 256, shape).astype(dtype) for shape, dtype in zip(each, dtypes, strict=True))
        for each, dtypes in zip(shapes, [("f4", "u1", "f4"), ("u1", "f4", "u1")], strict=True)
    ]
    for position, arrays in enumerate(added):
        cache.add(position, arrays)
    for position, arrays in enumerate(added):
        for found, expected in zip(cache.read(position), arrays, strict=True):
            assert (found.dtype, found.tolist()) == (expected.dtype, expected.tolist())


def test_pairs_beyond_the_limit_or_of_another_shape_are_not_kept():
    cache = ArrayCache(SHAPES, limit=3 * 5 * (3 + 2) + 16 * 5 - 1)
    cache.add(0, random_pair(SIZES[0], "uint8", 0))
    cache.add(1, random_pair(SIZES[1], "uint8", 0))  # one byte too much
    cache.add(2, random_pair((2, 2), "uint8", 0))
    cache.add(2, (np.zeros((1, 1, 3)), np.zeros((1, 1, 2), np.uint8)))  # float64
    assert [cache.read(position) is not None for position in range(3)] == [True, False, False]
    cache.add(2, random_pair(SIZES[2], "float32", 0))
    assert cache.read(2) is not None


def test_processes_of_a_machine_divide_the_limit(monkeypatch):
    monkeypatch.setattr(array_cache, "free_memory", lambda: 16_000)
    for processes, cached in (("1", True), ("4", True), ("5", False)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert (make_cache(THOUSAND_BYTES, 0) is not None) == cached


def test_a_pickled_cache_is_empty():
    cache = ArrayCache(SHAPES, 10_000)
    cache.add(0, random_pair(SIZES[0], "uint8", 0))
    other = pickle.loads(pickle.dumps(cache))
    assert other.read(0) is None
    other.add(0, random_pair(SIZES[0], "uint8", 1))
    assert not np.array_equal(other.read(0)[0], cache.read(0)[0])


@pytest.mark.parametrize(
    ("free", "method", "workers", "cached"),
    [(4000, "fork", 8, True), (3999, "fork", 8, False), (4000, "spawn", 8, False), (32000, "spawn", 8, True)],
)
def test_the_limit_is_a_share_of_the_free_memory(monkeypatch, free, method, workers, cached):
    monkeypatch.setattr(array_cache, "free_memory", lambda: free)
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: method)
    found = make_cache(THOUSAND_BYTES, workers)
    assert (found is not None) == cached


@forked
def test_workers_decode_each_image_once(tiny, card, monkeypatch, tmp_path):
    index = read_index(card, tiny / "tiny")
    original = Reader.read

    def noted(self, sample):
        with (tmp_path / "decoded").open("a") as file:
            file.write(f"{sample.image_id}\n")
        return original(self, sample)

    monkeypatch.setattr(Reader, "read", noted)
    data = MaskedImages(index, Labels.of(card), Reader(1), Augment(make_recipe("none", None, 1)), num_workers=2)
    keys = [(position, 0) for position in range(len(index))]
    loader = DataLoader(data, batch_size=2, sampler=keys, num_workers=2)
    epochs = [[images.clone() for images, _ in loader] for _ in range(3)]  # each with new workers
    assert sorted((tmp_path / "decoded").read_text().split()) == sorted(index["image_id"])
    assert all(first.equal(other) for epoch in epochs[1:] for first, other in zip(epochs[0], epoch, strict=True))
