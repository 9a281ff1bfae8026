"""The symmetries of the square, on arrays and tensors."""

import numpy as np
import pytest
import torch

from pipeline.symmetries import SYMMETRIES

UNIQUE = torch.arange(24.0).reshape(1, 1, 4, 6)
ROTATIONS = {"identity": 0, "rotate_90": 1, "rotate_180": 2, "rotate_270": 3}


@pytest.mark.parametrize("name", SYMMETRIES)
def test_inverse_inverts_a_symmetry(name):
    symmetry = SYMMETRIES[name]
    assert torch.equal(symmetry.inverse(symmetry(UNIQUE)), UNIQUE)


def test_the_eight_symmetries_differ():
    assert len({tuple(map(tuple, symmetry(UNIQUE)[0, 0].tolist())) for symmetry in SYMMETRIES.values()}) == 8


def test_symmetries_form_a_group():
    square = torch.arange(9.0).reshape(1, 1, 3, 3)
    images = [symmetry(square) for symmetry in SYMMETRIES.values()]
    for one in SYMMETRIES.values():
        for other in SYMMETRIES.values():
            assert any(torch.equal(one(other(square)), image) for image in images)


@pytest.mark.parametrize("name", SYMMETRIES)
def test_arrays_and_tensors_are_transformed_equally(name):
    symmetry = SYMMETRIES[name]
    assert np.array_equal(symmetry(UNIQUE.numpy()), symmetry(UNIQUE).numpy())
    assert np.array_equal(symmetry.inverse(UNIQUE.numpy()), symmetry.inverse(UNIQUE).numpy())


@pytest.mark.parametrize("name", ROTATIONS)
def test_rotations_equal_those_of_numpy(name):
    assert np.array_equal(SYMMETRIES[name](UNIQUE.numpy()), np.rot90(UNIQUE.numpy(), ROTATIONS[name], axes=(-2, -1)))
