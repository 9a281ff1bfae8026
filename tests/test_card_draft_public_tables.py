"""Cards drafted from public tables of masks and annotation formats: masks read with them are those that were drawn."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pytest

from pipeline.card_draft.drafting import draft_card
from pipeline.card_draft.listing import list_files
from pipeline.competition import Competition
from pipeline.data import index as data_index
from pipeline.data.labels import Labels
from pipeline.data.sample import samples_of
from pipeline.metrics import VOID
from pipeline.schema import parse
from tests import public_tables
from tests.public_sets import blobs
from tests.public_tables import TABLES, coco_of, filled_box
from tests.test_card_draft_layouts import write

Drawn = tuple[np.ndarray, np.ndarray]


class Expected(NamedTuple):
    """What the card of a layout is.

    Args:
        images: folder of the training images.
        labels: the table, the JSON, or the folder of masks.
        counts: of training images, test images and groups.
        classes: the drawn value of each class; None: every value but 0.
    """

    images: str
    labels: str
    counts: tuple[int, int, int]
    classes: Mapping[str, int | None]


ONE = {"object": None}
EXPECTED = {
    "fashion": Expected("train", "train.csv", (12, 4, 12), {"0": -1, "10": 1, "20": 2, "30": 3}),
    "bowl_stages": Expected("stage1_train", "stage1_train_labels.csv", (12, 4, 12), ONE),
    "steel_folds": Expected("train_images", "train.csv", (12, 4, 12), {"1": 1, "2": 2, "3": 3}),
    "numbered_rows": Expected("train/train", "train_masks.csv", (12, 4, 12), ONE),
    "missing_as_words": Expected("train", "train.csv", (12, 4, 12), ONE),
    "ids_with_paths": Expected(".", "train.csv", (12, 16, 12), ONE),
    "boxes_beside_masks": Expected("train", "train.csv", (12, 4, 12), ONE),
    "x_rays_as_png": Expected("siim-acr-pneumothorax/png_images", "siim-acr-pneumothorax/png_masks", (16, 0, 16), ONE),
    "cloud_cover": Expected("train_features", "train_labels", (12, 4, 4), ONE),
    "coco2017": Expected(
        "train2017", "annotations/instances_train2017.json", (12, 4, 12), {"person": 1, "car": 2, "dog": 3}
    ),
    "litter": Expected("data", "data/annotations.json", (24, 0, 3), {"Can": 1, "Bottle": 2, "Carton": 3}),
    "roboflow_coco": Expected("train", "train/_annotations.coco.json", (12, 4, 12), {"crack": 1, "spall": 2}),
    "car_parts": Expected(
        "trainset/JPEGImages", "trainset/annotations.json", (12, 4, 12), {"hood": 1, "wheel": 2, "door": 3}
    ),
    "roboflow_masks": Expected("train", "train", (12, 4, 4), {"background": 0, "crack": 1, "spall": 2}),
    "audi": Expected(
        "camera_lidar_semantic",
        "camera_lidar_semantic",
        (12, 0, 3),
        {"RD normal street": 0, "Car 1": 1, "Bicycle 1": 2, "Pedestrian 1": 3},
    ),
    "driving_india": Expected(
        "idd20k_lite/leftImg8bit/train",
        "idd20k_lite/gtFine/train",
        (12, 4, 12),
        {"class 0": 1, "class 2": 2, "class 5": 3},
    ),
    "cracks_twice": Expected(
        "crack_segmentation_dataset/train/images", "crack_segmentation_dataset/train/masks", (12, 4, 3), ONE
    ),
    "saliency": Expected("DUTS-TR/DUTS-TR-Image", "DUTS-TR/DUTS-TR-Mask", (12, 4, 3), ONE),
    "wild_dash": Expected(
        "wd_public_02/images",
        "wd_public_02/semantic",
        (12, 0, 12),
        {"class 0": 0, "class 7": 1, "class 11": 2, "class 26": 3},
    ),
    "rails": Expected(
        "rs19_val/jpgs/rs19_val", "rs19_val/uint8/rs19_val", (12, 0, 12), {"class 0": 1, "class 12": 2, "class 17": 3}
    ),
    "trails": Expected(
        "tas500v1.1/train", "tas500v1.1/train_labels_ids", (12, 4, 12), {"class 0": 1, "class 3": 2, "class 22": 3}
    ),
    "off_road": Expected(
        "RUGD_frames-with-annotations", "RUGD_annotations", (12, 0, 4), {"dirt": 1, "grass": 2, "tree": 3}
    ),
    "forest": Expected(
        "freiburg_forest_annotated/train/rgb",
        "freiburg_forest_annotated/train/GT_color",
        (12, 4, 12),
        {"class 0-60-0": 3, "class 0-255-0": 1, "class 102-102-51": 2, "class 170-170-170": 0},
    ),
    "rellis": Expected(
        "Rellis-3D", "Rellis-3D", (12, 0, 12), {"class 0": 0, "class 3": 1, "class 4": 2, "class 19": 3}
    ),
    "game": Expected(".", ".", (12, 0, 12), {"class 0": 0, "class 7": 1, "class 11": 2, "class 26": 3}),
    "lanes": Expected(
        "ColorImage_road02/ColorImage",
        "Labels_road02/Label",
        (12, 0, 12),
        {"class 0-0-0": 0, "class 70-130-180": 1, "class 220-20-60": 2},
    ),
    "simulator": Expected(
        ".", ".", (24, 0, 24), {"class 0-0-0": 0, "class 7-0-0": 1, "class 9-0-0": 2, "class 10-0-0": 3}
    ),
    "fabrics": Expected("Defect_images", "Mask_images", (12, 0, 12), ONE),
    "visa": Expected(".", ".", (12, 0, 12), {"class 0": 0, "class 1": 1, "class 2": 2}),
    "pavements": Expected("croppedimg", "croppedgt", (20, 0, 20), ONE),
    "leaves": Expected("data/data/images", "data/data/masks", (12, 0, 12), ONE),
    "rosettes": Expected("training", "training", (16, 2, 2), ONE),
    "food": Expected(
        "FoodSeg103/Images/img_dir/train",
        "FoodSeg103/Images/ann_dir/train",
        (12, 4, 12),
        {"background": 0, "candy": 1, "egg tart": -1, "french fries": 2, "chocolate": 3},
    ),
    "underwater": Expected(
        "train_val/images",
        "train_val/masks",
        (12, 4, 12),
        {"class 0-0-0": 0, "class 0-0-255": 1, "class 255-0-255": 2, "class 255-255-0": 3},
    ),
}
BOXED = ("coco2017", "litter", "roboflow_coco", "car_parts")  # whose outlines are the boxes of what was drawn
CROWDED = ("coco2017",)  # crowds are ignored
# Each image of so many has an empty mask.
EMPTY = {"missing_as_words": 3, "cracks_twice": 3, "x_rays_as_png": 3, "steel_folds": 3}
CONVERT = "convert them to COCO's JSON"
REFUSED = {
    "fashion_with_attributes": "different texts in .* of the column of classes, 'ClassId'.* leave one class",
    "columns_of_classes": "2 columns of masks, rle_bone, rle_tissue: expected one, with a row for each image and class",
    "boxes_alone": "boxes are not read, such as 'bbox' of train.csv: .* nothing to segment",
    "boxes_in_words": "boxes are not read, such as 'boxes' of train.csv: .* nothing to segment",
    "polygons_in_cells": "lists of pairs of numbers are not read, such as 'polygon' of .*: if they are points, convert",
    "coco_strings": "masks of COCO's counts are not read, such as 'rle' of train.csv: write each as pairs",
    "cells_without_masks": "no labels: no table with a column of RLE texts, no mask images, no outlines",
    "labelme": f"outlines in LabelMe's JSON are not read, such as .*json: {CONVERT}",
    "via": f"outlines in the JSON of VGG's annotator .VIA. are not read, such as .*json: {CONVERT}",
    "yolo": f"outlines in YOLO's texts are not read, such as labels/.*txt: {CONVERT}",
    "cvat": f"outlines in CVAT's XML are not read, such as annotations.xml: {CONVERT}",
    "boxes_in_xml": "boxes in XML are not read, such as .*xml: .* nothing to segment",
    "supervisely": f"objects in Supervisely's JSON are not read, such as ds1/ann/.*: {CONVERT}",
    "label_studio": f"tasks of Label Studio are not read, such as project-1-at-2023.json: {CONVERT}",
    "matlab_labels": "MATLAB files are not read, such as annotations/.*mat: save each label image as a PNG",
    "drives360": "files look like masks, .* but names do not show their images, .*: name each mask as its image",
    "masks_of_boxes": "files look like masks, .* but names do not show their images, .*: name each mask as its image",
    "portraits": "no labels: .*: put the training table or the masks there",
    "seismic_volumes": "a mask of 56 pages, or channels: expected one mask in a file: save each page",
    "seismic_segy": "no image: there are files of .segy: give the folder that the images are in",
}


def recorded(draw: Callable[..., Drawn], found: list[Drawn]) -> Callable[..., Drawn]:
    """A function that draws, and adds what it has drawn to a list."""

    def record(*args, **options) -> Drawn:
        found.append(draw(*args, **options))
        return found[-1]

    return record


@pytest.fixture
def drawn(monkeypatch) -> list[Drawn]:
    """The images and labels that layouts draw from now on."""
    found: list[Drawn] = []
    for name in ("blobs", "cells", "lines"):
        monkeypatch.setattr(public_tables, name, recorded(getattr(public_tables, name), found))
    return found


def labels_drawn_with(path: Path, drawn: list[Drawn]) -> np.ndarray:
    """The labels (H, W) of the drawn image that a file shows."""
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED).astype(float)
    grey = pixels[..., :3].mean(axis=2) if pixels.ndim == 3 else pixels
    same_size = [each for each in drawn if each[1].shape == grey.shape]
    likeness = [np.corrcoef(grey.ravel(), image.mean(axis=2).ravel())[0, 1] for image, _ in same_size]
    return same_size[int(np.argmax(likeness))][1]


@pytest.mark.parametrize("name", EXPECTED)
def test_the_masks_of_a_public_layout_are_those_that_were_drawn(tmp_path, drawn, name):
    root, expected = tmp_path / "x", EXPECTED[name]
    TABLES[name](root)
    card = parse(Competition, draft_card(list_files(root), name).tables(), "the draft")
    assert (card.files.train_images, card.files.train_csv or card.files.train_coco or card.files.train_masks) == (
        expected.images,
        expected.labels,
    )
    assert list(card.classes) == list(expected.classes)
    index = data_index.read_index(card, root)
    tested = data_index.test_search(card, root).find_sources(hidden=True)
    assert (len(index), len(tested), index["group"].nunique()) == expected.counts
    num_empty = 0
    for sample in samples_of(index):
        mask, labels = Labels.of(card).read_mask(sample), labels_drawn_with(sample.path, drawn)
        truth = [labels > 0 if value is None else labels == value for value in expected.classes.values()]
        truth = [filled_box(each) if name in BOXED else each for each in truth]
        found = [mask[..., 0] == n for n in range(len(truth))] if card.exclusive else np.moveaxis(mask, 2, 0)
        found = np.where(np.equal(found, VOID) & (name in CROWDED), truth, found)
        if name in EMPTY and not mask.any():
            num_empty += 1
        else:
            np.testing.assert_array_equal(found, truth, err_msg=sample.image_id)
    assert num_empty == (-(-len(index) // EMPTY[name]) if name in EMPTY else 0)


@pytest.mark.parametrize("name", REFUSED)
def test_labels_that_are_not_read_are_refused_in_one_line_that_says_what_to_do(tmp_path, name):
    TABLES[name](tmp_path)
    with pytest.raises(ValueError, match=REFUSED[name]) as error:
        draft_card(list_files(tmp_path), name)
    assert "\n" not in str(error.value)


def test_colours_that_are_not_those_of_classes_are_marked(tmp_path):
    TABLES["towns"](tmp_path)
    (key,) = [key for key in draft_card(list_files(tmp_path), "towns").unsure if key.name == "masks.values"]
    assert key.reason.startswith("more colours than classes have")


def test_each_layout_is_read_refused_or_marked():
    assert set(TABLES) == {*EXPECTED, *REFUSED, "towns"}


def test_images_of_a_held_out_json_are_left_out(tmp_path):
    items = [(f"s{number}.png", *blobs(number)) for number in range(12)]
    for name, image, _ in items:
        write(tmp_path / f"images/{name}", image)
    for part, some in (("train", items[:-3]), ("val", items[-3:])):
        content = coco_of([(name, labels) for name, _, labels in some], {1: "cell"})
        (tmp_path / f"coco_{part}.json").write_text(json.dumps(content))
    card = parse(Competition, draft_card(list_files(tmp_path), "x").tables(), "the draft")
    assert card.images_without_rows == "ignore"
