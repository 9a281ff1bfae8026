"""Runs that are killed, interrupted, out of disk space or concurrent give bit-identical results."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.conftest import CONFIG, lay_out_tiny
from tests.interrupted import Ended, Runner

pytestmark = pytest.mark.slow

ENSEMBLE = ("ensemble", "configs/tiny.toml")
STOPS = {"kill -9": ["SIGKILL"] * 5, "SIGTERM and Ctrl-C": ["SIGTERM", "SIGINT"] * 2}
STATUS = {"SIGKILL": -signal.SIGKILL, "SIGTERM": -signal.SIGTERM, "SIGINT": 130}
TIMES = re.compile(r'"(seconds|made)": [^,\n}]*')
MADE = ("folds", "runs", "submissions", "reports")


@pytest.fixture(scope="module")
def runner() -> Iterator[Runner]:
    with Runner() as started:
        yield started


def lay_out(folder: Path) -> Path:
    """The tiny competition in a separate folder."""
    folder.mkdir()
    lay_out_tiny(folder)
    return folder


def results(folder: Path) -> dict[str, str]:
    """A digest of each file that a run leaves, including temporary ones; times are left out."""
    files = [path for made in MADE for path in sorted((folder / made).rglob("*")) if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(content(path)).hexdigest()
        for path in files
        if path.name not in ("lock", ".lock")
    }


def below_data(paths: str) -> str:
    """Paths of files, one per line, without the folder that the data are in."""
    return "\n".join(path.rpartition("tiny/")[2] for path in paths.split("\n"))


def content(path: Path) -> bytes:
    if path.suffix == ".safetensors":  # the header holds times
        tensors = load_file(path)
        return b"".join(key.encode() + tensors[key].tobytes() for key in sorted(tensors))
    if path.name.endswith(".files.json"):  # values with the sizes and times of the files that they are of
        found = json.loads(path.read_text())
        values = {what: {below_data(key): value for key, (_, value) in each.items()} for what, each in found.items()}
        return json.dumps(values, sort_keys=True).encode()
    if path.suffix in (".json", ".jsonl"):
        return TIMES.sub("", path.read_text()).encode()
    return path.read_bytes()


@pytest.fixture(scope="module")
def undisturbed(runner: Runner, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str], int]:
    """A run that is not stopped: its folder, the digests of its files and the number of its file operations."""
    folder = lay_out(tmp_path_factory.mktemp("undisturbed") / "project")
    done = runner.run(folder, *ENSEMBLE)
    assert done.status == 0, done.stderr
    return folder, results(folder), done.operations


@pytest.mark.parametrize("kind", STOPS)
def test_a_run_stopped_at_any_file_operation_resumes_to_the_files_of_an_uninterrupted_run(
    tmp_path, runner, undisturbed, kind
):
    _, expected, operations = undisturbed
    folder, rng = lay_out(tmp_path / "project"), np.random.default_rng(len(kind))
    for name in STOPS[kind]:
        at = int(rng.integers(operations // 12, operations // 6))
        stopped = runner.run(folder, *ENSEMBLE, at=at, by=name)
        assert stopped.status == STATUS[name], stopped.stderr
    done = runner.run(folder, *ENSEMBLE)
    assert done.status == 0, done.stderr
    assert results(folder) == expected


def small_disk(runner: Runner, home: Path) -> Iterator[dict[str, int]]:
    """A disk of .4 to 3 MB at `home`, larger each time; the last one is large enough."""
    runner.shell(f"mount -t tmpfs -o size=400k none {home}")
    for size in ("400k", "1m", "2m", "3m", "100m"):
        runner.shell(f"mount -o remount,size={size} {home}")
        yield {}


def small_files(*_: object) -> Iterator[dict[str, int]]:
    """A limit on the size of a file, higher each time; the last time none."""
    yield from ({"file_size": size} for size in (4_000, 100_000, 400_000))
    yield {}


def can_mount() -> bool:
    """Whether a disk can be mounted for this process only."""
    try:
        return subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]).returncode == 0
    except OSError:
        return False


LIMITS = {"a small disk": small_disk, "a limit of file size": small_files} if can_mount() else {"": small_files}


@pytest.mark.parametrize("limit", LIMITS)
def test_a_full_disk_is_reported_and_the_resumed_run_gives_the_same_files(tmp_path, undisturbed, limit):
    _, expected, _ = undisturbed
    folder, home = lay_out(tmp_path / "project"), tmp_path / "home"
    home.mkdir()
    before = ("unshare", "-m") if LIMITS[limit] is small_disk else ()
    ends: list[Ended] = []
    with Runner(before) as runner:
        for options in LIMITS[limit](runner, home):
            if not ends:  # once the disk is mounted
                runner.shell(f"cp -r {folder}/tiny.toml {folder}/configs {home}")
            ends.append(runner.run(home, *ENSEMBLE, "--data", str(folder / "tiny"), **options))
        runner.shell(f"cp -r {home} {tmp_path}/kept")
    for ended in ends[:-1]:
        assert ended.status == 2, ended.stderr
        assert re.fullmatch(
            r"pipeline ensemble: .*(the disk is full|exceeds this process's file size limit).*", last_line(ended)
        )
        assert "Traceback" not in ended.stderr
    assert ends[-1].status == 0, ends[-1].stderr
    assert results(tmp_path / "kept") == expected


def last_line(ended: Ended) -> str:
    return ended.stderr.splitlines()[-1]


def test_three_equal_commands_in_parallel_give_the_files_of_one(tmp_path, runner):
    text = CONFIG.replace('"tiny.toml"', '"demo"').replace('root = "tiny"', "").replace("epochs = 2", "epochs = 1")
    for name in ("alone", "together"):
        (tmp_path / name / "configs").mkdir(parents=True)
        (tmp_path / name / "configs" / "tiny.toml").write_text(text)
    alone = runner.run(tmp_path / "alone", *ENSEMBLE)
    assert alone.status == 0, alone.stderr
    together = runner.race(tmp_path / "together", *ENSEMBLE, processes=3, pause=0.01)
    assert [ended.status for ended in together] == [0, 0, 0], [ended.stderr for ended in together]
    said = "".join(ended.stderr for ended in together)
    assert said.count("generating the demo data") == said.count("wrote folds/demo.csv") == 1
    assert said.count("starts from the beginning") == 3, "each fold is trained once"
    assert results(tmp_path / "together") == results(tmp_path / "alone")


def test_the_next_run_completes_a_partially_written_submission(tmp_path, runner, undisturbed):
    trained, expected, _ = undisturbed
    folder = tmp_path / "project"
    shutil.copytree(trained, folder)
    again = runner.run(folder, *ENSEMBLE)
    for at in range(3, again.operations + 1, 7):
        assert runner.run(folder, *ENSEMBLE, at=at).status == STATUS["SIGKILL"]
    done = runner.run(folder, *ENSEMBLE)
    assert done.status == 0, done.stderr
    assert results(folder) == expected
