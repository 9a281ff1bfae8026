"""What all image readers share: their result, their error, and the checks before memory is allocated."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import psutil
from PIL import Image

from pipeline.quoting import first_line

T = TypeVar("T")

ORIENTATION = 0x0112  # the orientation tag of EXIF and TIFF
UNCHECKED_BYTES = 64 << 20  # of pixels: smaller images are decoded without checking the free memory
COPIES = 2  # of the pixels in memory while an image is decoded
QUOTED = 80  # characters of a library's message that an error quotes
REMEDY = "get the file again, or leave out a bad image with SKIP_BAD=1 (make) or --skip-bad"

# Where Linux reports a container's memory limit and usage: control groups of version 2 and 1. The usage includes file
# caches, which the kernel frees when needed; memory.stat lists them, the active and the inactive ones.
CGROUPS = (
    (Path("/sys/fs/cgroup"), "memory.max", "memory.current", "{}_file"),
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.usage_in_bytes", "total_{}_file"),
)

# Parts of the messages of readers that lack a package, and the packages to install.
DECODERS = {
    "imagecodecs": "imagecodecs",  # tifffile, for LZW, JPEG and more
    "missing dependencies": "pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg",  # pydicom, for lossless JPEG and more
}

# By orientation: the rotation from stored pixels (H, W, C) to the image as it is displayed.
ROTATIONS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: np.rot90(pixels),
}


class ImageError(ValueError):
    """An image file that is missing, damaged, or not supported.

    Args:
        fault: the file, and what is wrong with it.
        remedy: what to do, where another caller may know better (`read_or_raise`); empty: the fault says it.
    """

    def __init__(self, fault: str, remedy: str = ""):
        super().__init__(f"{fault}: {remedy}" if remedy else fault)
        self.fault, self.remedy = fault, remedy


class Raster(NamedTuple):
    """A decoded image file."""

    pixels: np.ndarray  # (H, W, C), in the file's own dtype, as stored
    alpha: bool = False  # whether the file declares its last channel as transparency
    orientation: int = 1  # EXIF's, 1 to 8

    def rotated(self) -> "Raster":
        """The image rotated as its orientation says."""
        rotate = ROTATIONS.get(self.orientation)
        return self if rotate is None else Raster(np.ascontiguousarray(rotate(self.pixels)), self.alpha)


class Header(NamedTuple):
    """Size and type of an image, known before it is decoded."""

    height: int  # pixels, as stored
    width: int
    dtype: np.dtype
    orientation: int = 1  # EXIF's, 1 to 8

    def rotated(self) -> "Header":
        """The header with the size after the rotation that the orientation asks for."""
        is_transposed = self.orientation > 4
        return Header(self.width, self.height, self.dtype) if is_transposed else self._replace(orientation=1)


def orientation_of(exif: bytes | None) -> int:
    """The orientation in an EXIF block, 1 to 8; 1, not rotated, without a block or if it cannot be read."""
    if not exif:
        return 1
    try:
        tags = Image.Exif()
        tags.load(exif)
        return known_orientation(tags.get(ORIENTATION, 1))
    except Exception:  # viewers ignore a damaged block too
        return 1


def known_orientation(value: object) -> int:
    """A valid EXIF orientation, 1 to 8, or 1 for any other value."""
    return value if isinstance(value, int) and value in ROTATIONS else 1


def damaged(path: Path, what: str) -> ImageError:
    """The error for a damaged file."""
    return ImageError(f"{path}: cannot be read, {what}", REMEDY)


def refuse_colours(path: Path, mode: str, unsupported: set[str]) -> None:
    """Refuse colours such as CMYK: their conversion to RGB is not fixed, and 4 channels would be read as RGB and alpha.

    Args:
        mode: of the image.
        unsupported: modes that are refused.

    Raises:
        ImageError: with the mode.
    """
    if mode in unsupported:
        raise ImageError(f"{path}: colours of kind {mode}: expected grey, a palette or RGB: save it as RGB")


def check_declared_size(path: Path, *, declared: int, stored: int, packing: float | None) -> None:
    """Refuse an image whose header declares more pixels than the file can contain, or than fit into memory.

    Args:
        declared: bytes of the decoded pixels, by the header.
        stored: bytes of the file that contain them.
        packing: highest possible ratio of decoded to stored bytes; None: no limit.

    Raises:
        ImageError: before memory of that size is allocated.
    """
    if packing is not None:
        check_packing(path, declared=declared, stored=stored, packing=packing)
    check_memory(path, declared)


def check_packing(path: Path, *, declared: int, stored: int, packing: float) -> None:
    """Refuse an image whose header declares more pixels than the file can contain.

    Args:
        declared, stored, packing: as for `check_declared_size`.

    Raises:
        ImageError: with the three sizes.
    """
    if declared > packing * stored:
        raise ImageError(
            f"{path}: cannot be read, its header declares {format_bytes(declared)} of pixels, but "
            f"{format_bytes(stored)} can contain {format_bytes(int(packing * stored))} at most",
            REMEDY,
        )


def check_memory(path: Path, declared: int) -> None:
    """Refuse an image that does not fit into memory.

    Args:
        declared: bytes of the decoded pixels.

    Raises:
        ImageError: with its size and the free memory.
    """
    if declared > UNCHECKED_BYTES and COPIES * declared > (free := free_memory()):
        raise ImageError(
            f"{path}: its {format_bytes(declared)} of pixels do not fit into memory ({format_bytes(free)} free)",
            f"read it by window (predict.tiles, data.crops), or {REMEDY}",
        )


def format_bytes(count: float) -> str:
    """A number of bytes in words, such as "1.5 GiB"."""
    if count < 1024:
        return f"{count:.0f} bytes"
    unit = "MiB" if count < 1 << 30 else "GiB"
    return f"{count / (1 << (20 if unit == 'MiB' else 30)):.3g} {unit}"


def free_memory() -> int:
    """Bytes that this process can still allocate, on its machine and in its container."""
    free = [psutil.virtual_memory().available]
    for folder, limit_file, usage_file, cached in CGROUPS:
        with suppress(OSError, ValueError):  # no such container, or the limit is "max"
            limit, usage = (int((folder / name).read_text(encoding="utf-8")) for name in (limit_file, usage_file))
            lines = (folder / "memory.stat").read_text(encoding="utf-8").splitlines()
            values = {key: int(value) for key, value in map(str.split, lines)}
            free.append(limit - usage + sum(values.get(cached.format(kind), 0) for kind in ("active", "inactive")))
    return max(0, min(free))


def read_or_raise(path: Path, read: Callable[[Path], T], remedy: str = "") -> T:
    """The result of `read` for a file; whatever a decoder raises becomes an ImageError here, and only here.

    Args:
        read: decodes the file.
        remedy: what to do about a file that cannot be read, if it is no image of the competition; empty: REMEDY.

    Raises:
        ImageError: one line, with the path and what to do.
    """
    try:
        return read(path)
    except ImageError as error:
        if remedy and error.remedy:
            raise ImageError(error.fault, remedy) from None
        raise
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image") from None
    except Exception as error:  # decoders raise exceptions of many types
        message = (error.strerror if isinstance(error, OSError) else None) or str(error)
        reason = first_line(message, QUOTED) or type(error).__name__
        fault = f"{path}: cannot be read, {reason}"
        if install := next((packages for part, packages in DECODERS.items() if part in message), None):
            raise ImageError(f"{fault}: pip install {install}") from error
        raise ImageError(fault, remedy or REMEDY) from error
