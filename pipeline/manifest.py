"""The provenance of a result: configs, versions and commit, so that a score can be traced to its code."""

import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.schema import JsonRecord, read_json

PACKAGES = ("torch", "timm", "segmentation-models-pytorch", "albumentations", "numpy")


class SubmissionManifest(JsonRecord):
    """The required fields of submissions/<name>.json."""

    competition: str
    configs: dict[str, dict[str, Any]]
    metric: str
    oof_score: float | None
    commit: str | None
    made: str
    versions: dict[str, str]


def read_submission_manifest(path: Path) -> dict[str, Any]:
    """Read a submission's manifest: how it was made, and its OOF score.

    Raises:
        FileNotFoundError, ValueError: as `schema.read_json`.
    """
    return read_json(path, f"{ensemble_command(path.stem)} writes it again", SubmissionManifest)


def ensemble_command(name: str) -> str:
    """The command that writes a submission.

    >>> ensemble_command("a+b-fold0-fold1")
    'make ensemble CONFIGS="a b" FOLDS="0 1"'
    """
    configs, folds = re.fullmatch(r"(.*?)((?:-fold\d+)*)", name, re.DOTALL).groups()
    part = f' FOLDS="{folds.replace("-fold", " ").strip()}"' if folds else ""
    return f'make ensemble CONFIGS="{configs.replace("+", " ")}"{part}'


def collect_provenance() -> dict[str, Any]:
    """The versions of the main packages, the commit and the time."""
    return {
        "versions": {name: version(name) for name in PACKAGES},
        "commit": commit(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def commit() -> str | None:
    """The commit of the working tree, with "+" if tracked files differ from it; None outside a git repository."""
    commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"])
    try:
        head, changes = (
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changes else "")
