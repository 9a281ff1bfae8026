"""Selections that share their passes: equal to separate ones in every field, with one reading per image and pass."""

import dataclasses
import threading
from collections import Counter
from functools import partial

import numpy as np
import pytest

from pipeline.ensemble.evaluation import count_masks
from pipeline.ensemble.instances import select_instances
from pipeline.ensemble.multiclass import select_multiclass
from pipeline.ensemble.selection import Oof, select_multilabel
from pipeline.ensemble.shared_passes import select_in_step, select_with_members
from pipeline.metrics import instance_metric, pixel_metric, stack

MEMBERS, IMAGES = 2, 6
MULTILABEL = partial(select_multilabel, metric=pixel_metric("mean_dice"), classes=2)
SELECTIONS = {
    "multilabel": MULTILABEL,
    "multiclass": partial(select_multiclass, metric=pixel_metric("class_iou")),
    "instances": partial(select_instances, score=instance_metric("dsb_precision"), boundaries=False),
}


def make_oof(kind: str) -> tuple[Oof, Counter]:
    """Random squares of two classes with noise, and how often each image was read."""
    rng, known, reads = np.random.default_rng(4), {}, Counter()
    for number in range(IMAGES):
        first = np.zeros((16, 16), np.uint8)
        row, column, side = rng.integers(2, 8, 3)
        first[row : row + side, column : column + side] = 1
        target = np.stack([first, 1 - first])
        noise = rng.normal(0, 60, (MEMBERS, 2, 16, 16))
        values = (90 + 80 * target + noise).clip(0, 255).astype(np.uint8)
        known[f"{number:02}"] = values, first.astype(np.int32) if kind == "instances" else target

    def read(image_id: str) -> tuple[np.ndarray, np.ndarray]:
        reads[image_id] += 1
        return known[image_id]

    return Oof(list(known), np.arange(IMAGES) % 3, read, MEMBERS, lambda items, _: items), reads


def plain(value):
    """Dataclasses as dicts and arrays as lists, which compare by value."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, tuple):
        return [plain(each) for each in value]
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize(
    ("kind", "passes"), [pytest.param("multilabel", 4, marks=pytest.mark.slow), ("multiclass", 2), ("instances", 1)]
)
def test_selections_in_step_are_those_of_separate_passes(kind, passes):
    oof, reads = make_oof(kind)
    select = SELECTIONS[kind]
    separate = [select(oof), *(select(oof.only(member)) for member in range(MEMBERS))]
    reads.clear()
    together, alone = select_with_members(oof, select)
    assert [plain(each) for each in [together, *alone]] == [plain(each) for each in separate]
    assert set(reads.values()) == {passes}


@pytest.mark.slow
def test_counts_are_those_of_the_masks_that_were_scored():
    oof, _ = make_oof("multilabel")
    selection = MULTILABEL(oof)
    expected = stack(count_masks(selection.held_out(place), *pair) for *pair, place in oof.images(""))
    assert plain(selection.counts) == plain(expected)


@pytest.mark.parametrize("failing", [0, 1])
def test_error_of_one_selection_is_raised_and_ends_the_others(failing):
    oof, reads = make_oof("multilabel")

    def fail(each: Oof) -> None:
        for number, _ in enumerate(each.images("")):
            if number == 2:
                raise ValueError("no mask")

    threads = threading.active_count()
    selections = [MULTILABEL, MULTILABEL]
    selections[failing] = fail
    with pytest.raises(ValueError, match="no mask"):
        select_in_step(oof, selections)
    assert threading.active_count() == threads
    assert max(reads.values()) == 1


@pytest.mark.slow
def test_progress_is_shown_once():
    oof, _ = make_oof("multilabel")
    tasks = []
    oof = dataclasses.replace(oof, track=lambda items, task: tasks.append(task) or items)
    select_in_step(oof, [MULTILABEL, MULTILABEL])
    assert tasks == ["read predictions", "search rules", "search rules", "score rules"]
