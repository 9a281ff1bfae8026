"""A part of the folds (`folds.only`, FOLDS="0 1"): on which images rules are chosen, and what the score then says.

With two folds or more, what is chosen on all but one of them is scored on the one left out. With one fold, the same is
done with two halves of its images. The models stay the same: each was trained without all of the fold.
"""

import numpy as np
import pandas as pd

from pipeline.stages.preparing import Context


def with_choice_folds(rows: pd.DataFrame) -> pd.DataFrame:
    """The training images with `choice_fold`: what is chosen without it is scored on it.

    Args:
        rows: with image_id, fold, group and coverage.
    """
    several = rows["fold"].nunique() > 1
    return rows.assign(choice_fold=rows["fold"] if several else _halves(rows))


def _halves(rows: pd.DataFrame) -> np.ndarray:
    """The half of each image, (N,) 0 or 1: groups stay whole if there are two or more.

    Groups are taken by falling coverage, each into the half with fewer images so far, so masks of all sizes, and images
    without one, are in both.
    """
    units = rows["group"] if rows["group"].nunique() > 1 else rows["image_id"]
    groups = rows.groupby(units)["coverage"].agg(["mean", "size"]).rename_axis("unit").reset_index()
    half_of, sizes = {}, [0, 0]
    for unit, _, size in groups.sort_values(["mean", "unit"], ascending=[False, True]).itertuples(index=False):
        half_of[unit] = int(sizes[1] < sizes[0])
        sizes[half_of[unit]] += size
    return units.map(half_of).to_numpy()


def describe_part(first: Context, rows: pd.DataFrame) -> str | None:
    """What a score on a part of the folds says, and what it does not; None with all folds."""
    numbers, count = first.fold_numbers(), first.cfg.folds.count
    if len(numbers) == count:
        return None
    if len(numbers) > 1:
        named = ", ".join(map(str, numbers))
        return (
            f"folds {named} of {count}: what is chosen without one of them is scored on it; the score and the interval "
            f"are of their {len(rows)} images; only their models predict the test set"
        )
    one_group = rows["group"].nunique() == 1
    halves = (
        "one half of its images is scored with the rules chosen on the other; all are of one group, so the score is "
        "too high, and there is no interval"
        if one_group
        else "one half of its groups is scored with the rules chosen on the other"
    )
    return (
        f"fold {numbers[0]} of {count}: {halves}; the score is of {len(rows)} images and one model, which alone "
        f"predicts the test set: how much models of other folds differ is not known"
    )
