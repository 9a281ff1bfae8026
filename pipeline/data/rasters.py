"""What every image reader shares: its result, its error, and the checks that come before it allocates anything."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from pipeline.quoting import first_line

T = TypeVar("T")

ORIENTATION = 0x0112  # EXIF's and TIFF's tag: how to turn the stored pixels to see the picture
SMALL = 64 << 20  # bytes; what promises less is read without a look at the memory that is left
COPIES = 2  # of an image that reading it holds at a time: the decoder's and ours
QUOTED = 80  # characters of a library's message that an error repeats
REMEDY = "get the file again, or leave out a bad image with --skip-bad"

# Where Linux says how much memory a container may use and uses: control groups of version 2 and 1. What is used counts
# file caches too, which the kernel gives back, also those of files that were read twice; memory.stat has both.
CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "{}_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_{}_file"),
)

# What a reader says when a package that it decodes with is missing, and what to install then.
DECODERS = {
    "imagecodecs": "imagecodecs",  # tifffile, for LZW, JPEG and more
    "missing dependencies": "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg",  # pydicom, for lossless JPEG and more
}

# By orientation: what turns stored pixels (H, W, C) into the picture.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


class ImageError(ValueError):
    """An image file that is missing, damaged, or not of a kind that is read."""


class Raster(NamedTuple):
    """A decoded image file."""

    pixels: np.ndarray  # (H, W, C), in the file's own dtype, as stored
    alpha: bool = False  # whether the file says that the last channel is transparency
    orientation: int = 1  # EXIF's, 1 to 8

    def as_seen(self) -> "Raster":
        """Turned as the orientation says."""
        turn = TURNS.get(self.orientation)
        return self if turn is None else Raster(np.ascontiguousarray(turn(self.pixels)), self.alpha)


class Header(NamedTuple):
    """What a file says of its image before it is decoded."""

    height: int  # pixels, as stored
    width: int
    dtype: np.dtype
    orientation: int = 1  # EXIF's, 1 to 8

    def as_seen(self) -> "Header":
        """With height and width of the turned picture."""
        turned = self.orientation > 4
        return Header(self.width, self.height, self.dtype) if turned else self._replace(orientation=1)


def orientation_of(exif: bytes | None) -> int:
    """The orientation that an EXIF block asks for; 1, as it lies, without one or if the block does not read."""
    if not exif:
        return 1
    try:
        tags = Image.Exif()
        tags.load(exif)
        return known_orientation(tags.get(ORIENTATION, 1))
    except Exception:  # a broken block beside sound pixels: every viewer shows them as they lie
        return 1


def known_orientation(value: object) -> int:
    """EXIF's number, or 1 for what is none."""
    return value if isinstance(value, int) and value in TURNS else 1


def damaged(path: Path, what: str) -> ImageError:
    """The error of a file that is not whole."""
    return ImageError(f"{path}: cannot be read, {what}: {REMEDY}")


def refuse_colours(path: Path, came: str, strange: set[str]) -> None:
    """CMYK and the like: a formula for them is a guess, and four channels would pass for RGB with alpha."""
    if came in strange:
        raise ImageError(f"{path}: colours of kind {came}: expected grey, a palette or RGB: save it as RGB")


def refuse_promises(path: Path, *, promised: int, stored: int, packing: float | None) -> None:
    """Refuse a header that promises more than the file can hold, or than there is memory for.

    Args:
        promised: bytes of the decoded pixels.
        stored: bytes of the file that hold them.
        packing: bytes of pixels that the format packs into one byte at best; None: no bound.

    Raises:
        ImageError: before anything of that size is allocated.
    """
    if packing is not None:
        refuse_more_than_packed(path, promised=promised, stored=stored, packing=packing)
    refuse_more_than_memory(path, promised)


def refuse_more_than_packed(path: Path, *, promised: int, stored: int, packing: float) -> None:
    """Refuse a header that promises more than the file can hold; else as `refuse_promises`."""
    if promised > packing * stored:
        raise ImageError(
            f"{path}: cannot be read, its header promises {_bytes(promised)} of pixels, and {_bytes(stored)} can hold "
            f"{_bytes(int(packing * stored))} at most: {REMEDY}"
        )


def refuse_more_than_memory(path: Path, promised: int) -> None:
    """Refuse to decode at once more than there is memory for; else as `refuse_promises`."""
    left = memory_left() if promised > SMALL else None
    if left is not None and COPIES * promised > left:
        raise ImageError(
            f"{path}: its {_bytes(promised)} of pixels do not fit into memory ({_bytes(left)} left): read it by window "
            f"(predict.tiles, data.crops), or {REMEDY}"
        )


def _bytes(count: float) -> str:
    if count < 1024:
        return f"{count:.0f} bytes"
    unit = "MiB" if count < 1 << 30 else "GiB"
    return f"{count / (1 << (20 if unit == 'MiB' else 30)):.3g} {unit}"


def memory_left() -> int | None:
    """Bytes that this process may still allocate, by the machine and by its container; None where nothing says so."""
    left = []
    with suppress(OSError):
        left.append(_number(Path("/proc/meminfo"), "MemAvailable:") * 1024)
    for folder, limit, used, cached in CGROUPS:
        with suppress(OSError, ValueError):  # no such container, or "max": no limit
            most, now = (int((folder / name).read_text(encoding="utf-8")) for name in (limit, used))
            files = sum(_number(folder / "memory.stat", cached.format(kind)) for kind in ("active", "inactive"))
            left.append(most - now + files)
    return max(0, min(left)) if left else None


def _number(path: Path, key: str) -> int:
    """The number after a key in a file of Linux's, 0 without the key."""
    lines = (line.split() for line in path.read_text(encoding="utf-8").splitlines())
    return next((int(words[1]) for words in lines if words[0] == key), 0)


def read_or_raise(path: Path, read: Callable[[Path], T]) -> T:
    """What `read` makes of a file: the one place that turns whatever a decoder raises into an ImageError.

    Raises:
        ImageError: one line, with the path and what to do.
    """
    try:
        return read(path)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image") from None
    except OSError as error:
        raise _unreadable(path, error, error.strerror or str(error)) from error
    except Exception as error:  # libraries raise all kinds on a damaged file
        raise _unreadable(path, error, str(error)) from error


def _unreadable(path: Path, error: Exception, said: str) -> ImageError:
    reason = first_line(said, QUOTED) or type(error).__name__
    return ImageError(f"{path}: cannot be read, {reason}: {_remedy(said)}")


def _remedy(said: str) -> str:
    """What helps against a reader's complaint: another copy, unless the file is sound and a decoder is missing."""
    for complaint, packages in DECODERS.items():
        if complaint in said:
            return f"pip install {packages}"
    return REMEDY
