"""DICOM, and the slices of NIfTI volumes. Their packages are imported at the first such file, and are optional."""

import gzip
import logging
import math
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data.rasters import Header, ImageError, Raster, check_declared_size, damaged, read_or_raise

if TYPE_CHECKING:
    from nibabel import Nifti1Image
    from pydicom import FileDataset

RLE_PACKING = 64  # highest possible ratio of decoded to stored bytes of DICOM's RLE
DEFLATE_PACKING = 1032  # and of gzip


# ---------------------------------------------------------------------------------------------- DICOM


def read_dicom(path: Path) -> Raster:
    """Decode a DICOM, (H, W, 1): rescaled if it has a slope and intercept; MONOCHROME1 is inverted.

    Raises:
        ImageError: for a DICOM without pixels, or with more than one grey image.
    """
    header = _dicom(path)
    if "PixelData" not in header:
        raise damaged(path, "a DICOM without pixel data")
    _check_declared_size(path, header)
    stored = header.pixel_array
    if stored.ndim != 2:
        raise ImageError(f"{path}: a DICOM of shape {stored.shape}: expected one grey image (rows, columns)")
    from pydicom.pixels import apply_modality_lut

    rescaled = "RescaleSlope" in header and (header.RescaleSlope, header.RescaleIntercept) != (1, 0)
    pixels = apply_modality_lut(stored, header).astype(np.float32) if rescaled else stored
    if header.PhotometricInterpretation == "MONOCHROME1":
        ends = -1 if header.PixelRepresentation else (1 << header.BitsStored) - 1  # lowest plus highest value
        pixels = pixels.max() + pixels.min() - pixels if rescaled else ends - pixels
    return Raster(pixels.astype(stored.dtype if not rescaled else np.float32)[..., None])


def read_dicom_header(path: Path) -> Header:
    """Height, width and dtype of a DICOM, without its pixels.

    Raises:
        ImageError: for a DICOM without an image.
    """
    header = _dicom(path, stop_before_pixels=True, specific_tags=["Rows", "Columns", "BitsAllocated"])
    if "Rows" not in header or "Columns" not in header:
        raise damaged(path, "a DICOM without an image")
    return Header(int(header.Rows), int(header.Columns), np.dtype(f"u{-(-int(header.BitsAllocated) // 8)}"))


def read_dicom_place(path: Path) -> tuple[str, int]:
    """The series of a DICOM, its SeriesInstanceUID, and its number in the series, its InstanceNumber.

    Raises:
        ImageError: for a DICOM without them.
    """
    return read_or_raise(path, _read_place)


def _read_place(path: Path) -> tuple[str, int]:
    header = _dicom(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "InstanceNumber"])
    series, number = header.get("SeriesInstanceUID"), header.get("InstanceNumber")
    if not series or number is None:
        raise ImageError(f"{path}: a DICOM without SeriesInstanceUID or InstanceNumber: set volume_pattern on the card")
    return str(series), int(number)


def _check_declared_size(path: Path, header: "FileDataset") -> None:
    frames, samples = int(header.get("NumberOfFrames") or 1), int(header.get("SamplesPerPixel") or 1)
    declared = math.prod((int(header.Rows), int(header.Columns), frames, samples)) * int(header.BitsAllocated) // 8
    syntax = header.file_meta.TransferSyntaxUID
    packing = RLE_PACKING if syntax.name == "RLE Lossless" else None if syntax.is_compressed else 1
    check_declared_size(path, declared=declared, stored=len(header.PixelData), packing=packing)


def _dicom(path: Path, **options: object) -> "FileDataset":
    try:
        from pydicom import config, dcmread
    except ImportError:
        raise ImageError(f"{path}: a DICOM needs a package that is not installed: pip install pydicom") from None
    config.settings.reading_validation_mode = config.IGNORE  # names and dates are not used here
    return dcmread(path, **options)


# ---------------------------------------------------------------------------------------------- NIfTI


def slice_of(path: Path) -> tuple[Path, int] | None:
    """The volume and the slice number of a path such as `volume.nii.gz/017`; None for any other path."""
    volume = path.parent
    return (volume, int(path.name)) if path.name.isdigit() and is_nifti_name(volume) and volume.is_file() else None


def file_of(path: Path) -> Path:
    """The file that a path's pixels are in: of a slice of a NIfTI volume, the volume."""
    part = slice_of(path)
    return part[0] if part else path


def slices_of(volume: Path) -> dict[str, Path]:
    """The paths of the slices of a NIfTI volume by their number, from 000, zero-padded to the same width.

    Raises:
        ImageError: as `open_nifti`, and for a damaged volume.
    """
    depth = math.prod(read_or_raise(volume, open_nifti).shape[2:])
    names = [f"{number:0{max(3, len(str(depth - 1)))}}" for number in range(depth)]
    return {name: volume / name for name in names}


def is_nifti_name(path: Path) -> bool:
    """Whether a file's name is that of a NIfTI volume."""
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_nifti(path: Path) -> Raster:
    """Decode one slice, (rows, columns, 1), of a volume (columns, rows, slices), in the volume's units.

    Raises:
        ImageError: as `open_nifti`; for the path of a whole volume, and a slice that it does not have.
    """
    volume, number = _found(path)
    pixels = _volume(volume, volume.stat().st_mtime_ns)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if number >= pixels.shape[2]:
        raise ImageError(f"{path}: slice {number} of {pixels.shape[2]}: expected 0 to {pixels.shape[2] - 1}")
    return Raster(np.array(pixels[..., number].T)[..., None])


def read_nifti_header(path: Path) -> Header:
    """Height, width and dtype of one slice of a NIfTI volume, without its pixels.

    Raises:
        ImageError: as `read_nifti`.
    """
    image = open_nifti(_found(path)[0])
    return Header(image.shape[1], image.shape[0], image.get_data_dtype())


def _found(path: Path) -> tuple[Path, int]:
    found = slice_of(path)
    if found is None:
        raise ImageError(f"{path}: a NIfTI volume is read slice by slice, by the path {path.name}/000 and so on")
    return found


def open_nifti(volume: Path) -> "Nifti1Image":
    """Open a volume without reading its voxels.

    Raises:
        ImageError: without nibabel; for a volume with fewer than two dimensions, values that are no numbers, or a
            declared size that the file cannot contain.
    """
    try:
        import nibabel
    except ImportError:
        raise ImageError(f"{volume}: NIfTI needs a package that is not installed: pip install nibabel") from None
    logging.getLogger("nibabel.global").setLevel(logging.CRITICAL)  # spatial orientations are not used here
    image = nibabel.load(volume)
    if not isinstance(image, nibabel.Nifti1Image) or len(image.shape) < 2 or 0 in image.shape:
        raise ImageError(f"{volume}: a volume of shape {image.shape}: expected (columns, rows, slices)")
    if image.get_data_dtype().kind not in "iuf":
        raise ImageError(f"{volume}: a volume of {image.get_data_dtype()}: expected one number for each voxel")
    with volume.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    declared = math.prod(map(int, image.shape)) * image.get_data_dtype().itemsize
    packing = DEFLATE_PACKING if packed else 1
    check_declared_size(volume, declared=declared, stored=volume.stat().st_size, packing=packing)
    return image


@lru_cache(maxsize=2)
def _volume(volume: Path, _changed: int) -> np.ndarray:
    """The voxels of a volume. Two are cached, one of images and one of masks: slices are read one after another."""
    image = open_nifti(volume)
    if volume.suffix == ".gz":
        _refuse_damaged_gzip(volume)
    if image.dataobj.slope == 1 and image.dataobj.inter == 0:
        return np.asanyarray(image.dataobj)
    return np.asanyarray(image.dataobj, dtype=np.float32)


def _refuse_damaged_gzip(volume: Path) -> None:
    """Read to the end, where the checksum is."""
    with gzip.open(volume) as file:
        while file.read(1 << 20):
            pass
