"""What a result was made with, so that a leaderboard score can be traced to its code."""

import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.schema import JsonRecord, read_json

PACKAGES = ("torch", "timm", "segmentation-models-pytorch", "albumentations", "numpy")


class SubmissionManifest(JsonRecord):
    """What must be in submissions/<name>.json."""

    competition: str
    configs: dict[str, dict[str, Any]]
    metric: str
    oof_score: float | None
    commit: str | None
    made: str
    versions: dict[str, str]


def read_submission_manifest(path: Path) -> dict[str, Any]:
    """How a submission was made, and its score.

    Raises:
        FileNotFoundError, ValueError: as `schema.read_json`.
    """
    remedy = f'make ensemble CONFIGS="{path.stem.replace("+", " ")}" writes it again'
    return read_json(path, remedy, SubmissionManifest)


def collect_provenance() -> dict[str, Any]:
    """Versions of the packages that matter, commit and time."""
    return {
        "versions": {name: version(name) for name in PACKAGES},
        "commit": commit(),
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def commit() -> str | None:
    """The commit of the working tree, with "+" if files differ from it; None outside of git."""
    commands = (["git", "rev-parse", "HEAD"], ["git", "status", "--porcelain", "--untracked-files=no"])
    try:
        head, changes = (
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() for command in commands
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changes else "")
