"""Thresholds by group: each value of a column of the meta tables, such as the camera, may have its own threshold."""

import json
import logging
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline import competition, config, rle, stages
from pipeline.cli import main
from pipeline.cli.stages import _format_rules
from pipeline.data.index import read_test_meta
from pipeline.ensemble import candidate_rules
from pipeline.ensemble.candidate_rules import MIN_GROUP_IMAGES, large_groups, search_candidates
from pipeline.ensemble.evaluation import mean_score
from pipeline.ensemble.renderer import Postprocess, Renderer
from pipeline.ensemble.selection import Oof, select_multilabel
from pipeline.ensemble.serialization import from_record, to_record
from pipeline.kaggle.mock_test_set import write_hidden, write_known
from pipeline.metrics import VOID, count, metric_names, pixel_metric, stack
from pipeline.postprocess.rule_variants import VariantSearch
from pipeline.postprocess.rules import Rules, apply, at_place
from pipeline.postprocess.search import GROUP, RuleSearch
from pipeline.postprocess.shares import Place
from pipeline.postprocess.threshold_counts import THRESHOLDS
from pipeline.report.plots import score_surface
from pipeline.serving.bundle import RECORD_FILE, read_bundle
from pipeline.serving.bundle_prediction import predict_test
from pipeline.stages.bundling import write_weights
from pipeline.stages.ensembling import load_members
from pipeline.stages.ensembling import test_masks as masks_of_test
from pipeline.stages.reporting import collect_report_data, make_score_surface
from tests.test_bundle import rows

DICE = pixel_metric("mean_dice")
AREAS = np.array([0, 2, 6])


# The rules


def test_a_group_has_its_threshold_and_any_other_image_the_common_one():
    values = np.array([[250, 150, 100, 20]], np.uint8)
    rules = Rules(0.3, 0, by_group=(("dark", 0.05), ("bright", 0.9)))
    found = {group: apply(values, at_place(rules, Place(0, group=group))).sum() for group in ("dark", "bright")}
    assert found == {"dark": 4, "bright": 1}
    for group in ("unseen in training", "", None):
        assert apply(values, at_place(rules, Place(0, group=group))).sum() == 3


def test_thresholds_by_group_are_refused_without_a_group_and_not_ignored():
    with pytest.raises(ValueError, match=r"thresholds by group need the image's group"):
        apply(np.zeros((2, 2), np.uint8), Rules(0.3, 0, by_group=(("dark", 0.05),)))


# The search


@st.composite
def images_in_groups(draw):
    """Images of two folds and three groups, of which c is none of the search; some have none."""
    values = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 3, 40, 127, 128, 150, 220, 255]))
    target = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, VOID])) | st.just(np.zeros((4, 5), np.uint8))
    group = st.sampled_from(["a", "b", "c", None])
    images = [(draw(values), draw(target), Place(draw(st.integers(0, 1)), group=draw(group))) for _ in range(4)]
    return [*images, *((draw(values), draw(target), Place(0, group=group)) for group in "ab")]


def search(images, metric=DICE, groups=("a", "b")):
    found = RuleSearch(metric, AREAS, rule_sets=["total", GROUP], groups=groups)
    for image in images:
        found.add(*image)
    return found.grids()


def score_by_apply(rules, images, metric=DICE):
    masks = (apply(values, at_place(rules, place)) for values, _, place in images)
    return metric.scores(stack(count(mask, target) for mask, (_, target, _) in zip(masks, images, strict=True))).mean()


@pytest.mark.parametrize("name", metric_names("pixels", complete=True))
@settings(max_examples=8, deadline=None)
@given(images_in_groups())
def test_scores_of_thresholds_by_group_equal_a_loop_with_apply(name, images):
    metric = pixel_metric(name)
    grid = search(images, metric)[GROUP]
    for area in AREAS.tolist():
        for common, a, b in THRESHOLDS[[[127, 2, 200], [40, 40, 149], [254, 0, 127]]].tolist():
            rules = Rules(common, area, by_group=(("a", a), ("b", b)))
            for folds in ([0], [0, 1] if len(grid.folds) > 1 else [0]):
                some = [image for image in images if image[2].fold in folds]
                if grid.is_defined(folds):
                    expected = np.nan_to_num(score_by_apply(rules, some, metric))
                    assert grid.score(rules, folds) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(images_in_groups())
def test_the_choice_equals_a_loop_over_all_thresholds_of_each_group(images):
    grids = search(images)
    rules, score = grids[GROUP].best()
    common, _ = grids["total"].best()
    assert rules._replace(by_group=()) == common
    for group in "ab":
        own = [image for image in images if image[2].group == group]
        scores = [score_by_apply(common._replace(threshold=each), own) for each in THRESHOLDS.tolist()]
        best = THRESHOLDS[np.isclose(scores, max(scores), rtol=0, atol=1e-12)]
        expected = best[np.abs(best - common.threshold).argmin()]
        assert dict(rules.by_group).get(group, common.threshold) == pytest.approx(expected)
    assert score == pytest.approx(score_by_apply(rules, images), abs=1e-12)
    assert score >= grids["total"].best()[1] - 1e-12


@settings(max_examples=10, deadline=None)
@given(images_in_groups())
def test_variants_of_thresholds_by_group_equal_a_loop_with_apply(images):
    rules = Rules(0.5, 0, by_group=(("a", 0.1), ("b", 0.8)))
    variants = VariantSearch(DICE, [rules, Rules(0.5, 0)])
    for image in images:
        variants.add(*image)
    scores = variants.scores()
    assert {each.by_group for each in scores.columns} == {(), rules.by_group}
    for each in list(scores.columns)[::41]:
        assert scores.score(each) == pytest.approx(score_by_apply(each, images), abs=1e-12)


def test_without_groups_there_is_no_such_rule_set():
    image = np.full((2, 2), 200, np.uint8), np.ones((2, 2), np.uint8), Place(0, group="a")
    assert list(search([image], groups=())) == ["total"]


# Which groups may have a threshold


def places(**counts):
    """Images of groups: for each, the number in each fold."""
    return [
        Place(fold, group=group)
        for group, of in counts.items()
        for fold, number in enumerate(of)
        for _ in range(number)
    ]


def test_a_group_needs_enough_images_without_any_one_fold():
    half = MIN_GROUP_IMAGES // 2
    assert large_groups(places(enough=(half, half, half), few=(half, half, half - 1))) == ("enough",)
    assert large_groups(places(spread=(half, half, half), one_fold=(9 * half, 0, 0))) == ("spread",)
    assert large_groups(places(two=(9 * half, 9 * half))) == ()  # what is chosen without one fold is not scored
    assert large_groups([Place(fold) for fold in range(90)]) == ()


# The choice


def cameras(brightness_of, groups_of, images=96, folds=4, seed=0):
    """Blurred discs, whose brightness may be that of the camera.

    Args:
        brightness_of: of each camera, the factor of the values.
        groups_of: from random numbers and an image's camera to its group.
    """
    rng, known, groups = np.random.default_rng(seed), {}, {}
    grid_rows, grid_columns = np.ogrid[:24, :24]
    for number in range(images):
        camera = list(brightness_of)[number // folds % len(brightness_of)]
        radius = rng.uniform(2, 7)
        distance = np.hypot(grid_rows - rng.uniform(8, 16), grid_columns - rng.uniform(8, 16))
        soft = brightness_of[camera] / (1 + np.exp(distance - radius)) + rng.normal(0, 0.03, distance.shape)
        target = (distance < radius).astype(np.uint8)
        known[f"{number:02}"] = np.rint(255 * soft.clip(0, 1)).astype(np.uint8)[None, None], target[None]
        groups[f"{number:02}"] = groups_of(rng, camera)
    fold_of = np.arange(images) % folds
    return Oof(list(known), fold_of, known.__getitem__, 1, lambda items, _: items, group_of=groups.get)


SETS = ["total", "components", "triplet", GROUP]


def test_thresholds_by_camera_win_where_brightness_is_the_cameras():
    oof = cameras({"dark": 0.4, "bright": 1.0}, lambda _, camera: camera)
    selection, without = (select_multilabel(oof, DICE, 1, sets) for sets in (SETS, SETS[:-1]))
    (part,) = selection.renderer.parts
    assert 0.15 < dict(part.rules.by_group).get("dark", part.rules.threshold) < 0.3
    assert 0.4 < dict(part.rules.by_group).get("bright", part.rules.threshold) < 0.6
    assert selection.score > without.score + 0.03
    assert selection.group_gains[0] > 0.03
    assert without.group_gains == ()
    scores = [
        DICE.scores(stack([count(selection.held_out(oof.places[each]).masks(values[0])[0], target[0])])).mean()
        for each, (values, target) in ((each, oof.read(each)) for each in oof.image_ids)
    ]
    assert scores == pytest.approx(selection.scores.per_image())
    assert mean_score(selection.renderer, oof, "mean_dice") == pytest.approx(selection.in_sample)


def test_images_without_a_group_and_of_small_groups_have_the_common_threshold():
    def group_of(rng, camera):
        return str(rng.choice([camera, "rare"], p=[0.9, 0.1])) if rng.random() > 0.1 else None

    oof = cameras({"dark": 0.4, "bright": 1.0}, group_of)
    counts = Counter(place.group for place in oof.places.values())
    assert 0 < counts["rare"] < MIN_GROUP_IMAGES
    assert counts[None] > 0
    selection = select_multilabel(oof, DICE, 1, SETS)
    (part,) = selection.renderer.parts
    assert part.grouped
    assert {group for group, _ in part.rules.by_group} <= {"dark", "bright"}
    thresholds = {
        group: selection.renderer.at_place(Place(group=group)).parts[0].rules.threshold for group in ("rare", None, "x")
    }
    assert set(thresholds.values()) == {part.rules.threshold}


def test_thresholds_by_luck_are_not_selected():
    # Groups are random: in sample their thresholds score higher, on the folds left out they do not.
    oof = cameras({"one": 0.8, "other": 0.7}, lambda rng, _: str(rng.choice(["a", "b", "c"])), seed=2)
    selection = select_multilabel(oof, DICE, 1, SETS)
    images = [(values[0, 0], target[0], place) for values, target, place in oof.images("")]
    grids = search(images, groups=large_groups(oof.places.values()))
    assert grids[GROUP].groups.keys() == {"a", "b", "c"}
    assert grids[GROUP].best()[1] > grids["total"].best()[1] + 0.001
    assert not selection.renderer.grouped
    assert selection.group_gains[0] < 0


def test_a_group_without_images_in_the_folds_of_a_choice_has_the_common_threshold():
    oof = cameras({"dark": 0.4, "bright": 1.0}, lambda _, camera: camera)
    images = [
        (values[0, 0], target[0], place)
        for values, target, place in oof.images("")
        if place.group == "bright" or place.fold > 1
    ]

    def images_of(keys):
        return ((key, *image, None) for image in images for key in keys)

    found = search_candidates(images_of, DICE, {"": [(0, 1), (0, 1, 2, 3)]}, SETS, ("dark", "bright"))[""]
    rules, _ = found.grids[GROUP].best((0, 1))
    assert "dark" not in dict(rules.by_group)
    assert found.best((0, 1))[1].by_group == ()
    assert found.best((0, 1, 2, 3))[1].by_group != ()


# The record, the command line and the report

BY_CAMERA = Rules(0.5, 4, by_group=(("dark", 0.25), ("bright", 0.75)))


def test_thresholds_by_group_are_read_back_from_a_record():
    renderer = Renderer((Postprocess("mean", (1.0,), GROUP, BY_CAMERA),))
    record = json.loads(json.dumps(to_record(renderer, ["one"], ["disc"])))
    assert record["by_group"] == {"dark": 0.25, "bright": 0.75}
    assert from_record(record, ["one"], ["disc"]) == renderer
    for damaged in ({"dark": 2.0}, {"dark": "0.5"}, [["dark", 0.5]], None):
        with pytest.raises(ValueError, match=r"dark|by_group|valid dictionary"):
            from_record({**record, "by_group": damaged}, ["one"], ["disc"])


def test_command_line_and_report_name_the_threshold_of_each_group():
    assert _format_rules(BY_CAMERA) == "threshold 0.5, min_area 4, by_group { dark 0.25, bright 0.75 }"
    oof = cameras({"dark": 0.4, "bright": 1.0}, lambda _, camera: camera)
    grid = search([(v[0, 0], t[0], place) for v, t, place in oof.images("")], groups=("dark", "bright"))[GROUP]
    rules, _ = grid.best()
    surface = make_score_surface(grid, rules._replace(fill_holes=True))
    assert surface.rules[0].startswith("with a threshold of their own: ")
    assert surface.rules[1:] == ("holes are filled",)
    assert surface.best.threshold == rules.threshold
    assert score_surface("disc", surface).axes[0].get_ylabel() == "smallest total area, pixels"


# The column


def write_meta(tiny, edit):
    """Meta tables of the tiny competition: all training images have one of two cameras, test images other ones too."""
    edit("tiny.toml", 'train_csv = "train.csv"', 'train_csv = "train.csv"\ntrain_meta = "m.csv"\ntest_meta = "n.csv"')
    edit("configs/tiny.toml", "[ensemble]\n", '[ensemble]\ngroup = "camera"\n')
    for table, sample, cameras_ in (
        ("m", "train", ["dark", "bright"]),
        ("n", "solution", ["bright", "new", "", "dark"]),
    ):
        ids = pd.read_csv(tiny / f"tiny/{sample}.csv", dtype=str)["id"].tolist()
        lines = [f"{image_id},{cameras_[number % len(cameras_)]},1" for number, image_id in enumerate(ids)]
        only = {"m": "age", "n": "place"}[table]
        (tiny / f"tiny/{table}.csv").write_text("\n".join([f"id,camera,{only}", *reversed(lines)]) + "\n")


def test_a_misspelt_column_is_answered_with_those_of_both_tables(tiny, edit, capsys):
    write_meta(tiny, edit)
    assert main(["folds", "configs/tiny.toml", "--set", "ensemble.group=kamera"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "configs/tiny.toml: ensemble.group: no column 'kamera' in both files.train_meta and files.test_meta of the "
        "card tiny. Columns of both: camera"
    )
    assert main(["folds", "configs/tiny.toml", "--set", "ensemble.group=age"]) == 2  # of the training images only
    assert main(["folds", "configs/tiny.toml"]) == 0


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("tiny.toml", 'test_meta = "n.csv"', "", "set files.test_meta, a table of the test images with this column"),
        ("tiny.toml", 'test_meta = "n.csv"', 'test_meta = "x.csv"', "tiny/x.csv: no such file"),
        ("tiny.toml", 'train_meta = "m.csv"', "", "Columns of both: none"),
        (
            "tiny.toml",
            'metric = "mean_dice"',
            'metric = { name = "f1", iou = 0.5 }\ninstances = true',
            "of objects are common",
        ),
    ],
    ids=["no test table", "no such file", "no training table", "objects"],
)
def test_a_group_that_cannot_be_used_is_refused_before_training(tiny, edit, capsys, name, old, new, message):
    write_meta(tiny, edit)
    edit(name, old, new)
    assert main(["folds", "configs/tiny.toml"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert "configs/tiny.toml: ensemble.group: " in line


def test_missing_values_of_the_test_images_are_left_out(tiny, edit):
    write_meta(tiny, edit)
    card = competition.load("tiny.toml")
    found = read_test_meta(card, Path("tiny"), "camera")
    assert Counter(found.values()) == {"bright": 2, "new": 1, "dark": 1}
    edit("tiny/n.csv", ",new,", ", nan ,")
    assert Counter(read_test_meta(card, Path("tiny"), "camera").values()) == {"bright": 2, "dark": 1}
    with Path("tiny/n.csv").open("a") as file:
        file.write(f"{min(found)},dark,1\n")
    with pytest.raises(ValueError, match=r"n\.csv: 1 of 6 rows repeat an id"):
        read_test_meta(card, Path("tiny"), "camera")


def test_mock_test_sets_have_the_meta_table(tiny, edit):
    write_meta(tiny, edit)
    card = competition.load("tiny.toml")
    write_known(card, Path("tiny"), Path("known"))
    assert Path("known/n.csv").read_bytes() == Path("tiny/n.csv").read_bytes()
    write_hidden(card, Path("tiny"), Path("hidden"))
    groups, known = (read_test_meta(card, Path(root), "camera") for root in ("hidden", "tiny"))
    ids = pd.read_csv("hidden/sample_submission.csv", dtype=str)["id"].tolist()
    assert {image_id: known.get(image_id.rpartition("_")[2]) for image_id in ids} == {
        key: groups.get(key) for key in ids
    }
    assert len(groups) > 10


# A submission


@pytest.fixture
def with_cameras(submitted):
    """The config of the trained tiny competition, with cameras."""
    write_meta(Path(), edit_here)
    return config.load("configs/tiny.toml")


@pytest.fixture
def grouped(with_cameras, monkeypatch):
    """The same, and rules with thresholds by camera that differ in their masks."""
    rules = Rules(0.3, 0, by_group=(("bright", 0.9), ("dark", 0.1)))
    monkeypatch.setattr("pipeline.ensemble.candidate_rules.CandidateRules.best", lambda *_: (GROUP, rules))
    return with_cameras, rules


def edit_here(name, old, new):
    path = Path(name)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.slow
@pytest.mark.parametrize("configs", [("tiny",), ("tiny", "seed1")], ids=["one member", "two members"])
def test_a_bundle_writes_the_ensembles_csv_and_batch_prediction_refuses(grouped, configs, capsys):
    cfg, rules = grouped
    cfgs = [cfg, *(config.load(f"configs/{name}.toml") for name in configs[1:])]
    done = stages.ensemble(cfgs)
    bundle = write_weights(Path("bundle"), load_members(cfgs), done)
    assert bundle.renderer.parts[0].rules == rules
    predicted = predict_test(bundle, Path("tiny"), Path("working/submission.csv"))
    assert predicted.csv.read_bytes() == done.csv.read_bytes()
    assert predicted.problems == {}
    masks, groups = rows(done.csv), read_test_meta(bundle.card, Path("tiny"), "camera")
    for image_id, text in masks.items():
        threshold = dict(rules.by_group).get(groups.get(image_id), rules.threshold)
        plain = Renderer(tuple(each._replace(rules=Rules(threshold, 0)) for each in done.selection.renderer.parts))
        assert texts_of(load_members(cfgs), plain, image_id) == text
    assert len(set(masks.values())) > 2
    assert main(["batch-predict", "bundle", "--input", "tiny/test/images/*.png", "--output", "out"]) == 2
    assert "thresholds depend on the column camera of n.csv" in capsys.readouterr().err


def texts_of(members, renderer, image_id):
    """The text of one test image's mask by a renderer without thresholds by group."""
    (mask,) = masks_of_test(members, {image_id}, renderer)(image_id)
    return rle.encode(mask)


@pytest.mark.slow
def test_hidden_test_data_without_the_table_have_the_common_threshold(grouped, caplog):
    cfg, rules = grouped
    done = stages.ensemble([cfg])
    write_weights(Path("bundle"), load_members([cfg]), done)
    shutil.copytree("tiny", "hidden")
    Path("hidden/n.csv").unlink()
    with caplog.at_level(logging.WARNING):
        predicted = predict_test(read_bundle(Path("bundle")), Path("hidden"), Path("hidden.csv"))
    assert predicted.problems == {}
    assert any("5 of 5 test images have no camera" in each for each in caplog.messages)
    plain = Renderer(tuple(part._replace(rules=Rules(rules.threshold, 0)) for part in done.selection.renderer.parts))
    members = load_members([cfg])
    assert rows(predicted.csv) == {image_id: texts_of(members, plain, image_id) for image_id in rows(done.csv)}


@pytest.mark.slow
def test_a_bundle_with_thresholds_by_group_and_no_column_is_refused(grouped):
    cfg, _ = grouped
    write_weights(Path("bundle"), load_members([cfg]), stages.ensemble([cfg]))
    path = Path("bundle", RECORD_FILE)
    record = json.loads(path.read_text())
    del record["configs"]["tiny"]["ensemble"]["group"]
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"has thresholds by group, but tiny has no ensemble\.group"):
        read_bundle(Path("bundle"))


@pytest.mark.slow
def test_summary_manifest_and_report_say_what_thresholds_by_group_gain(with_cameras, monkeypatch, capsys):
    (note,) = stages.ensemble([with_cameras]).notes
    assert note.startswith("no thresholds by camera: they need three folds")
    monkeypatch.setattr(candidate_rules, "MIN_GROUP_IMAGES", 3)
    assert main(["ensemble", "configs/tiny.toml"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    manifest = json.loads(Path("submissions/tiny.json").read_text())
    (gain,), (note, _of_epochs) = manifest["gain_of_groups"], manifest["notes"]
    assert f"{gain:+.4f} against the best rules without them, cross-validated" in note
    assert note in shown
    assert note.startswith("no thresholds by camera: ") == (manifest["by_group"] == {})
    # What wins on predictions this short of training depends on the machine: the group rules win everywhere here.
    rules = candidate_rules.CandidateRules
    monkeypatch.setattr(rules, "base_of", property(lambda self: dict.fromkeys(self.scores_of, GROUP)))
    monkeypatch.setattr(rules, "best", lambda *_: (GROUP, BY_CAMERA))
    data = collect_report_data([with_cameras])
    note, _of_epochs = data.notes
    assert note.startswith("thresholds by camera: dark 0.25, bright 0.75; of other images 0.5; ")
    assert f"{gain:+.4f} against the best rules" in note
    assert set(data.rules["by group"]) == {"dark 0.25, bright 0.75"}
