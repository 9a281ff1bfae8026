"""Atomic writes and locks."""

import errno
import fcntl
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline import files
from pipeline.files import DAY, _host, atomic_folder, atomic_write, file_lock, write_text

ROOT = Path(__file__).parents[1]


def test_a_file_is_written_completely(tmp_path):
    write_text(tmp_path / "new" / "file.txt", "all of it")
    assert (tmp_path / "new" / "file.txt").read_text() == "all of it"
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_an_error_keeps_the_old_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_write(path) as partial:
        partial.write_text("half") and (tmp_path / "missing").read_text()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_folder_that_is_replaced_stays_until_the_new_one_is_complete(tmp_path, error):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").touch()

    def write(failing=None):
        with atomic_folder(path, replace=True) as partial:
            (partial / "new").touch()
            assert [each.name for each in path.iterdir()] == ["old"]
            if failing:
                raise failing

    with pytest.raises(error):
        write(error)
    assert [each.name for each in path.iterdir()] == ["old"]
    write()
    assert [each.name for each in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_is_not_replaced_unless_that_is_asked_for(tmp_path):
    with pytest.raises(FileExistsError, match="already exists"), atomic_folder(tmp_path):
        pass


def test_a_full_disk_is_reported_for_any_error_of_the_writer(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4096))
    with (
        pytest.raises(OSError, match=r"state\.pt: the disk is full \(4 KiB left\)") as caught,
        atomic_write(tmp_path / "state.pt"),
    ):
        raise RuntimeError("PytorchStreamWriter failed writing file")
    assert caught.value.errno == errno.ENOSPC


def test_a_disk_too_small_for_the_file_is_reported(tmp_path):
    # safetensors reserves the file's size first, and fails while other files would still fit.
    with (
        pytest.raises(OSError, match=r"best\.safetensors: the disk is full"),
        atomic_write(tmp_path / "best.safetensors"),
    ):
        raise RuntimeError("I/O error: No space left on device (os error 28)")


def leave(folder, name, host=None, age=0):
    """A partial file of a killed process of this machine, or of another."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    path = folder / f".{name}.{host or _host()}.{process.pid}.0123abcd.part"
    path.write_text("half")
    os.utime(path, (time.time() - age,) * 2)
    return path


def write_torch(path):
    torch.save(torch.zeros(1 << 20), path)


def write_safetensors(path):
    save_file({"a": torch.zeros(1 << 20)}, path)


def write_bytes(path):
    path.write_bytes(bytes(1 << 22))


@pytest.mark.parametrize("write", [write_torch, write_safetensors, write_bytes])
def test_a_file_size_limit_is_reported_for_any_error_of_the_writer(tmp_path, write):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    said = r"w\.bin: the file exceeds this process's file size limit \(ulimit -f\)"
    try:
        with pytest.raises(OSError, match=said), atomic_write(tmp_path / "w.bin") as partial:
            write(partial)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_with_equal_process_ids_use_different_partial_files(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "getpid", lambda: 1)  # as in two containers
    with atomic_write(tmp_path / "file.txt") as first, atomic_write(tmp_path / "file.txt") as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "file.txt").read_text() == "first"


def test_a_file_name_of_maximum_length_can_be_written(tmp_path):
    write_text(tmp_path / ("é" * 127), "all of it")


def test_taking_the_lock_removes_partial_files_of_killed_processes(tmp_path):
    (tmp_path / "oof").mkdir()
    dead = [leave(tmp_path, "state.pt"), leave(tmp_path / "oof", "000-00000.safetensors")]
    old = leave(tmp_path, "best.safetensors", host="elsewhere", age=2 * DAY)
    with file_lock(tmp_path / "lock", "it"):
        assert not any(path.exists() for path in (*dead, old))


def test_writing_a_file_removes_its_partial_files_of_killed_processes(tmp_path):
    half = leave(tmp_path, "best[1].csv")
    with atomic_write(tmp_path / "best[1].csv") as partial:
        assert not half.exists()
        partial.write_text("all of it")


def test_partial_files_of_running_processes_are_kept(tmp_path):
    with atomic_write(tmp_path / "state.pt") as partial:
        partial.write_text("half")
        elsewhere = leave(tmp_path, "best.safetensors", host="elsewhere", age=60)
        foreign = tmp_path / ".mine.part"
        foreign.write_text("not ours")
        with file_lock(tmp_path / "lock", "it"):
            assert partial.exists()
            assert elsewhere.exists()
            assert foreign.exists()


def test_a_file_system_without_locks_works_with_one_warning(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    said = []
    monkeypatch.setattr(files.fcntl, "flock", none)
    monkeypatch.setattr(files.log, "warning", lambda text, *values: said.append(text % values))
    with file_lock(tmp_path / "lock", "runs/x/fold0"):
        pass
    assert said == [f"{tmp_path}/lock: this file system does not support locks: run no other process on runs/x/fold0"]


class Msvcrt:
    """The part of Windows' module that files.py uses, with the kernel's locks of one byte of a file."""

    LK_NBLCK, LK_UNLCK = 2, 0

    @staticmethod
    def locking(descriptor, mode, count):
        command = fcntl.LOCK_UN if mode == Msvcrt.LK_UNLCK else fcntl.LOCK_EX | fcntl.LOCK_NB
        try:
            fcntl.lockf(descriptor, command, count, 0, os.SEEK_CUR)
        except BlockingIOError:
            raise PermissionError(errno.EACCES, "Permission denied") from None


HOLD_ON_WINDOWS = """
import sys, time
from pathlib import Path
from pipeline import files
from tests.test_files import Msvcrt
files.fcntl, sys.modules["msvcrt"] = None, Msvcrt
with files.file_lock(Path("lock"), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_lock_works_with_the_windows_module(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(files, "fcntl", None)
    monkeypatch.setitem(sys.modules, "msvcrt", Msvcrt)
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD_ON_WINDOWS]
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=rf"it is locked by process {holder.pid} on host .+: run this again"),
            file_lock(Path("lock"), "it", wait=False),
        ):
            pass
        holder.kill()
    with file_lock(Path("lock"), "it", wait=False):
        assert Path("lock").read_text().startswith(f"{os.getpid()} on ")


IMPORT_ALL = """
import builtins, importlib, pkgutil
import pipeline

UNIX_ALONE = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios"}
plain = builtins.__import__

def as_on_windows(name, globals=None, *rest, **named):
    if name in UNIX_ALONE and (globals or {}).get("__name__", "").startswith("pipeline"):
        raise ModuleNotFoundError(f"No module named {name!r}")
    return plain(name, globals, *rest, **named)

builtins.__import__ = as_on_windows
for module in pkgutil.walk_packages(pipeline.__path__, "pipeline."):
    importlib.import_module(module.name)
print("all")
"""


@pytest.mark.slow
def test_every_module_can_be_imported_without_fcntl():
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL], env=env, capture_output=True, text=True)
    assert done.stdout == "all\n", done.stderr[-500:]
