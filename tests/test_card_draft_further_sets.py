"""Cards drafted from further public layouts: masks read with them are those that were drawn."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pytest

from pipeline.card_draft.drafting import draft_card
from pipeline.card_draft.listing import list_files
from pipeline.competition import Competition
from pipeline.data import index as data_index
from pipeline.data.formats import read_pixels
from pipeline.data.labels import Labels
from pipeline.data.sample import Sample, samples_of
from pipeline.metrics import VOID
from pipeline.schema import parse
from tests import further_public_sets
from tests.further_public_sets import FURTHER, NIFTI
from tests.test_card_draft_public_tables import Drawn, recorded


class Expected(NamedTuple):
    """What the card of a layout is.

    Args:
        images: folder of the training images.
        masks: folder of the training masks.
        counts: of training images, test images and groups.
        classes: the drawn values of each class; None: every value but 0.
    """

    images: str
    masks: str
    counts: tuple[int, int, int]
    classes: Mapping[str, int | tuple[int, ...] | None]


ONE = {"object": None}


def numbered(*values: int) -> dict[str, int]:
    """Classes without names, of label images with these values for 0, 1, …"""
    return {f"class {value}": number for number, value in enumerate(values)}


ORGANS = {"background": 0, "spleen": 1, "right kidney": 2, "left kidney": 3}
EYES = "A. Segmentation"
EXPECTED = {
    "nnunet": Expected(
        "Dataset021_Brain/imagesTr", "Dataset021_Brain/labelsTr", (20, 4, 5), {"background": 0, "edema": 1, "tumour": 2}
    ),
    "decathlon": Expected(
        "Task04_Hippocampus/imagesTr",
        "Task04_Hippocampus/labelsTr",
        (20, 4, 5),
        {"background": 0, "Anterior": 1, "Posterior": 2},
    ),
    "brats": Expected("BraTS2021_Training_Data", "BraTS2021_Training_Data", (20, 0, 5), numbered(0, 1, 2, 4)),
    "kidneys": Expected("data", "data", (20, 0, 5), numbered(0, 1, 2)),
    "hearts": Expected("training", "training", (40, 0, 5), numbered(0, 1, 2, 3)),
    "abdomens": Expected("RawData/Training/img", "RawData/Training/label", (20, 4, 5), numbered(0, 1, 2, 3)),
    "amos": Expected("amos22/imagesTr", "amos22/labelsTr", (20, 20, 5), ORGANS),
    "covid_challenge": Expected("COVID-19-20_v2/Train", "COVID-19-20_v2/Train", (20, 8, 5), ONE),
    "livers": Expected(".", ".", (40, 0, 10), numbered(0, 1, 2)),
    "echoes": Expected("database_nifti", "database_nifti", (20, 0, 5), numbered(0, 1, 2, 3)),
    "glaucoma": Expected(
        "Training400",
        "Annotation-Training400/Disc_Cup_Masks",
        (12, 4, 12),
        {"class 0": 2, "class 128": 1, "class 255": 0},
    ),
    "lesions": Expected(
        f"{EYES}/1. Original Images/a. Training Set",
        f"{EYES}/2. All Segmentation Groundtruths/a. Training Set",
        (12, 4, 12),
        {"Microaneurysms": 1, "Haemorrhages": 2, "Optic Disc": 3},
    ),
    "chest_organs": Expected("Images", "Masks", (12, 0, 12), {"heart": 1, "left lung": 2, "right lung": 3}),
    "skin_attributes": Expected(
        "ISIC2018_Task1-2_Training_Input",
        "ISIC2018_Task2_Training_GroundTruth_v3",
        (12, 4, 12),
        {"globules": 1, "milia like cyst": 2},
    ),
    "roofs_of_sites": Expected(".", ".", (24, 0, 24), ONE),
    "cells_with_an_unlabeled_part": Expected("Training-labeled/images", "Training-labeled/labels", (12, 0, 12), ONE),
    "instruments": Expected("kvasir-instrument/images", "kvasir-instrument/masks", (12, 0, 12), ONE),
    "thyroids": Expected("Thyroid Dataset/tn3k/trainval-image", "Thyroid Dataset/tn3k/trainval-mask", (12, 4, 12), ONE),
    "chest": Expected("All247images", "scratch", (24, 0, 24), {"object": (2, 3)}),
    "glands": Expected(
        "Warwick QU Dataset (Released 2016_07_08)", "Warwick QU Dataset (Released 2016_07_08)", (20, 0, 7), ONE
    ),
    "gallbladders": Expected(
        ".", ".", (12, 0, 12), {"class 11-11-11": 1, "class 13-13-13": 3, "class 21-21-21": 2, "class 50-50-50": 0}
    ),
    "breast_slides": Expected("TNBC_NucleiSegmentation", "TNBC_NucleiSegmentation", (12, 0, 3), ONE),
    "organs_of_two": Expected(".", ".", (12, 0, 12), ONE),
    "leaf_counts": Expected("CVPPP2017_LSC_training/training", "CVPPP2017_LSC_training/training", (24, 0, 24), ONE),
    "disasters": Expected("train/images", "train/targets", (12, 8, 6), numbered(0, 1, 2, 3)),
    "towns": Expected(
        "OpenEarthMap/OpenEarthMap_wo_xBD", "OpenEarthMap/OpenEarthMap_wo_xBD", (12, 0, 12), numbered(*range(5))
    ),
    "buildings": Expected("train/image", "train/label", (12, 4, 12), ONE),
    "changes": Expected("train/A", "train/label", (12, 4, 12), ONE),
    "provinces": Expected(
        "Large-scale Classification_5classes/image_RGB",
        "Large-scale Classification_5classes/label_5classes",
        (12, 0, 12),
        {"class 0-0-0": 0, "class 0-0-255": 3, "class 0-255-0": 2, "class 255-0-0": 1},
    ),
    "floods": Expected(
        "v1.1/data/flood_events/HandLabeled/S1Hand",
        "v1.1/data/flood_events/HandLabeled/LabelHand",
        (12, 0, 12),
        numbered(0, 1),
    ),
    "aerial_objects": Expected(
        "train/images/images",
        "train/Semantic_masks/images",
        (12, 4, 12),
        {"class 0-0-0": 0, "class 0-0-63": 1, "class 0-127-127": 2},
    ),
    "drone_scenes": Expected("aeroscapes/JPEGImages", "aeroscapes/SegmentationClass", (12, 0, 3), numbered(0, 1, 2, 3)),
    "roads": Expected("tiles/images", "tiles/masks", (12, 0, 3), ONE),
    "camouflaged_animals": Expected("COD10K-v3/Train/Image", "COD10K-v3/Train/GT_Object", (12, 4, 2), ONE),
    "organ_files": Expected(
        "Totalsegmentator_dataset_v201",
        "Totalsegmentator_dataset_v201",
        (20, 0, 5),
        {"kidney left": 1, "kidney right": 2, "liver": 3},
    ),
    "tumours_beside_the_middle": Expected("imagesTr", "labelsTr", (20, 0, 5), numbered(0, 1, 2)),
    "surgical_organs": Expected(".", ".", (12, 0, 6), ONE),
    "plasma_cells": Expected(
        "train/x", "train/y", (12, 4, 12), {"class 20": tuple(range(1, 30, 2)), "class 40": tuple(range(2, 30, 2))}
    ),
}
REFUSED = {
    "spines": r"masks are NIfTI volumes, but images, such as .*\.png, are not: save each series",
    "polyps_of_two_kinds": r"mask images of 2 classes: JPEG blurs values, .* save masks of classes as PNG",
    "prostates": r"no image: MetaImage volumes \(.mhd\) are not read: save each as a NIfTI volume",
    "tissues": r"no image: archives of arrays \(.npz\) are not read: save images and masks as files",
    "nuclei_stacks": r"none of 3 images can be read, .* an array of \(6, 32, 32, 3\).* save each image of a stack",
    "nuclei_outlines": "outlines in XML are not read, such as MoNuSeg 2018 .*xml: convert them to COCO's JSON",
    "colon_nuclei": "MATLAB files are not read, such as CoNSeP/.*mat: save each label image as a PNG",
    "membranes": "train-labels.tif: a mask of 6 pages, .* save each page, of images too, as a file of its own",
    "roofs": "outlines in GeoJSON are not read, such as .*geojson: convert them to COCO's JSON",
    "landslides": r"no image: HDF5 files \(.h5\) are not read: save images and masks as files",
    "satellite_outlines": "outlines of WKT are not read, such as 'MultipolygonWKT' of .*csv: convert them",
}


@pytest.fixture
def drawn(monkeypatch) -> list[Drawn]:
    """The images and labels that layouts draw from now on."""
    found: list[Drawn] = []
    for name in ("blobs", "cells", "lines"):
        monkeypatch.setattr(further_public_sets, name, recorded(getattr(further_public_sets, name), found))
    return found


def labels_drawn_with(sample: Sample, drawn: list[Drawn]) -> np.ndarray:
    """The labels (H, W) of the drawn image that a sample shows; slices of volumes are turned."""
    grey = read_pixels(sample.sources[-1]).mean(axis=2)
    same_size = [(each, labels) for image, labels in drawn for each in [image.mean(axis=2)] if each.shape == grey.shape]
    turned = [(each.T, labels.T) for each, labels in same_size if each.T.shape == grey.shape]
    likeness = [np.corrcoef(grey.ravel(), each.ravel())[0, 1] for each, _ in (*same_size, *turned)]
    return (*same_size, *turned)[int(np.argmax(likeness))][1]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_masks_of_a_public_layout_are_those_that_were_drawn(tmp_path, drawn, name):
    if name in NIFTI:
        pytest.importorskip("nibabel")
    root, expected = tmp_path / "x", EXPECTED[name]
    FURTHER[name](root)
    card = parse(Competition, draft_card(list_files(root), name).tables(), "the draft")
    assert (card.files.train_images, card.files.train_masks) == (expected.images, expected.masks)
    assert list(card.classes) == list(expected.classes)
    index = data_index.read_index(card, root)
    tested = data_index.test_search(card, root).find_sources(hidden=True)
    assert (len(index), len(tested), index["group"].nunique()) == expected.counts
    for sample in samples_of(index):
        mask, labels = Labels.of(card).read_mask(sample), labels_drawn_with(sample, drawn)
        truth = [labels > 0 if value is None else np.isin(labels, value) for value in expected.classes.values()]
        found = [mask[..., 0] == n for n in range(len(truth))] if card.exclusive else np.moveaxis(mask, 2, 0)
        found = np.where(mask[..., 0] == VOID, truth, found)
        np.testing.assert_array_equal(found, truth, err_msg=sample.image_id)


@pytest.mark.parametrize("name", REFUSED)
def test_a_layout_that_is_not_read_is_refused_in_one_line_that_says_what_to_do(tmp_path, name):
    FURTHER[name](tmp_path)
    with pytest.raises(ValueError, match=REFUSED[name]) as error:
        draft_card(list_files(tmp_path), name)
    assert "\n" not in str(error.value)


def test_each_layout_is_expected():
    assert {*EXPECTED, *REFUSED} == set(FURTHER)
