"""Small image files of every supported format, in unusual variants, and functions that damage them.

`ODD` has them by name; `write` writes one into a folder. `truncations` and `mutations` return damaged contents of a
file; the same seed gives the same damage. Used by tests and by the fuzzer.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.uid import RLELossless

from tests.miniatures import write_dicom

HEIGHT, WIDTH = 33, 47
TURNED = 6  # EXIF orientation: stored rotated by 90° to the left


def scene(channels: int = 1, dtype: type = np.uint8, seed: int = 0) -> np.ndarray:
    """A gradient with a disc and noise, (H, W, channels), over the whole range of a dtype."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    grey = 0.3 + 0.3 * rows / HEIGHT + 0.3 * ((rows - 16) ** 2 + (columns - 20) ** 2 < 90)
    pixels = np.stack([grey * (1 - 0.2 * channel) for channel in range(channels)], axis=-1)
    pixels = np.clip(pixels + rng.normal(0, 0.02, pixels.shape), 0, 1)
    return (pixels * np.iinfo(dtype).max).astype(dtype) if np.dtype(dtype).kind == "u" else pixels.astype(dtype)


GREY, COLOUR, FOUR = scene()[..., 0], scene(3), scene(4)
DEEP, DEEP_COLOUR = scene(1, np.uint16)[..., 0], scene(3, np.uint16)
SIGNED = DEEP.astype(np.int16)
BITS = GREY > 140
CODES = (GREY // 90).astype(np.uint8)
COLOURS = [(0, 0, 0), (200, 10, 10), (9, 9, 9)]
LAYERED = np.dstack([COLOUR, np.where(BITS, 255, 90).astype(np.uint8)])


class OddImage(NamedTuple):
    """An image file.

    Args:
        name: of the file.
        write: writes it to a path.
        pixels: the expected pixels, (H, W, C); None for a lossy format.
        slice: of a volume, whose path is below the file.
    """

    name: str
    write: Callable[[Path], object]
    pixels: np.ndarray | None = None
    slice: str | None = None

    def path(self, folder: Path) -> Path:
        """The path to read, in a folder."""
        return folder / self.name / self.slice if self.slice else folder / self.name


def _last(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.ndim == 3 else pixels[..., None]


def by_pillow(name: str, pixels: np.ndarray, *, lossy: bool = False, came: np.ndarray | None = None, **options):
    def write(path: Path) -> None:
        Image.fromarray(pixels).save(path, **options)

    return OddImage(name, write, None if lossy else _last(pixels if came is None else came))


def turned(name: str, **options) -> OddImage:
    """Stored rotated by 90° to the left, with the EXIF orientation."""

    def write(path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = TURNED
        Image.fromarray(np.ascontiguousarray(np.rot90(COLOUR))).save(path, exif=exif, **options)

    return OddImage(name, write, None if name.endswith("jpg") else COLOUR)


def by_palette(name: str, **options) -> OddImage:
    def write(path: Path) -> None:
        image = Image.fromarray(CODES)
        image.putpalette([channel for colour in COLOURS for channel in colour])
        image.save(path, **options)

    colours = np.array(COLOURS, np.uint8)[CODES]
    if (index := options.get("transparency")) is not None:
        opacity = np.where(index == CODES, 0, 255).astype(np.uint8)
        colours = np.dstack([colours, opacity])
    return OddImage(name, write, colours)


def by_opencv(name: str, pixels: np.ndarray) -> OddImage:
    stored = pixels[..., ::-1] if pixels.ndim == 3 else pixels
    lossless = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
    return OddImage(name, lambda path: cv2.imwrite(str(path), stored, lossless), _last(pixels))


def by_tifffile(name: str, pixels: np.ndarray, *, came: np.ndarray | None = None, lossy: bool = False, **options):
    options = {"photometric": "minisblack", **options}
    came = None if lossy else _last(pixels if came is None else came)
    return OddImage(name, lambda path: tifffile.imwrite(path, pixels, **options), came)


def by_numpy(name: str, pixels: np.ndarray) -> OddImage:
    return OddImage(name, lambda path: np.save(path, pixels), _last(pixels))


def by_pydicom(name: str, pixels: np.ndarray, came: np.ndarray, *, packed: bool = False, **options) -> OddImage:
    def write(path: Path) -> None:
        write_dicom(path, pixels, **options)
        if packed:
            dicom = pydicom.dcmread(path)
            dicom.compress(RLELossless)
            dicom.save_as(path)

    return OddImage(name, write, _last(came))


def by_nibabel(name: str, pixels: np.ndarray, slice: str = "001") -> OddImage:
    def write(path: Path) -> None:
        import nibabel

        volume = np.stack([np.zeros_like(pixels), pixels, pixels], axis=2).swapaxes(0, 1)
        nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)

    return OddImage(name, write, _last(pixels), slice)


def write_deep_png(path: Path, pixels: np.ndarray, colour: int) -> None:
    """Write a PNG of 16 bits, (H, W, C), as specified; colour: 0 grey, 2 RGB, 4 and 6 with alpha."""
    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    write_png(path, (b"IHDR", header), (b"IDAT", zlib.compress(rows)))


def write_png(path: Path, *chunks: tuple[bytes, bytes]) -> None:
    """Write a PNG of these chunks and the final one."""
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in (*chunks, (b"IEND", b""))))


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(name: str, pixels: np.ndarray, colour: int) -> OddImage:
    return OddImage(name, lambda path: write_deep_png(path, pixels, colour), pixels)


PAGES = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1], DEEP // 2])
CHANNELS = np.ascontiguousarray(PAGES.transpose(1, 2, 0))
TILED = {"tile": (16, 16)}

ODD = {
    each.name: each
    for each in (
        by_pillow("grey.png", GREY),
        by_pillow("bits.png", BITS),
        by_pillow("deep.png", DEEP),
        by_pillow("colour.png", COLOUR),
        by_pillow("layered.png", LAYERED),
        by_pillow("grey-alpha.png", LAYERED[..., [0, 3]]),
        by_palette("palette.png"),
        by_palette("palette-bits.png", bits=2),
        by_palette("palette-transparent.png", transparency=0),
        turned("turned.png"),
        deep_png("deep-colour.png", DEEP_COLOUR, 2),
        deep_png("deep-grey-alpha.png", scene(2, np.uint16), 4),
        deep_png("deep-layered.png", scene(4, np.uint16), 6),
        by_pillow("grey.jpg", GREY, lossy=True),
        by_pillow("colour.jpg", COLOUR, lossy=True, quality=90),
        by_pillow("progressive.jpg", COLOUR, lossy=True, progressive=True),
        turned("turned.jpg"),
        by_pillow("grey.gif", GREY, came=np.repeat(GREY[..., None], 3, axis=2)),
        by_palette("transparent.gif", transparency=0),
        by_pillow("frames.gif", GREY, lossy=True, save_all=True, append_images=[Image.fromarray(GREY.T)] * 2),
        by_pillow("colour.bmp", COLOUR),
        by_pillow("bits.bmp", BITS, came=BITS),
        by_palette("palette.bmp"),
        by_pillow("lossless.webp", COLOUR, lossless=True),
        by_pillow("lossy.webp", COLOUR, lossy=True),
        by_pillow("layered.webp", LAYERED, lossless=True, exact=True),
        by_pillow("colour.jp2", COLOUR, lossy=True, irreversible=True),
        by_pillow("lossless.jp2", COLOUR),
        by_opencv("deep.jp2", DEEP),
        by_opencv("deep-colour.jp2", DEEP_COLOUR),
        by_pillow("colour.ppm", COLOUR),
        by_pillow("grey.pgm", GREY),
        by_pillow("bits.pbm", BITS),
        by_opencv("deep.pgm", DEEP),
        by_opencv("deep.ppm", DEEP_COLOUR),
        by_pillow("colour.tga", COLOUR),
        by_tifffile("grey.tif", GREY),
        by_tifffile("big-endian.tif", DEEP, byteorder=">"),
        by_tifffile("bigtiff.tif", DEEP, bigtiff=True),
        by_tifffile("strips.tif", COLOUR, photometric="rgb", rowsperstrip=5),
        by_tifffile("tiles.tif", COLOUR, photometric="rgb", **TILED),
        by_tifffile("lzw.tif", DEEP_COLOUR, photometric="rgb", compression="lzw", rowsperstrip=7),
        by_tifffile("lzw-tiles.tif", DEEP, compression="lzw", predictor=True, **TILED),
        by_tifffile("zipped.tif", DEEP, compression="deflate", predictor=True),
        by_tifffile("packbits.tif", GREY, compression="packbits", rowsperstrip=5),
        by_tifffile("zstd.tif", GREY, compression="zstd", **TILED),
        by_tifffile("jpeg.tif", COLOUR, photometric="rgb", compression="jpeg", lossy=True),
        by_tifffile("jpeg-tiles.tif", COLOUR, photometric="rgb", compression="jpeg", lossy=True, **TILED),
        by_tifffile("pages.tif", PAGES, came=CHANNELS),
        by_tifffile("zipped-pages.tif", PAGES, came=CHANNELS, compression="deflate"),
        by_tifffile("planes.tif", PAGES, came=CHANNELS, planarconfig="separate"),
        by_tifffile("zipped-planes.tif", PAGES, came=CHANNELS, planarconfig="separate", compression="deflate", **TILED),
        by_tifffile("bands.tif", FOUR, photometric="rgb", extrasamples=[0]),
        by_tifffile("alpha.tif", FOUR, photometric="rgb", extrasamples=[2]),
        by_tifffile("white.tif", GREY, photometric="miniswhite", came=255 - GREY),
        by_tifffile("bits.tif", BITS),
        by_tifffile("float.tif", scene(1, np.float32)[..., 0]),
        by_tifffile("turned.tif", np.rot90(COLOUR), came=COLOUR, photometric="rgb", extratags=[(274, 3, 1, TURNED)]),
        by_palette("palette.tif"),
        by_pillow("group4.tif", BITS, compression="group4"),
        by_numpy("grey.npy", GREY),
        by_numpy("bits.npy", BITS),
        by_numpy("big-endian.npy", scene(3, np.float32).astype(">f4")),
        by_numpy("columns.npy", np.asfortranarray(CHANNELS)),
        by_pydicom("grey.dcm", DEEP, DEEP, bits=16),
        by_pydicom("units.dcm", SIGNED, SIGNED * np.float32(2) - 9, slope=2, intercept=-9),
        by_pydicom("packed.dcm", DEEP, DEEP, bits=16, packed=True),
        by_nibabel("volume.nii", SIGNED),
        by_nibabel("volume.nii.gz", SIGNED),
    )
}


def write(name: str, folder: Path) -> Path:
    """Write one of `ODD`; returns the path to read."""
    odd = ODD[name]
    odd.write(folder / name)
    return odd.path(folder)


def truncations(content: bytes, count: int = 20, seed: int = 0) -> Iterator[bytes]:
    """Truncated contents of a file: by a few bytes, by half, by nearly all, and at random positions."""
    rng = np.random.default_rng((seed, len(content)))
    kept = [len(content) - lost for lost in (1, 2, 3, 4, 5, 8, 9, 12, 16, 20)]
    kept += [0, 1, len(content) // 2, len(content) * 9 // 10]
    kept += rng.integers(1, len(content), max(0, count - len(kept))).tolist()
    yield from (content[: max(0, length)] for length in kept[:count])


def mutations(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Contents of a file with some bytes changed, removed, added or moved; half of them near the start."""
    rng = np.random.default_rng((seed, len(content)))
    for number in range(count):
        changed = bytearray(content)
        for _ in range(rng.integers(1, 5)):
            end = min(len(changed), 256) if number % 2 else len(changed)
            place, length = int(rng.integers(max(1, end))), int(rng.integers(1, 9))
            match rng.integers(5):
                case 0:
                    changed[place] = int(rng.integers(256))
                case 1:
                    changed[place : place + length] = rng.bytes(length)
                case 2:
                    changed[place : place + length] = bytes([rng.choice([0, 1, 127, 128, 255])]) * length
                case 3:
                    del changed[place : place + length]
                case 4:
                    changed[place:place] = rng.bytes(length)
        yield bytes(changed)
