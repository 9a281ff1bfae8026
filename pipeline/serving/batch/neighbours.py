"""The neighbours of the images of a partition.

They are found among all images at once: the step and the ends of a series are those of the whole series, not of the
part of it that a worker has.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from pipeline.data.sample import Sample
from pipeline.data.series import Finder, NeighbourFinder, Series
from pipeline.serving.batch.inputs import LOCAL
from pipeline.serving.bundle import Bundle

NO_FILE = Path("no file of a neighbour")  # reading it is an error, so that the next slice takes its place


class Neighbours(NamedTuple):
    """The neighbours of the images of a partition."""

    outside: pd.DataFrame  # those in other partitions, as `list_inputs` returns them
    ids: list[dict[str, list[str] | str]]  # of each series, by image: the id at each offset, or why there are none

    def finders(self, series: Sequence[Series], samples: Mapping[str, Sample | None]) -> dict[Series, Finder]:
        """What adds the files of its neighbours to an image, for each series.

        Args:
            series: as `series_of`.
            samples: the images of the partition and `outside` by id, with local files; None: without a file.
        """
        files = {image_id: sample or Sample(image_id, (NO_FILE,)) for image_id, sample in samples.items()}
        return {each: partial(_join, each, ids, files) for each, ids in zip(series, self.ids, strict=True)}


def _join(series: Series, ids: Mapping[str, list[str] | str], files: Mapping[str, Sample], sample: Sample) -> Sample:
    found = ids[sample.image_id]
    if isinstance(found, str):
        raise ValueError(found)
    return series.joined(sample, [files[image_id].sources for image_id in found])


def series_of(bundle: Bundle) -> list[Series]:
    """The series of a bundle's models in which neighbours are images, each once."""
    every = filter(None, (Series.of(cfg, bundle.card) for cfg in bundle.cfgs))
    return [each for each in dict.fromkeys(every) if each.neighbours_are_images]


def find_neighbours(inputs: pd.DataFrame, series: Sequence[Series]) -> Callable[[pd.DataFrame], Neighbours]:
    """A function from the images of a partition to their neighbours among all images.

    Args:
        inputs: all images.
        series: as `series_of`.

    Raises:
        ValueError: for a remote image whose series is in its file.
    """
    if not series:
        return lambda part: Neighbours(part[:0], [])
    _refuse_remote(inputs, series)
    every, ids = _as_samples(inputs), inputs["image_id"].reset_index(drop=True)
    finders = [NeighbourFinder(each, every) for each in series]

    def neighbours_of(part: pd.DataFrame) -> Neighbours:
        found = [{sample.image_id: _ids(finder, sample) for sample in _as_samples(part)} for finder in finders]
        chosen = {image_id for each in found for row in each.values() if isinstance(row, list) for image_id in row}
        return Neighbours(inputs[ids.isin(chosen - set(part["image_id"])).to_numpy()], found)

    return neighbours_of


def _ids(finder: NeighbourFinder, sample: Sample) -> list[str] | str:
    """The id at each offset; or the reason why the image has no neighbours, which is its problem."""
    try:
        return [each.image_id for each in finder.slices(sample)]
    except ValueError as error:
        return str(error)


def _refuse_remote(inputs: pd.DataFrame, series: Sequence[Series]) -> None:
    remote = inputs["path"][~inputs["path"].str.startswith(LOCAL)]
    if len(remote) and any(each.volume_pattern is None for each in series):
        raise ValueError(
            f"{remote.iloc[0]}: no local file, but its series and number for data.neighbours are read from the file: "
            f"copy the images to a local disk, or set volume_pattern on the card"
        )


def _as_samples(inputs: pd.DataFrame) -> list[Sample]:
    return [Sample(each.image_id, (Path(each.path.removeprefix(LOCAL)),)) for each in inputs.itertuples()]
