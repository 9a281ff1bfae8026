"""Streams of images for the tests of a search."""

import weakref

import numpy as np

from pipeline.postprocess.rule_variants import VariantSearch
from pipeline.postprocess.search import AREAS, RULE_SETS, RuleSearch
from pipeline.postprocess.shares import Place

OF_ONE_IMAGE = [  # not of shares, nor of groups, whose images have a threshold together
    name for name, rule_set in RULE_SETS.items() if rule_set.terms and not rule_set.needs_image_head
]


def search_rules(images, metric, areas=AREAS, *, rule_sets=OF_ONE_IMAGE):
    """The score grids of some images, (values, target, fold) each."""
    search = RuleSearch(metric, areas, rule_sets=rule_sets)
    for values, target, fold in images:
        search.add(values, target, Place(fold))
        del values, target
    return search.grids()


def search_variants(images, metric, rules):
    """The scores of the variants of some rules on some images, (values, target, fold) each."""
    search = VariantSearch(metric, rules)
    for values, target, fold in images:
        search.add(values, target, Place(fold))
        del values, target
    return search.scores()


def images_let_go():
    """Eight images; checks that each is freed when the next one is requested."""
    alive = []
    for number in range(8):
        values = np.full((4, 4), 30 * number, np.uint8)
        alive.append(weakref.ref(values))
        yield values, np.ones((4, 4), np.uint8), number % 2
        del values
        assert sum(reference() is not None for reference in alive) <= 1
