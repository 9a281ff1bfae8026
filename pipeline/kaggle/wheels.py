"""Collects the wheels that an offline notebook installs: this package, and packages missing in Kaggle's image."""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from pipeline.files import write_text

log = logging.getLogger(__name__)

# Packages that requirements-kaggle-image.txt does not have.
MISSING = ("segmentation-models-pytorch", "connected-components-3d", "imagecodecs")
PYTHONS = ("3.11", "3.12", "3.13")  # several: Kaggle may update its image at any time
PLATFORMS = ("manylinux2014_x86_64", "manylinux_2_28_x86_64")
SOURCES = ("pipeline", "pyproject.toml", "README.md", "LICENSE")


def write_wheels(folder: Path, cache: Path) -> list[str]:
    """Write all wheels into a folder, with a requirements.txt for `pip install --no-index --no-deps --find-links`.

    Args:
        cache: folder where downloaded wheels are kept for the next bundle.

    Returns:
        the requirements.

    Raises:
        FileNotFoundError: if the current folder is not the project's.
        ConnectionError: if a wheel is not in the cache and cannot be downloaded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.whl"):
        old.unlink()
    own = build_own_wheel(folder)
    others = [f"{name}=={version(name)}" for name in MISSING]
    for requirement in others:
        for wheel in _download(requirement, cache):
            shutil.copyfile(wheel, folder / wheel.name)
    requirements = [f"segmentation-pipeline=={own.name.split('-')[1]}", *others]
    write_text(folder / "requirements.txt", "\n".join(requirements) + "\n")
    return requirements


def build_own_wheel(folder: Path) -> Path:
    """Build the wheel of this package from a copy of its sources; returns the path.

    The copy keeps leftovers of earlier builds out of the wheel, and build files out of the project.

    Raises:
        FileNotFoundError: if the current folder is not the project's.
    """
    missing = [name for name in SOURCES if not Path(name).exists()]
    if missing:
        raise FileNotFoundError(f"{missing[0]}: no such file. Run make bundle in the project's folder")
    with tempfile.TemporaryDirectory() as temporary:
        source = Path(temporary) / "source"
        source.mkdir()
        for path in _sources():
            (source / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, source / path)
        _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(source))
    return next(folder.glob("segmentation_pipeline-*.whl"))


def _sources() -> list[Path]:
    """The files that the wheel is built from: the ones tracked by git, if the project is a clone."""
    found = [path for name in SOURCES for path in _files(Path(name))]
    tracked = _tracked()
    if tracked is None:
        return found
    untracked = [path for path in found if path.resolve() not in tracked]
    if modules := [path for path in untracked if path.suffix == ".py"]:
        log.warning(
            "not in the wheel: %d modules that git does not track, such as %s: git add them if the project needs them",
            len(modules),
            modules[0],
        )
    return [path for path in found if path not in untracked]


def _files(path: Path) -> list[Path]:
    return [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())


def _tracked() -> set[Path] | None:
    """The tracked files of the clone; None if the project is no clone, or git is not installed."""
    root = Path(SOURCES[0]).resolve().parent
    with suppress(OSError):
        done = subprocess.run(["git", "-C", str(root), "ls-files", "-z", *SOURCES], capture_output=True)
        if not done.returncode and done.stdout:
            return {(root / os.fsdecode(name)).resolve() for name in done.stdout.split(b"\0") if name}
    return None


def _download(requirement: str, cache: Path) -> list[Path]:
    """Download a requirement's wheels for all of PYTHONS, unless they are in the cache."""
    kept = cache / requirement
    done = kept / "complete"
    if not done.exists():
        log.info("downloading %s for Python %s", requirement, ", ".join(PYTHONS))
        for python in PYTHONS:
            platforms = [option for name in PLATFORMS for option in ("--platform", name)]
            options = ["--no-deps", "--only-binary=:all:", "--python-version", python, *platforms, "--dest", str(kept)]
            _pip("download", *options, requirement)
        write_text(done, "")
    return sorted(kept.glob("*.whl"))


def _pip(command: str, *options: str) -> None:
    line: Sequence[str] = (sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *options)
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConnectionError(f"pip {command} {options[-1]} failed: {reason.removeprefix('ERROR: ')}")
