"""Folds: even, grouped, seeded, never changed, and bound to their data."""

import numpy as np
import pandas as pd
import pytest

from pipeline.folds import assign_folds, describe, hold_out, read_folds, write_folds


def make_index(size: int = 200, groups: int | None = None, empty: float = 0.4) -> pd.DataFrame:
    """Coverage is shuffled against the ids: sorted by id, nothing looks stratified."""
    rng = np.random.default_rng(3)
    coverage = np.where(rng.random(size) < empty, 0.0, rng.beta(1, 5, size))
    ids = [f"{number:05}" for number in rng.permutation(size)]
    group = ids if groups is None else [f"g{number % groups}" for number in range(size)]
    return pd.DataFrame({"image_id": ids, "coverage": coverage, "group": group})


@pytest.fixture
def index():
    return make_index()


def test_every_image_has_one_fold_and_folds_are_equal(index):
    folds = assign_folds(index, 5, seed=0)
    assert sorted(folds["image_id"]) == sorted(index["image_id"])
    assert folds["fold"].value_counts().tolist() == [40] * 5


def test_empties_and_coverage_are_spread(index):
    table = describe(index, assign_folds(index, 5, seed=0))
    assert np.ptp(table["empty"]) <= 1 / 40 + 1e-9
    assert np.abs(table["coverage"] / table["coverage"].mean() - 1).max() < 0.15
    # Folds dealt out in the order of the ids would fail here: the fixture is sharp.
    dealt = pd.DataFrame({"image_id": index["image_id"], "fold": np.arange(200) // 40})
    assert np.abs(describe(index, dealt)["coverage"] / table["coverage"].mean() - 1).max() > 0.15


def test_groups_stay_whole():
    index = make_index(groups=23)
    merged = index.merge(assign_folds(index, 5, seed=0))
    assert (merged.groupby("group")["fold"].nunique() == 1).all()


def test_seed_decides(index):
    assert assign_folds(index, 5, seed=1).equals(assign_folds(index, 5, seed=1))
    assert not assign_folds(index, 5, seed=1).equals(assign_folds(index, 5, seed=2))


@pytest.mark.parametrize("empty", [0.0, 1.0, 0.995, 0.01])
def test_extreme_shares_of_empties_work(empty):
    folds = assign_folds(make_index(empty=empty), 5, seed=0)
    assert folds["fold"].nunique() == 5


def test_too_few_groups_are_refused():
    with pytest.raises(ValueError, match=r"3 groups cannot fill 5 folds: lower folds\.count"):
        assign_folds(make_index(groups=3), 5, seed=0)


def test_file_round_trip_and_never_overwritten(tmp_path, index):
    folds = assign_folds(index, 5, seed=0)
    write_folds(tmp_path / "folds.csv", folds)
    assert read_folds(tmp_path / "folds.csv", index).equals(folds)
    with pytest.raises(FileExistsError, match="remove it yourself"):
        write_folds(tmp_path / "folds.csv", folds)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.iloc[1:], r"First difference: '00000' \(only in the data\)"),
        (lambda table: pd.concat([table, table.tail(1)]), r"201 rows.*'00199' \(twice\)"),
        (lambda table: table.replace("00000", "0"), r"First difference: '0' \(only there\)"),
        (lambda table: table.assign(fold="a"), r"line 2: fold 'a' is not a number"),
    ],
)
def test_file_that_does_not_match_is_refused(tmp_path, index, change, message):
    change(assign_folds(index, 5, seed=0)).to_csv(tmp_path / "folds.csv", index=False)
    with pytest.raises(ValueError, match=message):
        read_folds(tmp_path / "folds.csv", index)


def test_file_that_splits_a_group_is_refused(tmp_path):
    index = make_index(groups=20)
    folds = assign_folds(index, 5, seed=0)
    folds.loc[0, "fold"] = (folds.loc[0, "fold"] + 1) % 5
    write_folds(tmp_path / "folds.csv", folds)
    with pytest.raises(ValueError, match=r"group 'g\d+' lies in 2 folds: its images would leak"):
        read_folds(tmp_path / "folds.csv", index)


def test_hold_out_parts_are_disjoint_and_complete(index):
    folds = assign_folds(index, 5, seed=0)
    train_index, valid_index = hold_out(index, folds, 2)
    assert not set(train_index["image_id"]) & set(valid_index["image_id"])
    assert len(train_index) + len(valid_index) == len(index)
    assert set(valid_index["image_id"]) == set(folds["image_id"][folds["fold"] == 2])


def test_fold_that_does_not_exist_or_is_empty_is_refused(index):
    folds = assign_folds(index, 5, seed=0)
    with pytest.raises(ValueError, match=r"fold 7 does not exist. Folds with images: 0, 1, 2, 3, 4"):
        hold_out(index, folds, 7)
    with pytest.raises(ValueError, match="fold 2 is empty"):
        hold_out(index, folds.replace({"fold": {2: 1}}), 2)
    with pytest.raises(ValueError, match="holds every image"):
        hold_out(index, folds.assign(fold=0), 0)
