"""`make test` installs a browser on a fresh machine, or names in one line what to install."""

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import browser

ROOT = Path(__file__).parent.parent
DOWNLOAD, UPDATE, INSTALL = "playwright install chromium", "apt-get update", "apt-get install"


@pytest.fixture
def machine(monkeypatch):
    """A machine without a browser: records the commands, and the one after which a browser exists."""
    machine = SimpleNamespace(ran=[], after=None, user=0, has_apt=True)

    def run(command, **_):
        machine.ran.append(" ".join(command))
        return SimpleNamespace(returncode=0)

    def which(name):
        there = machine.after and any(machine.after in line for line in machine.ran)
        return f"/usr/bin/{name}" if there or (name == "apt-get" and machine.has_apt) else None

    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setattr(browser, "subprocess", SimpleNamespace(run=run, DEVNULL=0, TimeoutExpired=TimeoutError))
    monkeypatch.setattr(browser.shutil, "which", which)
    monkeypatch.setattr(browser, "_playwrights_own", lambda: None)
    monkeypatch.setattr(os, "geteuid", lambda: machine.user, raising=False)
    return machine


def commands(machine) -> list[str]:
    known = (DOWNLOAD, UPDATE, INSTALL)
    return [next(name for name in known if name in line) for line in machine.ran if not line.endswith("--version")]


def test_an_installed_browser_is_used(machine, monkeypatch):
    monkeypatch.setenv("CHROMIUM", "/opt/mine")
    assert (browser.get_browser(), commands(machine)) == ("/opt/mine", [])


def test_without_a_browser_playwrights_is_downloaded(machine):
    machine.after = DOWNLOAD
    assert browser.get_browser() == "/usr/bin/chromium"
    assert commands(machine) == [DOWNLOAD]


def test_without_a_download_the_system_package_is_installed_with_a_font(machine):
    machine.after = INSTALL
    assert browser.get_browser() == "/usr/bin/chromium"
    assert commands(machine) == [DOWNLOAD, UPDATE, INSTALL]
    assert any(line.endswith("chromium fonts-dejavu-core") for line in machine.ran)


@pytest.mark.parametrize(("user", "has_apt"), [(1000, True), (0, False)], ids=["no root", "no apt-get"])
def test_without_permission_to_install_one_line_names_the_packages(machine, user, has_apt):
    machine.user, machine.has_apt = user, has_apt
    with pytest.raises(SystemExit, match=r"install one \(Debian: apt-get install chromium fonts-dejavu-core\)"):
        browser.get_browser()
    assert commands(machine) == [DOWNLOAD]


def test_a_browser_that_does_not_start_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setattr(browser.shutil, "which", lambda name: None)
    monkeypatch.setattr(browser, "_playwrights_own", lambda: None)
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    for path in (broken, tmp_path / "gone"):
        monkeypatch.setenv("CHROMIUM", str(path))
        assert browser.find_browser() is None


def test_ci_runs_make_targets_only():
    lines = [line for line in (ROOT / ".ci/run").read_text().splitlines() if line and not line.startswith("#")]
    assert [line for line in lines if not line.startswith("make ")] == ["set -euo pipefail", 'cd "$(dirname "$0")/.."']


def test_make_test_installs_the_browser_before_the_tests():
    made = subprocess.run(
        ["make", "--no-print-directory", "-n", "test", "PYTHON=python"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert made == ["python -m tests.browser", 'python -m pytest -n auto --dist loadgroup -m "not slow"']
