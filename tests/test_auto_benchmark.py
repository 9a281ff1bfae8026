import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path

import auto
import auto_generated
import auto_sets
import numpy as np
import pandas as pd
import plain_script
import pytest
import torch
from auto import AUTO, PLAIN, Options, Ran
from auto_generated import SPECS, Spec, draw
from auto_sets import AutoSet, RealSet
from plain_script import Images

from pipeline import scoring
from pipeline.data.index import read_index, read_test_index
from pipeline.data.labels import Labels
from pipeline.data.sample import samples_of
from pipeline.data.tables import read_table
from pipeline.files import write_text
from pipeline.submission import check_submission

BY_NAME = {spec.name: spec for spec in SPECS}
every_spec = pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)


def small(spec: Spec) -> Spec:
    """A competition of the same kind with three images of each part."""
    return replace(spec, train=3, test=3, sizes=((64, 96),))


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes a small generated set."""

    def make_small(name: str) -> AutoSet:
        monkeypatch.setitem(auto_sets.GENERATED, name, small(BY_NAME[name]))
        return auto_sets.make_set(name, tmp_path / "sets" / name, {})

    return make_small


# ---------------------------------------------------------------------------------------------- sets


@every_spec
def test_a_generated_set_has_the_same_files_each_time(spec, tmp_path):
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        auto_generated.make_generated(tmp_path / name, small(spec))
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) >= 8
    for path in files:
        assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "other" / path).read_bytes(), path


@every_spec
def test_the_files_of_a_generated_set_hold_the_masks_that_were_drawn(spec, make):
    made = make(spec.name)
    card, labels = made.card, Labels.of(made.card)
    samples = {sample.image_id: sample for sample in samples_of(read_index(card, made.files))}
    for number in range(3):
        example = draw(small(spec), 0, number)
        assert np.array_equal(labels.read_scored(samples[example.image_id]), example.labels)


@every_spec
def test_sample_and_solution_have_the_rows_of_the_test_images_and_the_solution_scores_1(spec, make):
    made = make(spec.name)
    assert not list(made.files.rglob("solution*"))
    test = read_test_index(made.card, made.files)
    images = {path.stem for path in (made.files / "test" / "images").iterdir()}
    assert set(test["image_id"]) == images
    found, scores = scoring.image_scores(made.card, made.solution, made.solution)
    assert set(found) == images
    assert made.groups(found) == found
    assert scores.mean() == 1


@every_spec
def test_every_class_of_a_generated_set_is_in_some_images_with_about_its_coverage(spec):
    count = 24 if np.max(spec.sizes) <= 256 else 6
    masks = [draw(spec, 0, number).labels for number in range(count)]
    coverage = np.array([each.reshape(len(each), -1).mean(axis=1) for each in masks])
    assert (coverage.max(axis=0) > 0).all()
    for each, found in zip(spec.classes, coverage.T, strict=not spec.regions):
        assert found[found > 0].mean() == pytest.approx(each.coverage, rel=0.5)
        assert (found == 0).mean() == pytest.approx(each.empty, abs=1.5 / count**0.5)


def test_a_distractor_is_no_part_of_a_mask_and_changes_the_image():
    spec = replace(BY_NAME["slides"], sizes=((96, 96),), classes=(BY_NAME["slides"].classes[0]._replace(empty=1.0),))
    with_, without = (draw(replace(spec, distractors=share), 0, 1) for share in (2.0, 0.0))
    assert not with_.labels.any()
    assert np.abs(with_.image.astype(int) - without.image).max() > 20


def test_a_fifth_of_a_real_set_is_the_test_set_with_whole_groups(tiny, card, monkeypatch):
    groups = pd.DataFrame({"id": [sample.image_id for sample in samples_of(read_index(card, tiny / "tiny"))]})
    groups["patient"] = [f"p{number // 3}" for number in range(len(groups))]
    (tiny / "grouped.toml").write_text(
        (tiny / "tiny.toml").read_text().replace("[columns]", 'train_meta = "meta.csv"\n[columns]\ngroup = "patient"')
    )
    groups.to_csv(tiny / "tiny" / "meta.csv", index=False)
    monkeypatch.setitem(auto_sets.REAL, "nuclei", RealSet(str(tiny / "grouped.toml")))
    made = auto_sets.make_set("nuclei", tiny / "sets" / "nuclei", {"nuclei": tiny / "tiny"})

    train, test = read_index(made.card, made.files), read_test_index(made.card, made.files)
    assert (len(train), len(test)) == (15, 3)
    assert set(made.groups(test["image_id"])).isdisjoint(train["group"])
    assert set(read_table(made.files / "meta.csv", ["id"])["id"]) == set(train["image_id"])
    assert {path.stem for path in (made.files / "test" / "images").iterdir()} == set(test["image_id"])
    assert scoring.score(made.card, made.solution, made.solution) == (1, 3)


def test_the_test_slices_of_a_series_are_neighbours():
    index = pd.DataFrame({"image_id": [f"slice_{number:02}" for number in reversed(range(20))]})
    assert auto_sets._middle(index) == ["slice_08", "slice_09", "slice_10", "slice_11"]


def test_a_real_set_without_its_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no data for heart: give its folder with --data heart=FOLDER"):
        auto_sets.make_set("heart", tmp_path / "heart", {})


# ---------------------------------------------------------------------------------------------- plain script


def test_the_common_size_is_the_median_at_most_512_and_a_multiple_of_32():
    assert plain_script.common_size(np.array([[101, 101]])) == (128, 128)
    assert plain_script.common_size(np.array([[3000, 4000], [3000, 4000], [10, 10]])) == (384, 512)
    assert plain_script.common_size(np.array([[256, 320], [256, 320], [520, 696]])) == (256, 320)


@pytest.mark.parametrize("name", ["defects", "land", "exposures"])
def test_the_plain_script_trains_for_its_time_and_writes_a_valid_submission(name, make, tmp_path):
    made = make(name)
    ticks = itertools.count()  # each look at the clock is a second
    done = plain_script.run(made, tmp_path / "x.csv", seconds=20, clock=lambda: next(ticks))
    assert done["steps"] >= 2
    assert 12 <= next(ticks) <= 17  # the last of the time is kept for the submission
    test = read_test_index(made.card, made.files).set_index("image_id")
    sizes = {image_id: (row["height"], row["width"]) for image_id, row in test.iterrows()}
    check_submission(tmp_path / "x.csv", made.card, made.files / "sample_submission.csv", sizes.get)
    assert 0 <= scoring.score(made.card, tmp_path / "x.csv", made.solution)[0] <= 1


def test_the_plain_script_keeps_the_weights_of_its_best_epoch(monkeypatch):
    model = torch.nn.Conv2d(3, 1, 1)
    seen, scores = [], iter([0.2, 0.7, 0.5])

    def score(model, _valid, _card):
        seen.append(model.weight.detach().clone())
        return next(scores)

    monkeypatch.setattr(plain_script, "score", score)
    images = Images(torch.randint(0, 255, (4, 3, 8, 8), dtype=torch.uint8), torch.ones(4, 1, 8, 8, dtype=torch.uint8))
    card = pd.Series({"exclusive": False})
    ticks = itertools.count()
    rng = np.random.default_rng(0)
    done = plain_script.fit(model, images, images, card, rng, end=12, clock=lambda: next(ticks))
    assert done["epochs"] == 3
    assert not torch.equal(seen[1], seen[2])
    assert torch.equal(model.weight, seen[1])


def test_a_flip_turns_image_and_target_together():
    pixels = torch.arange(2 * 3 * 5, dtype=torch.uint8).reshape(1, 1, 6, 5).repeat(64, 1, 1, 1)
    images, targets = plain_script.flip(Images(pixels, pixels), np.random.default_rng(0))
    assert torch.allclose(images * plain_script.STD + plain_script.MEAN, targets.float(), atol=1e-4)
    assert len({tuple(each.flatten().tolist()) for each in targets}) == 4


# ---------------------------------------------------------------------------------------------- runs and table


def fake_execute(made: AutoSet, calls: list[list[str]], failing: tuple[str, ...] = ()):
    """An `execute` that submits the solution, or fails; auto uses 40 seconds of CPU time."""

    def execute(command: list[str], folder: Path, log: Path, _cpu: int | None) -> Ran:
        calls.append(command)
        method = AUTO if "auto" in command else PLAIN
        if method in failing:
            write_text(log, "first\nout of luck\n")
            return Ran(2, 5.0, 7.0)
        write_text(folder / "submissions" / f"{made.name}.csv", made.solution.read_text())
        if method == AUTO:
            steps = [{"name": "card", "planned": None, "seconds": 9.0}, {"name": "f", "planned": 20.0, "seconds": 21.0}]
            write_text(folder / "runs" / made.name / "auto.json", json.dumps({"steps": steps}))
        return Ran(0, 60.0, 40.0)

    return execute


def test_the_plain_script_gets_the_cpu_time_that_auto_used(make, tmp_path, monkeypatch):
    made, calls = make("defects"), []
    monkeypatch.setattr(auto, "execute", fake_execute(made, calls))
    options = Options(budget=300, with_card=False, methods=(AUTO, PLAIN))
    assert len(list(auto.run_set(made, tmp_path, options))) == 2
    assert calls[0][calls[0].index("--budget") + 1] == "300.0s"
    assert str(made.files) in calls[0]
    assert str(made.card_file) not in calls[0]
    assert calls[1][calls[1].index("--seconds") + 1] == "40.0"

    list(auto.run_set(made, tmp_path, options))
    assert len(calls) == 2  # results are kept
    with pytest.raises(ValueError, match=r"seconds = 300, now it is 60"):
        list(auto.run_set(made, tmp_path, options._replace(budget=60)))


def test_without_a_submission_of_auto_it_scores_0_and_the_plain_script_gets_the_budget(make, tmp_path, monkeypatch):
    made, calls = make("specks"), []
    monkeypatch.setattr(auto, "execute", fake_execute(made, calls, failing=(AUTO,)))
    lines = list(auto.run_set(made, tmp_path, Options(300, with_card=False, methods=(AUTO, PLAIN))))
    assert "FAILED: exit status 2: out of luck" in lines[0]
    assert calls[1][calls[1].index("--seconds") + 1] == "300.0"
    shown = auto.table(tmp_path, ["specks", "roads"])
    assert "| failed | 1.0000 | -1.0000 |" in shown
    assert "1 sets: mean difference -1.0000, worst -1.0000 (specks)" in shown


def test_the_table_pairs_the_images_of_both_methods(make, tmp_path, monkeypatch):
    for name, mine in (("specks", [1.0, 0.5, 0.6]), ("roads", [0.2, 0.4, 0.0])):
        made = make(name)
        monkeypatch.setattr(auto, "execute", fake_execute(made, []))
        list(auto.run_set(made, tmp_path, Options(300, with_card=False, methods=(AUTO, PLAIN))))
        result = auto.read_result(tmp_path, name, AUTO)
        result |= {"score": float(np.mean(mine)), "numerator": [[value] for value in mine]}
        write_text(tmp_path / "results" / f"{name}-auto.json", json.dumps(result))
    plain = auto.read_result(tmp_path, "specks", PLAIN)
    plain |= {"image_id": plain["image_id"][::-1], "numerator": [[0.5], [0.4], [0.9]], "score": 0.6}
    write_text(tmp_path / "results" / "specks-plain.json", json.dumps(plain))

    shown = auto.table(tmp_path, ["specks", "roads"])
    assert "| specks | 3 / 3 | 64×96 | mean_dice | 0.7000 | 0.6000 | +0.1000 | +0.1000 to +0.1000 | 20 / 21 |" in shown
    assert "2 sets: mean difference -0.3500, worst -0.8000 (roads)" in shown


def test_the_cpu_time_of_child_processes_counts(tmp_path):
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}], check=True)"
    ran = auto.execute([sys.executable, "-c", nested], tmp_path, tmp_path / "log.txt", None)
    assert ran.status == 0
    assert 0.5 <= ran.cpu_seconds < 5


def test_an_unknown_set_is_refused_in_one_line(tmp_path, capsys):
    assert auto.main(["--out", str(tmp_path), "--only", "nuclej"]) == 2
    assert capsys.readouterr().err.startswith("--only nuclej: no such set, expected one of nuclei, ")
