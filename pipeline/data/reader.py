"""Image files as the arrays that the network sees, with values in 0 … 255.

8-bit values stay as they are. Wider ones become float32 in 0 … 255, by the full range of their dtype, by a range in the
file's own units, or by percentiles: a 16-bit image is never reduced to 8 bits.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from pipeline.competition import Competition
from pipeline.config import Config
from pipeline.data.channels import ONE_FILE, Channels, Output, with_input_channels
from pipeline.data.enlargement import EnlargedWindows, enlarge, scale_factors
from pipeline.data.formats import read_header, read_raster, read_size
from pipeline.data.intensity import (
    fill_nonfinite,
    mark_nodata,
    percentile_normalize,
    scale_by_dtype,
    scale_range,
    to_uint8,
    with_channels,
    without_nodata,
)
from pipeline.data.medical import file_of
from pipeline.data.rasters import Header, ImageError, Raster
from pipeline.data.resize import UNCHANGED, Resize, ResizedWindows, WindowedImage, resize_image
from pipeline.data.sample import Sample
from pipeline.data.series import Series
from pipeline.data.slice_cache import SliceCache
from pipeline.data.unpacked import Unpacked
from pipeline.data.windows import Box, Windows, open_windows

log = logging.getLogger(__name__)
T = TypeVar("T")

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
        nodata_values: of the files' pixels, which count as not finite.
        resize: from the size of a file to that of the image that is read.
        inputs: the channels of an image, or of each of its slices.
        series: the slices that are channels too; None: the image alone.
        substitute: a neighbour that cannot be read is replaced by the next slice towards the image, and logged; else it
            is an error. By window it is replaced in those windows alone in which its pixels cannot be read.
        unpacked: as `windows.open_windows`.
    """

    channels: int = 3
    percentiles: tuple[float, float] | None = None
    value_range: tuple[float, float] | None = None
    lenient: bool = False
    exif: bool = True
    nodata: Literal["refuse", "zero", "mean"] = "refuse"
    nodata_values: tuple[float, ...] = ()
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
            data.nodata_values,
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

    def _own_number(self, sample: Sample) -> int:
        """Number of the image itself among its slices."""
        return sample.own_start // self.inputs.files

    def _own(self, sample: Sample) -> tuple[Path, ...]:
        """The files of the image itself, one per channel if it has several."""
        return sample.sources[sample.own_start : sample.own_start + self.inputs.files]

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
        slices, own = self._slices(sample), self._own_number(sample)
        image = slices[own], read(slices[own])

        def read_neighbour(number: int) -> tuple[tuple[Path, ...], T]:
            neighbour = read(slices[number])
            _refuse_other_size(neighbour.shape, slices[number], *image)
            return slices[number], neighbour

        return self._with_neighbours(slices, own, image, read_neighbour)

    def _with_neighbours(
        self, slices: Sequence[Sequence[Path]], own: int, image: T, read: Callable[[int], T]
    ) -> list[T]:
        """The image and its neighbours; one that cannot be read is replaced with `substitute`.

        Args:
            slices: the files of each.
            own: number of the image itself among them.
            read: from the number of a neighbour to what is returned for it.

        Raises:
            ImageError: as `read`, without `substitute`.
        """
        found = {own: image}
        outwards = [(n, n + 1) for n in range(own - 1, -1, -1)] + [(n, n - 1) for n in range(own + 1, len(slices))]
        for number, inner in outwards:
            try:
                found[number] = read(number)
            except ImageError as error:
                if not self.substitute:
                    raise
                log_replaced(Replaced(slices[number][0], str(error)))
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
            windows = NormalizedWindows(self, slices, self._own_number(sample))
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
        are_files = self.series is not None and not self.series.neighbours_are_images
        for files in self._slices(sample) if are_files else [self._own(sample)]:
            if height * width > LARGE:
                for path in files:
                    self._check_by_window(path)
            elif self.inputs.outputs is None:
                self.read_raw(replace(sample, sources=files, own_start=0))
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
        image = self.at(UNCHANGED).read(replace(sample, sources=self._own(sample), own_start=0))
        if self._has_pages:
            first = self.series.offsets.index(0) * self._slice_channels
            image = image[..., first : first + self._slice_channels]
        return to_uint8(image if image.shape[2] in (1, 3) else image[..., [image.shape[2] // 2]])

    def preview(self, sample: Sample, channels: int) -> np.ndarray:
        """The image in 8 bits, whatever its dtype, to show and to compare.

        Values of more than 8 bits are scaled between the image's percentiles 1 and 99; those of pixels without a
        measurement become the median of the others. Alpha is left out; of a stack of channels the middle one is shown,
        or the image's own frame; of several files the middle one.

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
        pixels = with_channels(pixels, channels, path, alpha=False)
        nonfinite = self._find_nonfinite(pixels, path)
        if pixels.dtype in (bool, np.uint8):
            return scale_by_dtype(pixels, path)
        scaled = percentile_normalize(without_nodata(pixels, self.nodata_values), (1, 99))
        return to_uint8(scaled if nonfinite is None else fill_nonfinite(scaled, nonfinite, self.nodata))

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
            with_channels(np.zeros((1, 1, found), np.uint8), self._slice_channels, path, alpha=alpha)

    def _normalize(
        self, pixels: Sequence[np.ndarray], files: Sequence[Path], box: Box | None = None, *, alpha: bool
    ) -> np.ndarray:
        """Values of the files of one slice as the network's, (H, W, channels) uint8 or float32 in 0 … 255.

        Args:
            pixels: of each file, (H, W, C).
            alpha: whether the last channel of the first file is transparency.
        """
        pixels = [mark_nodata(each, self.nodata_values) for each in pixels]
        if self.inputs.outputs is None and not self._has_pages:
            return self._scale(with_channels(pixels[0], self._slice_channels, files[0], alpha=alpha), files[0], box)
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
            scaled = scale_range(pixels, *self.value_range)
        elif self.percentiles:
            scaled = percentile_normalize(pixels, self.percentiles)
        else:
            scaled = scale_by_dtype(pixels, path)
        return scaled if nonfinite is None else fill_nonfinite(scaled, nonfinite, self.nodata)

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
                f'"zero" or "mean", or leave the image out with SKIP_BAD=1 (make) or --skip-bad'
            )
        return nonfinite


class NormalizedWindows:
    """An open image whose windows have the values that a reader makes of them.

    Args:
        slices: the image, or it and its neighbours: the files of each, and them opened.
        own: number of the image itself among them.

    Attributes:
        shape: height and width of the whole image in pixels.
    """

    def __init__(self, reader: Reader, slices: Sequence[tuple[Sequence[Path], Windows]], own: int):
        self._reader, self._slices, self._own = reader, slices, own
        self.shape = slices[0][1].shape[:2]

    def read(self, box: Box) -> np.ndarray:
        """The pixels of a box inside the image; a neighbour is replaced in the boxes in which it cannot be read.

        Shapes:
            returns: (box.height, box.width, channels), uint8 or float32 in 0 … 255.

        Raises:
            ImageError: as `Reader.window`.
        """
        files, own = [each for each, _ in self._slices], self._read(self._own, box)
        return _stacked(self._reader._with_neighbours(files, self._own, own, lambda number: self._read(number, box)))

    def _read(self, number: int, box: Box) -> np.ndarray:
        files, image = self._slices[number]
        pixels = image.read_each(box) if isinstance(image, EnlargedWindows) else [image.read(box)]
        return self._reader._normalize(pixels, files, box, alpha=image.alpha)


DEFAULT_READER = Reader()  # rotates by EXIF; refuses pixels that are not finite


def size_reader(card: Competition) -> Reader:
    """A reader that knows the files of a card's images, for `Reader.size`."""
    return Reader(inputs=Channels(card.files.channel_names, card.files.channel_paths))


RECENT = SliceCache()


@dataclass(frozen=True)
class Replaced:
    """A slice that cannot be read, equal for any reason: of each window it is another one."""

    path: Path
    reason: str = field(compare=False)


@functools.lru_cache(maxsize=1024)
def log_replaced(replaced: Replaced) -> None:
    """Log that the next slice takes the place of one that cannot be read, once for each slice."""
    log.warning("the next slice takes the place of a neighbour: %s", replaced.reason)


def _changed(path: Path) -> int:
    """When a file changed; of a slice of a NIfTI volume, the volume."""
    return file_of(path).stat().st_mtime_ns


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
