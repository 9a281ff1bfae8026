"""What stands beside a dataset or a notebook for Kaggle, checked here: the client passes on, or ignores, what is wrong.

Sources: the client's own checks (kaggle 2.2.4, kaggle_api_extended.py) and the pages it refers to,
https://github.com/Kaggle/kaggle-api/wiki/Dataset-Metadata and …/Kernel-Metadata.
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from pipeline.files import write_text
from pipeline.schema import Table, parse, read_json

DATASET_FILE, KERNEL_FILE = "dataset-metadata.json", "kernel-metadata.json"
SHORTEST_DATASET, SHORTEST_KERNEL, LONGEST = 6, 5, 50  # characters of a slug, and of a title

Sources = tuple[str, ...]


class License(Table):
    """One of Kaggle's licences."""

    name: str  # such as "CC0-1.0", "MIT", "other"


class DatasetMetadata(Table):
    """dataset-metadata.json."""

    title: str = Field(min_length=SHORTEST_DATASET, max_length=LONGEST)
    id: str  # owner/slug
    licenses: tuple[License, ...] = Field(min_length=1, max_length=1)
    subtitle: str | None = Field(default=None, min_length=20, max_length=80)
    description: str | None = None
    keywords: Sources = ()
    isPrivate: bool = True  # noqa: N815 - Kaggle's spelling

    @field_validator("id")
    @classmethod
    def _is_reference(cls, reference: str) -> str:
        return _checked(reference, SHORTEST_DATASET)


class KernelMetadata(Table):
    """kernel-metadata.json. Whether the internet is on has no default here; the client's is on."""

    model_config = ConfigDict(populate_by_name=True)

    id: str  # owner/slug
    title: str = Field(min_length=SHORTEST_KERNEL, max_length=LONGEST)
    code_file: str
    language: Literal["python", "r", "rmarkdown"] = "python"
    kernel_type: Literal["notebook", "script"] = "notebook"
    is_private: bool = True
    enable_gpu: bool = False
    enable_tpu: bool = False
    enable_internet: bool
    dataset_sources: Sources = ()  # owner/slug each
    competition_sources: Sources = ()  # slugs
    kernel_sources: Sources = ()
    model_sources: Sources = ()
    keywords: Sources = ()
    docker_image: str | None = None
    docker_image_pinning_type: Literal["original", "latest"] | None = None
    machine_shape: str | None = None

    @field_validator("id")
    @classmethod
    def _is_reference(cls, reference: str) -> str:
        return _checked(reference, SHORTEST_KERNEL)

    @field_validator("dataset_sources")
    @classmethod
    def _are_references(cls, references: Sources) -> Sources:
        return tuple(_checked(reference, SHORTEST_DATASET) for reference in references)

    def model_post_init(self, _context: object) -> None:
        slug = self.id.partition("/")[2]
        if slugify(self.title) != slug:
            raise ValueError(
                f"title '{self.title}' becomes the slug '{slugify(self.title)}', and id says '{slug}': Kaggle would "
                f"make another notebook than the one named"
            )


Metadata = Annotated[DatasetMetadata | KernelMetadata, "either"]
FILES: dict[str, type[Table]] = {DATASET_FILE: DatasetMetadata, KERNEL_FILE: KernelMetadata}


def _checked(reference: str, shortest: int) -> str:
    owner, slash, slug = reference.partition("/")
    if not slash or not re.fullmatch(r"[a-z0-9][a-z0-9-]*", owner, re.IGNORECASE):
        raise ValueError("expected owner/slug, with the name of a Kaggle account in front: OWNER=<name>")
    if not re.fullmatch(r"[a-z0-9]+(?:-[a-z0-9]+)*", slug) or not shortest <= len(slug) <= LONGEST:
        raise ValueError(f"slug '{slug}': expected {shortest} to {LONGEST} of a-z, 0-9 and single hyphens between them")
    return reference


def slugify(title: str) -> str:
    """A title as Kaggle writes it in addresses.

    >>> slugify("nuclei + nuclei_fpn: weights")
    'nuclei-nuclei-fpn-weights'
    """
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def write_metadata(folder: Path, metadata: Metadata) -> Path:
    """Write the file that stands beside what it describes."""
    path = folder / next(name for name, kind in FILES.items() if isinstance(metadata, kind))
    values = metadata.model_dump(mode="json", exclude_none=True)
    write_text(path, json.dumps(values, indent=1) + "\n")
    return path


def read_metadata(folder: Path) -> Metadata:
    """The metadata in a folder of a dataset or a notebook.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: for a mistake in it, with the key.
    """
    path = next((folder / name for name in FILES if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder}: neither {' nor '.join(FILES)}: make bundle writes them")
    return read_metadata_file(path, FILES[path.name])


def read_metadata_file(path: Path, kind: type[Table]) -> Any:
    """The metadata in a file of any name.

    Raises:
        ValueError: as `read_metadata`.
    """
    return parse(kind, read_json(path, "make bundle writes it again", dict), str(path))
