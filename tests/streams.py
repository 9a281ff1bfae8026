"""Images one after the other, as a search is given them."""

import weakref

import numpy as np


def images_let_go():
    """Eight images, each of which must be held by nobody once the next is asked for."""
    alive = []
    for number in range(8):
        values = np.full((4, 4), 30 * number, np.uint8)
        alive.append(weakref.ref(values))
        yield values, np.ones((4, 4), np.uint8), number % 2
        del values
        assert sum(reference() is not None for reference in alive) <= 1
