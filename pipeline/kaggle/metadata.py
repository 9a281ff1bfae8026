"""The metadata files of Kaggle datasets and notebooks, written for a bundle and checked before anything is sent.

Kaggle's client passes on, or ignores, what is wrong in them.

Sources: the client's own checks (kaggle 2.2.4, kaggle_api_extended.py) and the pages it refers to,
https://github.com/Kaggle/kaggle-api/wiki/Dataset-Metadata and …/Kernel-Metadata.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field

from pipeline.competition import Competition
from pipeline.files import write_text
from pipeline.schema import Table, parse, read_json
from pipeline.serving.bundle import BundleRecord

DATASET_FILE, KERNEL_FILE = "dataset-metadata.json", "kernel-metadata.json"
MIN_DATASET_SLUG, MIN_KERNEL_SLUG, MAX_LENGTH = 6, 5, 50  # characters of a slug, and of a title

Sources = tuple[str, ...]


def _check_reference(reference: str, shortest: int) -> str:
    owner, slash, slug = reference.partition("/")
    if not slash or not re.fullmatch(r"[a-z0-9][a-z0-9-]*", owner, re.IGNORECASE):
        raise ValueError("expected owner/slug, where owner is a Kaggle user name: set OWNER=<name>")
    if not re.fullmatch(r"[a-z0-9]+(?:-[a-z0-9]+)*", slug) or not shortest <= len(slug) <= MAX_LENGTH:
        raise ValueError(
            f"slug '{slug}': expected {shortest} to {MAX_LENGTH} of a-z, 0-9 and single hyphens between them"
        )
    return reference


# owner/slug
DatasetReference = Annotated[str, AfterValidator(partial(_check_reference, shortest=MIN_DATASET_SLUG))]
KernelReference = Annotated[str, AfterValidator(partial(_check_reference, shortest=MIN_KERNEL_SLUG))]


class License(Table):
    """One of Kaggle's licences."""

    name: str  # such as "CC0-1.0", "MIT", "other"


class DatasetMetadata(Table):
    """The content of dataset-metadata.json."""

    title: str = Field(min_length=MIN_DATASET_SLUG, max_length=MAX_LENGTH)
    id: DatasetReference
    licenses: tuple[License, ...] = Field(min_length=1, max_length=1)
    subtitle: str | None = Field(default=None, min_length=20, max_length=80)
    description: str | None = None
    keywords: Sources = ()
    isPrivate: bool = True  # noqa: N815 - Kaggle's spelling


class KernelMetadata(Table):
    """The content of kernel-metadata.json; enable_internet has no default here, because Kaggle's default is on."""

    id: KernelReference
    title: str = Field(min_length=MIN_KERNEL_SLUG, max_length=MAX_LENGTH)
    code_file: str
    language: Literal["python", "r", "rmarkdown"] = "python"
    kernel_type: Literal["notebook", "script"] = "notebook"
    is_private: bool = True
    enable_gpu: bool = False
    enable_tpu: bool = False
    enable_internet: bool
    dataset_sources: tuple[DatasetReference, ...] = ()
    competition_sources: Sources = ()  # slugs
    kernel_sources: Sources = ()
    model_sources: Sources = ()
    keywords: Sources = ()
    docker_image: str | None = None
    docker_image_pinning_type: Literal["original", "latest"] | None = None
    machine_shape: str | None = None

    def model_post_init(self, _context: object) -> None:
        slug = self.id.partition("/")[2]
        if slugify(self.title) != slug:
            raise ValueError(
                f"title '{self.title}' becomes the slug '{slugify(self.title)}', but id has '{slug}': Kaggle would "
                f"create another notebook than the one in id"
            )


Metadata = DatasetMetadata | KernelMetadata
FILES = {DATASET_FILE: DatasetMetadata, KERNEL_FILE: KernelMetadata}


def slugify(title: str) -> str:
    """Convert a title to the slug that Kaggle uses in addresses.

    >>> slugify("nuclei + nuclei_fpn: weights")
    'nuclei-nuclei-fpn-weights'
    """
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def make_title(name: str, suffix: str) -> str:
    """Make a title of at most 50 characters; a hash keeps the titles of long names different.

    >>> make_title("nuclei+nuclei_fpn", "weights")
    'nuclei-nuclei-fpn-weights'
    """
    title = f"{slugify(name)}-{suffix}"
    if len(title) <= MAX_LENGTH:
        return title
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{slugify(name)[: MAX_LENGTH - len(suffix) - len(digest) - 2].rstrip('-')}-{digest}-{suffix}"


def competition_slugs(card: Competition) -> tuple[str, ...]:
    """The slug of a card's competition; empty if it is not on Kaggle."""
    return (card.url.rstrip("/").rpartition("/")[2],) if card.url and "kaggle.com" in card.url else ()


def write_metadata(folder: Path, metadata: Metadata) -> Path:
    """Write a metadata file into the folder that it describes; returns its path."""
    path = folder / next(name for name, kind in FILES.items() if isinstance(metadata, kind))
    values = metadata.model_dump(mode="json", exclude_none=True)
    write_text(path, json.dumps(values, indent=1) + "\n")
    return path


def read_metadata(folder: Path) -> Metadata:
    """Read the metadata in the folder of a dataset or a notebook.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if a value is invalid; the message has its key.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder}: has neither {' nor '.join(FILES)}: run make bundle, which writes them")
    return parse(FILES[path.name], read_json(path, "run make bundle to write it again", dict), str(path))


# ------------------------------------------------------------------------------------------ of a bundle


class Notebook(NamedTuple):
    """One notebook of a bundle."""

    path: Path
    suffix: str  # of its title
    datasets: tuple[str, ...]  # suffixes of the attached datasets
    gpu: bool = False


# By folder in the bundle.
NOTEBOOKS = {
    "look-at-data": Notebook(Path("notebooks/1-look-at-data.ipynb"), "data", ("code",)),
    "losses": Notebook(Path("notebooks/2-losses-under-imbalance.ipynb"), "losses", ("code",)),
    "train": Notebook(Path("notebooks/3-train-on-kaggle.ipynb"), "train", ("code",), gpu=True),
    "look-at-errors": Notebook(Path("notebooks/4-look-at-errors.ipynb"), "errors", ("code",), gpu=True),
    "notebook": Notebook(Path("notebooks/5-submit-offline.ipynb"), "submit", ("code", "weights"), gpu=True),
}


def write_bundle_metadata(folder: Path, owner: str, record: BundleRecord, card: Competition) -> None:
    """Copy the notebooks into a bundle's folder, and write the metadata of its datasets and notebooks.

    Args:
        owner: name of the Kaggle account.

    Raises:
        ValueError: for a name that Kaggle would refuse.
    """
    for suffix, subtitle in dataset_subtitles(record).items():
        title, licences = make_title(record.name, suffix), (License(name="other"),)
        metadata = DatasetMetadata(title=title, id=f"{owner}/{slugify(title)}", licenses=licences, subtitle=subtitle)
        write_metadata(folder / suffix, metadata)
    for name, notebook in NOTEBOOKS.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(notebook.path, folder / name / notebook.path.name)
        write_metadata(folder / name, notebook_metadata(notebook, owner, record.name, competition_slugs(card)))


def dataset_subtitles(record: BundleRecord) -> dict[str, str]:
    """The subtitle of each dataset, 20 to 80 characters."""
    score = f"{record.evaluation.metric} {record.evaluation.score:.4f} out of fold"
    return {
        "code": "wheels for pip install --no-index, configs and folds",
        "weights": f"{sum(map(len, record.weights.values()))} models, {score}",
    }


def notebook_metadata(notebook: Notebook, owner: str, name: str, competitions: Sequence[str]) -> KernelMetadata:
    """The metadata of a notebook that runs without the internet.

    Args:
        owner: name of the Kaggle account.
        name: of the bundle.
        competitions: slugs of the attached competitions.
    """
    title = make_title(name, notebook.suffix)
    return KernelMetadata(
        id=f"{owner}/{slugify(title)}",
        title=title,
        code_file=notebook.path.name,
        enable_gpu=notebook.gpu,
        enable_internet=False,
        dataset_sources=tuple(f"{owner}/{slugify(make_title(name, suffix))}" for suffix in notebook.datasets),
        competition_sources=tuple(competitions),
    )
