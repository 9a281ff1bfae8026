"""Data loader workers: the same batches with every start method, and one line if a worker dies."""

import os
import pickle
import signal
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, get_worker_info

from pipeline.cli import main
from pipeline.config import Crops
from pipeline.data import loader
from pipeline.data.augment import Augment, make_recipe
from pipeline.data.crops import crop_index
from pipeline.data.dataset import Images, MaskedImages
from pipeline.data.index import read_index, read_test_index
from pipeline.data.labels import Labels
from pipeline.data.loader import Loader
from pipeline.data.mixing import Mixing
from pipeline.data.reader import Reader
from pipeline.data.sample import Sample, samples_of
from pipeline.data.sampler import EpochSampler
from pipeline.inference.prediction_store import StoreWriter, start_store
from pipeline.serving.single_pass import LoadedImages, read_images
from pipeline.training.fold_data import PseudoData

pytestmark = pytest.mark.slow


def masked(card, folder, *, crops=False):
    """Training images with mixing and pseudo-labels from a store; or windows of them."""
    index, labels = read_index(card, folder / "tiny"), Labels.of(card)
    if crops:
        windows = crop_index(index, labels, Crops(size=32, stride=16))
        return MaskedImages(windows, labels, Reader(1), Augment(make_recipe("strong", 16, 1)))
    pseudo = read_test_index(card, folder / "tiny")
    start_store(folder / "labels", {})
    writer = StoreWriter(folder / "labels")
    for number, image_id in enumerate(pseudo["image_id"]):
        writer.write(image_id, np.full((1, 36, 44), number % 2, np.uint8))
    writer.flush()
    return MaskedImages(
        index,
        labels,
        Reader(1),
        Augment(make_recipe("strong", 32, 1)),
        added=[PseudoData(pseudo, folder / "labels", 0.5, (1,)).images],
        mixing=Mixing({"cutmix": 0.5, "copy_paste": 0.3}, np.arange(18), np.arange(9)),
    )


@pytest.mark.parametrize("crops", [False, True], ids=["whole images", "windows"])
def test_a_pickled_data_set_gives_the_same_items_in_another_process(tiny, card, crops):
    images = masked(card, tiny, crops=crops)
    sent = pickle.loads(pickle.dumps(images))
    for position in (0, 7, len(images) - 1):
        assert all(map(torch.equal, images[position, 5], sent[position, 5]))


def test_images_for_prediction_can_be_sent_to_another_process(tiny, card):
    index = read_test_index(card, tiny / "tiny")
    images = Images(index, Reader(1))
    assert torch.equal(images[1], pickle.loads(pickle.dumps(images))[1])
    once = LoadedImages([("a", Sample("a", (index["path"][0],)))], [Reader(1)])
    assert torch.equal(once[0].pixels[0], pickle.loads(pickle.dumps(once))[0].pixels[0])


def batches(images, **options):
    sampler = EpochSampler(18, 5, labels=None, repeats=1, added=[(5, 0.5)])
    batches_of_epoch = Loader(images, 6, sampler=sampler, **options)
    found = []
    for epoch in range(2):
        sampler.epoch = epoch
        found += [tensor for batch in batches_of_epoch for tensor in batch]
    return found


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_give_the_same_batches_with_every_start_method(tiny, card, start):
    images = masked(card, tiny)
    options = {"num_workers": 2, "persistent_workers": True, "multiprocessing_context": start}
    assert all(map(torch.equal, batches(images), batches(images, **options)))


@pytest.fixture
def little_shared_memory(monkeypatch):
    """/dev/shm with 1 MiB free."""
    monkeypatch.setattr(loader.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 20))
    loader._shares_memory.cache_clear()
    yield
    loader._shares_memory.cache_clear()


def test_with_little_shared_memory_batches_are_sent_through_pipes(
    tiny, card, little_shared_memory, monkeypatch, caplog
):
    images = masked(card, tiny)
    expected = batches(images)
    monkeypatch.setattr(torch.UntypedStorage, "_new_shared", shared)
    assert all(map(torch.equal, expected, batches(images, num_workers=2)))
    index = read_test_index(card, tiny / "tiny")
    dataset = LoadedImages([(sample.image_id, sample) for sample in samples_of(index)], [Reader(1)])
    read = [[item.pixels[0] for item in read_images(dataset, workers)] for workers in (0, 1)]
    assert all(map(torch.equal, *read))
    assert sum("come through pipes" in line for line in caplog.messages) == 1


def shared(*_, **__):
    raise RuntimeError("a worker took shared memory")


class Deadly(Dataset):
    """Two images; the process that reads the second one ends in the given way."""

    def __init__(self, end):
        self.end = end

    def __len__(self):
        return 2

    def __getitem__(self, position):
        if position and get_worker_info():
            self.end()
        return torch.zeros(1, 1, 3)


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    os._exit(1)


def lack_memory():
    raise MemoryError


def lack_shared_memory():
    raise RuntimeError("unable to write to file </torch_1_2>: No space left on device (28)")


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (be_killed, "(Killed|exited unexpectedly)"),
        (leave, "exited unexpectedly"),
        (lack_memory, "MemoryError"),
        (lack_shared_memory, "No space left"),
    ],
)
def test_a_dead_worker_is_reported_in_one_line_with_what_to_lower(end, reason):
    with pytest.raises(
        ChildProcessError, match=rf"died \(.*{reason}.*Lower train.workers, now 1 .*--shm-size=8g"
    ) as found:
        list(Loader(Deadly(end), 1, num_workers=1))
    assert len(str(found.value)) < 300


def test_an_internal_error_in_a_worker_is_reraised():
    def fail():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        list(Loader(Deadly(fail), 1, num_workers=1))


def test_a_training_with_a_killed_worker_ends_with_one_line(tiny, capsys, monkeypatch):
    original = Reader.read

    def read(self, sample):
        if get_worker_info():
            be_killed()
        return original(self, sample)

    monkeypatch.setattr(Reader, "read", read)
    assert main(["train", "configs/tiny.toml", "--fold", "0", "--set", "train.workers=1"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("pipeline train: a process that reads images died (")
    assert len(said) <= 300
