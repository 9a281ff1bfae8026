"""Folds of whole kinds: no kind is on both sides, groups stay together, sizes by hand."""

import json
from pathlib import Path

import pandas as pd
import pytest

from pipeline import config, stages
from pipeline.folds import hold_out, read_folds, write_folds
from pipeline.kinds import assign_kinds, join_kinds, kinds_by_fold

# Kinds by microscopy and height, with their number of images.
SIZES = {("fluo", 256): 6, ("fluo", 360): 3, ("fluo", 512): 1, ("stained", 256): 4, ("stained", 512): 2}


@pytest.fixture
def index() -> pd.DataFrame:
    rows = [kind for kind, count in SIZES.items() for _ in range(count)]
    ids = [f"{number:02}" for number in range(len(rows))]
    table = pd.DataFrame(rows, columns=["meta.kind", "height"]).assign(image_id=ids, group=ids, coverage=0.1)
    return table.sample(frac=1, random_state=0, ignore_index=True)


def test_a_kind_is_a_combination_of_values_and_the_largest_have_folds_of_their_own(index):
    # 6, 4, 3, 2, 1 images into three folds: 6 | 4 | 3, then 2 to the 3, and 1 to the 4.
    folds = assign_kinds(index, 3, ["kind", "height"])
    named = index.merge(folds, on="image_id")
    found = {(kind, height): set(part) for (kind, height), part in named.groupby(["meta.kind", "height"])["fold"]}
    assert found == {
        ("fluo", 256): {0},
        ("stained", 256): {1},
        ("fluo", 360): {2},
        ("stained", 512): {2},
        ("fluo", 512): {1},
    }
    assert folds["image_id"].is_monotonic_increasing


def test_the_kinds_of_each_fold_are_listed(index):
    shown = kinds_by_fold(index, assign_kinds(index, 3, ["kind", "height"]), ["kind", "height"])
    assert shown.to_dict() == {
        0: "fluo/256 (6)",
        1: "stained/256 (4), fluo/512 (1)",
        2: "fluo/360 (3), stained/512 (2)",
    }


def test_no_kind_is_both_trained_on_and_held_out(index):
    folds = assign_kinds(index, 2, ["kind"])
    for fold in (0, 1):
        train_index, valid_index = hold_out(index, folds, fold)
        assert not set(train_index["meta.kind"]) & set(valid_index["meta.kind"])


def test_folds_do_not_depend_on_the_order_of_the_rows(index):
    shuffled = index.sample(frac=1, random_state=1, ignore_index=True)
    assert assign_kinds(shuffled, 3, ["kind", "height"]).equals(assign_kinds(index, 3, ["kind", "height"]))


def test_kinds_that_share_a_group_are_one(index):
    index.loc[index["height"] >= 360, "group"] = "one patient"  # of the kinds fluo/360, fluo/512 and stained/512
    joined = join_kinds(index, ["kind", "height"])
    assert joined["group"].value_counts().to_dict() == {"fluo/256": 6, "fluo/360": 6, "stained/256": 4}
    folds = assign_kinds(index, 3, ["kind", "height"])
    assert index.merge(folds, on="image_id").groupby("group")["fold"].nunique().max() == 1


def test_without_columns_the_index_stays(index):
    assert join_kinds(index, []) is index


@pytest.mark.parametrize(
    ("columns", "count", "message"),
    [
        (["kind"], 3, r"folds.hold_out: 2 kinds \(fluo, stained\) cannot fill 3 folds.*set folds.count to 2 or less"),
        (["coverage"], 2, r"1 kind \(0.1\) cannot fill 2 folds.*: name other columns"),
        (["stain"], 2, "folds.hold_out: no column 'stain'. Known columns: kind, height"),
    ],
)
def test_kinds_that_cannot_fill_the_folds_are_refused(index, columns, count, message):
    with pytest.raises(ValueError, match=message):
        assign_kinds(index, count, columns)


def test_folds_that_separate_images_of_a_kind_are_refused(index, tmp_path):
    """As when hold_out is added to a config whose folds exist."""
    mixed = index[["image_id"]].assign(fold=[number % 2 for number in range(len(index))])
    write_folds(tmp_path / "folds.csv", mixed, index, {})
    read_folds(tmp_path / "folds.csv", index)
    with pytest.raises(ValueError, match=r"group 'fluo' is in 2 folds"):
        read_folds(tmp_path / "folds.csv", join_kinds(index, ["kind"]))


def test_a_config_holds_out_whole_values_of_a_meta_column(tiny, edit):
    edit("tiny.toml", 'train_csv = "train.csv"', 'train_csv = "train.csv"\ntrain_meta = "meta.csv"')
    ids = [line.split(",")[0] for line in Path("tiny/train.csv").read_text().splitlines()[1:]]
    rows = ["id,stain", *(f"{image_id},{'HE' if number < 5 else 'PAS'}" for number, image_id in enumerate(ids))]
    Path("tiny/meta.csv").write_text("\n".join(rows) + "\n")
    pairs = ["folds.count=2", "folds.grouped=false", "folds.hold_out=['stain']"]
    described, _ = stages.describe_folds(config.load("configs/tiny.toml", pairs))
    assert described["kinds"].tolist() == ["PAS (13)", "HE (5)"]
    assert json.loads(Path("folds/tiny.json").read_text())["hold_out"] == ["stain"]
    stages.make_context(config.load("configs/tiny.toml", pairs[:2]))  # a config without the option reads them too
    with pytest.raises(ValueError, match=r"folds/tiny\.csv: group '36' is in 2 folds"):
        stages.make_context(config.load("configs/tiny.toml", [*pairs[:2], "folds.hold_out=['height']"]))
