"""Metadata that Kaggle's client does not check: invalid values are refused before anything is uploaded."""

import json

import pytest

from pipeline.kaggle.metadata import DatasetMetadata, KernelMetadata, License, read_metadata, slugify, write_metadata

DATASET = {"title": "tiny-weights", "id": "ada/tiny-weights", "licenses": [{"name": "CC0-1.0"}]}
KERNEL = {
    "id": "ada/tiny-submit",
    "title": "tiny-submit",
    "code_file": "5-submit-offline.ipynb",
    "language": "python",
    "kernel_type": "notebook",
    "enable_internet": False,
}
FILES = {"dataset": ("dataset-metadata.json", DATASET), "kernel": ("kernel-metadata.json", KERNEL)}


def read(folder, kind, **changed):
    name, values = FILES[kind]
    values = {key: value for key, value in (values | changed).items() if value is not ...}
    (folder / name).write_text(json.dumps(values))
    return read_metadata(folder)


@pytest.mark.parametrize(
    "metadata",
    [
        DatasetMetadata(
            title="tiny-weights", id="ada/tiny-weights", licenses=(License(name="MIT"),), subtitle="s" * 20
        ),
        KernelMetadata(
            id="ada/tiny-submit",
            title="Tiny: submit",
            code_file="a.ipynb",
            enable_internet=False,
            enable_gpu=True,
            dataset_sources=("ada/tiny-weights",),
            competition_sources=("tgs-salt-identification-challenge",),
        ),
    ],
)
def test_written_metadata_can_be_read(tmp_path, metadata):
    path = write_metadata(tmp_path, metadata)
    assert read_metadata(tmp_path) == metadata
    assert (path.name == "dataset-metadata.json") == isinstance(metadata, DatasetMetadata)


def test_enable_internet_is_always_written(tmp_path):
    path = write_metadata(tmp_path, read(tmp_path, "kernel"))
    assert json.loads(path.read_text())["enable_internet"] is False


@pytest.mark.parametrize(
    ("kind", "changed", "said"),
    [
        ("dataset", {"title": "short"}, "title: 'short': String should have at least 6 characters"),
        ("dataset", {"title": "t" * 51}, "should have at most 50 characters"),
        ("dataset", {"subtitle": "s" * 19}, "should have at least 20 characters"),
        ("dataset", {"subtitle": "s" * 81}, "should have at most 80 characters"),
        ("dataset", {"licenses": []}, "licenses: expected a list of 1 or more"),
        ("dataset", {"licenses": [{"name": "MIT"}, {"name": "other"}]}, "licenses: expected a list of 1 or fewer"),
        (
            "dataset",
            {"licenses": [{"title": "MIT"}]},
            r"unknown key 'title' in \[licenses\.0\]\. It is a key of the top level\. Known here: name",
        ),
        ("dataset", {"id": "tiny-weights"}, "expected owner/slug, where owner is a Kaggle user name"),
        ("dataset", {"id": "ada/Tiny_Weights"}, "slug 'Tiny_Weights': expected 6 to 50 of a-z, 0-9 and single hyphens"),
        ("dataset", {"id": "ada/tiny"}, "slug 'tiny': expected 6 to 50"),
        ("dataset", {"id": "ada/tiny-weights/3"}, "slug 'tiny-weights/3'"),
        ("dataset", {"licences": []}, "unknown key 'licences'. Did you mean 'licenses'?"),
        ("kernel", {"enable_internet": ...}, "'enable_internet' is missing"),
        ("kernel", {"enable_internets": True}, "unknown key 'enable_internets'. Did you mean 'enable_internet'?"),
        ("kernel", {"title": "tiny"}, "title: 'tiny': String should have at least 5 characters"),
        ("kernel", {"title": "Another title"}, "title 'Another title' becomes the slug 'another-title', but id has"),
        ("kernel", {"kernel_type": "notebok"}, "kernel_type: 'notebok': expected 'notebook' or 'script'"),
        ("kernel", {"code_file": ...}, "'code_file' is missing"),
        ("kernel", {"dataset_sources": ["tiny-weights"]}, "dataset_sources.0: 'tiny-weights': expected owner/slug"),
        ("kernel", {"docker_image_pinning_type": "newest"}, "docker_image_pinning_type: 'newest'"),
    ],
)
def test_invalid_metadata_is_one_line_with_file_and_key(tmp_path, kind, changed, said):
    with pytest.raises(ValueError, match=said) as caught:
        read(tmp_path, kind, **changed)
    assert str(caught.value).startswith(str(tmp_path / FILES[kind][0]))
    assert "\n" not in str(caught.value)


def test_invalid_json_and_missing_metadata_are_reported(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"neither dataset-metadata.json nor kernel-metadata.json: run make bundle"
    ):
        read_metadata(tmp_path)
    (tmp_path / "kernel-metadata.json").write_text("{")
    with pytest.raises(ValueError, match=r"kernel-metadata.json: not JSON"):
        read_metadata(tmp_path)


def test_slugs_equal_those_of_the_client():
    from slugify import slugify as theirs  # used by the client to compare title and id

    for title in ("Tiny: submit", "nuclei + nuclei_fpn", "  5 -- 6  ", "tgs-salt-0a1b2c-weights", "A.B,C"):
        assert slugify(title) == theirs(title)
