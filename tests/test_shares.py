"""Thresholds by share of an image, a volume or the test set: by hand, against loops over pixels, and in the choice."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.cli.stages import _format_rules
from pipeline.ensemble.candidate_rules import search_candidates
from pipeline.ensemble.evaluation import mean_score
from pipeline.ensemble.renderer import Postprocess, Renderer
from pipeline.ensemble.selection import Oof, select_multilabel
from pipeline.metrics import VOID, count, metric_names, pixel_metric, stack
from pipeline.postprocess.rule_variants import VariantSearch
from pipeline.postprocess.rules import Rules, apply, at_place, with_threshold
from pipeline.postprocess.search import RULE_SETS, RuleSearch, rule_sets_of
from pipeline.postprocess.shares import SHARES, Histograms, Place, histogram_of
from pipeline.postprocess.threshold_counts import THRESHOLDS
from pipeline.report.plots import score_surface
from pipeline.serving.spool import spool
from pipeline.stages.reporting import make_score_surface

DICE = pixel_metric("mean_dice")
WITHOUT_HEAD = [name for name in RULE_SETS if name not in ("gate", "group")]
SHARE_SETS = [name for name, rule_set in RULE_SETS.items() if rule_set.pool]


def slow_masks(rules, images):
    """The masks of one pool's images: every level is tried on all pixels, from the highest; of equals the first."""
    pixels = np.concatenate([values.ravel() for values in images]).astype(np.int64)
    total = len(pixels) if rules.share_of == "pixels" else pixels.sum() / 255
    distance = {level: abs((pixels >= level).sum() - rules.share * total) for level in range(256, 0, -1)}
    lowest = max(min(distance, key=distance.get), round(rules.threshold * 255 + 0.5))
    return [(values >= lowest).astype(np.uint8) for values in images]


def pool_of(rules, place):
    """What tells the pool of an image from other pools."""
    return {"volume": place.volume, "test set": place.fold}[rules.share_in]


def slow_scores(rules, images, metric):
    """The scores of images, (values, target, place) each, by the masks of their pools."""
    pools = range(len(images)) if rules.share_in == "image" else [pool_of(rules, place) for *_, place in images]
    masks = [None] * len(images)
    for pool in set(pools):
        rows = [row for row, each in enumerate(pools) if each == pool]
        for row, mask in zip(rows, slow_masks(rules, [images[row][0] for row in rows]), strict=True):
            masks[row] = mask
    return metric.scores(stack(count(mask, image[1]) for mask, image in zip(masks, images, strict=True)))


def search(images, metric=DICE, rule_sets=tuple(RULE_SETS)):
    found = RuleSearch(metric, np.array([0, 2, 5]), rule_sets=rule_sets)
    for image in images:
        found.add(*image)
    return found


# Levels


@pytest.mark.parametrize(
    ("share", "lowest"),
    [(0.3, 50), (0.2, 200), (0.1, 250), (0.16, 200), (0.14, 250), (0.05, 256), (0.01, 256)],
)
def test_the_mask_nearest_to_the_share_by_hand(share, lowest):
    # One pixel of 250, one of 200 and one of 50 among ten. At a share of .05 one pixel and none are equally near, and
    # none wins.
    values = np.array([[250, 200, 50, 0, 0, 0, 0, 0, 0, 0]], np.uint8)
    assert np.array_equal(apply(values, Rules(THRESHOLDS[0], 0, share=share)), values >= lowest)


def test_the_expected_foreground_by_hand():
    # The sum of probabilities is 3: three pixels of the highest probability, whatever the values.
    values = np.array([[204, 204, 204, 51, 51, 51]], np.uint8)
    assert apply(values, Rules(THRESHOLDS[0], 0, share=1.0, share_of="expected")).tolist() == [[1, 1, 1, 0, 0, 0]]
    assert apply(values, Rules(0.9, 0, share=1.0, share_of="expected")).sum() == 0  # none reaches the lowest threshold
    assert apply(values, Rules(THRESHOLDS[0], 0, share=2.0, share_of="expected")).sum() == 6


def test_a_share_of_the_test_set_is_distributed_over_its_images():
    # Four of sixteen pixels, all in the brighter image; a fixed rule of an image takes two in each.
    dark, bright = np.full((2, 4), 10, np.uint8), np.full((2, 4), 10, np.uint8)
    dark[0, :2], bright[0] = 100, (200, 201, 202, 203)
    histograms = Histograms()
    for values in (dark, bright):
        histograms.add(histogram_of(values), Place())
    rules = Rules(THRESHOLDS[0], 0, share=0.25, share_in="test set")
    here = at_place(rules, Place(), histograms)
    assert not here.pooled
    assert [apply(values, here).sum() for values in (dark, bright)] == [0, 4]
    assert [apply(values, rules._replace(share_in="image")).sum() for values in (dark, bright)] == [2, 2]


def test_a_share_of_several_images_is_refused_for_one():
    with pytest.raises(ValueError, match="a share of the volume is no threshold of one image"):
        apply(np.zeros((2, 2), np.uint8), Rules(0.5, 0, share=0.1, share_in="volume"))
    with pytest.raises(ValueError, match="no image was read"):
        at_place(Rules(0.5, 0, share=0.1, share_in="volume"), Place(0, "v"), Histograms())


@given(arrays(np.uint8, (4, 5)), st.sampled_from([*SHARES["pixels"], *SHARES["expected"]]), st.data())
def test_a_threshold_in_place_of_a_share_gives_the_same_mask(values, share, data):
    share_of, threshold = data.draw(st.sampled_from(list(SHARES))), data.draw(st.sampled_from(THRESHOLDS.tolist()))
    rules = Rules(threshold, 0, share=float(share), share_of=share_of)
    (expected,) = slow_masks(rules, [values])
    assert np.array_equal(apply(values, rules), expected)
    assert np.array_equal(apply(values, with_threshold(rules, histogram_of(values))), expected)


# The search


@st.composite
def placed_images(draw):
    """Images of two folds, each of two volumes; one volume has slices in both."""
    values = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 3, 40, 127, 128, 150, 220, 255]))
    target = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, VOID])) | st.just(np.zeros((4, 5), np.uint8))
    places = st.sampled_from([Place(0, "a"), Place(0, "b"), Place(1, "b"), Place(1, "c")])
    return [(draw(values), draw(target), draw(places)) for _ in range(draw(st.integers(1, 6)))]


@pytest.mark.parametrize("name", metric_names("pixels", complete=True))
@settings(max_examples=8, deadline=None)
@given(placed_images())
def test_grids_equal_a_loop_over_the_pixels_of_each_pool(name, images):
    metric = pixel_metric(name)
    grids = search(images, metric, SHARE_SETS).grids()
    assert list(grids) == SHARE_SETS
    for rule_set, grid in grids.items():
        for share, threshold in ((0, 0), (13, 127), (20, 40), (-1, 254)):
            rules = Rules(THRESHOLDS[threshold], 0, share=float(grid.axes["share"][share]), **RULE_SETS[rule_set].fixed)
            scores = slow_scores(rules, images, metric)
            for fold in grid.folds.tolist():
                mean = scores.take(np.array([place.fold == fold for *_, place in images])).mean()
                if not np.isnan(mean):
                    assert grid.score(rules, [fold]) == pytest.approx(mean, abs=1e-12)


@settings(max_examples=10, deadline=None)
@given(placed_images(), st.sampled_from(SHARE_SETS))
def test_variants_of_shares_equal_a_loop_with_apply(images, rule_set):
    found = search(images, DICE, [rule_set])
    rules = found.grids()[rule_set].best()[0]
    variants = VariantSearch(DICE, [rules, Rules(0.5, 0)], found.histograms)
    for image in images:
        variants.add(*image)
    scores = variants.scores()
    for each in list(scores.columns)[::41]:
        masks = (apply(values, at_place(each, place, found.histograms)) for values, _, place in images)
        counts = stack(count(mask, target) for mask, (_, target, _) in zip(masks, images, strict=True))
        assert scores.score(each) == pytest.approx(DICE.scores(counts).mean(), abs=1e-12)


def test_shares_of_volumes_are_left_out_if_an_image_is_in_none():
    values, target = np.full((2, 2), 200, np.uint8), np.ones((2, 2), np.uint8)
    images = [(values, target, Place(0, "a")), (values, target, Place(1))]
    missing = [name for name in WITHOUT_HEAD if name not in search(images).grids()]
    assert missing == ["volume share", "volume expected"]


# The choice

FOLDS = (0, 1, 2, 3)


def discs(brightness_of, *, areas, folds=4, volume_size=1, seed=0):
    """Blurred discs of given areas on images of 32 × 32. The order of the pixels is right, their brightness is not.

    Args:
        brightness_of: from random numbers and an image's number to the factor of its values.
    """
    rng = np.random.default_rng(seed)
    rows, columns = np.ogrid[:32, :32]
    for number, area in enumerate(areas):
        distance = np.hypot(rows - rng.uniform(10, 22), columns - rng.uniform(10, 22))
        radius = np.sqrt(area / np.pi)
        target = (distance < radius).astype(np.uint8)
        soft = 1 / (1 + np.exp(distance - radius)) + rng.normal(0, 0.02, distance.shape)
        values = np.rint(255 * np.clip(soft * brightness_of(rng, number), 0, 1)).astype(np.uint8)
        volume = number // volume_size
        yield values, target, Place(volume % folds, f"v{volume}")


def choose(images, rule_sets=tuple(RULE_SETS)):
    """The choice on all folds, and the cross-fitted scores of the rule sets' best rules."""
    images = list(images)

    def images_of(keys):
        return ((key, *image) for image in images for key in keys)

    found = search_candidates(images_of, DICE, {"": [FOLDS]}, rule_sets)[""]
    return found, found.best(FOLDS)


def base_of(found):
    return found.base_of[FOLDS]


def test_a_share_of_each_image_wins_where_areas_are_equal_and_brightness_is_not():
    found, (_, rules) = choose(discs(lambda rng, _: rng.uniform(0.4, 1), areas=[100] * 24))
    assert base_of(found) in ("image share", "image expected")
    assert rules.share_in == "image"
    assert rules.share is not None
    assert found.grids[base_of(found)].best(FOLDS)[1] > 0.03 + found.grids["total"].best(FOLDS)[1]


def test_a_share_of_each_volume_wins_where_brightness_is_the_volumes():
    # Areas of slices differ, those of whole volumes hardly.
    areas = np.tile([20, 40, 80, 160, 80, 40], 12)
    brightness = np.random.default_rng(1).uniform(0.4, 1, 12)
    found, (_, rules) = choose(discs(lambda _, number: brightness[number // 6], areas=areas, volume_size=6))
    assert base_of(found) == "volume share"
    assert rules.share_in == "volume"


def test_a_share_of_the_test_set_wins_where_brightness_is_the_models():
    # Each fold has its model, and models differ in brightness; areas of images and volumes differ.
    areas = np.random.default_rng(2).choice([10, 30, 90, 200], 80)
    found, (_, rules) = choose(discs(lambda _, number: (0.45, 0.6, 0.8, 1)[number % 4], areas=areas))
    assert base_of(found) == "test share"
    assert rules.share_in == "test set"
    assert 0.5 * np.mean(areas) < rules.share * 32 * 32 < 1.5 * np.mean(areas)


@pytest.mark.parametrize("pools", [(), ("image",), ("image", "volume")])
def test_only_shares_of_the_given_pools_are_tried(pools):
    brightness = np.random.default_rng(1).uniform(0.4, 1, 12)
    images = discs(lambda _, number: brightness[number // 6], areas=[100] * 72, volume_size=6)
    found, (_, rules) = choose(images, rule_sets_of(pools))
    assert {RULE_SETS[name].pool for name in found.grids} == {None, *pools}
    assert (rules.share is None) == (not pools)


def test_a_share_that_helps_in_sample_only_is_not_selected():
    # All pixels of an image differ. In fold 0, the brightest 8 of 64 are the object of three dark images; in each other
    # fold, those above a half are, 20, 30 or 10. In sample, a share of about 1/8 wins. It is not chosen without fold 0,
    # and wrong in the other folds.
    ramp = np.arange(64, dtype=np.uint8).reshape(8, 8)
    images = [(ramp + np.uint8(more), (ramp >= 56).astype(np.uint8), Place(0, f"a{more}")) for more in (0, 12, 24)]
    images += [
        (ramp + np.uint8(64 + area), (ramp >= 64 - area).astype(np.uint8), Place(fold, f"b{fold}"))
        for fold, area in ((1, 20), (2, 30), (3, 10)) * 2
    ]
    names = ["total", "image share"]
    found, (_, rules) = choose(images, names)
    best = {name: found.grids[name].best(FOLDS) for name in names}
    assert best["image share"][0].share == pytest.approx(1 / 8, abs=0.03)
    assert best["image share"][1] > 0.05 + best["total"][1]
    assert rules.share is None


def test_where_no_share_is_needed_none_is_selected():
    areas = np.random.default_rng(3).choice([0, 10, 30, 90, 200], 32)
    assert choose(discs(lambda _rng, _number: 1, areas=areas))[1][1].share is None


# The selection


@pytest.mark.parametrize("share_in", ["image", "volume", "test set"])
def test_masks_of_every_pass_equal_those_of_the_pools_pixels(monkeypatch, share_in):
    rules = Rules(0.1, 0, share=0.1, share_in=share_in)
    monkeypatch.setattr("pipeline.ensemble.candidate_rules.CandidateRules.best", lambda *_: ("variants", rules))
    brightness = (0.45, 0.6, 0.8, 1)
    images = list(discs(lambda _, number: brightness[number % 4], areas=[20, 90, 200] * 6, folds=3, volume_size=2))
    known = {f"{number}": (values[None, None], target[None]) for number, (values, target, _) in enumerate(images)}
    volume_of = {f"{number}": place.volume for number, (*_, place) in enumerate(images)}
    folds = np.array([place.fold for *_, place in images])
    oof = Oof(list(known), folds, known.__getitem__, 1, lambda items, _: items, volume_of.__getitem__)
    expected = slow_scores(rules, images, DICE)
    selection = select_multilabel(oof, DICE, 1)
    assert np.allclose(selection.scores.per_image(), expected.per_image(), atol=1e-12)
    assert selection.in_sample == pytest.approx(expected.mean())
    assert mean_score(selection.renderer, oof, "mean_dice") == pytest.approx(expected.mean())
    assert selection.renderer.pooled == (share_in != "image")
    for image_id, place in oof.places.items():
        held_out, (values, target) = selection.held_out(place), known[image_id]
        assert not held_out.pooled
        found = DICE.scores(stack([count(held_out.masks(held_out.combine(values))[0], target[0])])).mean()
        assert found == pytest.approx(expected.per_image()[int(image_id)])


class Disk(BytesIO):
    """A temporary file in memory."""

    def __init__(self, buffering):
        super().__init__()


class FullDisk(Disk):
    """A file that takes only half of the second image."""

    images = 0

    def write(self, data):
        self.images += bool(data)
        return super().write(data[: len(data) // 2] if self.images == 2 and data else data)


@pytest.mark.parametrize("disk", [Disk, FullDisk])
def test_spooled_predictions_come_back_in_order_with_the_thresholds_of_all(monkeypatch, disk):
    dark, bright = np.full((1, 2, 4), 10, np.uint8), np.full((1, 2, 4), 10, np.uint8)
    dark[0, 0, :2], bright[0, 0] = 100, 200
    rules = Rules(THRESHOLDS[0], 0, share=0.25, share_in="test set")
    renderer, problems = Renderer((Postprocess("mean", (1.0,), "test share", rules),)), {}
    monkeypatch.setattr("tempfile.TemporaryFile", disk)
    images = [("a", dark), ("b", None), ("c", bright)]
    images[1:1] = [("lost", np.full((1, 2, 4), 250, np.uint8))] * (disk is FullDisk)
    kept, renderer_of = spool(iter(images), renderer, lambda _: Place(), problems.__setitem__)
    found = dict(kept)
    assert list(found) == [name for name, _ in images]
    assert {name for name, values in found.items() if values is None} == {"b", *problems}
    assert list(problems) == ["lost"] * (disk is FullDisk)
    assert np.array_equal(found["a"], dark)
    assert [renderer_of(name).masks(found[name]).sum() for name in ("a", "c")] == [0, 4]


# The report and the command line


def test_report_and_command_line_name_the_share_and_its_pool():
    grid = search(discs(lambda _, number: 0.5 + number % 2 / 2, areas=[100] * 8)).grids()["test share"]
    rules, score = grid.best()
    surface = make_score_surface(grid, rules._replace(fill_holes=True))
    assert (np.diff(surface.areas) > 0).all()
    assert surface.scores.max() == pytest.approx(score)
    row = surface.areas.tolist().index(surface.best.area)
    assert surface.scores[row, round(surface.best.threshold * 255 - 0.5)] == pytest.approx(score)
    raised = f"raised until the masks of the whole test set cover {rules.share:.3g} of its pixels"
    assert surface.rules == (raised, "holes are filled")
    assert score_surface("salt", surface).axes[0].get_ylabel() == "share of the test set's pixels"
    text = _format_rules(rules)
    assert text == f"threshold {rules.threshold:.4g}, share {rules.share:.4g} of the pixels of the test set"
    expected = Rules(0.5, 0, share=1.5, share_of="expected")
    assert _format_rules(expected) == "threshold 0.5, share 1.5 of the expected foreground of the image"
    assert _format_rules(Rules(0.5, 8)) == "threshold 0.5, min_area 8"
