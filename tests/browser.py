"""The browser for tests of the report. `python -m tests.browser`, which `make test` runs, installs one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
PACKAGES = ("chromium", "fonts-dejavu-core")  # of Debian and Ubuntu
MISSING = (
    "no Chromium for the tests of the report: install one (Debian: apt-get install chromium fonts-dejavu-core), or "
    "name it in CHROMIUM"
)


def find_browser() -> str | None:
    """The path of a Chromium that starts: that of CHROMIUM, of the system, or of playwright."""
    candidates = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), _playwrights_own()]
    return next((path for path in candidates if path and _starts(path)), None)


def _playwrights_own() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def _starts(path: str) -> bool:
    """Whether a program starts: a downloaded browser may lack libraries of the system."""
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def get_browser() -> str:
    """The path of a browser; installs that of playwright, or the system's package if permitted.

    Raises:
        SystemExit: if neither is possible, with what to install.
    """
    for get in (_nothing, _download, _install):
        get()
        if found := find_browser():
            return found
    raise SystemExit(MISSING)


def _nothing() -> None:
    """Install nothing."""


def _download() -> None:
    """Download playwright's browser without system libraries; offline this fails within a minute."""
    _run([sys.executable, "-m", "playwright", "install", "chromium"], PLAYWRIGHT_DOWNLOAD_CONNECTION_TIMEOUT="8000")


def _install() -> None:
    """Install the system's package: on Debian and Ubuntu, as root."""
    if shutil.which("apt-get") and getattr(os, "geteuid", lambda: 1)() == 0:
        _run(["apt-get", "update"])
        _run(["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES], DEBIAN_FRONTEND="noninteractive")


def _run(command: list[str], **variables: str) -> None:
    """Run a command; a failure is ignored, because the caller checks for a browser afterwards."""
    print(f"no Chromium yet: {' '.join(command)}", flush=True)
    subprocess.run(command, env=os.environ | variables, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


if __name__ == "__main__":
    print(f"browser for the tests: {get_browser()}")
