"""The Kaggle notebooks run as on Kaggle: its folders, a fresh environment, no network."""

import shutil
import subprocess
import sys
import sysconfig
import zipfile
from functools import partial
from importlib.metadata import distribution, version
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import competition
from pipeline.cli import main
from pipeline.kaggle import sandbox, wheels
from pipeline.kaggle.mock_test_set import TRUNCATED, write_hidden, write_known
from pipeline.kaggle.rehearsal import make_environment, make_kaggle_root, run_notebook
from pipeline.stages.bundling import DIST
from pipeline.training.checkpoint import load_weights

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
TRAIN, SUBMIT = (ROOT / "notebooks" / name for name in ("3-train-on-kaggle.ipynb", "5-submit-offline.ipynb"))


@pytest.fixture
def project(submitted, monkeypatch):
    """The trained tiny competition in a folder from which a wheel of this package can be built."""
    for name in (*wheels.SOURCES, "notebooks"):
        Path(name).symlink_to(ROOT / name)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # another test worker uses the other core
    for name in wheels.MISSING:  # packed from the installed packages; nothing is downloaded
        pack_again(name, DIST.with_name("wheels") / f"{name}=={version(name)}")
    return Path()


def pack_again(name: str, folder: Path) -> None:
    """Pack an installed package into a wheel in the bundle's cache."""
    folder.mkdir(parents=True)
    found = distribution(name)
    tag = next(line for line in found.read_text("WHEEL").splitlines() if line.startswith("Tag: ")).removeprefix("Tag: ")
    stem = f"{name.replace('-', '_')}-{found.version}"
    with zipfile.ZipFile(folder / f"{stem}-{tag}.whl", "w") as wheel:
        for file in found.files:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                wheel.write(file.locate(), str(file))
    (folder / "complete").touch()


@pytest.fixture
def base(tmp_path) -> Path:
    """An interpreter with the packages of this one, without those missing in Kaggle's image."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "base")], check=True)
    lacking = {file.parts[0] for name in wheels.MISSING for file in distribution(name).files}
    (site,) = (tmp_path / "base").glob("lib/python*/site-packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name not in lacking:
            (site / path.name).symlink_to(path)
    return tmp_path / "base/bin/python"


def test_the_base_environment_lacks_the_packages_missing_in_kaggles_image(base):
    code = "from importlib.util import find_spec as f; print(*map(bool, map(f, ('torch', 'cc3d', 'imagecodecs'))))"
    assert subprocess.run([base, "-c", code], capture_output=True, text=True).stdout == "True False False\n"


def test_rehearsal_passes_on_the_known_and_the_mock_test_set(project, base, capsys):
    assert main(["rehearse", "configs/tiny.toml", "--images", "36000", "--base", str(base)]) == 0
    said = capsys.readouterr().out
    known, hidden = (next(line for line in said.splitlines() if line.startswith(name)) for name in ("known", "hidden"))
    assert known.split()[1:4] == ["5", "valid", "0"]
    assert hidden.split()[1:4] == ["24", "valid", "1"]
    assert "0 of 5 rows differ from submissions/tiny.csv" in said
    assert said.count("no network") == 2
    assert "INPUT CHANGED" not in said
    assert f"no mask for 'hidden_{TRUNCATED}_" in said

    # The same code dataset trains a fold to the same bits as the local training.
    attached = {
        "tiny": partial(shutil.copytree, "tiny"),
        "datasets/me/tiny-code": partial(shutil.copytree, "dist/kaggle/tiny/code"),
    }
    root = Path("training/kaggle")
    make_kaggle_root(root, attached)
    python = make_environment(Path("training/environment"), base)
    ran = run_notebook(TRAIN, root, python, {"CONFIG": "tiny", "FOLD": "1"})
    assert ran.status == 0, ran.output
    trained, home = (load_weights(path / "runs/tiny/fold1/best.safetensors") for path in (root / "working", Path()))
    assert all((trained[name] == tensor).all() for name, tensor in home.items())
    assert list((root / "working/runs/tiny/fold1/oof").glob("*.safetensors"))


@pytest.mark.parametrize("notebook", [TRAIN, SUBMIT], ids=lambda path: path.stem)
def test_a_notebook_without_inputs_names_the_dataset_to_attach(tmp_path, notebook):
    root = tmp_path / "kaggle"
    make_kaggle_root(root, {"other": lambda folder: folder.mkdir(parents=True)})
    ran = run_notebook(notebook, root, Path(sys.executable), {})
    assert ran.status != 0
    assert "attach the dataset <name>-code" in ran.output


# ---------------------------------------------------------------------------------------------- isolation

LOOK = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname(), 5):
    print("near")
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:  # looks up a route, and sends nothing
    try:
        out.connect(("192.0.2.1", 9))
        print("far")
    except OSError:
        print("cut off")
"""


LAUNCH = """
import sys
from pathlib import Path
from pipeline.kaggle import sandbox
{prepare}
sandbox.main(Path({report!r}), Path({inputs!r}), [sys.executable, "-c", {command!r}])
"""
MISSING = "sandbox.UNSHARE = ['/no/such/unshare']"
FORBIDDEN = "sandbox.UNSHARE = ['false']"
NO_LOOPBACK = "sandbox.UNSHARE = ['unshare', '--user', '--map-root-user']"  # the loopback cannot be enabled


def look(folder: Path, prepare: str = "", command: str = LOOK) -> str:
    """Run a command in the sandbox and return its output; its report is `report`, its input `input`."""
    (folder / "input").mkdir(exist_ok=True)
    places = {"report": str(folder / "report"), "inputs": str(folder / "input")}
    launch = LAUNCH.format(prepare=prepare, command=command, **places)
    return subprocess.run([sys.executable, "-c", launch], capture_output=True, text=True, cwd=ROOT).stdout


@pytest.mark.parametrize(
    "prepare",
    ["", MISSING, FORBIDDEN, NO_LOOPBACK],
    ids=["in namespaces", "no unshare", "namespaces forbidden", "namespaces partly forbidden"],
)
def test_the_sandbox_reaches_the_loopback_and_nothing_else(tmp_path, prepare):
    assert look(tmp_path, prepare).split("\n")[:2] == ["near", "cut off"]
    assert "no network" in (tmp_path / "report").read_text()


def test_the_input_is_read_only_if_namespaces_are_permitted(tmp_path):
    look(tmp_path, command=f"open({str(tmp_path / 'input/new')!r}, 'w')")
    protected = "read-only" in (tmp_path / "report").read_text()
    assert protected != (tmp_path / "input/new").exists()


def test_a_notebook_that_writes_into_its_input_is_detected(tmp_path, monkeypatch):
    root = tmp_path / "kaggle"
    make_kaggle_root(root, {"data": lambda folder: folder.mkdir(parents=True)})
    monkeypatch.setattr(sandbox, "__file__", str(tmp_path / "careless.py"))
    (tmp_path / "careless.py").write_text(
        "import sys; open(sys.argv[1], 'w').write('careless'); open(sys.argv[2] + '/data/new', 'w').write('x')"
    )
    ran = run_notebook(SUBMIT, root, Path(sys.executable), {})
    assert ran.input_changed
    assert ran.isolation == "careless"


# ---------------------------------------------------------------------------------------------- test sets


def test_a_mock_test_set_has_other_sizes_channels_a_single_row_and_a_truncated_file(tiny):
    card = competition.load("tiny.toml")
    images = write_hidden(card, Path("tiny"), Path("hidden"))
    sample = pd.read_csv("hidden/sample_submission.csv", dtype=str)
    files = [Path(f"hidden/test/images/{image_id}.png") for image_id in sample["id"]]
    assert len(files) == images == 24 != 5
    assert all(path.is_file() for path in files)
    shapes = [np.asarray(Image.open(path)).shape for place, path in enumerate(files) if place != TRUNCATED]
    assert shapes[:5] == [(36, 44), (24, 22), (48, 66), (36, 44, 3), (1, 44)]
    with Image.open(files[TRUNCATED]) as image, pytest.raises(OSError, match="truncated"):
        image.load()


def test_the_known_test_set_is_copied_without_the_training_images(tiny):
    write_known(competition.load("tiny.toml"), Path("tiny"), Path("known"))
    assert sorted(path.name for path in Path("known").iterdir()) == ["sample_submission.csv", "test"]
    assert len(list(Path("known/test/images").iterdir())) == 5


# ---------------------------------------------------------------------------------------------- the wheel


def test_the_wheel_is_built_from_tracked_files(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    known = ["pipeline/__init__.py", "pipeline/report/page.css", "pyproject.toml", "README.md", "LICENSE"]
    for name in [*known, "pipeline/scratch.py", "pipeline/.env", "pipeline/report/page.css.bak"]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("x")
    assert len(wheels._sources()) == 8, "outside of a clone, all there is"
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run(["git", "add", *known], check=True)
    assert sorted(map(str, wheels._sources())) == sorted(known)
    assert "not in the wheel: 1 modules that git does not track, such as pipeline/scratch.py" in caplog.text
