"""Kaggle's machine in small: a folder like /kaggle, an environment that lacks what Kaggle's image lacks, no network."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.kaggle import sandbox

WORKING_LIMIT = 20e9  # bytes that /kaggle/working may hold
LAST_LINES = 12  # of what a notebook that failed said
RUN = "from nbclient.cli import NbClientApp; NbClientApp.launch_instance()"
VERSIONS = """
import platform
from importlib.metadata import version
packages = ("torch", "numpy", "pandas", "timm")
print("Python", platform.python_version(), *(f"{name} {version(name)}" for name in packages))
"""


class Ran(NamedTuple):
    """What a notebook's run came to."""

    status: int
    seconds: float
    peak: int  # bytes, of the largest process
    working: int  # bytes that it left
    isolation: str
    input_changed: bool
    output: str  # its last lines


def lay_out(root: Path, attached: Mapping[str, Callable[[Path], object]]) -> None:
    """Make a folder like /kaggle, anew.

    Args:
        attached: from a place below input/ to what fills it.
    """
    shutil.rmtree(root, ignore_errors=True)
    (root / "working").mkdir(parents=True)
    for place, fill in attached.items():
        (root / "input" / place).parent.mkdir(parents=True, exist_ok=True)
        fill(root / "input" / place)


def make_environment(folder: Path, base: Path) -> Path:
    """A fresh virtual environment that sees what an interpreter has, and nothing else; returns its python.

    Args:
        base: the interpreter, such as that of a virtual environment with Kaggle's packages.
    """
    shutil.rmtree(folder, ignore_errors=True)
    _run([str(base), "-m", "venv", "--without-pip", str(folder)])
    python = folder / "bin" / "python"
    own, seen = (_site_packages(path) for path in (python, base))
    (own / "base.pth").write_text(f"{seen}\n")
    return python


def describe_base(base: Path) -> str:
    """The versions that matter of an interpreter and what it has, in words."""
    return _run([str(base), "-c", VERSIONS]).strip()


def _site_packages(python: Path) -> Path:
    return Path(_run([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise OSError(f"{' '.join(command[:3])} failed: {reason}")
    return done.stdout


def run_notebook(notebook: Path, root: Path, python: Path, environment: Mapping[str, str]) -> Ran:
    """Run a notebook top to bottom in root/working, as Kaggle does, without a network.

    Writes: beside root, the notebook with its outputs, and a log.

    Args:
        environment: variables beside those of a bare system.
    """
    if not hasattr(os, "wait4"):
        raise ValueError("a rehearsal needs Linux or macOS: run it there, or in WSL")
    place = root.parent.resolve()
    executed, log, report = place / notebook.name, place / "run.log", place / "isolation.txt"
    shutil.copyfile(notebook, executed)
    before = _listing(root / "input")
    launcher = [sys.executable, sandbox.__file__, str(report), str((root / "input").resolve())]
    command = [*launcher, str(python.absolute()), "-c", RUN, str(executed), "--inplace", "--timeout=-1"]
    variables = _bare(place) | {"KAGGLE_ROOT": str(root.resolve())} | dict(environment)
    started = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=root / "working", env=variables, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)  # as Popen.wait does, and with what was used
        process.returncode = os.waitstatus_to_exitcode(status)
    return Ran(
        process.returncode,
        time.monotonic() - started,
        usage.ru_maxrss * 1024,
        sum(file.stat().st_size for file in (root / "working").rglob("*") if file.is_file()),
        report.read_text().strip(),
        _listing(root / "input") != before,
        "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:]),
    )


def _bare(place: Path) -> dict[str, str]:
    """A shell's least variables; settings of Jupyter and caches stay in the rehearsal's folder."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "OMP_NUM_THREADS") if name in os.environ}
    return kept | {"HOME": str(place), "PYTHONDONTWRITEBYTECODE": "1"}


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
