"""The comparison of training with test images on a tiny competition, and folds that balance likeness."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import competition, config, rle, stages
from pipeline.cli import main
from pipeline.cli.stages import _format_like_test
from pipeline.data.reader import Reader
from pipeline.duplicates.table import PAIR_COLUMNS
from pipeline.metrics import Scores
from pipeline.stages import train_test_shift
from pipeline.stages.preparing import Paths, compare_with_test, index_test_images, index_training_images
from pipeline.stages.train_test_shift import TrainTestShift, bin_likeness
from pipeline.statistics.adversarial_validation import AdversarialValidation
from pipeline.statistics.bootstrap import Interval
from tests.conftest import CARD, CONFIG

ROOT = Path("tiny")


def is_bright(place):
    """Every third training image is of the kind that all test images are of, whatever its mask."""
    return place % 3 == 1


def write(train=60, test=40):
    """Images of noise with a disc; test images and every third training image have twice the contrast."""
    rng = np.random.default_rng(0)
    (ROOT).mkdir(exist_ok=True)
    for part, number in (("train", train), ("test", test)):
        (ROOT / part / "images").mkdir(parents=True)
        lines = ["id,rle_mask"]
        for place in range(number):
            bright = part == "test" or is_bright(place)
            mask = np.zeros((36, 44), np.uint8)
            top, left = rng.integers(0, 20, 2)
            mask[top : top + rng.integers(4, 14), left : left + rng.integers(4, 14)] = 1
            image = rng.normal(60, 20 if bright else 8, mask.shape) + 100 * mask
            Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(ROOT / part / "images" / f"{place:03}.png")
            lines.append(f"{place:03},{rle.encode(mask)}")
        (ROOT / f"{part}.csv").write_text("\n".join(lines) + "\n")
    ids = [line.split(",")[0] for line in (ROOT / "test.csv").read_text().splitlines()[1:]]
    (ROOT / "sample_submission.csv").write_text("\n".join(["id,rle_mask", *(f"{each}," for each in ids)]) + "\n")


@pytest.fixture
def noisy(tmp_path, monkeypatch):
    """The competition of `write` in a fresh current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA", raising=False)
    write()
    Path("tiny.toml").write_text(CARD)
    Path("configs").mkdir()
    Path("configs/tiny.toml").write_text(CONFIG)
    return tmp_path


def keep_test_images(number):
    """Keep some rows of the sample submission."""
    path = ROOT / "sample_submission.csv"
    path.write_text("\n".join(path.read_text().split("\n")[: number + 1]) + "\n")


def compare():
    cfg = config.load("configs/tiny.toml")
    card = competition.load("tiny.toml")
    paths = Paths(cfg, card)
    index, test = index_training_images(cfg, card, paths), index_test_images(cfg, card, paths)
    return compare_with_test(cfg, card, paths, index, test), index


def test_audit_says_in_what_the_test_images_differ_and_draws_the_extremes(noisy, capsys):
    assert main(["audit", "configs/tiny.toml"]) == 0
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("test "))
    assert "test images differ (AUC 0." in line
    assert "training and 40 test images by their pixels): " in line
    assert "(train " in line
    assert "reports/tiny-like-test.png" in printed
    with Image.open("reports/tiny-like-test.png") as sheet:
        assert sheet.width > 500


def test_the_training_images_of_the_test_set_s_kind_are_the_most_like_it(noisy):
    shift, _ = compare()
    probability = pd.Series(shift.found.train, index=shift.train_ids)
    bright = np.array([is_bright(int(image_id)) for image_id in probability.index])
    assert probability[bright].min() > probability[~bright].max()


@pytest.mark.parametrize(
    ("number", "said"), [(0, "there are no test images yet"), (3, "3 test images are too few to tell")]
)
def test_without_enough_test_images_the_audit_says_why_there_is_no_comparison(noisy, capsys, number, said):
    keep_test_images(number)
    assert main(["audit", "configs/tiny.toml"]) == 0
    printed = capsys.readouterr().out
    lines = [line for line in printed.splitlines() if "not compared with the training images: " + said in line]
    assert len(lines) == 1
    assert "like-test" not in printed


def test_unchanged_images_are_not_read_again(noisy, monkeypatch):
    first, _ = compare()
    monkeypatch.setattr(Reader, "picture", None)
    second, _ = compare()
    np.testing.assert_array_equal(first.found.train, second.found.train)


def test_a_large_set_is_sampled_and_the_rest_has_a_bin_of_its_own(noisy, monkeypatch):
    monkeypatch.setattr(train_test_shift, "MAX_IMAGES", 35)
    shift, index = compare()
    assert (len(shift.train_ids), len(shift.test_ids)) == (35, 35)
    bins = bin_likeness(shift, index["image_id"], 5)
    assert bins.value_counts().to_dict() == {"not compared": 25, "1": 7, "2": 7, "3": 7, "4": 7, "5": 7}


def test_folds_hold_as_many_images_of_each_quantile_of_likeness(noisy):
    cfg = config.load("configs/tiny.toml", ["folds.like_test=true"])
    stages.describe_folds(cfg)
    shift, index = compare()
    folds = pd.read_csv("folds/tiny.csv", dtype={"image_id": str})
    bins = bin_likeness(shift, index["image_id"], cfg.folds.count)
    table = pd.crosstab(index["image_id"].map(folds.set_index("image_id")["fold"]), bins)
    assert (table.max() - table.min()).max() <= 1
    bright = folds[folds["image_id"].astype(int).map(is_bright)].groupby("fold").size()
    assert bright.max() - bright.min() <= 2


def test_folds_by_likeness_without_test_images_are_refused_in_one_line(noisy, capsys):
    keep_test_images(0)
    assert main(["folds", "configs/tiny.toml", "--set", "folds.like_test=true"]) == 2
    printed = capsys.readouterr()
    assert "configs/tiny.toml: folds.like_test: there are no test images yet: remove it" in printed.err + printed.out


def test_test_images_of_one_scene_are_held_out_together(noisy):
    # 40 test images, each connected with the next one: one group, as few as one image.
    rows = [(f"{n:03}", "test", f"{n + 1:03}", "test", "copy", "identity", 0, 0, 1.0) for n in range(39)]
    Path("folds").mkdir()
    pd.DataFrame(rows, columns=PAIR_COLUMNS).to_csv("folds/tiny.duplicates.csv", index=False)
    shift, _ = compare()
    assert shift.missing.startswith("40 test images in 1 groups are too few")


def test_the_weighted_score_is_of_the_compared_images_alone():
    found = AdversarialValidation(Interval(0.9, 0.8, 1.0), [], np.array([0.75, 0.5]), np.array([0.5]))
    shift = TrainTestShift(found, ["b", "a"], ["t"])
    rows = pd.DataFrame({"image_id": ["a", "b", "c"], "group": ["1", "2", "3"]})
    # The odds of b are 3, those of a 1, and c was not compared: (3 · 1 + 1 · .2) / 4.
    weighted = shift.weighted(rows, Scores.from_values([0.2, 1.0, 0.6]))
    assert weighted.mean == pytest.approx(0.8)
    assert weighted.groups == pytest.approx(1 / (0.75**2 + 0.25**2)), "too few for an interval"


def test_the_line_below_the_score_has_the_weighted_one_and_on_how_many_images_it_rests():
    # Odds of 3 and 1/3: weights 1.8 and .2, so that (2)² / (1.8² + .2²) = 1.2 images count.
    found = AdversarialValidation(Interval(0.7, 0.6, 0.8), [], np.array([0.75, 0.25]), np.array([0.5]))
    done = SimpleNamespace(shift=TrainTestShift(found, ["a", "b"], ["t"]), like_test=Interval(0.875, 0.8, 0.9))
    assert _format_like_test(done).strip() == (
        "0.8750  weighted by likeness to the test images, 95% interval 0.8000 to 0.9000, 1 effective of 2 images, too "
        "few to rely on"
    )


def test_a_score_is_not_weighted_by_likeness_to_test_images_that_do_not_differ():
    found = AdversarialValidation(Interval(0.5, 0.4, 0.6), [], np.array([0.75, 0.25]), np.array([0.5]))
    shift = TrainTestShift(found, ["a", "b"], ["t"], by_predictions=True)
    done = SimpleNamespace(shift=shift, like_test=Interval(0.875, 0.8, 0.9))
    assert _format_like_test(done).strip() == (
        "test images do not differ from training images by more than chance (AUC 0.50, 0.40 to 0.60, of 2 training "
        "and 1 test images by their pixels and predictions)"
    )
