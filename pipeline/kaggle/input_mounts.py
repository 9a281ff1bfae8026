"""What is attached to a notebook, by what it holds and not by its place: Kaggle mounts in more than one way.

input/<slug>/   input/competitions/<slug>/   input/datasets/<owner>/<slug>/   input/notebooks/<owner>/<slug>/
"""

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
from pipeline.serving.bundle import AGAIN, RECORD, inside
from pipeline.training.history import describe_progress

LAYOUT = "layout.json"  # in the code dataset: where its files lie in the project
MOUNTS = ("*", "competitions/*", "datasets/*/*", "notebooks/*/*")
LAID_OUT = (".toml", ".csv", ".json")  # what of a project is configs, cards and folds, and no program


def kaggle_root() -> Path:
    """Kaggle's folder, /kaggle; a rehearsal says in KAGGLE_ROOT where its own is."""
    return Path(os.environ.get("KAGGLE_ROOT", "/kaggle"))


def is_rerun() -> bool:
    """Whether this is the run on hidden data, which nobody watches."""
    return bool(os.environ.get("KAGGLE_IS_COMPETITION_RERUN"))


def find_weights(root: Path) -> Path:
    """The folder of the bundle's weights.

    Raises:
        FileNotFoundError, ValueError: if none is attached, or more than one; with what is, and what to do.
    """
    return _only(root, lambda folder: (folder / RECORD).is_file(), f"{RECORD}: attach the dataset <name>-weights")


def find_competition(root: Path, card: Competition) -> Path:
    """The folder of the competition's files; its test images may be hidden still.

    Raises:
        As `find_weights`.
    """
    sample, folders = card.files.sample_submission, (card.files.test_images, card.files.train_images)
    return _only(
        root,
        lambda folder: (folder / sample).is_file() and any((folder / images).is_dir() for images in folders),
        f"{sample} and {' or '.join(folders)}/: attach the competition {card.url or card.name}",
    )


def settle(root: Path, code: Path, name: str) -> list[str]:
    """Make the current folder the project: configs, folds and runs that are attached, where they lie at home.

    Args:
        root: Kaggle's folder.
        code: the folder of the code dataset.
        name: of the config.

    Returns:
        an override for the config: where the competition's files are mounted.

    Raises:
        As `lay_out_project` and `find_competition`.
    """
    lay_out_project(code, Path())
    resume_runs(root, Path())
    card = competition.load(config.load(Path("configs") / f"{name}.toml").competition)
    return [f"data.root={find_competition(root, card)}"]


def lay_out_project(code: Path, project: Path) -> list[str]:
    """Copy configs, folds and cards out of the code dataset to where they lie in the project; returns their paths.

    Raises:
        ValueError: for a path that leads out of the project or the dataset, a file that is no config, card or table,
            and one that is there already and differs. Nothing is copied then.
    """
    layout = _read_layout(code / LAYOUT)
    copies = {inside(code, name): _place(project, place, code / LAYOUT) for name, place in layout.items()}
    for source, target in copies.items():
        if not source.is_file():
            raise FileNotFoundError(f"{source}: no such file, and {LAYOUT} names it: upload the folder again")
        if target.exists() and target.read_bytes() != source.read_bytes():
            raise ValueError(f"{target}: is there already, and differs from {source}: remove it, or detach the dataset")
    for source, target in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return sorted(layout.values())


def _read_layout(path: Path) -> dict[str, str]:
    expected = f"expected names of files, each with its place in the project: {AGAIN}"
    layout = read_json(path, expected, dict[str, str])
    if len(set(layout.values())) < len(layout):
        raise ValueError(f"{path}: two files have one place: {AGAIN}")
    return layout


def _place(project: Path, place: str, where: Path) -> Path:
    """Where a file goes: below the project, and not into this package."""
    target = (project / place).resolve() if "\0" not in place else project.parent
    if not target.is_relative_to(project.resolve()) or "\\" in place:
        raise ValueError(f"{where}: {quoted(place)} lies outside of the project: {AGAIN}")
    if target.suffix not in LAID_OUT or target.is_relative_to(Path(pipeline.__file__).resolve().parent):
        raise ValueError(f"{where}: {quoted(place)} is no config, card or table of folds: {AGAIN}")
    return target


def resume_runs(root: Path, project: Path) -> list[str]:
    """Copy runs that are attached, such as an earlier notebook's output, into the project; returns their names.

    A run that is there already stays as it is. A link that leads out of what is attached is not followed.
    """
    resumed = []
    for run in sorted(path for folder in _attached(root) for path in folder.glob("runs/*") if path.is_dir()):
        if not (project / "runs" / run.name).exists():
            shutil.copytree(run, project / "runs" / run.name, ignore=partial(_links_out, run.resolve()))
            resumed.append(run.name)
    return resumed


def _links_out(run: Path, folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not Path(folder, name).resolve().is_relative_to(run)]


def describe_runs(project: Path) -> list[str]:
    """A line for each fold of a run that is there: how far it is. Without any, that a training starts over."""
    lines = []
    for folder in sorted((project / "runs").glob("*/*/")):
        if (folder / "best.safetensors").is_file():
            lines.append(f"resumed: {folder.relative_to(project)}, trained to its end")
        elif (folder / "state.pt").is_file():
            lines.append(f"resumed: {folder.relative_to(project)}, {describe_progress(folder)}")
    return lines or ["no earlier run is attached: training starts from the beginning"]


def _attached(root: Path) -> list[Path]:
    return sorted(folder for mount in MOUNTS for folder in (root / "input").glob(mount) if folder.is_dir())


def _only(root: Path, fits: Callable[[Path], bool], what: str) -> Path:
    attached = _attached(root)
    found = [folder for folder in attached if fits(folder)]
    if not found:
        names = ", ".join(folder.name for folder in attached) or "nothing"
        raise FileNotFoundError(f"{root}/input has no folder with {what} (Add Input). Attached: {names}")
    if len(found) > 1:
        names = ", ".join(str(folder) for folder in found)
        raise ValueError(f"{len(found)} folders with {what.partition(':')[0]}: {names}: detach all but one")
    return found[0]
