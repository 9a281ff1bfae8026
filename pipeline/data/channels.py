"""Which channels a network gets: those of one file or of several, selected, derived, and scaled one by one."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline import config
from pipeline.competition import Competition
from pipeline.config import Config
from pipeline.data.derived import DERIVED, Range
from pipeline.data.medical import slice_of
from pipeline.data.rasters import REMEDY, ImageError
from pipeline.quoting import listed, shortened
from pipeline.schema import did_you_mean

CALL = re.compile(r"\s*(\w+)\s*\((.*)\)\s*")  # of a derived channel, as in "ratio(nir, red)"


class Output(NamedTuple):
    """A channel that the config asks for, or several that one function gives.

    Args:
        name: as the config writes it, for messages.
        inputs: positions of what it takes among the channels of the files.
        derived: a key of `derived.DERIVED`; None: the channel itself.
        ranges: of each result, the values that become 0 and 255; None: as other images are scaled.
        percentiles: instead of ranges.
    """

    name: str
    inputs: tuple[int, ...]
    derived: str | None = None
    ranges: tuple[Range | None, ...] = (None,)
    percentiles: Range | None = None

    def compute(self, planes: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """The results in raw values, (H, W) each: float32 if they are derived, else in the file's dtype.

        Args:
            planes: the channels of the files, (H, W) each.
        """
        if self.derived is None:
            return (planes[self.inputs[0]],)
        taken = [planes[number].astype(np.float32) for number in self.inputs]
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return DERIVED[self.derived].compute(*taken)


@dataclass(frozen=True)
class Channels:
    """The channels of one image, or of one of its slices.

    Args:
        names: of the card's files, one channel each; none if an image is one file.
        paths: of each of these files, with {id}, for messages.
        outputs: what the network gets, in order; None: the channels of the one file.
    """

    names: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    outputs: tuple[Output, ...] | None = None

    @classmethod
    def of(cls, cfg: Config, card: Competition) -> "Channels":
        """The channels that a config selects.

        Raises:
            ValueError: with the key, for a channel that the card does not have, an unknown function, another number of
                arguments, and a derived channel without known range.
        """
        names = card.files.channel_names
        asked = cfg.data.channels
        if asked is None:
            asked = tuple(config.Channel(name=name) for name in names)
        outputs = tuple(_output(channel, f"data.channels.{n}", names) for n, channel in enumerate(asked))
        return cls(names, card.files.channel_paths, outputs or None)

    @property
    def files(self) -> int:
        """Number of files of an image."""
        return max(1, len(self.names))

    @property
    def count(self) -> int | None:
        """Number of channels; None if it is that of the file."""
        return None if self.outputs is None else sum(len(output.ranges) for output in self.outputs)

    def check_files(self, files: Sequence[Path]) -> None:
        """Refuse an image that lacks the file of a channel.

        Args:
            files: of each channel, in order.

        Raises:
            ImageError: with the channel, and the path that its file should have.
        """
        for name, pattern, path in zip(self.names, self.paths, files, strict=False):
            if not path.exists() and slice_of(path) is None:
                raise ImageError(f"{path}: no such file, of channel '{name}' (files.channels: {pattern})", REMEDY)


ONE_FILE = Channels()  # an image is one file, and its channels are read as they are


def _output(channel: config.Channel, key: str, names: Sequence[str]) -> Output:
    call = CALL.fullmatch(channel.name)
    ranges = (channel.window,)
    if not call:
        return Output(channel.name, (_position(channel.name, key, names),), None, ranges, channel.percentiles)
    function, words = call[1], [word.strip() for word in call[2].split(",")]
    if function not in DERIVED:
        raise ValueError(f"{key}: unknown function '{shortened(function)}'. {did_you_mean(function, DERIVED)}")
    derived = DERIVED[function]
    if len(words) != len(derived.arguments):
        raise ValueError(
            f"{key}: '{shortened(channel.name)}' has {len(words)} arguments: expected {function}"
            f"({', '.join(derived.arguments)})"
        )
    if channel.window and len(derived.ranges) > 1:
        raise ValueError(f"{key}: {function} gives {len(derived.ranges)} channels with ranges of their own: no window")
    ranges = ranges if channel.window else derived.ranges
    if None in ranges and not channel.percentiles:
        raise ValueError(
            f"{key}: the values of '{shortened(channel.name)}' depend on the units: set which become 0 and 255, "
            f'as in {{ name = "{shortened(channel.name)}", window = [0, 2] }}'
        )
    inputs = tuple(_position(word, key, names) for word in words)
    return Output(channel.name, inputs, function, ranges, channel.percentiles)


def _position(word: str, key: str, names: Sequence[str]) -> int:
    """The position of a channel by its name, or by its number from 0."""
    if word in names:
        return names.index(word)
    if word.isdecimal() and (not names or int(word) < len(names)):
        return int(word)
    known = f"Known: {listed(names, 200)}, or" if names else "The card names none (files.channels): expected"
    raise ValueError(f"{key}: no channel '{shortened(word)}' on the card. {known} a number from 0")


def with_input_channels(cfg: Config, card: Competition) -> Config:
    """The config with `model.in_channels` as it follows from the channels and neighbours, where it does.

    Raises:
        ValueError: if the config sets another number; and as `Channels.of`.
    """
    slices = len(cfg.data.neighbours.each_offset) if cfg.data.neighbours else 1
    channels = Channels.of(cfg, card).count
    if channels is None and cfg.data.neighbours is None and card.files.frame is None:
        return cfg
    found = cfg.model.in_channels if "in_channels" in cfg.model.model_fields_set else None
    if channels is None:  # of a file, and not known here: 1 unless the config asks for more
        channels = found // slices if found and found % slices == 0 and card.files.frame is None else 1
    expected = slices * channels
    if found not in (None, expected):
        raise ValueError(
            f"model.in_channels is {found}, but the input has {_counted(slices, channels)}: leave it out, or set "
            f"{expected}"
        )
    return cfg.model_copy(update={"model": cfg.model.model_copy(update={"in_channels": expected})})


def _counted(slices: int, channels: int) -> str:
    return f"{channels} channels" if slices == 1 else f"{slices} slices × {channels} channels"
