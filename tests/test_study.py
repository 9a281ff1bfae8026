import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import study
import study_augment
import study_losses
import study_models
from study import Comparison, Dataset, Part, Run, Scale, Study, Variant

from pipeline import config
from pipeline.data.index import read_index
from pipeline.data.reader import Reader
from pipeline.data.sample import Sample
from pipeline.files import write_text
from pipeline.folds import assign_folds, write_folds

TINY_NET = config.Model(encoder="tu-test_efficientnet", weights="none", decoder_channels=(16, 16, 8, 8, 8))
ONE_LOSS = Variant((Part({"bce": 1.0}),), TINY_NET)
TWO_PHASES = Variant((Part({"bce": 1.0}, thirds=2), Part({"lovasz": 1.0}, thirds=1, lr=4e-4)), TINY_NET)
SCALE = Scale(steps=3, valid=4)
TINY = Dataset("tiny.toml", "tiny", channels=1, augment="light", crop=32)


@pytest.fixture
def runs(tiny, card, monkeypatch) -> list[Run]:
    """Two variants with two seeds on the tiny competition."""
    monkeypatch.setitem(study.DATASETS, "tiny", TINY)
    index = read_index(card, tiny / "tiny")
    write_folds(tiny / "folds" / "tiny.csv", assign_folds(index, count=3, seed=0), index, {})
    return study.runs_of(tiny_study(), seeds=2, scale=SCALE)


def tiny_study() -> Study:
    question = Comparison("One loss or two", ("tiny",), {"one": ONE_LOSS, "two": TWO_PHASES}, baseline="one")
    return Study("test", (question,))


def write_result(run: Run, dice: list[float], **changed: object) -> None:
    """Write a result like that of a training."""
    names = [f"{number:02}" for number in range(len(dice))]
    result = {
        "settings": study.settings(run),
        "images": "digest",
        "train_images": 12,
        "coverage": 0.1,
        "image_id": names,
        "group": names,
        "dice": dice,
        "mean": float(np.mean(dice)),
        "thresholds": np.linspace(0, 1, 255).tolist(),
        "seconds": 1.0,
        "images_per_second": 10.0,
        "threads": 1,
        "precision": "float32",
        "commit": "0123456789",
        "took": 2.0,
    }
    write_text(run.path, json.dumps(result | changed))


# ---------------------------------------------------------------------------------------------- statistics


def test_interval_of_equal_differences_is_that_difference():
    assert study.interval(np.full(9, 0.25), np.arange(9)) == (0.25, 0.25)


def test_interval_resamples_whole_groups():
    # Two groups: a quarter of the resamples is A twice (mean 0), a quarter B twice (mean 1): the interval goes from 0
    # to 1. Resampled without groups, 1 in 256 resamples would be all zeros.
    values, groups = np.array([0.0, 1.0, 1.0, 1.0]), np.array(["a", "b", "b", "b"])
    assert study.interval(values, groups) == (0.0, 1.0)
    assert study.interval(values, np.arange(4))[0] > 0


def test_interval_does_not_depend_on_the_order_of_the_images():
    rng = np.random.default_rng(0)
    values, groups, order = rng.normal(size=40), rng.integers(8, size=40), rng.permutation(40)
    assert study.interval(values[order], groups[order]) == pytest.approx(study.interval(values, groups))


@pytest.mark.parametrize("size", [1, 4])
def test_interval_covers_the_true_mean_in_about_95_of_100_samples(size):
    # 50 groups of `size` images that share most of their difference.
    rng = np.random.default_rng(size)
    groups, covered = np.repeat(np.arange(50), size), 0
    for _ in range(300):
        values = 0.3 + rng.normal(size=50)[groups] + 0.2 * rng.normal(size=50 * size)
        low, high = study.interval(values, groups, resamples=300)
        covered += low <= 0.3 <= high
    assert 0.90 <= covered / 300 <= 0.98


def test_interval_that_ignores_groups_is_too_narrow():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(30), 8)
    values = rng.normal(size=30)[groups]
    width = np.diff(study.interval(values, groups)), np.diff(study.interval(values, np.arange(240)))
    assert width[0] > 2 * width[1]  # 8 equal images have the information of one: sqrt(8) = 2.8 times as wide


def table_of(*seeds: list[float]) -> pd.DataFrame:
    return pd.DataFrame(dict(enumerate(seeds)), index=["a", "b", "c", "d"])


GROUPS = pd.Series(list("abcd"), index=list("abcd"))


def test_difference_of_two_seeds_by_hand():
    # Mean differences .2 and .4: mean .3, standard deviation .2/sqrt(2). Each image's mean over seeds is .3.
    variant, baseline = table_of([0.6] * 4, [0.9] * 4), table_of([0.4] * 4, [0.5] * 4)
    found = study.compare(variant, baseline, GROUPS)
    assert found == pytest.approx((0.3, 0.3, 0.3, 0.2 / 2**0.5, 2))


def test_difference_pairs_equal_seeds_only():
    variant, baseline = table_of([0.6] * 4, [1.0] * 4, [1.0] * 4), table_of([0.5] * 4)
    assert study.compare(variant, baseline, GROUPS).mean == pytest.approx(0.1)


def test_difference_of_other_images_is_refused():
    with pytest.raises(ValueError, match="not of the same images"):
        study.compare(table_of([0.5] * 4), table_of([0.5] * 4).iloc[::-1], GROUPS)


@pytest.mark.parametrize(
    ("difference", "clear"),
    [
        (study.Difference(0.03, 0.01, 0.05, noise=0.01, seeds=3), True),
        (study.Difference(-0.03, -0.05, -0.01, noise=0.01, seeds=3), True),
        (study.Difference(0.03, -0.01, 0.07, noise=0.01, seeds=3), False),  # the images differ too much
        (study.Difference(0.03, 0.01, 0.05, noise=0.03, seeds=3), False),  # 2 · .03 / sqrt(3) = .035
        (study.Difference(0.03, 0.01, 0.05, noise=float("nan"), seeds=1), False),
    ],
)
def test_difference_is_clear_if_it_exceeds_image_and_seed_noise(difference, clear):
    assert difference.clear is clear


# ---------------------------------------------------------------------------------------------- runs


def test_every_variant_of_a_study_is_valid_and_trains_all_steps():
    for study_ in (study_augment.STUDY, study_losses.STUDY, study_models.STUDY):
        runs = study.runs_of(study_, seeds=1, scale=Scale())
        for run in runs:
            assert sum(phase.repeats for phase in study.train_config(run).phases) == study.THIRDS
        assert len({run.path for run in runs}) == len(runs)


def test_a_variant_replaces_options_of_the_phase_and_a_dataset_its_fold(runs, tiny, card, monkeypatch):
    index = read_index(card, tiny / "tiny")
    folds = assign_folds(index, count=3, seed=0)
    _, valid_index = study.split(index, folds, replace(TINY, fold=2), Scale(steps=12, valid=100))
    assert set(valid_index["image_id"]) == set(folds["image_id"][folds["fold"] == 2])
    changed = replace(runs[0], variant=replace(ONE_LOSS, phase={"augment": "none", "mix": {"fourier": 0.5}}))
    (phase,) = study.train_config(changed).phases
    assert (phase.crop, phase.augment, phase.mix) == (32, "none", {"fourier": 0.5})
    (phase,) = study.train_config(runs[0]).phases
    assert (phase.crop, phase.augment, phase.mix) == (32, "light", {})


def test_a_variant_with_too_few_thirds_is_refused():
    with pytest.raises(ValueError, match="expected 3 together"):
        Variant((Part({"bce": 1.0}, thirds=2),))


def test_a_name_with_two_meanings_is_refused():
    first, second = (Comparison("?", ("demo",), {"same": variant}, "same") for variant in (ONE_LOSS, TWO_PHASES))
    with pytest.raises(ValueError, match="'same' stands for two variants"):
        study.runs_of(Study("test", (first, second)), seeds=1, scale=SCALE)


def test_split_gives_exact_steps_and_repeats_images_evenly(runs, tiny, card):
    index = read_index(card, tiny / "tiny")
    folds = assign_folds(index, count=3, seed=0)
    train_index, valid_index = study.split(index, folds, TINY, Scale(steps=12, valid=4))
    assert len(train_index) == 12 * study.BATCH // 3
    repeats = train_index["image_id"].value_counts()
    assert len(repeats) == 12
    assert repeats.max() - repeats.min() <= 1
    assert len(valid_index) == 4
    held_out = folds["image_id"][folds["fold"] == 0]
    assert set(valid_index["image_id"]) <= set(held_out)
    assert not set(train_index["image_id"]) & set(held_out)


def test_split_excludes_large_images_from_validation_only(card, tiny):
    dataset = replace(TINY, largest=40)  # the tiny images are 36×44
    index = read_index(card, tiny / "tiny")
    index.loc[::2, "width"] = 36
    folds = assign_folds(index, count=3, seed=0)
    train_index, valid_index = study.split(index, folds, dataset, Scale(steps=12, valid=100))
    assert set(valid_index["width"]) == {36}
    assert set(train_index["width"]) == {36, 44}


def test_run_writes_a_score_per_image(runs):
    run = runs[1]
    assert run.name == "two"
    study.work(run, Path("tiny"))
    result = study.read_result(run)
    assert len(result["dice"]) == len(result["image_id"]) == SCALE.valid
    assert np.mean(result["dice"]) == pytest.approx(result["mean"], abs=1e-5)
    assert result["thresholds"][study.HALF] == pytest.approx(result["mean"], abs=1e-5)


def stub(run: Run) -> list[str]:
    """A command that only copies `result.json` to the result."""
    return [sys.executable, "-c", f"import shutil; shutil.copy('result.json', {str(run.path)!r})"]


def test_finished_runs_are_skipped_and_the_others_trained(runs, capfd):
    missing = runs[-1]
    write_result(missing, [0.5, 0.7])
    missing.path.rename("result.json")
    for run in runs[:-1]:
        write_result(run, [0.1, 0.2])
    assert study.execute(runs, jobs=2, command=stub) == []
    assert study.read_result(missing)["mean"] == pytest.approx(0.6)
    assert all(study.read_result(run)["mean"] == pytest.approx(0.15) for run in runs[:-1])
    out = capfd.readouterr().out
    assert "4 runs, 3 done before" in out
    assert "1/1  tiny/two/1  dice 0.6000" in out


def test_a_failed_run_is_named_and_does_not_stop_the_others(runs, capfd):
    for run in runs[:2]:
        write_result(run, [0.5])
    broken = [sys.executable, "-c", "raise SystemExit('no luck')"]
    assert sorted(study.execute(runs, jobs=1, command=lambda run: broken)) == ["tiny/one/1", "tiny/two/1"]
    assert "FAILED: no luck" in capfd.readouterr().out


def test_stopping_a_study_stops_its_workers(runs, monkeypatch):
    started = []
    real = study.start
    monkeypatch.setattr(study, "start", lambda *args: started.append(real(*args)) or started[-1])

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(study.time, "sleep", interrupt)
    sleeper = [sys.executable, "-c", "import time; time.sleep(100)"]
    with pytest.raises(KeyboardInterrupt):
        study.execute(runs, jobs=2, command=lambda run: sleeper)
    assert len(started) == 2
    assert all(process.returncode not in (None, 0) for process in started)


def test_a_result_of_other_settings_is_refused(runs):
    write_result(runs[0], [0.5])
    other = replace(runs[0], variant=replace(ONE_LOSS, parts=(Part({"bce": 1.0}, lr=1e-3),)))
    assert study.read_result(runs[0]) is not None
    with pytest.raises(ValueError, match=r"lr = 0.002, now it is 0.001: remove"):
        study.read_result(other)


# ---------------------------------------------------------------------------------------------- tables and data


def test_report_shows_scores_differences_and_missing_runs(runs):
    for run in runs:
        shift = 0.1 * (run.name == "two") + 0.01 * run.seed * (run.name == "two")
        write_result(run, [0.5 + shift, 0.7 + shift])
    text = study.report(tiny_study(), runs, "python study.py")
    assert "### One loss or two" in text
    assert "| one | 2 | .6000 ± .0000 |" in text
    assert "| two | 2 | .7050 ± .0071 | +.1050 [+.1050, +.1050] seeds ±.0071 | yes | 1.00 (1.00 to 1.00) |" in text
    runs[1].path.unlink()  # "two" has one seed left, so its noise is unknown
    text = study.report(tiny_study(), runs, "python study.py")
    assert "3 of 4 runs" in text
    assert "| two | 1 | .7100 | +.1100 [+.1100, +.1100] | no |" in text


def test_pooled_datasets_weigh_each_image_the_same(runs, monkeypatch):
    monkeypatch.setitem(study.DATASETS, "other", TINY)
    variants = {"one": ONE_LOSS, "two": TWO_PHASES}
    question = Study("test", (Comparison("Both", ("tiny", "other"), variants, baseline="one", pooled=True),))
    runs = study.runs_of(question, seeds=2, scale=SCALE)
    for run in runs:
        shift = 0.1 * (run.name == "two")
        images = [0.2] if run.dataset == "tiny" else [0.5, 0.5, 0.8]
        names = [f"{run.dataset}{number}" for number in range(len(images))]
        write_result(run, [score + shift for score in images], image_id=names, group=names)
    text = study.report(question, runs, "")
    pooled = text.partition("**All of tiny, other**")[2]
    assert "| one | 2 | .5000 ± .0000 |" in pooled  # the mean of four images, not of two datasets
    assert "| two | 2 | .6000 ± .0000 | +.1000 [+.1000, +.1000] seeds ±.0000 | yes |" in pooled
    runs[-1].path.unlink()
    pooled = study.report(question, runs, "").partition("**All of tiny, other**")[2]
    assert "| two | 1 | .6000 |" in pooled  # the other seed lacks a dataset


def test_report_refuses_runs_on_different_images(runs):
    write_result(runs[0], [0.5])
    write_result(runs[1], [0.5], images="other")
    with pytest.raises(ValueError, match="saw different images"):
        study.report(tiny_study(), runs, "")


def test_report_without_results_says_so(runs):
    assert "No results" in study.report(tiny_study(), runs, "")


def test_speed_table_compares_every_variant_with_the_unet():
    row = {"parameters": 14_000_000, "training": [40.0, 44.0], "inference": [100.0, 100.0], "peak": 300}
    fast = row | {"training": [84.0, 84.0]}
    speed = {
        "commit": "0123456789",
        "device": "cpu",
        "threads": 1,
        "crop": 96,
        "variants": {"unet": row, "fcn8s": fast},
    }
    text = study_models.speed_table(speed)
    assert "| unet | tu-resnet18 | 14.00 M | 42 (40 to 44) | 1.00 |" in text
    assert "| fcn8s | tu-resnet18 | 14.00 M | 84 (84 to 84) | 2.00 |" in text


def test_widened_images_have_a_quarter_of_the_positives_and_black_margins(card, tiny):
    study.derive(card, tiny / "tiny", tiny / "wide", study.widen)
    before, after = read_index(card, tiny / "tiny"), read_index(card, tiny / "wide")
    assert list(after["image_id"]) == list(before["image_id"])
    assert after["coverage"].sum() == pytest.approx(before["coverage"].sum() / 4, rel=0.1)
    pixels = Reader(1).read(Sample.from_file(after["path"][0]))
    assert pixels.shape == (36, 44, 1)
    assert not pixels[:9].any()
    assert pixels[9:27, 11:33].all()  # the noise is never 0


def test_halved_images_keep_the_share_of_positives(card, tiny):
    study.derive(card, tiny / "tiny", tiny / "half", study.halve)
    before, after = read_index(card, tiny / "tiny"), read_index(card, tiny / "half")
    assert (after["height"][0], after["width"][0]) == (18, 22)
    assert after["coverage"].mean() == pytest.approx(before["coverage"].mean(), rel=0.1)


def test_a_derived_dataset_has_the_folds_of_its_source(runs, card, tiny, monkeypatch):
    study.derive(card, tiny / "tiny", tiny / "wide", study.widen)
    monkeypatch.setitem(study.DATASETS, "wide", TINY)
    wide = read_index(card, tiny / "wide")
    with pytest.raises(ValueError, match="other masks"):
        study.folds_of("wide", wide)
    monkeypatch.setitem(study.DERIVED, "wide", ("tiny", study.widen))
    assert study.folds_of("wide", wide).equals(study.folds_of("tiny", read_index(card, tiny / "tiny")))


def test_only_selects_by_whole_parts_of_the_key(runs):
    assert [run.key for run in study.select(runs, "tiny/one")] == ["tiny/one/0", "tiny/one/1"]
    with pytest.raises(ValueError, match="no such run"):
        study.select(runs, "tiny/on")


def test_a_dataset_without_a_folder_is_named():
    with pytest.raises(ValueError, match="--data heart=FOLDER"):
        study.make_folders(["heart_wide"], {})
    with pytest.raises(ValueError, match="--data nuclei=FOLDER"):
        study.make_folders(["nuclei_stained"], {})
    assert study.make_folders(["nuclei_stained"], {"nuclei": Path("files")}) == {"nuclei_stained": Path("files")}
