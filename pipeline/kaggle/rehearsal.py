"""Imitates Kaggle's machine: a folder like /kaggle, an environment with the packages of its image, no network."""

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
LAST_LINES = 12  # of a notebook's log that are kept
RUN_NOTEBOOK = "from nbclient.cli import NbClientApp; NbClientApp.launch_instance()"
PRINT_VERSIONS = """
import platform
from importlib.metadata import version
packages = ("torch", "numpy", "pandas", "timm")
print("Python", platform.python_version(), *(f"{name} {version(name)}" for name in packages))
"""


class NotebookRun(NamedTuple):
    """The outcome of running a notebook."""

    status: int
    seconds: float
    peak_memory: int  # bytes, of the largest process
    working_size: int  # bytes that it left in working/
    isolation: str
    input_changed: bool
    output: str  # its last lines


def make_kaggle_root(root: Path, inputs: Mapping[str, Callable[[Path], object]]) -> None:
    """Create a folder like /kaggle; an existing one is deleted first.

    Args:
        inputs: from a path below input/ to a function that writes that input.
    """
    shutil.rmtree(root, ignore_errors=True)
    (root / "working").mkdir(parents=True)
    for path, write in inputs.items():
        (root / "input" / path).parent.mkdir(parents=True, exist_ok=True)
        write(root / "input" / path)


def make_environment(folder: Path, base: Path) -> Path:
    """Create a virtual environment that sees the packages of another interpreter, and no others.

    Args:
        base: the interpreter, such as that of a virtual environment with Kaggle's packages.

    Returns:
        the new environment's python.

    Raises:
        OSError: if `base` fails.
    """
    shutil.rmtree(folder, ignore_errors=True)
    _output([str(base), "-m", "venv", "--without-pip", str(folder)])
    python = folder / "bin" / "python"
    own, seen = (_site_packages(path) for path in (python, base))
    (own / "base.pth").write_text(f"{seen}\n")
    return python


def describe_base(base: Path) -> str:
    """The versions of an interpreter and its main packages, on one line.

    Raises:
        OSError: if it lacks one of them.
    """
    return _output([str(base), "-c", PRINT_VERSIONS]).strip()


def _site_packages(python: Path) -> Path:
    return Path(_output([str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]).strip())


def _output(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise OSError(f"{' '.join(command[:3])} failed: {reason}")
    return done.stdout


def run_notebook(notebook: Path, root: Path, python: Path, environment: Mapping[str, str]) -> NotebookRun:
    """Run a notebook from top to bottom in root/working, as Kaggle does, without a network.

    Writes: in the parent of root, the notebook with its outputs, and a log

    Args:
        environment: variables in addition to those of a bare system.

    Raises:
        ValueError: on a system other than Linux or macOS.
    """
    if not hasattr(os, "wait4"):
        raise ValueError("a rehearsal needs Linux or macOS: run it there, or in WSL")
    folder = root.parent.resolve()
    executed, log, report = folder / notebook.name, folder / "run.log", folder / "isolation.txt"
    shutil.copyfile(notebook, executed)
    before = _listing(root / "input")
    launcher = [sys.executable, sandbox.__file__, str(report), str((root / "input").resolve())]
    command = [*launcher, str(python.absolute()), "-c", RUN_NOTEBOOK, str(executed), "--inplace", "--timeout=-1"]
    variables = _bare_environment(folder) | {"KAGGLE_ROOT": str(root.resolve())} | dict(environment)
    started = time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=root / "working", env=variables, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)  # like Popen.wait, but with the resources used
        process.returncode = os.waitstatus_to_exitcode(status)
    return NotebookRun(
        process.returncode,
        time.monotonic() - started,
        usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        sum(file.stat().st_size for file in (root / "working").rglob("*") if file.is_file()),
        report.read_text().strip(),
        _listing(root / "input") != before,
        "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:]),
    )


def _bare_environment(home: Path) -> dict[str, str]:
    """The fewest variables that a shell needs; settings and caches of Jupyter stay in the rehearsal's folder."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "OMP_NUM_THREADS") if name in os.environ}
    return kept | {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
