"""Finds the inputs attached to a Kaggle notebook by their content, because Kaggle uses several mount points.

input/<slug>/   input/competitions/<slug>/   input/datasets/<owner>/<slug>/   input/notebooks/<owner>/<slug>/
"""

import filecmp
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pipeline
from pipeline import competition, config
from pipeline.competition import Competition
from pipeline.quoting import quoted
from pipeline.schema import read_json
from pipeline.serving.bundle import REBUILD, RECORD_FILE, path_inside
from pipeline.training.history import describe_progress

LAYOUT_FILE = "layout.json"  # in the code dataset: the path of each of its files in the project
MOUNTS = ("*", "competitions/*", "datasets/*/*", "notebooks/*/*")
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin")  # of which nothing is unpickled but tensors
ALLOWED_SUFFIXES = (".toml", ".csv", ".json", *WEIGHTS)  # configs, cards, folds and starting weights; no code


def is_rerun() -> bool:
    """Whether Kaggle reruns the notebook on the hidden test set."""
    return bool(os.environ.get("KAGGLE_IS_COMPETITION_RERUN"))


def find_weights(root: Path) -> Path:
    """Find the folder of the bundle's weights.

    Raises:
        FileNotFoundError: if none is attached.
        ValueError: if more than one is attached.
    """
    what = f"{RECORD_FILE}: attach the dataset <name>-weights"
    return _find_one(root, lambda folder: (folder / RECORD_FILE).is_file(), what)


def find_competition(root: Path, card: Competition) -> Path:
    """Find the folder of the competition's files; the test images may still be hidden.

    Raises:
        As `find_weights`.
    """
    sample, folders = card.files.sample_submission, (card.files.test_images, card.files.train_images)
    return _find_one(
        root,
        lambda folder: (folder / sample).is_file() and any((folder / images).is_dir() for images in folders),
        f"{sample} and {' or '.join(folders)}/: attach the competition {card.url or card.name}",
    )


def set_up_project(root: Path, code: Path, name: str) -> list[str]:
    """Copy attached configs, folds, weights and runs into the current folder, to the same paths as in the project.

    Args:
        root: Kaggle's folder.
        code: the folder of the code dataset.
        name: of the config.

    Returns:
        an override for the config: the folder of the competition's files.

    Raises:
        As `copy_project_files` and `find_competition`.
    """
    resume_runs(root, Path())  # first, so that a checkpoint of the dataset does not count as an existing run
    copy_project_files(code, Path())
    card = competition.load(config.load(Path("configs") / f"{name}.toml").competition)
    return [f"data.root={find_competition(root, card)}"]


def copy_project_files(code: Path, project: Path) -> list[str]:
    """Copy configs, folds, cards and weights from the code dataset to their paths in the project; returns these paths.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: for a path outside the project or the dataset, a file of another kind, and an existing file with
            other content. Nothing is copied then.
    """
    layout = _read_layout(code / LAYOUT_FILE)
    copies = {path_inside(code, name): _target(project, path, code / LAYOUT_FILE) for name, path in layout.items()}
    for source, target in copies.items():
        if not source.is_file():
            raise FileNotFoundError(f"{source}: no such file, but {LAYOUT_FILE} lists it: upload the folder again")
        if target.exists() and not filecmp.cmp(source, target, shallow=False):
            raise ValueError(f"{target}: already exists, and differs from {source}: remove it, or detach the dataset")
    for source, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return sorted(layout.values())


def _read_layout(path: Path) -> dict[str, str]:
    expected = f"expected the name of each file and its path in the project: {REBUILD}"
    layout = read_json(path, expected, dict[str, str])
    if len(set(layout.values())) < len(layout):
        raise ValueError(f"{path}: two files have the same path in the project: {REBUILD}")
    return layout


def _target(project: Path, path: str, layout_file: Path) -> Path:
    """Where a file is copied to: inside the project, and not into this package."""
    target = (project / path).resolve() if "\0" not in path else project.parent
    if not target.is_relative_to(project.resolve()) or "\\" in path:
        raise ValueError(f"{layout_file}: {quoted(path)} is outside the project: {REBUILD}")
    if target.suffix not in ALLOWED_SUFFIXES or target.is_relative_to(Path(pipeline.__file__).resolve().parent):
        raise ValueError(f"{layout_file}: {quoted(path)} is no config, card, table of folds or weights: {REBUILD}")
    return target


def resume_runs(root: Path, project: Path) -> list[str]:
    """Copy attached runs, such as the output of an earlier notebook, into the project; returns their names.

    An existing run is not overwritten. A link that leads out of the attached folder is not followed.
    """
    resumed = []
    for run in sorted(path for folder in _input_folders(root) for path in folder.glob("runs/*") if path.is_dir()):
        if not (project / "runs" / run.name).exists():
            shutil.copytree(run, project / "runs" / run.name, ignore=partial(_links_outside, run.resolve()))
            resumed.append(run.name)
    return resumed


def _links_outside(run: Path, folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not Path(folder, name).resolve().is_relative_to(run)]


def describe_runs(project: Path) -> list[str]:
    """One line per fold that was trained before, with its last epoch; without any, that training starts over."""
    lines = []
    for folder in sorted((project / "runs").glob("*/*/")):
        if (folder / "best.safetensors").is_file():
            lines.append(f"resumed: {folder.relative_to(project)}, training complete")
        elif (folder / "state.pt").is_file():
            lines.append(f"resumed: {folder.relative_to(project)}, {describe_progress(folder)}")
    return lines or ["no earlier run is attached: training starts from the beginning"]


def _input_folders(root: Path) -> list[Path]:
    return sorted(folder for mount in MOUNTS for folder in (root / "input").glob(mount) if folder.is_dir())


def _find_one(root: Path, matches: Callable[[Path], bool], what: str) -> Path:
    attached = _input_folders(root)
    found = [folder for folder in attached if matches(folder)]
    if not found:
        names = ", ".join(folder.name for folder in attached) or "nothing"
        raise FileNotFoundError(f"{root}/input has no folder with {what} (Add Input). Attached: {names}")
    if len(found) > 1:
        names = ", ".join(str(folder) for folder in found)
        raise ValueError(f"{len(found)} folders with {what.partition(':')[0]}: {names}: detach all but one")
    return found[0]
