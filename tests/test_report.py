"""The report: its contents, what it omits, and that it needs no other files."""

import base64
import io
import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import config, stages
from pipeline.ensemble.renderer import ARGMAX, Postprocess, Renderer
from pipeline.ensemble.selection import Oof, Selection
from pipeline.postprocess.rules import Rules, apply
from pipeline.postprocess.threshold_counts import THRESHOLDS, count_by_label
from pipeline.report import overlays, page, pictures, plots, subgroups
from pipeline.report.label_quality import calibration_error, label_error_score, reliability
from pipeline.report.page import render, to_cell, to_table, write_report
from pipeline.report.recommendations import recommend
from pipeline.report.report_data import CrossFittedScore, Picture, SimulatedShakeup, Submission, SurfacePoint
from pipeline.stages.reporting import describe_rules, make_score_surface, rules_table
from pipeline.statistics.bootstrap import Interval
from tests.reports import (
    draw,
    make_bare_report_data,
    make_history,
    make_images,
    make_like_test,
    make_report_data,
    make_surface,
    number_of,
)
from tests.test_choice import dice_by_hand, make_oof, search, select, select_rows

# ---------------------------------------------------------------------------------------------- label errors


def test_pixels_are_counted_by_label_and_value():
    rng = np.random.default_rng(0)
    values, target = rng.integers(0, 256, (9, 7), np.uint8), rng.integers(0, 2, (9, 7), np.uint8)
    counts = count_by_label(values, target)
    slow = np.zeros((2, 256), int)
    for label, value in zip(target.ravel(), values.ravel(), strict=True):
        slow[label, value] += 1
    np.testing.assert_array_equal(counts, slow)


def test_label_error_score_by_hand():
    # Labelled as mask: 19 · 250, 5 · 200 and 5 · 10, on average 200, from which on a mask is sure. Labelled as none:
    # 10 · 200 and 190 · 0, on average 10, up to which none is sure.
    counts = np.zeros((2, 2, 256), int)
    counts[0, 1, 250], counts[0, 0, 0] = 19, 90
    counts[1, 1, [200, 10]], counts[1, 0, [200, 0]] = 5, [10, 100]
    np.testing.assert_allclose(label_error_score(counts), [0, (10 + 5) / (10 + 10 + 0.001 * 120)])


def test_a_shifted_label_has_the_highest_label_error_score_and_blurred_outlines_have_a_low_one():
    pairs = [(picture.values, picture.target) for picture in map(draw, range(20))]
    pairs[7] = (pairs[7][0], np.roll(pairs[7][1], 9, axis=1))
    found = label_error_score(np.stack([count_by_label(*pair) for pair in pairs]))
    assert found.argmax() == 7
    assert found[7] > 0.5
    assert np.delete(found, 7).max() < pictures.LABEL_ERROR


def test_a_missing_label_has_a_high_label_error_score():
    pairs = [(picture.values, picture.target) for picture in map(draw, range(20))]
    pairs[8] = (pairs[8][0], np.zeros_like(pairs[8][1]))
    assert label_error_score(np.stack([count_by_label(*pair) for pair in pairs]))[8] > 0.9


def test_one_false_pixel_on_an_empty_image_scores_below_a_wrong_label():
    counts = np.zeros((2, 2, 256), int)
    counts[0, 0, 0], counts[0, 0, 255] = 9999, 1
    counts[1, 0, 0], counts[1, 1, 255], counts[1, 1, 0] = 9000, 800, 200
    stray, wrong = label_error_score(counts)
    assert stray < wrong


def test_label_error_score_is_0_if_no_pixel_is_labelled():
    counts = np.zeros((3, 2, 256), int)
    counts[:, 0, [0, 255]] = 7
    assert label_error_score(counts).tolist() == [0, 0, 0]


def test_reliability_by_hand():
    counts = np.zeros((2, 256), int)
    counts[0, [0, 51]], counts[1, 51] = [90, 6], 4  # a tenth of the pixels at .2, four in ten of them masked
    table = reliability(counts, bins=5)
    assert table.to_dict("list") == {
        "bin": [0, 1],
        "probability": pytest.approx([0, 0.2]),
        "share": pytest.approx([0, 0.4]),
        "pixels": [90, 10],
    }
    assert calibration_error(table) == pytest.approx(0.1 * 0.2)


def test_reliability_counts_every_pixel_once_and_calibrated_values_have_no_error():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (400, 400), np.uint8)
    table = reliability(count_by_label(values, (rng.random(values.shape) < values / 255).astype(np.uint8)))
    assert table["pixels"].sum() == values.size
    assert len(table) == 15
    assert calibration_error(table) < 0.01


def test_calibration_error_of_no_pixel_is_not_a_number():
    assert np.isnan(calibration_error(reliability(np.zeros((2, 256), int))))


# ---------------------------------------------------------------------------------------------- pictures


def fill(path: str, shape: tuple[int, int]) -> np.ndarray:
    """Fill an outline of `outline` without holes."""
    mask = np.zeros(shape, np.uint8)
    for piece in path.split("z")[:-1]:
        numbers = np.array(re.findall(r"-?\d+", piece), dtype=np.int32).reshape(-1, 2)
        cv2.fillPoly(mask, [numbers.cumsum(axis=0, dtype=np.int32)], 1)
    return mask


@pytest.mark.parametrize("seed", range(5))
def test_filling_an_outline_gives_the_mask(seed):
    rng = np.random.default_rng(seed)
    mask = np.zeros((40, 50), np.uint8)
    for x in (5, 24, 42):  # separated, so that they enclose no hole
        cv2.circle(mask, (x, int(rng.integers(0, 40))), int(rng.integers(0, 8)), 1, cv2.FILLED)
    np.testing.assert_array_equal(fill(pictures.outline(mask, side=64), mask.shape), mask)


def test_an_outline_includes_holes():
    ring = np.pad(np.ones((9, 9)), 3)
    ring[6:9, 6:9] = 0
    assert pictures.outline(ring, side=64).count("z") == 2


def test_an_empty_mask_has_no_outline():
    assert pictures.outline(np.zeros((5, 5)), side=64) == ""


def test_an_outline_of_thousands_of_pieces_is_short_and_keeps_the_longest():
    specks = np.zeros((600, 600), np.uint8)
    specks[::2, ::2] = 1
    specks[200:300, 200:300] = 1
    path = pictures.outline(specks, side=600)
    assert len(path) < 30_000
    assert fill(path, specks.shape)[250, 250] == 1


def test_an_outline_of_a_large_image_has_its_pixel_coordinates():
    large = np.zeros((2000, 3000), np.uint8)
    cv2.circle(large, (2500, 1000), 300, 1, cv2.FILLED)
    path = pictures.outline(large, side=256)
    overlap = (fill(path, large.shape) & large).sum() * 2 / (fill(path, large.shape).sum() + large.sum())
    assert overlap > 0.98
    assert len(path) < 1000


def decode(uri: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_tile_holds_small_pictures_of_the_whole_image(channels):
    image = np.full((100, 60, channels), 90, np.uint8)
    values = np.repeat(np.arange(100, dtype=np.uint8)[:, None] * 2, 60, axis=1)
    shown = Picture(image, values > 100, values, values > 128)
    (tile,) = pictures.tiles(make_images().head(1), lambda _: shown, side=50)
    assert (tile.height, tile.width) == (100, 60)
    assert decode(tile.image).size == decode(tile.heatmap).size == (30, 50)
    brightness = np.asarray(decode(tile.heatmap).convert("L")).mean(axis=1)
    assert brightness[0] < brightness[25] < brightness[49]


def test_a_small_image_is_not_enlarged():
    (tile,) = pictures.tiles(make_images().head(1), lambda _: draw(3), side=500)
    assert decode(tile.image).size == (32, 32)


def test_galleries_choose_by_score_and_label_error_score():
    images = make_images().assign(score=np.linspace(0, 1, 60), label_error_score=np.linspace(0.2, 0, 60))
    assert pictures.worst(images)["image_id"].tolist() == [f"image{number:03}" for number in range(12)]
    # Image 50 is the last but nine, and every tenth is empty.
    assert pictures.best(images)["image_id"].tolist() == [f"image{number:03}" for number in range(59, 53, -1)]
    assert pictures.likely_label_errors(images)["label_error_score"].min() >= pictures.LABEL_ERROR
    assert pictures.likely_label_errors(images)["image_id"].iloc[0] == "image000"
    assert len(pictures.with_label_errors(images)) == 30


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (40, {"best": range(39, 33, -1), "middle": range(22, 16, -1), "worst": range(5, -1, -1)}),
        (18, {"best": range(17, 11, -1), "middle": range(11, 5, -1), "worst": range(5, -1, -1)}),
        (4, {"best": [3, 2], "middle": [1], "worst": [0]}),
        (1, {"best": [0]}),
        (0, {}),
    ],
)
def test_the_examples_are_the_best_the_middle_and_the_worst_and_of_few_images_each_once(count, shown):
    scores = pd.DataFrame({"score": np.arange(count) / 40})
    examples = overlays.choose_examples(scores.sample(frac=1, random_state=0))
    assert {name: rows.index.tolist() for name, rows in examples.items()} == {
        name: list(numbers) for name, numbers in shown.items()
    }


def test_best_images_have_a_mask():
    images = make_images().assign(score=lambda table: (table["coverage"] == 0).astype(float))
    assert (pictures.best(images)["coverage"] > 0).all()


def test_at_equal_scores_the_image_with_the_larger_coverage_error_is_worse():
    images = make_images().assign(score=0.0)
    images.loc[5, "predicted"] = 0.9
    assert pictures.worst(images)["image_id"].iloc[0] == "image005"


# ---------------------------------------------------------------------------------------------- charts


def test_a_phase_starts_at_the_same_epoch_in_all_folds_if_one_ended_early():
    history = make_history().query("not (fold == 1 and phase == 1 and epoch == 3)")
    placed, before = plots.add_global_epoch(history)
    assert before == {1: 0, 2: 3}
    assert placed.query("phase == 2 and epoch == 1")["x"].tolist() == [4, 4, 4]


def test_plateau_by_hand():
    # .9 − (t − .5)² is within .001 of .9 where |t − .5| ≤ .0316.
    low, high = plots.plateau(make_surface())
    assert low == pytest.approx(0.5 - 0.0316, abs=1 / 255)
    assert high == pytest.approx(0.5 + 0.0316, abs=1 / 255)


def test_a_chart_is_well_formed_follows_the_colour_scheme_and_is_reproducible():
    one, other = (plots.svg(plots.learning_curve, make_history(), "score") for _ in range(2))
    assert one == other
    text = base64.b64decode(one.split(",")[1]).decode()
    ElementTree.fromstring(text)
    assert "prefers-color-scheme: dark" in text
    assert "var(--main)" in text
    elements = text.split("</style>")[1]
    assert not any(colour in elements for colour in plots.THEME)
    assert "DejaVu" not in text


def words(uri: str) -> list[str]:
    """All text in a chart."""
    root = ElementTree.fromstring(base64.b64decode(uri.split(",")[1]))
    return ["".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")]


def test_a_name_in_a_chart_is_plain_text():
    for name in ("$x_1$", "<b>&"):
        assert f"threshold for {name}" in words(plots.svg(plots.score_surface, name, make_surface()))


@pytest.mark.usefixtures("no_charts")
def test_the_page_lists_the_correlation_of_the_members_errors():
    correlation = pd.DataFrame({"errors of": ["$x_1$", "<b>&"], "$x_1$": [1.0, np.nan], "<b>&": [np.nan, 1.0]})
    members = make_report_data().members._replace(correlation=correlation)
    text = render(make_report_data(members=members)).split("<h3>correlation of the errors</h3>")[1].split("</table>")[0]
    assert re.findall(r"<td[^>]*>(.*?)</td>", text) == ["$x_1$", "1.0000", "–", "&lt;b&gt;&amp;", "–", "1.0000"]


@pytest.mark.slow
def test_powers_of_ten_are_numbers_and_not_formulas():
    written = words(plots.svg(plots.reliability_curve, make_report_data().reliability))
    assert "pixels" in written
    assert not [word for word in written if "$" in word or "math" in word]


def test_many_points_are_drawn_as_pixels():
    many = pd.concat([make_images()] * 400, ignore_index=True)
    assert len(plots.svg(plots.coverage_scatter, many, True)) < 200_000


# ---------------------------------------------------------------------------------------------- rules


@pytest.fixture(scope="module")
def discs_and_specks():
    """The selection for discs beside specks of noise, which the rule set `components` removes."""
    return select(make_oof([60]))


@pytest.fixture(scope="module")
def grids():
    """The scores of each rule set on the same images."""
    return search(make_oof([60]))


def with_final(selection: Selection, rule_set: str, rules: Rules | None, folds: tuple[int, ...] = ()) -> Selection:
    """The selection with other rules chosen on all folds, and the same without each of some folds."""
    part = selection.renderer.parts[0]
    renderer = Renderer((Postprocess(part.combination, part.weights, rule_set, rules),))
    return replace(selection, renderer=renderer, by_fold=dict.fromkeys(folds, renderer))


def score_by_masks(oof: Oof, rules: Rules) -> float:
    pairs = [oof.read(image_id) for image_id in oof.image_ids]
    return np.mean([dice_by_hand(apply(values[0], rules), target) for values, target in pairs])


AREA = {"total": "min_area", "components": "min_component", "triplet": "presence_area"}


@pytest.mark.parametrize("rule_set", AREA)
def test_score_surface_has_its_maximum_at_the_best_rules(grids, rule_set):
    rules, _ = grids[rule_set].best()
    surface = make_score_surface(grids[rule_set], rules)
    assert surface.rule_set == rule_set
    assert surface.best == (rules.threshold, getattr(rules, AREA[rule_set]), rules.presence_threshold)
    row, column = np.flatnonzero(surface.areas == surface.best.area), np.flatnonzero(rules.threshold == THRESHOLDS)
    assert surface.scores[row, column] == surface.scores.max()
    # Every other point is the score of the masks by its rules, so the grid is that of the rule set.
    other = rules._replace(threshold=THRESHOLDS[150], **{AREA[rule_set]: int(surface.areas[9])})
    assert surface.scores[9, 150] == pytest.approx(score_by_masks(make_oof([60]), other))


def test_each_point_is_the_best_of_the_rule_set_without_its_fold(grids):
    points = make_score_surface(grids["components"], grids["components"].best()[0]).per_fold
    for fold, point in points.items():
        rest = select_rows(make_oof([60]), [row for row in range(24) if row % 4 != fold])
        rules, _ = search(rest)["components"].best()
        assert point == (rules.threshold, rules.min_component, 0)
    assert len(points) == 4


def test_a_selection_has_the_grid_of_its_final_rule_set(discs_and_specks, grids):
    (grid,) = discs_and_specks.grids
    assert discs_and_specks.renderer.parts[0].rule_set == "variants"
    assert grid.rule_set == "components"
    assert np.array_equal(grid.means(), grids["components"].means())


def test_rules_table_has_the_rules_of_the_submission_and_of_each_fold(discs_and_specks):
    table = rules_table(["disc"], discs_and_specks)
    parts = [each.parts[0] for each in (discs_and_specks.renderer, *discs_and_specks.by_fold.values())]
    assert table["chosen on"].tolist() == ["all folds", *(f"without fold {fold}" for fold in range(4))]
    assert table["rules"].tolist() == [each.rule_set for each in parts]
    assert table["threshold"].tolist() == [each.rules.threshold for each in parts]
    for column, field in (("component", "min_component"), ("total", "min_area")):
        shown = table[column] if column in table else pd.Series([None] * len(table))
        assert shown.fillna(0).tolist() == [getattr(each.rules, field) for each in parts]


def test_additional_rules_of_a_variant_are_described(discs_and_specks, grids):
    plain, _ = grids["total"].best()
    variant = plain._replace(fill_holes=True, keep_largest=2, presence_threshold=0.9, presence_area=16)
    surface = make_score_surface(grids["total"], variant)
    assert (surface.rule_set, surface.best) == ("total", make_score_surface(grids["total"], plain).best)
    assert surface.rules == (
        *describe_rules(plain, plain),
        "a mask is emptied unless 16 px reach 0.900",
        "only the largest 2 components are kept",
        "holes are filled",
    )
    row = rules_table(["disc"], with_final(discs_and_specks, "variants", variant)).iloc[0]
    assert (row["rules"], row["presence"], row["largest"], row["holes"]) == ("variants", 16, 2, "filled")


def test_rules_table_has_a_column_only_for_rules_in_use(discs_and_specks, grids):
    rules, _ = grids["total"].best()
    plain = with_final(discs_and_specks, "total", rules, folds=(0, 1, 2, 3))
    assert "presence at" not in rules_table(["disc"], plain)
    triplet = rules._replace(presence_threshold=0.9, presence_area=5)
    shown = rules_table(["disc"], replace(plain, renderer=with_final(plain, "triplet", triplet).renderer))
    assert shown.loc[0, ["presence at", "presence"]].tolist() == [0.9, 5]
    assert shown["presence at"][1:].isna().all()


@pytest.mark.usefixtures("no_charts")
def test_the_page_describes_rules_beside_the_rule_set():
    rules = describe_rules(Rules(0.4, 5), Rules(0.4, 5, fill_holes=True))
    surface = make_surface()._replace(best=SurfacePoint(0.4, 5), rules=rules)
    assert "threshold 0.400, a mask of fewer than 5 px is emptied, holes are filled;" in render(
        make_report_data(surfaces={"disc": surface})
    )
    rules = describe_rules(Rules(0.4, 0), Rules(0.4, 0, fill_holes=True))
    alone = surface._replace(best=SurfacePoint(0.4, 0), rules=rules)
    assert "threshold 0.400, holes are filled;" in render(make_report_data(surfaces={"disc": alone}))


def test_rules_table_names_several_classes_and_is_empty_without_rules(discs_and_specks):
    def twice(renderer):
        return Renderer(renderer.parts * 2)

    by_fold = {fold: twice(renderer) for fold, renderer in discs_and_specks.by_fold.items()}
    both = replace(discs_and_specks, renderer=twice(discs_and_specks.renderer), by_fold=by_fold)
    assert rules_table(["disc", "ring"], both)["class"].tolist() == ["disc"] * 5 + ["ring"] * 5
    assert rules_table(["disc", "ring"], with_final(discs_and_specks, ARGMAX, None, folds=(0, 1))).empty


CHOSEN = {
    "total": Rules(0.4, 5),
    "components": Rules(0.4, 0, min_component=5),
    "triplet": Rules(0.4, 0, presence_threshold=0.7, presence_area=5),
}
RULE_TEXTS = {
    "total": "total: threshold 0.400, a mask of fewer than 5 px is emptied;",
    "components": "components: threshold 0.400, components of fewer than 5 px are removed;",
    "triplet": "triplet: threshold 0.400, a mask is emptied unless 5 px reach 0.700;",
}
DRAWN = {
    "total": "smallest total area, pixels",
    "components": "smallest component, pixels",
    "triplet": "presence area at 0.700, pixels",
}


@pytest.mark.parametrize("rules", RULE_TEXTS)
@pytest.mark.usefixtures("no_charts")
def test_the_page_names_the_rules_in_use_with_their_values(rules):
    chosen = CHOSEN[rules]
    surface = make_surface()._replace(
        rule_set=rules,
        best=SurfacePoint(0.4, 5, chosen.presence_threshold),
        rules=describe_rules(chosen, chosen),
    )
    text = render(make_report_data(surfaces={"disc": surface}))
    assert f"For disc, the submission uses {RULE_TEXTS[rules]}" in text
    assert "without one fold the best is 0.480 to 0.520 and 0 to 5 px" in text


@pytest.mark.parametrize("rules", DRAWN)
def test_a_score_surface_labels_its_area_axis(rules):
    surface = make_surface()._replace(rule_set=rules, best=SurfacePoint(0.4, 5, 0.7))
    assert DRAWN[rules] in words(plots.svg(plots.score_surface, "disc", surface))


def test_a_score_surface_omits_areas_that_change_nothing():
    surface = make_surface()
    longer = surface._replace(
        areas=np.array([0, 5, 50, 500, 5000]), scores=np.concatenate([surface.scores, surface.scores[[2, 2]]])
    )
    written = words(plots.svg(plots.score_surface, "disc", longer))
    assert "50" in written
    assert "500" not in written
    assert "5000" not in written


@pytest.mark.usefixtures("no_charts")
def test_rules_without_an_area_are_a_threshold_only():
    assert "For disc, the submission uses total: threshold 0.500, no other rule;" in render(make_report_data())


@pytest.mark.usefixtures("no_charts")
def test_the_page_lists_the_rules_of_each_fold():
    assert re.search(r"without fold 1</td><td[^>]*>components</td>", render(make_report_data()))


@pytest.mark.usefixtures("no_charts")
def test_a_report_has_the_rules_of_the_manifest(submitted):
    ships = json.loads(submitted.with_suffix(".json").read_text())
    text = stages.report([config.load("configs/tiny.toml")]).read_text(encoding="utf-8")
    (row,) = re.findall(r"<tr>(<td[^>]*>all folds</td>.*?)</tr>", text)
    _, rules, threshold, *others = re.findall(r'data-value="([^"]*)"', row)
    assert (rules, float(threshold)) == (ships["rule_set"], ships["threshold"])
    areas = {ships[area] for area in AREA.values() if ships[area]}
    assert areas <= {float(other) for other in others if re.fullmatch(r"[\d.]+", other)}


# ---------------------------------------------------------------------------------------------- recommendations


def test_subgroups_are_of_every_column_of_few_values_and_sorted_from_worst_to_best():
    images = make_images().assign(
        score=lambda table: np.where(table["kind"] == "odd", 0.5, 0.9), site="all", height=256
    )
    images["group"] = images["image_id"].str[:7]  # six groups of ten
    found = subgroups.score_subgroups(images)
    assert list(found) == ["mask size", "kind", "group"]
    assert found["kind"][["subgroup", "images", "score", "worst"]].to_numpy().tolist() == [
        ["odd", 30, pytest.approx(0.5), 0.5],
        ["even", 30, pytest.approx(0.9), 0.9],
    ]


def test_groups_of_one_image_are_no_subgroups():
    images = make_images().assign(group=lambda table: table["image_id"])
    assert "group" not in subgroups.score_subgroups(images)


def test_mask_sizes_are_quarters_of_the_images_with_a_mask():
    images = make_images().assign(coverage=np.maximum(0, np.arange(60) - 19) / 60)  # 20 empties, then 40 that grow
    by_size = subgroups.score_subgroups(images)["mask size"].set_index("subgroup").loc[list(subgroups.MASK_SIZES)]
    assert by_size["images"].tolist() == [20, 10, 10, 10, 10]
    assert by_size["coverage"].is_monotonic_increasing


def test_no_recommendation_is_given_if_nothing_is_unusual():
    assert recommend(make_report_data()) == []


WELL = make_images()
UNUSUAL = {
    "In every fold the last epoch of phase 2": {
        "history": make_history().assign(selection=lambda table: table["epoch"])
    },
    "overfitted: the in-sample score is 0.0200 higher": {
        "score": CrossFittedScore(Interval(0.9, 0.89, 0.91), 0.92, 0.88, 0.4)
    },
    "use threshold .5": {"score": CrossFittedScore(Interval(0.9, 0.89, 0.91), 0.901, 0.905, 0.4)},
    "Fold 1 scores": {"images": WELL.assign(score=WELL["score"] - 0.04 * (WELL["fold"] == 1))},
    "thresholds from 0.20 to 0.80 for disc": {
        "surfaces": {"disc": make_surface()._replace(per_fold={0: SurfacePoint(0.2, 0), 1: SurfacePoint(0.8, 0)})}
    },
    "30 images of kind “odd” score": {"images": WELL.assign(score=WELL["score"] - 0.2 * (WELL["kind"] == "odd"))},
    "On 2 images, confident predictions contradict the label": {
        "images": WELL.assign(label_error_score=np.where(WELL.index < 2, 0.5, 0))
    },
    "the predicted area is 25% larger": {"images": WELL.assign(predicted=1.25 * WELL["coverage"])},
    "calibration error is 0.20": {
        "reliability": make_report_data().reliability.assign(
            share=lambda table: table["probability"] - np.where(table["probability"] > 0.5, 0.2, -0.2)
        )
    },
    "Test images differ (AUC 0.87): noise 9 (train 3). Augment": {
        "like_test": make_like_test(summary="test images differ (AUC 0.87): noise 9 (train 3)", differ=True)
    },
    "90% of the test masks are empty, 0% out of fold": {"submission": Submission(10, 9, np.array([0.0] * 9 + [0.1]))},
}


@pytest.mark.parametrize("text", UNUSUAL)
def test_a_recommendation_quotes_the_unusual_number(text):
    assert any(text in sentence for sentence in recommend(make_report_data(**UNUSUAL[text])))


def test_without_an_interval_no_optimism_is_reported():
    score = CrossFittedScore(Interval(0.9, np.nan, np.nan), 0.92, 0.88, 0.4)
    assert not any("overfitted" in sentence for sentence in recommend(make_report_data(score=score)))


def test_different_thresholds_are_accepted_on_a_broad_plateau():
    surface = make_surface()._replace(per_fold={0: SurfacePoint(0.2, 0), 1: SurfacePoint(0.8, 0)})
    flat = surface._replace(scores=np.full((3, 255), 0.9))
    assert recommend(make_report_data(surfaces={"disc": flat})) == []


# ---------------------------------------------------------------------------------------------- page


@pytest.fixture(scope="module")
def text():
    return render(make_report_data())


@pytest.fixture
def no_charts(monkeypatch):
    """Replace charts, which take a second, for tests of the page."""
    monkeypatch.setattr(plots, "svg", lambda plot, *args: "data:,")


def test_the_page_starts_with_the_cross_fitted_score_and_its_interval(text):
    text = re.sub(r"<[^>]+>|\s+", " ", text.split("<body>")[1])
    assert re.search(r"0\.9000\s+mean_dice, cross-fitted\s+95% interval 0\.8900 to 0\.9100", text)
    assert re.search(r"in-sample\s+0\.9020", text)
    assert re.search(r"optimism\s+\+0\.0020", text)
    assert re.search(r"commit 0123456789\+", text)


def test_the_page_loads_nothing(text):
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert not re.findall(r"url\(|@import", text)
    assert "default-src 'none'" in text


def test_every_picture_has_an_alternative_text(text):
    alts = re.findall(r'<img src="[^"]+" alt="([^"]*)"', text)
    assert len(alts) == text.count("<img")
    assert min(map(len, alts)) > 8


@pytest.mark.slow
def test_the_same_data_gives_the_same_page(text):
    assert render(make_report_data()) == text


@pytest.mark.usefixtures("no_charts")
def test_only_pictures_that_are_shown_are_read():
    asked = []
    data = make_report_data(picture=lambda image_id: asked.append(image_id) or draw(number_of(image_id)))
    render(data)
    assert 0 < len(asked) <= pictures.WORST + pictures.BEST + pictures.LABEL_ERRORS + 2 * pictures.EXTREMES


PARTS = {
    "history": pd.DataFrame(),
    "surfaces": {},
    "members": None,
    "pseudo": None,
    "submission": Submission(0, 0, np.zeros(0)),
    "shakeup": "the metric counts 3.0 effective groups.",
    "like_test": "3 test images are too few",
}
KEYS = {
    "like_test": "test-images",
    "history": "learning",
    "surfaces": "rules",
    "shakeup": "shake-up",
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.usefixtures("no_charts")
def test_a_missing_part_is_omitted_with_a_reason(text, part):
    without, key = render(make_report_data(**{part: PARTS[part]})), KEYS.get(part, part)
    assert f'<section id="{key}"' in text
    assert f'<section id="{key}"' not in without
    assert f'href="#{key}"' not in without
    assert len(left_out(without)) == len(left_out(text)) + 1


def test_the_page_has_the_weighted_score_and_the_images_most_and_least_like_the_test_set(text):
    assert "the score is 0.8995, 95% interval 0.8800 to 0.9100; the weighted images count as many as 55 of" in text
    for key, numbers in (("most-like-test", range(59, 53, -1)), ("least-like-test", range(6))):
        section = text.split(f'<section id="{key}"')[1].split("</section>")[0]
        assert re.findall(r'class="name">image(\d+)<', section) == [f"{number:03}" for number in numbers]


def test_the_effect_of_pseudo_labels_has_an_interval(text):
    assert "demo_pseudo, trained on pseudo-labels, against demo, whose models made them" in text
    assert "-0.0007, 95% interval -0.0034 to +0.0015" in text


def left_out(text: str) -> list[str]:
    """The lines about missing parts."""
    return re.findall(r"<li>(.+: .+)</li>", text.split('id="left-out"')[1])


POOR = {
    "one fold": {
        "images": make_images().assign(fold=0),
        "history": make_history().query("fold == 0"),
        "folds": make_report_data().folds.head(1),
        "surfaces": {"disc": make_surface()._replace(per_fold={})},
    },
    "nothing but empties": {
        "images": make_images().assign(coverage=0.0, predicted=0.0, score=1.0),
        "submission": Submission(5, 5, np.zeros(5)),
    },
    "one phase": {"history": make_history().query("phase == 1")},
    "one epoch": {"history": make_history().query("phase == 1 and epoch == 1")},
    "thresholds by epoch": {"history": make_history().assign(threshold=0.5, lr=1e-3, seconds=3.0)},
    "one image": {"images": make_images().query("image_id == 'image005'")},
    "a flat surface": {"surfaces": {"disc": make_surface()._replace(scores=np.full((3, 255), 0.5))}},
    "one smallest area": {
        "surfaces": {"disc": make_surface()._replace(areas=np.zeros(1, int), scores=make_surface().scores[:1])}
    },
    "members that never err": {
        "members": make_report_data().members._replace(
            correlation=pd.DataFrame({"errors of": ["one", "two"], "one": np.nan, "two": np.nan})
        )
    },
    "boards that agree": {"shakeup": SimulatedShakeup(np.zeros(10), 5, 5)},
    "two classes": {"surfaces": {"disc": make_surface(), "ring": make_surface()}},
}


PLAIN = {
    "no column that tells images apart": {"images": make_images().drop(columns="kind")},
    "numbers for ids of kinds": {"images": make_images().assign(kind=lambda table: table.index % 4)},
    "no empties": {"images": make_images().query("coverage > 0")},
    "an empty test set": {"submission": Submission(0, 0, np.zeros(0))},
    "no commit": {"provenance": {"versions": {}, "commit": None, "made": "today"}},
}


@pytest.mark.parametrize("what", PLAIN)
@pytest.mark.usefixtures("no_charts")
def test_a_minimal_run_has_a_page(what):
    assert render(make_bare_report_data(**PLAIN[what])).rstrip().endswith("</html>")


@pytest.mark.slow
@pytest.mark.parametrize("what", POOR)
def test_a_degenerate_run_has_a_page(what):
    assert render(make_bare_report_data(**POOR[what])).rstrip().endswith("</html>")


@pytest.mark.usefixtures("no_charts")
def test_names_are_escaped_in_the_page():
    evil = "<script>alert(1)</script>"
    data = make_report_data(title=evil, images=make_images().assign(kind=evil + "a", site=evil))
    data = replace(data, competition=evil, classes=pd.DataFrame({evil: [evil]}))
    data.images.loc[0, ["kind", "image_id", "score"]] = [evil, evil, 0]
    text = render(replace(data, picture=lambda _: draw(5)))
    assert evil not in text
    assert "&lt;script&gt;" in text


def noise(_: str) -> Picture:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (400, 400), np.uint8)
    return Picture(rng.integers(0, 256, (400, 400, 3), np.uint8), values > 100, values, values > 120)


@pytest.mark.usefixtures("no_charts")
def test_pictures_are_reduced_until_the_page_is_small_enough(monkeypatch):
    data = make_report_data(picture=noise, images=make_images().head(1))
    large = len(render(data).encode())
    monkeypatch.setattr(page, "MAX_BYTES", large * 2 // 3)
    assert len(render(data).encode()) <= large * 2 // 3


@pytest.mark.usefixtures("no_charts")
def test_a_page_that_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr(page, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"the report is \d+ KiB with pictures of 128 pixels, expected at most 0"):
        render(make_report_data(images=make_images().head(3)))


@pytest.mark.usefixtures("no_charts")
def test_the_page_is_written_atomically(tmp_path):
    write_report(tmp_path / "reports" / "demo.html", make_report_data())
    assert (tmp_path / "reports" / "demo.html").read_text(encoding="utf-8") == render(make_report_data())
    assert len(list((tmp_path / "reports").iterdir())) == 1


@pytest.mark.parametrize(
    ("column", "value", "text", "key"),
    [
        ("seconds", 3675.2, "1:01:15", 3675.2),
        ("score", 0.89876, "0.8988", 0.89876),
        ("images", np.int64(12345), "12,345", 12345),
        ("score", np.nan, "–", ""),
        ("kind", "stained", "stained", "stained"),
    ],
)
def test_a_cell_has_a_text_and_a_value_for_sorting(column, value, text, key):
    assert to_cell(column, value) == (text, key)


@pytest.mark.usefixtures("no_charts")
def test_a_long_table_of_subgroups_shows_the_worst():
    images = make_images().assign(group=np.arange(60) // 2, score=np.arange(60) / 60)
    text = render(make_report_data(images=images))
    assert "The worst 15 of 30." in text
    table = text.split("<h3>by group</h3>")[1].split("</table>")[0]
    assert re.findall(r'<td data-value="(\d+)">', table)[:15] == [str(group) for group in range(15)]


def test_headings_mark_numeric_columns():
    assert to_table("", pd.DataFrame({"name": ["a"], "score": [0.5]})).headings == [("name", False), ("score", True)]
