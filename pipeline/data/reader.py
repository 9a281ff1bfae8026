"""Image files and mask files as arrays whose values have one meaning: 0 … 255 for the network, or a class.

8-bit values stay as they are. Wider ones become float32 in 0 … 255, by the full range of their dtype, by a range in the
file's own units, or by percentiles: a 16-bit image is never reduced to 8 bits.
"""

import functools
import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import cv2
import numpy as np
from PIL import Image

from pipeline.competition import Competition, Value
from pipeline.config import Config
from pipeline.data.channels import ONE_FILE, Channels, Output, with_input_channels
from pipeline.data.enlargement import EnlargedWindows, enlarge, scale_factors
from pipeline.data.formats import is_jpeg, read_header, read_indices, read_raster, read_size
from pipeline.data.rasters import Header, ImageError, Raster
from pipeline.data.resize import UNCHANGED, Resize, ResizedWindows, WindowedImage, resize_image
from pipeline.data.sample import Sample
from pipeline.data.series import Series
from pipeline.data.slice_cache import SliceCache
from pipeline.data.unpacked import Unpacked
from pipeline.data.windows import Box, Windows, open_windows
from pipeline.metrics import VOID, VOID_OBJECT

log = logging.getLogger(__name__)
T = TypeVar("T")

GREY = np.array([0.299, 0.587, 0.114])  # weights of red, green and blue: ITU-R 601, as in Pillow
UNKNOWN = 1 << 15  # in a lookup table: above every number of a class, and VOID
SHOWN = 4  # values that an error message lists
LARGE = 1 << 26  # pixels; a larger image is checked by window, BAND rows at a time
BAND = 1024


@dataclass(frozen=True)
class Reader:
    """Reads images as a config wants them: the one place where files become the network's pixels.

    Args:
        channels: of what is read: 1 (grey), 3 (colour), or as many as the files have; of all slices together.
        percentiles: of an image's values, 0 to 100, that become 0 and 255; None leaves 8-bit values as they are.
        value_range: values in the file's own units that become 0 and 255; values outside are clipped.
        lenient: parts of an image read by window that cannot be decoded become 0 and are logged, not an error.
        exif: rotate images as their EXIF orientation says; else they are read as stored.
        nodata: for pixels that are not finite: "refuse" the image, or replace them after scaling by 0 ("zero") or by
            the mean of the other pixels of their channel ("mean").
        resize: from the size of a file to that of the image that is read.
        inputs: the channels of an image, or of each of its slices.
        series: the slices that are channels too; None: the image alone.
        substitute: a neighbour that cannot be read is replaced by the next slice towards the image, and logged; else it
            is an error.
        unpacked: as `windows.open_windows`.
    """

    channels: int = 3
    percentiles: tuple[float, float] | None = None
    value_range: tuple[float, float] | None = None
    lenient: bool = False
    exif: bool = True
    nodata: Literal["refuse", "zero", "mean"] = "refuse"
    resize: Resize = UNCHANGED
    inputs: Channels = ONE_FILE
    series: Series | None = None
    substitute: bool = False
    unpacked: Unpacked | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, cfg: Config, card: Competition) -> "Reader":
        """The reader of a config, at the size at which it trains.

        Raises:
            ValueError: as `channels.with_input_channels`.
        """
        data = cfg.data
        return cls(
            with_input_channels(cfg, card).model.in_channels,
            data.percentiles,
            data.window,
            data.skip_bad,
            data.exif,
            data.nodata,
            Resize(data.size),
            Channels.of(cfg, card),
            Series.of(cfg, card),
            data.skip_bad,
        )

    @classmethod
    def for_prediction(cls, cfg: Config, card: Competition) -> "Reader":
        """The reader of a config, at the size at which it predicts."""
        return cls.of(cfg, card).at(Resize(cfg.data.size, cfg.predict.scale))

    def at(self, resize: Resize) -> "Reader":
        """The same reader at another size."""
        return replace(self, resize=resize)

    @property
    def has_colours(self) -> bool:
        """Whether the channels are those of a single file: three are then red, green and blue, not bands or slices."""
        return self.inputs.outputs is None and self.series is None

    def read(self, sample: Sample) -> np.ndarray:
        """The image, or its window where the sample is one; resized after its values are scaled.

        Of a TIFF with a pyramid, the smallest level that is at least as large as the result is read, so percentiles are
        those of that level.

        Shapes:
            returns: (*target, channels), uint8 for a file of 8 bits, else float32 in 0 … 255.

        Raises:
            ImageError: as `formats.read_raster`; for another number of channels, for values without a known range, and
                for pixels that are not finite; of a window, as `open_windows`.
        """
        if sample.box:
            return self.window(sample, sample.box)
        target = self._target(sample)
        if len(sample.sources) == self.inputs.files:
            return self._read_slice(sample.sources, target)
        slices = self._each_slice(sample, lambda files: self._read_cached(files, target))
        return _stacked([image for _, image in slices])

    def _slices(self, sample: Sample) -> list[tuple[Path, ...]]:
        """The files of each slice; of a single image one entry."""
        files = self.inputs.files
        return [sample.sources[start : start + files] for start in range(0, len(sample.sources), files)]

    def _own(self, sample: Sample) -> tuple[Path, ...]:
        """The files of the image itself, one per channel if it has several."""
        return sample.sources[sample.own : sample.own + self.inputs.files]

    def _read_slice(self, files: Sequence[Path], target: tuple[int, int] | None = None) -> np.ndarray:
        """One slice, or the image, at a size of height and width; None: that of the file."""
        rasters = self._read_rasters(files, target)
        pixels = self._normalize([each.pixels for each in rasters], files, alpha=rasters[0].alpha)
        return pixels if target is None else resize_image(pixels, target)

    def _read_cached(self, files: tuple[Path, ...], target: tuple[int, int] | None) -> np.ndarray:
        return RECENT.get((self, files, target, *map(_changed, files)), lambda: self._read_slice(files, target))

    def _read_rasters(self, files: Sequence[Path], target: tuple[int, int] | None = None) -> list[Raster]:
        """The files of one slice, enlarged to one size; of a single file, a level that is large enough for `target`."""
        self.inputs.check_files(files)
        at_least = target if len(files) == 1 else None
        rasters = [read_raster(path, exif=self.exif, at_least=at_least) for path in files]
        factors = scale_factors([each.pixels.shape[:2] for each in rasters], files)
        return [each._replace(pixels=enlarge(each.pixels, n)) for each, n in zip(rasters, factors, strict=True)]

    def _each_slice(self, sample: Sample, read: Callable[[tuple[Path, ...]], T]) -> list[tuple[tuple[Path, ...], T]]:
        """The files of each slice, and what `read` returns for them.

        Raises:
            ImageError: as `read`, and for a slice of another size than the image; of neighbours not with `substitute`.
        """
        slices, own = self._slices(sample), sample.own // self.inputs.files
        found = {own: (slices[own], read(slices[own]))}
        outwards = [(n, n + 1) for n in range(own - 1, -1, -1)] + [(n, n - 1) for n in range(own + 1, len(slices))]
        for number, inner in outwards:
            try:
                image = read(slices[number])
                _refuse_other_size(image.shape, slices[number], *found[own])
                found[number] = slices[number], image
            except ImageError as error:
                if not self.substitute:
                    raise
                log_once("the next slice takes the place of a neighbour: %s", error)
                found[number] = found[inner]
        return [found[number] for number in range(len(slices))]

    def window(self, sample: Sample, box: Box) -> np.ndarray:
        """One window of the image; only the parts of the file that it touches are decoded, where the format allows it.

        Args:
            box: in pixels of the resized image.

        Shapes:
            returns: (box.height, box.width, channels), values as in `read`.

        Raises:
            ImageError: as `open_windows`, and as `read`.
        """
        with self.open_windows(sample) as image:
            return image.read(box)

    @contextmanager
    def open_windows(self, sample: Sample) -> Iterator[WindowedImage]:
        """The image, to be read window by window until the block ends; for one that is too large to be read whole.

        Its windows equal those of the whole resized image.

        Raises:
            ImageError: as `windows.open_windows`; for percentiles and nodata = "mean", which need the whole image.
        """
        percentiles = self.percentiles or any(output.percentiles for output in self.inputs.outputs or ())
        if percentiles or self.nodata == "mean":
            key, instead = ("percentiles", "data.window") if percentiles else ('nodata = "mean"', '"zero"')
            raise ImageError(
                f"{sample.path}: data.{key} needs the whole image, but this image is read by window: set {instead}"
            )
        target = self._target(sample)
        with ExitStack() as stack:
            slices = self._each_slice(sample, lambda files: self._open_slice(files, target, stack))
            windows = NormalizedWindows(self, slices)
            yield windows if target in (None, windows.shape) else ResizedWindows(windows, target)

    def _open_slice(self, files: tuple[Path, ...], target: tuple[int, int] | None, stack: ExitStack) -> Windows:
        """The files of one slice, opened; of a single file, a level that is large enough for `target`."""
        self.inputs.check_files(files)
        options = {"lenient": self.lenient, "exif": self.exif, "at_least": target if len(files) == 1 else None}
        images = [stack.enter_context(open_windows(path, unpacked=self.unpacked, **options)) for path in files]
        return images[0] if len(images) == 1 else EnlargedWindows(images, files)

    def target(self, sample: Sample) -> tuple[int, int]:
        """Height and width of the image that `read` returns, in pixels; of a window, its own.

        Raises:
            ImageError: as `size`, if the sample's size is not known.
        """
        return sample.box[2:] if sample.box else self.resize.target(sample.size or self.size(sample))

    def _target(self, sample: Sample) -> tuple[int, int] | None:
        """Height and width of the whole resized image; None if images keep the size of their files."""
        return None if self.resize == UNCHANGED else self.target(replace(sample, box=None))

    def size(self, sample: Sample) -> tuple[int, int]:
        """Height and width of the image in pixels, from the file's header; of several files, of the largest one.

        Raises:
            ImageError: as `formats.read_header`; for files whose sizes are no multiples of each other.
        """
        files = self._own(sample)
        self.inputs.check_files(files)
        sizes = [read_size(path, exif=self.exif) for path in files]
        scale_factors(sizes, files)
        return max(sizes)

    def stored_header(self, sample: Sample) -> Header:
        """Size, dtype and orientation as the file stores them, before any EXIF rotation; of several, the first one's.

        Raises:
            ImageError: as `formats.read_header`.
        """
        return read_header(sample.path, exif=False)

    def read_raw(self, sample: Sample) -> np.ndarray:
        """The image's values as the file has them; of several files, in a dtype that holds all values.

        Shapes:
            returns: (H, W, C) in the file's own dtype.

        Raises:
            ImageError: as `read`, but not for values without a known range.
        """
        files = self._own(sample)
        rasters = self._read_rasters(files)
        for raster, path in zip(rasters, files, strict=True):
            self._check_channels(raster.pixels.shape[2], path, alpha=raster.alpha)
            self._find_nonfinite(raster.pixels, path)
        return rasters[0].pixels if len(rasters) == 1 else np.concatenate([each.pixels for each in rasters], axis=2)

    def check(self, sample: Sample) -> tuple[int, int]:
        """Decode the whole image, a large one by window, and return its height and width in pixels.

        Of its neighbours, those are decoded that are no images of their own.

        Raises:
            ImageError: as `read_raw`, and as `open_windows`; for channels that are computed or scaled one by one, as
                `read`.
        """
        height, width = self.size(sample)
        beside = self.series is not None and not self.series.has_shared_slices
        for files in self._slices(sample) if beside else [self._own(sample)]:
            if height * width > LARGE:
                for path in files:
                    self._check_by_window(path)
            elif self.inputs.outputs is None:
                self.read_raw(replace(sample, sources=files, own=0))
            else:
                self._read_slice(files)
        return height, width

    def _check_by_window(self, path: Path) -> None:
        with open_windows(path, lenient=self.lenient, exif=self.exif) as image:
            self._check_channels(image.shape[2], path, alpha=image.alpha)
            height, width = image.shape[:2]
            for top in range(0, height, BAND):
                box = Box(top, 0, min(BAND, height - top), width)
                self._find_nonfinite(image.read(box), path, box)

    def picture(self, sample: Sample) -> np.ndarray:
        """The image as the network sees it, at the size of its file; of a stack of channels the middle one.

        Its neighbours are left out.

        Shapes:
            returns: (H, W, 1 or 3) uint8.

        Raises:
            ImageError: as `read`.
        """
        image = self.at(UNCHANGED).read(replace(sample, sources=self._own(sample), own=0))
        if self._has_pages:
            first = self.series.offsets.index(0) * self._slice_channels
            image = image[..., first : first + self._slice_channels]
        return to_uint8(image if image.shape[2] in (1, 3) else image[..., [image.shape[2] // 2]])

    def preview(self, sample: Sample, channels: int) -> np.ndarray:
        """The image in 8 bits, whatever its dtype, to show and to compare.

        Values of more than 8 bits are scaled between the image's percentiles 1 and 99. Alpha is left out; of a stack of
        channels the middle one is shown, or the image's own frame; of several files the middle one.

        Args:
            channels: 1 or 3.

        Shapes:
            returns: (H, W, channels) uint8.

        Raises:
            ImageError: if it cannot be read, or has pixels that are refused.
        """
        rasters, middle = self._read_rasters(self._own(sample)), self.inputs.files // 2
        path, (pixels, alpha, _) = self._own(sample)[middle], rasters[middle]
        if alpha:
            pixels = pixels[..., :-1]
        self._find_nonfinite(pixels, path)  # in every channel, before one is chosen
        if self._has_pages:
            pixels = pixels[..., [self.series.own_page(pixels.shape[2], path)]]
        if pixels.shape[2] not in (1, 3):
            pixels = pixels[..., [pixels.shape[2] // 2]]  # the middle one of a stack
        pixels = _with_channels(pixels, channels, path, alpha=False)
        nonfinite = self._find_nonfinite(pixels, path)
        if pixels.dtype in (bool, np.uint8):
            return _scale_by_dtype(pixels, path)
        scaled = percentile_normalize(pixels, (1, 99))
        return to_uint8(scaled if nonfinite is None else _fill(scaled, nonfinite, self.nodata))

    @property
    def _slice_channels(self) -> int:
        """Number of channels of each slice."""
        return self.channels // (len(self.series.offsets) if self.series else 1)

    @property
    def _has_pages(self) -> bool:
        """Whether the pages of a file are slices."""
        return self.series is not None and self.series.frame is not None

    def _check_channels(self, found: int, path: Path, *, alpha: bool) -> None:
        if self.inputs.outputs is None and not self._has_pages:
            _with_channels(np.zeros((1, 1, found), np.uint8), self._slice_channels, path, alpha=alpha)

    def _normalize(
        self, pixels: Sequence[np.ndarray], files: Sequence[Path], box: Box | None = None, *, alpha: bool
    ) -> np.ndarray:
        """Values of the files of one slice as the network's, (H, W, channels) uint8 or float32 in 0 … 255.

        Args:
            pixels: of each file, (H, W, C).
            alpha: whether the last channel of the first file is transparency.
        """
        if self.inputs.outputs is None and not self._has_pages:
            return self._scale(_with_channels(pixels[0], self._slice_channels, files[0], alpha=alpha), files[0], box)
        if alpha:
            pixels = [pixels[0][..., :-1], *pixels[1:]]
        pages = self.series.pages(pixels[0].shape[2], files[0]) if self._has_pages else [None]
        return _stacked([self._normalize_outputs(self._planes(pixels, files, page), files[0], box) for page in pages])

    def _planes(self, pixels: Sequence[np.ndarray], files: Sequence[Path], page: int | None) -> list[np.ndarray]:
        """The channels of the files, (H, W) each: one of each file if there are several, or if pages are slices."""
        if len(files) == 1 and page is None:
            return list(np.moveaxis(pixels[0], 2, 0))
        expected = 1 if page is None else pixels[0].shape[2]
        for each, path in zip(pixels, files, strict=True):
            if each.shape[2] != expected:
                raise ImageError(
                    f"{path}: {each.shape[2]} channels, expected {expected} in each of the files of files.channels; if "
                    f"they are frames, set files.frame on the card"
                )
        return [each[..., page or 0] for each in pixels]

    def _normalize_outputs(self, planes: Sequence[np.ndarray], path: Path, box: Box | None) -> np.ndarray:
        """The channels of the config, computed from those of the files, (H, W, channels), each scaled by itself."""
        found = []
        for output in self.inputs.outputs or (Output("0", (0,)),):
            if max(output.inputs) >= len(planes):
                raise ImageError(
                    f"{path}: {len(planes)} channels, but data.channels has '{output.name}': expected numbers from 0 "
                    f"to {len(planes) - 1}"
                )
            for values, value_range in zip(output.compute(planes), output.ranges, strict=True):
                of = (
                    self
                    if (value_range or output.percentiles) is None
                    else replace(self, value_range=value_range, percentiles=output.percentiles)
                )
                where = path if output.derived is None else f"{path}: {output.name}"
                found.append(of._scale(values[..., None], where, box))
        return _stacked(found)

    def _scale(self, pixels: np.ndarray, path: Path | str, box: Box | None = None) -> np.ndarray:
        """Raw values as the network's, (H, W, C) uint8 or float32 in 0 … 255."""
        nonfinite = self._find_nonfinite(pixels, path, box)
        if self.value_range:
            scaled = _scale_range(pixels, *self.value_range)
        elif self.percentiles:
            scaled = percentile_normalize(pixels, self.percentiles)
        else:
            scaled = _scale_by_dtype(pixels, path)
        return scaled if nonfinite is None else _fill(scaled, nonfinite, self.nodata)

    def _find_nonfinite(self, pixels: np.ndarray, path: Path | str, box: Box | None = None) -> np.ndarray | None:
        """Where values are not finite, (H, W, C) bool; None if all are finite.

        Raises:
            ImageError: if such pixels are refused, with their number and the place of the first.
        """
        if pixels.dtype.kind != "f":
            return None
        with np.errstate(over="ignore"):
            nonfinite = ~np.isfinite(pixels.astype(np.float32, copy=False))
        if not nonfinite.any():
            return None
        if self.nodata == "refuse":
            row, column, _ = np.argwhere(nonfinite)[0]
            top, left = (box.top, box.left) if box else (0, 0)
            where = " of this window" if box else ""
            raise ImageError(
                f"{path}: {nonfinite.any(axis=2).sum()} of {nonfinite[..., 0].size} pixels{where} are not finite "
                f"({pixels[nonfinite][0]}), the first at row {row + top}, column {column + left}: set data.nodata = "
                f'"zero" or "mean", or leave the image out with --skip-bad'
            )
        return nonfinite


class NormalizedWindows:
    """An open image whose windows have the values that a reader makes of them.

    Args:
        slices: the image, or it and its neighbours: the files of each, and them opened.

    Attributes:
        shape: height and width of the whole image in pixels.
    """

    def __init__(self, reader: Reader, slices: Sequence[tuple[Sequence[Path], Windows]]):
        self._reader, self._slices = reader, slices
        self.shape = slices[0][1].shape[:2]

    def read(self, box: Box) -> np.ndarray:
        """The pixels of a box inside the image.

        Shapes:
            returns: (box.height, box.width, channels), uint8 or float32 in 0 … 255.

        Raises:
            ImageError: as `Reader.window`.
        """
        return _stacked([self._read(files, image, box) for files, image in self._slices])

    def _read(self, files: Sequence[Path], image: Windows, box: Box) -> np.ndarray:
        pixels = image.read_each(box) if isinstance(image, EnlargedWindows) else [image.read(box)]
        return self._reader._normalize(pixels, files, box, alpha=image.alpha)


DEFAULT_READER = Reader()  # rotates by EXIF; refuses pixels that are not finite


def size_reader(card: Competition) -> Reader:
    """A reader that knows the files of a card's images, for `Reader.size`."""
    return Reader(inputs=Channels(card.files.channel_names, card.files.channel_paths))


RECENT = SliceCache()
log_once = functools.lru_cache(maxsize=None)(log.warning)


def _changed(path: Path) -> int:
    """When a file changed; of a slice of a NIfTI volume, the volume."""
    return (path if path.exists() else path.parent).stat().st_mtime_ns


def _stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """Images of one size as the channels of one, uint8 if all are, else float32."""
    if len(images) == 1:
        return images[0]
    dtype = np.uint8 if all(image.dtype == np.uint8 for image in images) else np.float32
    return np.concatenate(images, axis=2, dtype=dtype)


def _refuse_other_size(
    shape: tuple[int, ...], files: Sequence[Path], own_files: Sequence[Path], own: Windows | np.ndarray
) -> None:
    """Refuse a slice that has another size than the image itself.

    Raises:
        ImageError: with both sizes.
    """
    if shape[:2] != own.shape[:2]:
        raise ImageError(
            f"{files[0]}: {shape[0]} × {shape[1]} pixels, but {own_files[0]} of the same series has {own.shape[0]} × "
            f"{own.shape[1]}: expected one size"
        )


def _fill(pixels: np.ndarray, nonfinite: np.ndarray, nodata: str) -> np.ndarray:
    """Scaled values with 0 at the non-finite pixels, or the mean of their channel's finite ones (0 if there are none).

    Shapes:
        pixels: (H, W, C) in 0 … 255; nonfinite: (H, W, C) bool; returned float32 like pixels.
    """
    filled = np.where(nonfinite, np.float32(0), pixels)
    if nodata == "mean":
        finite = (~nonfinite).sum(axis=(0, 1))
        means = filled.sum(axis=(0, 1), dtype=np.float64) / np.maximum(finite, 1)
        filled = np.where(nonfinite, means.astype(np.float32), filled)
    return filled


def percentile_normalize(image: np.ndarray, percentiles: tuple[float, float]) -> np.ndarray:
    """Scale values so that two percentiles of the whole image, over all channels, become 0 and 255.

    It makes images alike that were exposed differently. Non-finite values are ignored and stay non-finite. A constant
    8-bit image stays as it is; a constant image of another dtype becomes 0.

    Args:
        percentiles: the lower and the upper one, 0 to 100.

    Shapes:
        image: (H, W, C); returned as uint8 for uint8 or bool, else as float32 in 0 … 255.
    """
    if image.dtype == bool:
        image = image.astype(np.uint8) * 255
    finite = image[np.isfinite(image)] if image.dtype.kind == "f" else image
    low, high = np.percentile(finite, percentiles).tolist() if finite.size else (0, 0)
    if image.dtype != np.uint8:
        return _scale_range(image, low, high) if low < high else np.zeros(image.shape, np.float32)
    if low == high:
        return image
    levels = np.clip((np.arange(256) - low) * (255 / (high - low)), 0, 255)
    return np.rint(levels).astype(np.uint8)[image]


def to_uint8(image: np.ndarray) -> np.ndarray:
    """Values in 0 … 255 rounded to uint8, for display; the shape stays."""
    return image if image.dtype == np.uint8 else np.rint(image).astype(np.uint8)


def _scale_range(pixels: np.ndarray, low: float, high: float) -> np.ndarray:
    """Scale low to 0 and high to 255, as float32; values outside are clipped."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    with np.errstate(over="ignore", invalid="ignore"):  # non-finite values are replaced later
        scaled = pixels.astype(np.float32)
        scaled -= low
        scaled *= np.float32(255 / (high - low))
        return np.clip(scaled, 0, 255, out=scaled)


def _scale_by_dtype(pixels: np.ndarray, path: Path | str) -> np.ndarray:
    """Scale by the full range of the dtype to 0 … 255: uint8 stays, wider unsigned integers become float32."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == bool:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype.kind == "u":
        return pixels.astype(np.float32) * np.float32(255 / np.iinfo(pixels.dtype).max)
    raise ImageError(
        f"{path}: values of {pixels.dtype}, {pixels.min():g} to {pixels.max():g}, have no known range: set "
        f"data.window = [low, high] in these units, or data.percentiles = [1, 99]"
    )


def _with_channels(pixels: np.ndarray, channels: int, path: Path, *, alpha: bool) -> np.ndarray:
    """Convert (H, W, C) to the asked number of channels: drop alpha, repeat grey, or average colours to grey.

    Raises:
        ImageError: if none of these gives it.
    """
    found = pixels.shape[2]
    if found == channels:
        return pixels
    if alpha:
        return _with_channels(pixels[..., :-1], channels, path, alpha=False)
    if found == 1 and channels == 3:
        return np.repeat(pixels, 3, axis=2)
    if found == 3 and channels == 1:
        return _grey(pixels)
    raise ImageError(f"{path}: {found} channels, expected {channels}: set model.in_channels = {found}")


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Colours (H, W, 3) as grey (H, W, 1) of the same dtype."""
    if pixels.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).convert("L"))[..., None]
    with np.errstate(invalid="ignore"):  # a colour with a non-finite value gives a non-finite grey
        grey = pixels.astype(np.float64) @ GREY
    return (np.rint(grey) if pixels.dtype.kind in "ui" else grey).astype(pixels.dtype)[..., None]


# ---------------------------------------------------------------------------------------------- masks


def read_mask(
    path: Path,
    name: str = "mask",
    above: float | None = None,
    *,
    void: Value | None = None,
    box: Box | None = None,
    exif: bool = True,
) -> np.ndarray:
    """Read a mask image of one class, or one window of it.

    Without `above`, the file must hold 0 and 1, or 0 and the white of its dtype (255 for 8 bits), beside void; or the
    indices 0 and 1 of a palette whose first colour is black. Other values could be classes, object ids, or edges
    blurred by JPEG: they are refused. If the file has one colour only and alpha varies, alpha is the mask.

    Args:
        name: of the class, for the card's line in the error message.
        above: values above it are mask, whatever other values there are; in a 1-bit file, white is 255.
        void: value of pixels that are ignored: grey value, palette index, or colour.
        box: the window; None reads the whole image.
        exif: as `formats.read_raster`.

    Shapes:
        returns: (H, W) uint8, 0 or 1, VOID (255) where ignored.

    Raises:
        ImageError: as `formats.read_raster`; for other values, with the lines to write on the card.
    """
    if void is not None:
        return _mask_with_void(path, name, above, void, box, exif=exif)
    pixels = _mask_channels(path, box, exif=exif)
    if pixels.shape[2] not in (1, 3):
        raise ImageError(f"{path}: a mask of {pixels.shape[2]} channels: expected grey, a palette or colour")
    if above is not None:
        return _is_above(pixels, above, path).astype(np.uint8)
    if _is_two_valued(pixels):
        return (pixels[..., 0] != 0).astype(np.uint8)
    indices = _indices(path, box, exif=exif)
    if indices is not None and _is_two_valued(indices) and not pixels[indices[..., 0] == 0].any():
        return (indices[..., 0] != 0).astype(np.uint8)
    raise ImageError(f"{path}: {_describe_values(pixels, name)}")


def _mask_with_void(
    path: Path, name: str, above: float | None, void: Value, box: Box | None, *, exif: bool
) -> np.ndarray:
    codes = _codes(path, box, colours=isinstance(void, tuple), exif=exif)
    valid = ~(codes == np.atleast_1d(void)).all(axis=2)
    rest = codes[valid]
    if above is not None:
        mask = _is_above(codes, above, path)
    elif not rest.size or _is_two_valued(rest):
        mask = codes[..., 0] != 0
    else:
        raise ImageError(f"{path}: {_describe_values(rest, name)}")
    return np.where(valid, mask, VOID).astype(np.uint8)


def _is_above(pixels: np.ndarray, above: float, path: Path) -> np.ndarray:
    """Where grey values are above a threshold, (H, W) bool; in a 1-bit file, white is 255."""
    if pixels.dtype == bool:
        pixels = pixels.astype(np.uint8) * 255
    if pixels.dtype.kind == "f" and np.isnan(pixels).any():  # a comparison with NaN is false: it would be background
        row, column, _ = np.argwhere(np.isnan(pixels))[0]
        raise ImageError(f"{path}: a mask with NaN at row {row}, column {column}: expected grey values")
    return _with_channels(pixels, 1, path, alpha=False)[..., 0] > above


def _mask_channels(path: Path, box: Box | None, *, exif: bool) -> np.ndarray:
    """The channels of a mask image that hold the mask: its colours, or alpha if all colours are one."""
    pixels, alpha = _pixels(path, box, exif=exif)
    if not alpha:
        return pixels
    whole = pixels if box is None else read_raster(path, exif=exif).pixels  # a window may show one of several colours
    opacity = whole[..., -1:]
    opaque = np.iinfo(opacity.dtype).max if opacity.dtype.kind == "u" else 1
    if _is_constant(whole[..., :-1]) and (opacity != opaque).any():
        _warn_of_alpha_masks(path.parent)
        return pixels[..., -1:]
    return pixels[..., :-1]


@functools.cache
def _warn_of_alpha_masks(folder: Path) -> None:
    log.warning("%s: the masks have one colour and vary in alpha: pixels that are not transparent are mask", folder)


def _is_constant(pixels: np.ndarray) -> bool:
    return bool((pixels == pixels[0, 0]).all())


def _pixels(path: Path, box: Box | None, *, exif: bool) -> tuple[np.ndarray, bool]:
    """The whole image or one window of it, (H, W, C), and whether its last channel is alpha."""
    if box is None:
        return read_raster(path, exif=exif)[:2]
    with open_windows(path, exif=exif) as image:
        return image.read(box), image.alpha


def _indices(path: Path, box: Box | None, *, exif: bool) -> np.ndarray | None:
    """The palette indices of the whole image or one window, (H, W, 1); None without a palette."""
    indices = read_indices(path, exif=exif)
    return indices if indices is None or box is None else indices[box.slices]


def _is_two_valued(pixels: np.ndarray) -> bool:
    """Whether all values are 0 and 1, or 0 and white, the same in all channels."""
    high = pixels.max()
    white = np.iinfo(pixels.dtype).max if pixels.dtype.kind == "u" else 255
    grey = pixels[..., :1]
    return high in (0, 1, 255, white) and bool(((grey == 0) | (grey == high)).all() and (pixels == grey).all())


def _describe_values(colours: np.ndarray, name: str) -> str:
    """The end of an error message: which values came, what was expected, and what to write on the card."""
    if colours.shape[-1] == 1:
        values, counts = np.unique(colours, return_counts=True)  # counts all NaN as one value, unlike unique rows
        values = values[:, None]
    else:
        values, counts = np.unique(colours.reshape(-1, 3), axis=0, return_counts=True)
    shown = [_format_value(value) for value in values]
    frequent = _format_value(values[np.where(values.any(axis=1), counts, 0).argmax()])
    key = name if name.replace("-", "_").isidentifier() else f'"{name}"'
    more = f", … ({len(shown)} in all, to {shown[-1]})" if len(shown) > SHOWN else ""
    blurred = "above = 127 (JPEG blurs values), or " if colours.max() > 127 else ""  # else no pixel is above it
    return (
        f"a mask of values {', '.join(shown[:SHOWN])}{more}: expected 0 and 1, or 0 and 255. Set on the card which are "
        f"mask: [masks] values = {{ {key} = {frequent} }}, or {blurred}above = 0 (all but 0); or which are ignored: "
        f"void"
    )


def _format_value(value: np.ndarray) -> str:
    return f"{value[0]:g}" if len(value) == 1 else str(value.tolist())


def read_labels(
    path: Path, values: dict[Value, int], void: Value | None = None, *, box: Box | None = None, exif: bool = True
) -> np.ndarray:
    """Read a mask image whose values stand for classes, or one window of it.

    Args:
        values: from a pixel's value (grey value, palette index, or colour) to the number of its class.
        void: value of pixels that are ignored.
        box: the window; None reads the whole image.
        exif: as `formats.read_raster`.

    Shapes:
        returns: (H, W) uint8 class numbers, VOID (255) where ignored.

    Raises:
        ImageError: as `formats.read_raster`; for a value that is neither in `values` nor void, with its place.
    """
    codes = dict(values) if void is None else {**values, void: VOID}
    pixels = _codes(path, box, colours=any(isinstance(value, tuple) for value in codes), exif=exif)
    numbers, known = _numbers_of(pixels, codes)
    if not known.all():
        row, column = np.argwhere(~known)[0]
        came = pixels[row, column].tolist()
        raise ImageError(
            f"{path}: value {came[0] if len(came) == 1 else came} at row {row}, column {column} ({(~known).sum()} "
            f"pixels) is none of the card's: add it to masks.values, or set it as masks.void"
        )
    return numbers


def _numbers_of(pixels: np.ndarray, codes: Mapping[Value, int]) -> tuple[np.ndarray, np.ndarray]:
    """The number of each pixel's value, and whether the value has one.

    Args:
        codes: from values to numbers.

    Shapes:
        pixels: (H, W, 1), or colours (H, W, 3); returned as (H, W) uint8, and (H, W) bool.
    """
    if pixels.dtype == np.uint8:
        table = _lookup_table(tuple(codes.items()))
        values = pixels[..., 0]
        if pixels.shape[2] == 3:  # red · 65536 + green · 256 + blue, in one pass
            values = cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGRA).view("<u4")[..., 0] & 0xFFFFFF
        numbers = table.take(values)
        return numbers.astype(np.uint8), numbers != UNKNOWN
    numbers, known = np.zeros(pixels.shape[:2], np.uint8), np.zeros(pixels.shape[:2], bool)
    for value, number in codes.items():
        here = (pixels == np.atleast_1d(value)).all(axis=2)
        numbers[here], known[here] = number, True
    return numbers, known


@functools.lru_cache(maxsize=2)
def _lookup_table(codes: tuple[tuple[Value, int], ...]) -> np.ndarray:
    """The number of every grey value, (256,), or every colour, (2²⁴,), uint16; UNKNOWN where a value has none."""
    colours = any(isinstance(value, tuple) for value, _ in codes)
    table = np.full(1 << 24 if colours else 256, UNKNOWN, np.uint16)
    for value, number in codes:
        red, green, blue = np.broadcast_to(value, 3).tolist()
        if 0 <= min(red, green, blue) <= max(red, green, blue) <= 255:
            table[red << 16 | green << 8 | blue if colours else value] = number
    return table


def _codes(path: Path, box: Box | None, *, colours: bool, exif: bool) -> np.ndarray:
    """What masks.values refers to: colours (H, W, 3); or single values (H, W, 1), for a palette its indices."""
    if not colours and (indices := _indices(path, box, exif=exif)) is not None:
        return indices
    pixels, alpha = _pixels(path, box, exif=exif)
    if alpha:
        pixels, opacity = pixels[..., :-1], pixels[..., -1:]
        if _is_constant(pixels) and not _is_constant(opacity):
            raise ImageError(f"{path}: labels of one colour, only alpha varies: expected a colour or value per class")
    if colours:
        return _with_channels(pixels, 3, path, alpha=False)
    if pixels.shape[2] != 1:
        raise ImageError(
            f"{path}: {pixels.shape[2]} channels, but masks.values are single values: set colours [red, green, blue]"
        )
    return pixels


def read_objects(path: Path, void: Value | None = None, *, box: Box | None = None, exif: bool = True) -> np.ndarray:
    """Read a label image, in which each value is one object, or one window of it.

    0, or black, is the background. The other values become 1, 2, … in ascending order: grey values of any dtype,
    indices of a palette whose first colour is black, or colours.

    Args:
        void: value of pixels that are ignored.
        box: the window; None reads the whole image.
        exif: as `formats.read_raster`.

    Shapes:
        returns: (H, W) int32, 0 for background, VOID_OBJECT (-1) where ignored.

    Raises:
        ImageError: as `formats.read_raster`; for values that cannot be object ids.
    """
    if is_jpeg(path):
        raise ImageError(f"{path}: a label image as JPEG, which blurs values: save objects as PNG or TIFF")
    pixels, indices = _mask_channels(path, box, exif=exif), _indices(path, box, exif=exif)
    if pixels.shape[2] not in (1, 3):
        raise ImageError(f"{path}: a label image of {pixels.shape[2]} channels: expected grey, a palette or colour")
    ignored = np.zeros(pixels.shape[:2], bool)
    if void is not None:
        codes = pixels if indices is None or isinstance(void, tuple) else indices
        ignored = (codes == np.atleast_1d(void)).all(axis=2)
    if indices is not None and pixels[(indices[..., 0] == 0) & ~ignored].any():
        raise ImageError(
            f"{path}: objects as a palette whose first colour is not black: expected index 0 as background"
        )
    ids = _object_ids(pixels if indices is None else indices, path)
    ids[ignored] = 0
    values, labels = np.unique(ids, return_inverse=True)
    labels = labels.reshape(ids.shape).astype(np.int32) + np.int32(values[0] != 0)
    labels[ignored] = VOID_OBJECT
    return labels


def _object_ids(pixels: np.ndarray, path: Path) -> np.ndarray:
    """One integer per pixel, (H, W) int64, 0 or more: the grey value, or the three values of a colour combined."""
    if (pixels == pixels[..., :1]).all():
        pixels = pixels[..., :1]
    with np.errstate(invalid="ignore"):  # NaN becomes some integer, which differs from NaN below
        ids = pixels.astype(np.int64)
    if (ids != pixels).any() or ids.min() < 0 or (pixels.shape[2] == 3 and pixels.dtype != np.uint8):
        raise ImageError(
            f"{path}: a label image of {pixels.dtype}, {pixels.min():g} to {pixels.max():g}: expected whole "
            f"numbers from 0, the background, or colours of 8 bits"
        )
    return ids @ (1 << 8 * np.arange(pixels.shape[2])[::-1])


# ---------------------------------------------------------------------------------------------- writing


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write an image, (H, W) or (H, W, 3) uint8, in the format of the path's suffix."""
    Image.fromarray(pixels).save(path)


def encode_image(pixels: np.ndarray, format: str, quality: int) -> bytes:
    """Encode an image, (H, W) or (H, W, 3) uint8, as the bytes of an image file.

    Args:
        format: Pillow's name of the format, such as "WEBP".
        quality: 1 (small) to 100, for lossy formats.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, quality=quality)
    return buffer.getvalue()
