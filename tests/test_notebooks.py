"""The notebooks import everything from the pipeline and have outputs and metadata."""

import json
from pathlib import Path

import pytest

from pipeline.kaggle import metadata as kaggle_metadata

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def sources(path: Path) -> str:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_the_pipeline_and_defines_nothing(path):
    assert "from pipeline" in sources(path)
    assert not [word for word in ("def ", "class ", "lambda") if word in sources(path)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_has_outputs_without_machine_paths(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output.get("name") == "stderr" or output["output_type"] == "error"]
    assert not [place for place in ("site-packages", "/home/", "/tmp/", "/root/") if place in json.dumps(outputs)]


def test_each_notebook_has_kaggle_metadata_without_internet():
    assert sorted(each.path.name for each in kaggle_metadata.NOTEBOOKS.values()) == [path.name for path in NOTEBOOKS]
    for notebook in kaggle_metadata.NOTEBOOKS.values():
        metadata = kaggle_metadata.notebook_metadata(notebook, "me", "nuclei+nuclei_fpn", ("some-competition",))
        assert metadata.enable_internet is False
        assert metadata.code_file == notebook.path.name
        assert "me/nuclei-nuclei-fpn-code" in metadata.dataset_sources
