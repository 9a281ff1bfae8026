"""DICOM, and the slices of a NIfTI volume. Their packages are loaded when such a file is met, and may be missing."""

import gzip
import logging
import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.rasters import Header, ImageError, Raster, damaged, read_or_raise, refuse_promises

if TYPE_CHECKING:
    from nibabel import Nifti1Image
    from pydicom import FileDataset

RLE_PACKING = 64  # bytes of pixels in one of DICOM's RLE, at best
DEFLATE_PACKING = 1032  # and in one of gzip


# ---------------------------------------------------------------------------------------------- DICOM


def read_dicom(path: Path) -> Raster:
    """After the rescale slope and intercept, if there are any; MONOCHROME1 turned so that more is brighter."""
    header = _dicom(path)
    if "PixelData" not in header:
        raise damaged(path, "a DICOM without pixel data")
    _refuse_promises(path, header)
    stored = header.pixel_array
    if stored.ndim != 2:
        raise ImageError(f"{path}: a DICOM of shape {stored.shape}: expected one grey picture (rows, columns)")
    from pydicom.pixels import apply_modality_lut

    rescaled = "RescaleSlope" in header and (header.RescaleSlope, header.RescaleIntercept) != (1, 0)
    pixels = apply_modality_lut(stored, header).astype(np.float32) if rescaled else stored
    if header.PhotometricInterpretation == "MONOCHROME1":
        ends = -1 if header.PixelRepresentation else (1 << header.BitsStored) - 1  # lowest and highest, together
        pixels = pixels.max() + pixels.min() - pixels if rescaled else ends - pixels
    return Raster(pixels.astype(stored.dtype if not rescaled else np.float32)[..., None])


def read_dicom_header(path: Path) -> Header:
    """Height, width and dtype of a DICOM, without its pixels."""
    header = _dicom(path, stop_before_pixels=True, specific_tags=["Rows", "Columns", "BitsAllocated"])
    if "Rows" not in header or "Columns" not in header:
        raise damaged(path, "a DICOM without an image")
    return Header(int(header.Rows), int(header.Columns), np.dtype(f"u{-(-int(header.BitsAllocated) // 8)}"))


def _refuse_promises(path: Path, header: "FileDataset") -> None:
    frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel") or 1)
    promised = math.prod((int(header.Rows), int(header.Columns), frames, samples)) * int(header.BitsAllocated) // 8
    syntax = header.file_meta.TransferSyntaxUID
    packing = RLE_PACKING if syntax.name == "RLE Lossless" else None if syntax.is_compressed else 1
    refuse_promises(path, promised=promised, stored=len(header.PixelData), packing=packing)


def _dicom(path: Path, **options: object) -> "FileDataset":
    try:
        from pydicom import config, dcmread
    except ImportError:
        raise ImageError(f"{path}: a DICOM, which takes a package that is not here: pip install pydicom") from None
    config.settings.reading_validation_mode = config.IGNORE  # of names and dates, which are not read here
    return dcmread(path, **options)


# ---------------------------------------------------------------------------------------------- NIfTI


def slice_of(path: Path) -> tuple[Path, int] | None:
    """The volume and the number of `volume.nii.gz/017`, a path below a file; None of any other path."""
    volume = path.parent
    return (volume, int(path.name)) if path.name.isdigit() and is_nifti_name(volume) and volume.is_file() else None


def slices_of(volume: Path) -> dict[str, Path]:
    """The slices of a NIfTI volume: their number, counted from 0 and as wide as the highest, and their path below it.

    Raises:
        ImageError: as `open_nifti`, and for a volume that is damaged.
    """
    depth = math.prod(read_or_raise(volume, open_nifti).shape[2:])
    names = [f"{number:0{max(3, len(str(depth - 1)))}}" for number in range(depth)]
    return {name: volume / name for name in names}


def is_nifti_name(path: Path) -> bool:
    """Whether a file is a NIfTI volume by its name."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_nifti(path: Path) -> Raster:
    """A slice (rows, columns, 1) of a volume (columns, rows, slices), in its own units."""
    volume, number = _found(path)
    pixels = _volume(volume, volume.stat().st_mtime_ns)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if number >= pixels.shape[2]:
        raise ImageError(f"{path}: slice {number} of {pixels.shape[2]}: expected 0 to {pixels.shape[2] - 1}")
    return Raster(np.array(pixels[..., number].T)[..., None])


def read_nifti_header(path: Path) -> Header:
    """Height, width and dtype of one slice of a NIfTI volume, without its pixels."""
    image = open_nifti(_found(path)[0])
    return Header(image.shape[1], image.shape[0], image.get_data_dtype())


def _found(path: Path) -> tuple[Path, int]:
    found = slice_of(path)
    if found is None:
        raise ImageError(f"{path}: a NIfTI volume is read slice by slice, by the path {path.name}/000 and so on")
    return found


def open_nifti(volume: Path) -> "Nifti1Image":
    """A volume of two dimensions or more, of which no pixel is read yet.

    Raises:
        ImageError: without nibabel; for a volume that promises more than the file can hold.
    """
    try:
        import nibabel
    except ImportError:
        raise ImageError(f"{volume}: NIfTI takes a package that is not here: pip install nibabel") from None
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # of orientations in space, which are not read here
    image = nibabel.load(volume)
    if not isinstance(image, nibabel.Nifti1Image) or len(image.shape) < 2 or 0 in image.shape:
        raise ImageError(f"{volume}: a volume of shape {image.shape}: expected (columns, rows, slices)")
    if image.get_data_dtype().kind not in "iuf":
        raise ImageError(f"{volume}: a volume of {image.get_data_dtype()}: expected one number for each voxel")
    with volume.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    promised = math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize
    packing = DEFLATE_PACKING if packed else 1
    refuse_promises(volume, promised=promised, stored=volume.stat().st_size, packing=packing)
    return image


@lru_cache(maxsize=2)
def _volume(volume: Path, _changed: int) -> np.ndarray:
    """The voxels of the last two volumes, one of images and one of masks: slices follow each other, packed as one."""
    image = open_nifti(volume)
    if volume.suffix == ".gz":
        _refuse_damaged_gzip(volume)
    if image.dataobj.slope == 1 and image.dataobj.inter == 0:
        return np.asanyarray(image.dataobj)
    return np.asanyarray(image.dataobj, dtype=np.float32)


def _refuse_damaged_gzip(volume: Path) -> None:
    """Read to the end: the check sum stands there."""
    with gzip.open(volume) as file:
        while file.read(1 << 20):
            pass
