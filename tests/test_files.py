"""Files appear whole or not at all."""

import errno
import shutil

import pytest

from pipeline.files import whole, write_text


def test_a_file_appears_with_all_its_content(tmp_path):
    write_text(tmp_path / "new" / "file.txt", "all of it")
    assert (tmp_path / "new" / "file.txt").read_text() == "all of it"
    assert len(list((tmp_path / "new").iterdir())) == 1


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), whole(path) as partial:
        partial.write_text("half") and (tmp_path / "missing").read_text()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named_whatever_the_writer_says(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4096))
    with (
        pytest.raises(OSError, match=r"state\.pt: the disk is full \(4 KiB left\)") as caught,
        whole(tmp_path / "state.pt"),
    ):
        raise RuntimeError("PytorchStreamWriter failed writing file")
    assert caught.value.errno == errno.ENOSPC


def test_a_disk_too_small_for_the_file_is_named_too(tmp_path):
    # safetensors reserves the file's size first, and fails while other files would still fit.
    with pytest.raises(OSError, match=r"best\.safetensors: the disk is full"), whole(tmp_path / "best.safetensors"):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
