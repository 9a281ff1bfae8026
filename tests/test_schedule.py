"""Tests of the options that a plan sets in a drafted config."""

from dataclasses import replace

import pytest

from pipeline import config
from pipeline.planning.budget import VALIDATED, Counts, Plan
from pipeline.planning.config_text import to_text
from pipeline.planning.schedule import SHORT, choices_of, planned
from tests.test_config_draft import PLAIN, draft, same

COUNTS = Counts(train=400, test=100, folds=5, batch=8, masked=400)
ALL = ("flip_horizontal", "flip_vertical", "rotate_90", "rotate_180", "rotate_270", "transpose", "anti_transpose")
PLAN = Plan(5, 5, 1.0, 1000, 9, ("identity", "flip_horizontal"))


def load(tmp_path, drafted):
    path = tmp_path / "mine.toml"
    path.write_text(to_text(drafted))
    return config.load(path)


@pytest.mark.parametrize("updates", [40, 123, 500, 2000])
@pytest.mark.parametrize("epochs", [2, 4, 9, 16])
def test_the_config_has_the_updates_and_epochs_of_the_plan(tmp_path, updates, epochs):
    plan = PLAN._replace(updates=updates, epochs=epochs)
    cfg = load(tmp_path, planned(draft(), plan, COUNTS, draws=320))
    per_epoch = [round(320 * phase.repeats) // 8 for phase in cfg.train.phases]
    found = sum(each * phase.epochs for each, phase in zip(per_epoch, cfg.train.phases, strict=True))
    assert abs(found - updates) <= sum(per_epoch) / 2 + 1  # a phase has whole epochs
    assert sum(phase.epochs for phase in cfg.train.phases) <= epochs + 1
    first, second = (each * phase.epochs / found for each, phase in zip(per_epoch, cfg.train.phases, strict=True))
    assert first == pytest.approx(2 / 3, abs=0.2)  # as in the draft: 4 and 2 epochs
    assert second > 0


def test_a_plan_of_all_folds_names_none(tmp_path):
    assert load(tmp_path, planned(draft(), PLAN, COUNTS, draws=320)).folds.only == ()


def test_a_plan_of_some_folds_names_the_first_ones(tmp_path):
    cfg = load(tmp_path, planned(draft(), PLAN._replace(folds=2, views=("identity",)), COUNTS, draws=320))
    assert (cfg.folds.only, cfg.predict.views, cfg.folds.count) == ((0, 1), ("identity",), 5)


def test_a_smaller_size_shrinks_images_and_crops_alike(tmp_path):
    drafted = draft(shorter=same(512), longer=same(512), diameter=same(60), thickness=same(30), extent=same(60))
    crop = drafted.value("train.phases.0.crop")
    cfg = load(tmp_path, planned(drafted, PLAN._replace(size=0.5), COUNTS, draws=320))
    assert cfg.data.size.factor == 0.5
    assert {phase.crop for phase in cfg.train.phases} == {crop // 2}


def test_objects_must_stay_large_enough_for_a_smaller_size():
    sides = {"shorter": same(512), "longer": same(512), "extent": same(60)}

    def sizes(**found):
        return choices_of(draft(**sides, **found), replace(PLAIN, **sides, **found)).sizes

    assert sizes(diameter=same(60), thickness=same(30)) == (1.0, 0.75, 0.5)
    assert sizes(diameter=same(30), thickness=same(30)) == (1.0, 0.75)
    assert sizes(diameter=same(20), thickness=same(30)) == (1.0,)
    assert sizes(diameter=same(60), thickness=same(5)) == (1.0,)
    assert sizes(diameter=None, thickness=None) == (1.0,)


def test_last_sizes_ignore_the_objects_but_not_the_network():
    def last_sizes(side, diameter):
        found = {"shorter": same(side), "longer": same(side), "extent": same(60), "thickness": same(30)}
        found["diameter"] = same(diameter)
        return choices_of(draft(**found), replace(PLAIN, **found)).last_sizes

    assert last_sizes(512, diameter=60) == (0.35, 0.25)  # .5 is one of the sizes that keep the objects
    assert last_sizes(512, diameter=20) == (0.5, 0.35, 0.25)
    assert last_sizes(256, diameter=20) == (0.5,)  # at .35 the images would be too small


def test_windows_of_large_images_shrink_with_their_crops(tmp_path):
    sides = {
        "shorter": same(6000),
        "longer": same(6000),
        "diameter": same(60),
        "thickness": same(30),
        "extent": same(60),
    }
    drafted = draft(**sides)
    windows, crop = drafted.value("data.crops"), drafted.value("train.phases.0.crop")
    for size in (0.5, *choices_of(drafted, replace(PLAIN, **sides)).last_sizes):
        cfg = load(tmp_path, planned(drafted, PLAN._replace(size=size), COUNTS, draws=320))
        assert cfg.data.size.factor == size
        assert cfg.data.crops.size == pytest.approx(size * windows["size"], abs=1)
        assert cfg.data.crops.stride == pytest.approx(size * windows["stride"], abs=1)
        assert cfg.data.crops.size >= cfg.train.phases[0].crop >= min(64, size * crop)


def test_views_are_given_up_from_the_last_on():
    drafted = draft(symmetries=ALL)
    views = tuple(drafted.value("predict.views"))
    assert choices_of(drafted, PLAIN).views == (views, views[:2], views[:1])


def test_a_short_training_has_weaker_augmentation():
    sides = {"shorter": same(512), "longer": same(600), "symmetries": ALL}
    assert draft(**sides).value("train.phases.0.augment") == "medium"
    long, short = (
        planned(draft(**sides), PLAN._replace(updates=updates), COUNTS, draws=320) for updates in (SHORT, SHORT - 1)
    )
    assert long.value("train.phases.0.augment") == "medium"
    assert [short.value(f"train.phases.{number}.augment") for number in (0, 1)] == ["light", "light"]


def test_a_short_training_has_higher_learning_rates():
    rates = [
        planned(draft(), PLAN._replace(updates=updates), COUNTS, draws=320).value(f"train.phases.{number}.lr")
        for updates in (SHORT, SHORT - 1)
        for number in (0, 1)
    ]
    assert rates == [2e-3, 5e-4, 4e-3, 1e-3]


def test_of_many_held_out_images_some_score_an_epoch(tmp_path):
    few, many = (
        load(tmp_path, planned(draft(), PLAN, COUNTS._replace(train=train), draws=320)) for train in (100, 400)
    )
    assert few.train.validation_images is None
    assert many.train.validation_images == VALIDATED
