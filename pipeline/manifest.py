"""What a result was made with, so that a leaderboard score can be traced to its code."""

import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

PACKAGES = ("torch", "timm", "segmentation-models-pytorch", "albumentations", "numpy")


def made_with() -> dict[str, Any]:
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
