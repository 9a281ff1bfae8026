"""Unpacking of untrusted zip files: completely, once, and only inside the folder."""

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from pipeline.kaggle import archive
from pipeline.kaggle.archive import unpack

FILES = {"train.csv": b"id,rle\n1,1 1\n", "train/images/1.png": b"one", "train/images/2.png": b"two"}


def pack(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", method) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return data.getvalue()


@pytest.fixture
def zip_path(tmp_path) -> Path:
    return tmp_path / "slug.zip"


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "data"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_unpack_extracts_all_files_and_deletes_the_archive(zip_path, folder):
    zip_path.write_bytes(pack(FILES))
    files = unpack(zip_path, folder)
    assert contents(folder) == FILES
    assert sorted(files) == sorted(folder / name for name in FILES)
    assert not zip_path.exists()


@pytest.mark.parametrize(
    ("inside", "expected"),
    [
        ({"1.png": b"one"}, {"train/1.png": b"one"}),
        ({"train/1.png": b"one"}, {"train/1.png": b"one"}),  # not train/train/1.png
        ({"train/1.png": b"one", "readme": b"-"}, {"train/train/1.png": b"one", "train/readme": b"-"}),
    ],
)
def test_an_inner_zip_is_unpacked_into_a_folder_of_its_name(zip_path, folder, inside, expected):
    zip_path.write_bytes(pack({"train.zip": pack(inside), "sample.csv": b"id"}))
    unpack(zip_path, folder)
    assert contents(folder) == expected | {"sample.csv": b"id"}


@pytest.mark.parametrize(
    "name", ["../evil", "train/../../evil", "/tmp/evil", "..\\evil", "C:\\evil", "C:/evil", "\\\\host\\evil"]
)
def test_a_member_outside_the_folder_is_refused_before_anything_is_written(zip_path, folder, name):
    zip_path.write_bytes(pack({"good.csv": b"-", name: b"evil"}))
    with pytest.raises(ValueError, match="would be written outside"):
        unpack(zip_path, folder)
    assert not folder.exists()
    assert zip_path.exists()


def test_a_symbolic_link_is_refused(zip_path, folder):
    link = zipfile.ZipInfo("train")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(zip_path, "w") as packed:
        packed.writestr(link, "/etc")
    with pytest.raises(ValueError, match="'train' would be written outside"):
        unpack(zip_path, folder)


def test_an_inner_zip_is_checked_like_the_outer_one(zip_path, folder, tmp_path):
    zip_path.write_bytes(pack({"train.zip": pack({"../../evil": b"evil"})}))
    with pytest.raises(ValueError, match="would be written outside"):
        unpack(zip_path, folder)
    assert not list(tmp_path.rglob("evil"))


def test_a_zip_bomb_is_refused_before_anything_is_written(zip_path, folder, monkeypatch):
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 20)
    zip_path.write_bytes(pack({"zeros": bytes(3 << 20)}))  # compressed about 1000 times
    with pytest.raises(ValueError, match="0 MiB would become 3 MiB"):
        unpack(zip_path, folder)
    assert not folder.exists()


def test_a_zip_bomb_with_overlapping_members_is_refused(zip_path, folder, monkeypatch):
    # Twenty names for one member of 1 MiB: the sum of their packed sizes is twenty times the archive.
    monkeypatch.setattr(archive, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(archive, "MAX_RATIO", 5000)
    data = pack({"a": bytes(1 << 20)})
    start = struct.unpack("<I", data[-6:-2])[0]
    entry = data[start:-22]
    table = b"".join(entry[:-1] + bytes([65 + number]) for number in range(20))
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 20, 20, len(table), start, 0)
    zip_path.write_bytes(data[:start] + table + end)
    with pytest.raises(ValueError, match="would become 20 MiB"):
        unpack(zip_path, folder)


def test_zips_nested_too_deep_are_refused(zip_path, folder):
    data = b"-"
    for depth in range(5):
        data = pack({f"{depth}.zip" if depth else "file": data})
    zip_path.write_bytes(data)
    with pytest.raises(ValueError, match="zips nested 4 deep, expected at most 3"):
        unpack(zip_path, folder)


def test_a_zip_larger_than_the_disk_is_refused_before_anything_is_written(zip_path, folder, monkeypatch):
    zip_path.write_bytes(pack(FILES))
    free = sum(map(len, FILES.values())) - 1
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: type("Usage", (), {"free": free}))
    with pytest.raises(OSError, match="free some space"):
        unpack(zip_path, folder)
    assert contents(folder) == {}
    folder.joinpath("train.csv").write_bytes(FILES["train.csv"])  # an existing file needs no more space
    unpack(zip_path, folder)


@pytest.mark.parametrize(
    "break_",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data.replace(b"one", b"eno", 1),  # detected by the checksum
        lambda _: b"<html>Sign in</html>",
    ],
)
def test_a_damaged_zip_is_refused_with_a_remedy(zip_path, folder, break_):
    zip_path.write_bytes(break_(pack(FILES, zipfile.ZIP_STORED)))
    with pytest.raises(ValueError, match=r"slug.zip: damaged zip \(.*\): remove it, and run the command again"):
        unpack(zip_path, folder)
    assert not list(folder.rglob("*.part"))
    assert "train/images/1.png" not in contents(folder)


def test_a_damaged_member_is_refused_with_a_remedy(zip_path, folder):
    data = bytearray(pack({"a": bytes(range(256)) * 64}))
    data[60:90] = b"\xff" * 30  # compressed bytes
    zip_path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match="damaged zip"):
        unpack(zip_path, folder)
    zip_path.write_bytes(pack({"train.zip": b"no zip"}))
    with pytest.raises(ValueError, match="damaged zip"):
        unpack(zip_path, folder)


def test_an_encrypted_zip_is_refused_with_a_remedy(zip_path, folder):
    data = bytearray(pack({"secret": b"-"}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    zip_path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"cannot be unpacked here .*unpack it by hand into"):
        unpack(zip_path, folder)


@pytest.mark.parametrize("interrupted_at", range(6))
def test_unpacking_resumes_after_an_interruption_at_any_file(zip_path, folder, monkeypatch, interrupted_at):
    inner = {"1.png": b"one", "2.png": b"two"}
    zip_path.write_bytes(pack({"train.zip": pack(inner), "test.zip": pack({"3.png": b"three"}), "sample.csv": b"id"}))
    extract, done = archive._extract, []

    def interrupt(*arguments):
        if len(done) == interrupted_at:
            raise KeyboardInterrupt
        done.append(extract(*arguments))
        return done[-1]

    monkeypatch.setattr(archive, "_extract", interrupt)
    with pytest.raises(KeyboardInterrupt):
        unpack(zip_path, folder)
    monkeypatch.setattr(archive, "_extract", extract)
    assert zip_path.exists()
    unpack(zip_path, folder)
    expected = {"train/1.png": b"one", "train/2.png": b"two", "test/3.png": b"three", "sample.csv": b"id"}
    assert contents(folder) == expected
    assert not zip_path.exists()


def test_complete_files_are_kept_and_incomplete_ones_unpacked_again(zip_path, folder):
    zip_path.write_bytes(pack(FILES))
    (folder / "train/images").mkdir(parents=True)
    (folder / "train/images/1.png").write_bytes(b"eno")  # the same size: kept
    (folder / "train/images/2.png").write_bytes(b"t")
    unpack(zip_path, folder)
    assert contents(folder) == FILES | {"train/images/1.png": b"eno"}
