"""Which folders and names are of a validation or test part."""

import pytest

from pipeline.card_draft.image_folders import TEST, VALIDATION, is_held_out
from pipeline.card_draft.mask_folders import _held_out_folder


@pytest.mark.parametrize(
    ("path", "of_test", "of_validation"),
    [
        ("test/images", True, False),
        ("te/images", True, False),
        ("imagesTs", True, False),
        ("Ts/images", True, False),
        ("data/valid/masks", False, True),
        ("annotVal", False, True),
        ("train_val/images", False, False),
        ("traintest/images", False, False),
        ("palette/steel", False, False),
        ("intervals/images", False, False),
    ],
)
def test_the_part_of_a_path(path, of_test, of_validation):
    assert (is_held_out(path, TEST), is_held_out(path, VALIDATION)) == (of_test, of_validation)
    assert is_held_out(path) == (of_test or of_validation)


@pytest.mark.parametrize(
    ("group", "folder"),
    [
        ("data/val/masks/*", "data/val"),
        ("train_val/test_masks/*", "train_val/test_masks"),
        ("masks/*_test_mask.png", "masks/*_test_mask.png"),
    ],
)
def test_the_folder_of_held_out_masks_ends_where_its_name_says_so(group, folder):
    assert _held_out_folder(group) == folder
