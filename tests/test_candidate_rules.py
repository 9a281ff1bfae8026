"""Candidate rules are selected by their cross-fitted scores."""

import numpy as np
import pytest

from pipeline.ensemble.candidate_rules import search_candidates
from pipeline.metrics import pixel_metric
from pipeline.postprocess.rules import Rules
from pipeline.postprocess.shares import Place

DICE = pixel_metric("mean_dice")
RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], np.uint8)
DISC = np.ones((3, 3), np.uint8)
ALL = (0, 1, 2, 3)


def rings(*targets_and_folds):
    """Images that predict a ring at every threshold."""
    return [(RING * 255, target, Place(fold)) for target, fold in targets_and_folds]


def search(images, *fits):
    """The candidate rules for some sets of folds."""
    return search_candidates(lambda keys: ((key, *image) for image in images for key in keys), DICE, {"": fits})[""]


def compete(images, folds=ALL):
    return search(images, folds).best(folds)


def test_hole_filling_that_helps_in_every_fold_is_selected():
    assert compete(rings(*((DISC, fold) for fold in ALL))) == ("variants", Rules(0.5, 0, fill_holes=True))


def test_a_rule_variant_that_helps_in_sample_only_is_not_selected():
    # Four discs in fold 0, one ring in each other fold: in sample, filling holes is correct in 4 of 7 images. Without
    # fold 0, holes are not filled, which is wrong for the discs; without a ring's fold they are filled, which is wrong
    # for the ring.
    images = rings(*[(DISC, 0)] * 4, *((RING, fold) for fold in ALL[1:]))
    candidates = search(images, ALL)
    variants = candidates.candidates(ALL)["variants"]
    assert variants.best(ALL)[0] == Rules(0.5, 0, fill_holes=True)
    assert variants.best(ALL)[1] > candidates.grids["total"].best(ALL)[1]
    assert candidates.best(ALL) == ("total", Rules(0.5, 0))


def test_a_rule_variant_without_effect_is_not_selected():
    assert compete(rings(*((RING, fold) for fold in ALL))) == ("total", Rules(0.5, 0))


def test_on_a_single_fold_no_rule_variant_is_selected():
    assert compete(rings((DISC, 0), (DISC, 0)), (0,)) == ("total", Rules(0.5, 0))


@pytest.mark.parametrize("folds", [(1, 2), (0, 1, 2)])
def test_folds_outside_the_given_set_do_not_influence_the_selection(folds):
    # Only fold 3 needs filled holes; it must not influence a selection on other folds.
    images = rings((RING, 0), (RING, 1), (RING, 2), *[(DISC, 3)] * 9)
    assert search(images, folds, ALL).best(folds) == ("total", Rules(0.5, 0))


def test_all_candidate_rules_are_counted_in_two_passes():
    passes = []

    def images_of(keys):
        passes.append(list(keys))
        return ((key, *image) for image in rings(*((DISC, fold) for fold in ALL)) for key in keys)

    fits = (ALL, (0, 1, 2), (1, 2, 3))
    candidates = search_candidates(images_of, DICE, {"one": fits, "other": fits[:1]})
    for folds in fits:
        assert candidates["one"].best(folds)[0] == "variants"
    assert candidates["other"].best(ALL) == candidates["one"].best(ALL)
    assert passes == [["one", "other"]] * 2
