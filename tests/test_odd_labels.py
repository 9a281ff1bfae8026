"""Unusual label files are read correctly, or refused in one line."""

import numpy as np
import pytest

from pipeline import competition
from pipeline.data.index import read_index
from pipeline.data.integrity import survey_train
from pipeline.data.labels import Labels
from pipeline.data.sample import samples_of
from pipeline.data.windows import Box
from tests.odd_labels import ODD, VOID, VOID_OBJECT, Odd, lay_out

READ = [odd for odd in ODD if odd.refused is None]
REFUSED = [odd for odd in ODD if odd.refused]


def read(odd: Odd, folder):
    """The labels, the sample of `a`, and its coverage."""
    card = competition.load(str(lay_out(odd, folder)))
    index = read_index(card, folder / "data")
    assert index["image_id"].tolist() == ["a", "b"]
    return Labels.of(card), samples_of(index)[0], index["coverage"][0]


def mask_of(odd: Odd) -> np.ndarray:
    """The expected mask, (H, W, C); the union of objects."""
    if odd.objects is not None:
        return np.where(odd.objects == VOID_OBJECT, VOID, odd.objects > 0)[..., None]
    return odd.mask if odd.mask.ndim == 3 else odd.mask[..., None]


@pytest.mark.parametrize("odd", READ, ids=lambda odd: odd.name)
def test_unusual_labels_are_read_correctly_whole_and_by_window(odd, tmp_path):
    labels, sample, coverage = read(odd, tmp_path)
    mask = labels.read(sample)
    assert mask.dtype == np.uint8
    assert mask.tolist() == mask_of(odd).tolist()
    box = Box(1, 2, 4, 6)
    assert labels.window(sample, box).tolist() == mask_of(odd)[box.slices].tolist()
    assert coverage == pytest.approx(min(1, (mask_of(odd) == 1).mean(axis=(0, 1)).sum()))


@pytest.mark.parametrize("odd", [odd for odd in READ if odd.objects is not None], ids=lambda odd: odd.name)
def test_objects_of_unusual_labels_are_read_correctly(odd, tmp_path):
    labels, sample, _ = read(odd, tmp_path)
    assert labels.read_instances(sample).tolist() == odd.objects.tolist()


@pytest.mark.parametrize("odd", REFUSED, ids=lambda odd: odd.name)
def test_invalid_labels_are_refused_in_one_line_and_reported_by_the_survey(odd, tmp_path):
    with pytest.raises((ValueError, FileNotFoundError), match=odd.refused) as refused:
        read(odd, tmp_path)
    line = str(refused.value).replace(str(tmp_path), "data")
    assert "\n" not in line
    assert len(line) <= 300
    _, faults = survey_train(competition.load(str(tmp_path / "odd.toml")), tmp_path / "data")
    assert any(str(refused.value)[:60] in fault for fault in faults)
