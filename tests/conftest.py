"""Fixtures: a tiny competition on disk, and a config that trains on it in seconds."""

import os
import shutil

os.environ["HF_HUB_OFFLINE"] = "1"  # tests must not use the network
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of processes that tests start

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock
from PIL import Image
from threadpoolctl import threadpool_limits

from pipeline import rle
from pipeline.competition import Competition

# Several test workers share the cores. With two BLAS threads each on two cores, tests of the doctor took four times as
# long; for tiny tensors, more threads are slower in any case.
threadpool_limits(1)
torch.set_num_threads(1)

CARD = """
name = "tiny"
title = "Tiny: discs on noise"
classes = ["disc"]
metric = "mean_dice"

[files]
train_images = "train/images"
test_images = "test/images"
train_csv = "train.csv"

[columns]
id = "id"
rle = "rle_mask"
"""

CONFIG = """
competition = "tiny.toml"

[data]
root = "tiny"

[folds]
count = 3

[model]
encoder = "tu-test_efficientnet"
weights = "none"
in_channels = 1
decoder_channels = [16, 16, 8, 8, 8]

[ensemble]
shares = ["image"]  # a share of the test set could be chosen by chance here, and batch-predict refuses it

[train]
batch_size = 4
precision = "float32"

[[train.phases]]
loss = { bce = 1.0, dice = 1.0 }
epochs = 2
lr = 3e-3

[[train.phases]]
loss = { lovasz = 1.0, dice = 0.5 }
epochs = 2
lr = 1e-3
"""


def draw(rng: np.random.Generator, height: int, width: int, empty: bool) -> tuple[np.ndarray, np.ndarray]:
    """A grey image with a bright disc, and its mask; no disc if `empty`."""
    image = rng.integers(40, 120, (height, width)).astype(np.uint8)
    mask = np.zeros((height, width), dtype=np.uint8)
    if not empty:
        row, column, radius = rng.uniform(6, height - 6), rng.uniform(6, width - 6), rng.uniform(3, 9)
        rows, columns = np.ogrid[:height, :width]
        mask[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = 1
        image[mask == 1] += 100
    return image, mask


def write_tiny(root: Path, train: int = 18, test: int = 5, size: tuple[int, int] = (36, 44)) -> None:
    """A competition in Kaggle's layout; ids have leading zeros, every third mask is empty."""
    rng = np.random.default_rng(0)
    tables = {"train": ["id,rle_mask"], "test": ["id,rle_mask"]}
    for part, number in (("train", train), ("test", test)):
        (root / part / "images").mkdir(parents=True)
        for place in range(number):
            # Coverage must not increase with the id, or every sort by id would look stratified.
            image_id = f"{(place * 7919) % 1000:04}"
            image, mask = draw(rng, *size, empty=place % 3 == 0)
            Image.fromarray(image).save(root / part / "images" / f"{image_id}.png")
            tables[part].append(f"{image_id},{rle.encode(mask)}")
    (root / "train.csv").write_text("\n".join(tables["train"]) + "\n")
    (root / "solution.csv").write_text("\n".join(tables["test"]) + "\n")
    sample = [tables["test"][0], *(row.split(",")[0] + ",1 1" for row in tables["test"][1:])]
    (root / "sample_submission.csv").write_text("\n".join(sample) + "\n")


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny competition `tiny/`, its card and its config, in a fresh current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA", raising=False)
    lay_out_tiny(tmp_path)
    return tmp_path


def lay_out_tiny(folder: Path) -> None:
    """The tiny competition, its card and its config."""
    write_tiny(folder / "tiny")
    (folder / "tiny.toml").write_text(CARD)
    (folder / "configs").mkdir()
    (folder / "configs" / "tiny.toml").write_text(CONFIG)


@pytest.fixture
def card(tiny: Path) -> Competition:
    """The tiny competition's card."""
    from pipeline import competition

    return competition.load("tiny.toml")


@pytest.fixture
def edit(tiny: Path) -> Callable[[str, str, str], None]:
    """Replace text in a file of the tiny competition; the text must exist."""

    def replace(name: str, old: str, new: str) -> None:
        path = tiny / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return replace


def build_once(factory: pytest.TempPathFactory, name: str, build: Callable[[], None]) -> Path:
    """A folder that `build` fills as its current folder: once per session, by the first xdist worker that needs it.

    Tests must not write into it; they copy it.
    """
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with FileLock(shared / f"{name}.lock"):
        if not (shared / name).exists():
            folder = factory.mktemp(name)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                patch.delenv("DATA", raising=False)
                build()
            folder.rename(shared / name)
    return shared / name


@pytest.fixture(scope="session")
def submitted_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny competition with two configs that differ in their seed, trained and submitted; `submitted` copies it."""
    from pipeline import config, stages

    def build() -> None:
        lay_out_tiny(Path())
        text = CONFIG.replace("epochs = 2\nlr = 3e-3", "epochs = 2\nrepeats = 6\nlr = 3e-3")
        for name, seed in (("tiny", 0), ("seed1", 1)):
            Path(f"configs/{name}.toml").write_text(f"seed = {seed}\n{text}")
            stages.ensemble([config.load(f"configs/{name}.toml")])

    return build_once(tmp_path_factory, "submitted", build)


@pytest.fixture
def submitted(submitted_once: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained tiny competition as current folder, and the path of its submission."""
    folder = tmp_path / "submitted"
    shutil.copytree(submitted_once, folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DATA", raising=False)
    return Path("submissions/tiny.csv")


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster of two CPUs on this machine."""
    import ray

    ray.init(num_cpus=2, object_store_memory=100 << 20, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that need Ray in one xdist worker (`--dist loadgroup`): they share one cluster."""
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group("ray"))
