"""Folds: balanced, grouped, seeded, never overwritten, and tied to their data."""

import json

import numpy as np
import pandas as pd
import pytest

from pipeline.folds import (
    assign_folds,
    describe_folds,
    hold_out,
    index_digest,
    read_folds,
    worst_deviation,
    write_folds,
)

OPTIONS = {"count": 5, "seed": 0, "balance": []}


def make_index(size: int = 200, groups: int | None = None, empty: float = 0.4) -> pd.DataFrame:
    """An index with coverage in random order of the ids, so that a sort by id does not look stratified."""
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


def test_empty_masks_and_coverage_are_balanced(index):
    table = describe_folds(index, assign_folds(index, 5, seed=0))
    assert np.ptp(table["empty"]) <= 1 / 40 + 1e-9
    assert np.abs(table["coverage"] / table["coverage"].mean() - 1).max() < 0.15
    # Folds in the order of the ids fail the same check.
    dealt = pd.DataFrame({"image_id": index["image_id"], "fold": np.arange(200) // 40})
    assert np.abs(describe_folds(index, dealt)["coverage"] / table["coverage"].mean() - 1).max() > 0.15


def test_groups_are_not_split():
    index = make_index(groups=23)
    merged = index.merge(assign_folds(index, 5, seed=0))
    assert (merged.groupby("group")["fold"].nunique() == 1).all()


@pytest.mark.slow
@pytest.mark.parametrize("groups", [None, 30])
def test_order_of_the_rows_does_not_matter(groups):
    index = make_index(groups=groups)
    shuffled = index.sample(frac=1, random_state=1, ignore_index=True)
    assert assign_folds(shuffled, 5, seed=0).equals(assign_folds(index, 5, seed=0))


def dealt(index: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    """Random folds of groups, the baseline."""
    groups = index["group"].unique()
    fold = dict(zip(groups, np.random.default_rng(seed).permutation(len(groups)) % count, strict=True))
    return pd.DataFrame({"image_id": index["image_id"], "fold": index["group"].map(fold)})


def make_patients() -> pd.DataFrame:
    """30 patients of 12 to 23 slices, with masks of different sizes."""
    rng = np.random.default_rng(5)
    slices = rng.integers(12, 24, 30)
    patient = np.repeat([f"p{number:02}" for number in rng.permutation(30)], slices)
    size = np.repeat(rng.uniform(0.01, 0.03, 30), slices)
    coverage = np.where(rng.random(len(patient)) < 0.2, 0, size * rng.uniform(0.3, 1.5, len(patient)))
    ids = [f"{number:04}" for number in rng.permutation(len(patient))]
    return pd.DataFrame({"image_id": ids, "coverage": coverage, "group": patient})


def test_coverage_of_thirty_patients_is_balanced_within_five_percent():
    index = make_patients()
    coverage = describe_folds(index, assign_folds(index, 5, seed=0))["coverage"]
    assert (coverage / coverage.mean() - 1).abs().max() < 0.05
    by_chance = describe_folds(index, dealt(index, 5, seed=0))["coverage"]
    assert (by_chance / by_chance.mean() - 1).abs().max() > 0.05


@pytest.mark.slow
def test_classes_of_a_grouped_data_set_are_balanced_together():
    index = make_index(600, groups=90)
    rng = np.random.default_rng(8)
    for name, share in (("common", 0.5), ("rare", 0.1)):
        index[f"coverage_{name}"] = np.where(rng.random(600) < share, rng.beta(2, 9, 600), 0)
    table = describe_folds(index, assign_folds(index, 5, seed=0))
    by_chance = [worst_deviation(describe_folds(index, dealt(index, 5, seed))) for seed in range(10)]
    assert worst_deviation(table) < 0.5 * min(by_chance)
    assert (table["coverage_rare"] / table["coverage_rare"].mean() - 1).abs().max() < 0.1


@pytest.mark.slow
def test_an_additional_column_is_balanced():
    index = make_index()
    index["kind"] = np.where(np.random.default_rng(2).random(200) < 0.15, "stained", "fluorescence")
    table = describe_folds(index, assign_folds(index, 5, seed=0, balance=["kind"]), balance=["kind"])
    assert np.ptp(table["kind=stained"]) <= 1 / 40 + 1e-9
    assert (
        np.ptp(describe_folds(index, assign_folds(index, 5, seed=0), balance=["kind"])["kind=stained"]) > 1 / 40 + 1e-9
    )


def test_table_by_hand():
    index = pd.DataFrame(
        {"image_id": list("abcd"), "coverage": [0.0, 0.2, 0.1, 0.3], "group": list("xxyz"), "kind": list("uuuv")}
    )
    table = describe_folds(index, pd.DataFrame({"image_id": list("abcd"), "fold": [0, 0, 1, 1]}), balance=["kind"])
    assert table.loc[0].to_dict() == pytest.approx(
        {"images": 2, "groups": 1, "empty": 0.5, "coverage": 0.1, "q25": 0.05, "q50": 0.1, "q75": 0.15}
        | {"kind=u": 1, "kind=v": 0}
    )
    assert table["groups"].tolist() == [1, 2]
    # Means over folds: empty .25 against .5 and 0, coverage .15 against .1 and .2, kind=v .25 against 0 and .5.
    assert worst_deviation(table) == pytest.approx(1.0)
    assert worst_deviation(table[["images", "groups", "coverage", "q25", "q50", "q75"]]) == pytest.approx(1 / 3)


def test_table_of_classes_has_the_share_of_images_with_each_by_hand():
    index = pd.DataFrame(
        {
            "image_id": list("abcd"),
            "coverage": [0.3, 0.2, 0.1, 0.3],
            "group": list("abcd"),
            "coverage_sky": [0.2, 0.2, 0.1, 0.3],
            "coverage_car": [0.1, 0.0, 0.0, 0.0],
        }
    )
    table = describe_folds(index, pd.DataFrame({"image_id": list("abcd"), "fold": [0, 0, 1, 1]}))
    assert table["with_sky"].tolist() == [1, 1]
    assert table["with_car"].tolist() == [0.5, 0]
    assert table["coverage_car"].tolist() == [0.05, 0]
    # One fold has no car: the largest possible deviation from the mean of .25.
    assert worst_deviation(table[["images", "groups", "with_car", "q25", "q50", "q75"]]) == 1


def test_group_larger_than_a_fold_is_named_with_its_images():
    index = make_index()
    index["group"] = np.where(np.arange(200) < 70, "scanner", index["group"])
    first = ", ".join(index["image_id"][:3])
    with pytest.raises(
        ValueError, match=rf"group 'scanner' holds 70 of 200 images \({first}, …\), a fold of 5 about 40"
    ):
        assign_folds(index, 5, seed=0)


def test_groups_that_are_a_fold_each_may_be_larger_than_a_fold():
    index = make_index()
    index["group"] = np.repeat(["large", "small", "smaller"], [150, 30, 20])
    folds = index.merge(assign_folds(index, 3, seed=0), on="image_id").groupby("fold")["group"].unique()
    assert sorted(group for groups in folds for group in groups) == ["large", "small", "smaller"]
    with pytest.raises(ValueError, match="group 'large' holds 150 of 200 images"):
        assign_folds(index.assign(group=index["group"].mask(index.index == 199, "fourth")), 3, seed=0)


def test_unknown_column_to_balance_is_refused(index):
    with pytest.raises(ValueError, match=r"folds\.balance: no column 'sex'\. Known columns: image_id, coverage, group"):
        assign_folds(index, 5, seed=0, balance=["sex"])


def test_folds_depend_on_the_seed_only(index):
    assert assign_folds(index, 5, seed=1).equals(assign_folds(index, 5, seed=1))
    assert not assign_folds(index, 5, seed=1).equals(assign_folds(index, 5, seed=2))


@pytest.mark.parametrize("empty", [0.0, 1.0, 0.995, 0.01])
def test_extreme_shares_of_empty_masks_are_supported(empty):
    folds = assign_folds(make_index(empty=empty), 5, seed=0)
    assert folds["fold"].nunique() == 5


def test_too_few_groups_are_refused():
    with pytest.raises(ValueError, match=r"3 groups cannot fill 5 folds: lower folds\.count"):
        assign_folds(make_index(groups=3), 5, seed=0)


def test_folds_file_can_be_read_back_and_is_never_overwritten(tmp_path, index):
    folds = assign_folds(index, 5, seed=0)
    write_folds(tmp_path / "folds.csv", folds, index, OPTIONS)
    assert read_folds(tmp_path / "folds.csv", index).equals(folds)
    with pytest.raises(FileExistsError, match="set another folds"):
        write_folds(tmp_path / "folds.csv", folds, index, OPTIONS)


def test_options_and_index_digest_are_recorded_next_to_the_file(tmp_path, index):
    folds = assign_folds(index, 5, seed=0)
    write_folds(tmp_path / "folds.csv", folds, index, OPTIONS)
    made = json.loads((tmp_path / "folds.json").read_text())
    assert made.pop("index") == index_digest(index)
    assert made == {**OPTIONS, "images": 200, "groups": 200, "worst_deviation": made["worst_deviation"]}
    assert made["worst_deviation"] == pytest.approx(worst_deviation(describe_folds(index, folds)), abs=1e-4)


@pytest.mark.slow
def test_recorded_deviation_includes_the_balanced_columns(tmp_path, index):
    index["kind"] = np.where(
        np.arange(200) % 29 == 0, "rare", "common"
    )  # 7 images: five folds cannot share them evenly
    folds = assign_folds(index, 5, seed=0, balance=["kind"])
    write_folds(tmp_path / "folds.csv", folds, index, {**OPTIONS, "balance": ["kind"]})
    kept = json.loads((tmp_path / "folds.json").read_text())["worst_deviation"]
    assert kept == pytest.approx(worst_deviation(describe_folds(index, folds, ["kind"])), abs=1e-4)
    assert kept > worst_deviation(describe_folds(index, folds)) + 0.1


def test_folds_of_other_masks_are_refused_and_folds_without_a_record_accepted(tmp_path, index):
    write_folds(tmp_path / "folds.csv", assign_folds(index, 5, seed=0), index, OPTIONS)
    changed = index.assign(coverage=index["coverage"].where(index["image_id"] != "00007", 0.5))
    with pytest.raises(ValueError, match=r"folds\.json: the folds were made from other masks of the same images"):
        read_folds(tmp_path / "folds.csv", changed)
    (tmp_path / "folds.json").unlink()
    assert len(read_folds(tmp_path / "folds.csv", changed)) == 200


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.iloc[1:], r"First difference: '00000' \(only in the data\)"),
        (lambda table: pd.concat([table, table.tail(1)]), r"201 rows.*'00199' \(repeated\)"),
        (lambda table: table.replace("00000", "0"), r"First difference: '0' \(only in the file\)"),
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
    write_folds(tmp_path / "folds.csv", folds, index, OPTIONS)
    with pytest.raises(ValueError, match=r"group 'g\d+' is in 2 folds, .* Set folds\.name = \"folds2\" in the conf"):
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
    with pytest.raises(ValueError, match="holds all images"):
        hold_out(index, folds.assign(fold=0), 0)
