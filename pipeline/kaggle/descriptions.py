"""How a bundle's datasets and notebooks are called on Kaggle, and what is attached to them."""

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.competition import Competition
from pipeline.kaggle.metadata import LONGEST, DatasetMetadata, KernelMetadata, License, slugify, write_metadata
from pipeline.serving.bundle import Record

LICENCE = License(name="other")


class Kernel(NamedTuple):
    """One notebook of a bundle."""

    notebook: Path
    word: str  # at the end of its title
    datasets: tuple[str, ...]  # the words of those attached
    gpu: bool = False


# The folder of each below the bundle's.
KERNELS = {
    "look-at-data": Kernel(Path("notebooks/1-look-at-data.ipynb"), "data", ("code",)),
    "losses": Kernel(Path("notebooks/2-losses-under-imbalance.ipynb"), "losses", ("code",)),
    "train": Kernel(Path("notebooks/3-train-on-kaggle.ipynb"), "train", ("code",), gpu=True),
    "look-at-errors": Kernel(Path("notebooks/4-look-at-errors.ipynb"), "errors", ("code",), gpu=True),
    "notebook": Kernel(Path("notebooks/5-submit-offline.ipynb"), "submit", ("code", "weights"), gpu=True),
}


def describe(folder: Path, owner: str, record: Record, card: Competition) -> None:
    """Write the notebooks, and the metadata of all that a bundle's folder holds.

    Args:
        owner: the name of the Kaggle account.

    Raises:
        ValueError: for a name that Kaggle would refuse.
    """
    for word, subtitle in subtitles(record).items():
        title = titled(record.name, word)
        metadata = DatasetMetadata(title=title, id=f"{owner}/{slugify(title)}", licenses=(LICENCE,), subtitle=subtitle)
        write_metadata(folder / word, metadata)
    for place, kernel in KERNELS.items():
        (folder / place).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(kernel.notebook, folder / place / kernel.notebook.name)
        write_metadata(folder / place, kernel_metadata(kernel, owner, record.name, competitions_of(card)))


def subtitles(record: Record) -> dict[str, str]:
    """Of each dataset, 20 to 80 characters."""
    worth = f"{record.worth.metric} {record.worth.score:.4f} out of fold"
    return {
        "code": "wheels for pip install --no-index, configs and folds",
        "weights": f"{sum(map(len, record.weights.values()))} models, {worth}",
    }


def kernel_metadata(kernel: Kernel, owner: str, name: str, competitions: Sequence[str]) -> KernelMetadata:
    """Of one notebook, without the internet."""
    title = titled(name, kernel.word)
    return KernelMetadata(
        id=f"{owner}/{slugify(title)}",
        title=title,
        code_file=kernel.notebook.name,
        enable_gpu=kernel.gpu,
        enable_internet=False,
        dataset_sources=tuple(f"{owner}/{slugify(titled(name, word))}" for word in kernel.datasets),
        competition_sources=tuple(competitions),
    )


def competitions_of(card: Competition) -> tuple[str, ...]:
    """The slug of the competition, if it is one of Kaggle's."""
    return (card.url.rstrip("/").rpartition("/")[2],) if card.url and "kaggle.com" in card.url else ()


def titled(name: str, word: str) -> str:
    """A title of at most 50 characters; a long name is cut, with a digest, so that two never become one.

    >>> titled("nuclei+nuclei_fpn", "weights")
    'nuclei-nuclei-fpn-weights'
    """
    title = f"{slugify(name)}-{word}"
    if len(title) <= LONGEST:
        return title
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{slugify(name)[: LONGEST - len(word) - len(digest) - 2].rstrip('-')}-{digest}-{word}"
