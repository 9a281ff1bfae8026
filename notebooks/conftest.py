"""How notebooks run in the tests: on a small demo of their own, trained for seconds, outside of the repository.

Those for Kaggle's machine run on one like it instead, in tests/test_rehearsal.py.
"""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path

import pytest

from pipeline.demos.salt import make_salt_demo

collect_ignore = ["3-train-on-kaggle.ipynb", "5-submit-offline.ipynb"]

ROOT = Path(__file__).parent.parent
QUICK = (
    "train.phases.0.epochs=1 train.phases.0.repeats=1 train.phases.1.epochs=1 train.phases.1.repeats=1 "
    "model.encoder=tu-test_efficientnet model.weights=none model.decoder_channels=[16,16,8,8,8]"
)

ALONE = {"OMP_NUM_THREADS": "1"}  # another worker of the tests has the other core


@cache
def project() -> Path:
    """A folder with the configs and a few of the demo's images, where the notebooks work."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    shutil.copytree(ROOT / "configs", folder / "configs")
    make_salt_demo(folder / "data" / "demo", train=60, test=12)
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every notebook is a slow test."""
    for item in items:
        if item.path.suffix == ".ipynb":
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item):
    """A kernel inherits the environment; fixtures do not reach notebooks."""
    with pytest.MonkeyPatch.context() as patch:
        if item.path.suffix == ".ipynb":
            for name, value in {"PROJECT": str(project()), "CONFIG": "demo", "SET": QUICK, **ALONE}.items():
                patch.setenv(name, value)
        yield
