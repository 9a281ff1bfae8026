"""Cards drafted from folders in the layout of public data sets: all images and their masks are read."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.card_draft.drafting import draft_card
from pipeline.card_draft.listing import list_files
from pipeline.competition import Competition
from pipeline.data import index as data_index
from pipeline.schema import parse
from tests.miniatures import draw
from tests.test_card_draft_layouts import write, write_csv


def pair(number: int, classes: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """An image in colour, and its mask: 0 and 255, or of two classes 0, 1 and 2."""
    image, masks = draw(3 * number + 1, classes)
    mask = masks[0] * 255 if classes == 1 else np.where(masks[1] == 1, 2, masks[0]).astype(np.uint8)
    return np.repeat(image[..., None], 3, axis=2), mask


def write_pairs(root: Path, image: str, *masks: str, test: str = "") -> None:
    """12 images with a mask in each of some places, and 4 test images if they have a place; {} is the number."""
    for number in range(16 if test else 12):
        pixels, mask = pair(number)
        write(root / (image if number < 12 else test).format(number), pixels)
        for place in masks if number < 12 else ():
            write(root / place.format(number), mask)


def parts(root: Path) -> None:
    """Train, validation and test folders, the first two with masks."""
    for part, count in (("train", 12), ("val", 6), ("test", 4)):
        for number in range(count):
            image, mask = pair(number)
            write(root / f"{part}/images/{part[0]}{number}x.png", image)
            if part != "test":
                write(root / f"{part}/masks/{part[0]}{number}x.png", mask)


def streets(root: Path) -> None:
    """Folders of towns, and three files of labels for each image."""
    for part, count in (("train", 12), ("val", 3), ("test", 4)):
        for number in range(count):
            town = ("aachen", "bochum", "ulm")[number % 3]
            image, mask = pair(number, 2)
            name = f"{town}/{town}_{number:06}_000019"
            write(root / f"leftImg8bit/{part}/{name}_leftImg8bit.png", image)
            write(root / f"gtFine/{part}/{name}_gtFine_labelIds.png", mask)
            write(root / f"gtFine/{part}/{name}_gtFine_instanceIds.png", mask)
            write(root / f"gtFine/{part}/{name}_gtFine_color.png", np.repeat(mask[..., None] * 60, 3, axis=2))
            (root / f"gtFine/{part}/{name}_gtFine_polygons.json").write_text('{"objects": []}')


def photographs(root: Path) -> None:
    """Some images have masks: palette images of classes with void, and of objects."""
    for number in range(24):
        image, mask = pair(number, 2)
        write(root / f"VOC/JPEGImages/2007_{number:06}.jpg", image)
        if number % 2:
            mask[0] = 255
            for folder in ("SegmentationClass", "SegmentationObject"):
                palette = Image.fromarray(mask).convert("P")
                palette.putdata(mask.reshape(-1).tolist())
                palette.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0] + [9] * 750 + [224, 224, 192])
                (root / "VOC" / folder).mkdir(parents=True, exist_ok=True)
                palette.save(root / f"VOC/{folder}/2007_{number:06}.png")


def skin(root: Path) -> None:
    write_pairs(
        root,
        "ISIC2018_Task1-2_Training_Input/ISIC_{:07}.jpg",
        "ISIC2018_Task1_Training_GroundTruth/ISIC_{:07}_segmentation.png",
        test="ISIC2018_Task1-2_Test_Input/ISIC_{:07}.jpg",
    )


def breasts(root: Path) -> None:
    """Folders of findings, names with brackets, and several masks of one image."""
    for number in range(12):
        image, mask = pair(number)
        finding = ("benign", "malignant", "normal")[number % 3]
        write(root / f"BUSI/{finding}/{finding} ({number}).png", image)
        write(root / f"BUSI/{finding}/{finding} ({number})_mask.png", mask)
        if number == 3:
            write(root / f"BUSI/{finding}/{finding} ({number})_mask_1.png", mask)


def brains(root: Path) -> None:
    """A folder for each patient, with images and masks."""
    for number in range(12):
        image, mask = pair(number)
        patient = f"TCGA_{('CS', 'DU', 'HT')[number % 3]}_494{number % 3}"
        write(root / f"kaggle_3m/{patient}/{patient}_{number // 3}.tif", image)
        write(root / f"kaggle_3m/{patient}/{patient}_{number // 3}_mask.tif", mask)


def land(root: Path) -> None:
    """Satellite images beside colour masks, whose classes have names in a table."""
    colours = np.array([(0, 255, 255), (255, 255, 0), (255, 0, 255)], dtype=np.uint8)
    for number in range(20):
        image, mask = pair(number, 2)
        part = "train" if number < 12 else "valid" if number < 16 else "test"
        write(root / f"{part}/{100 + number}_sat.jpg", image)
        if part == "train":
            write(root / f"{part}/{100 + number}_mask.png", colours[mask])
    rows = [("urban", "0", "255", "255"), ("agri", "255", "255", "0"), ("range", "255", "0", "255")]
    write_csv(root / "class_dict.csv", [("name", "r", "g", "b"), *rows, ("unknown", "0", "0", "0")])


def regions(root: Path) -> None:
    """Folders of regions with folders of images and masks, and classes from 1."""
    for number in range(16):
        image, mask = pair(number, 2)
        part, region = ("Train" if number < 12 else "Test"), ("Rural", "Urban")[number % 2]
        write(root / f"{part}/{region}/images_png/{number}.png", image)
        if part == "Train":
            write(root / f"{part}/{region}/masks_png/{number}.png", mask + 1)


def roads(root: Path) -> None:
    for number in range(16):
        image, mask = pair(number)
        part = "train" if number < 12 else "test"
        write(root / f"tiff/{part}/{10078660 + number * 15}_15.tiff", image)
        write(root / f"tiff/{part}_labels/{10078660 + number * 15}_15.tif", np.repeat(mask[..., None], 3, axis=2))


def polyps(root: Path) -> None:
    """JPEG masks, and a JSON that is no outlines."""
    write_pairs(root, "Kvasir-SEG/images/cju{}qk.jpg", "Kvasir-SEG/masks/cju{}qk.jpg")
    (root / "Kvasir-SEG/bboxes.json").write_text(json.dumps({"cju0qk": {"height": 32}}))


def chips(root: Path) -> None:
    """A folder of bands for each image."""
    for number in range(16):
        image, mask = pair(number)
        part = "train" if number < 12 else "test"
        for band in ("B02", "B03", "B08"):
            write(root / f"{part}/chip{number}x/{band}.tif", image[..., 0])
        if part == "train":
            write(root / f"train_labels/chip{number}x.tif", mask // 255)


def eyes(root: Path) -> None:
    """Masks of two annotators beside the images, without a word for masks."""
    write_pairs(root, "CHASE/Image_{:02}L.jpg", "CHASE/Image_{:02}L_1stHO.png", "CHASE/Image_{:02}L_2ndHO.png")


# Of each layout: the folder of images, that of masks, classes, and the number of test images.
SETS: dict[Callable[[Path], None], tuple[str, str, int, int]] = {
    parts: ("train/images", "train/masks", 1, 4),
    streets: ("leftImg8bit/train", "gtFine/train", 3, 4),
    photographs: ("VOC/JPEGImages", "VOC/SegmentationClass", 3, 0),
    skin: ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth", 1, 4),
    breasts: ("BUSI", "BUSI", 1, 0),
    brains: ("kaggle_3m", "kaggle_3m", 1, 0),
    land: ("train", "train", 4, 4),
    regions: ("Train", "Train", 3, 4),
    roads: ("tiff/train", "tiff/train_labels", 1, 4),
    polyps: ("Kvasir-SEG/images", "Kvasir-SEG/masks", 1, 0),
    chips: ("train", "train_labels", 1, 4),
    eyes: ("CHASE", "CHASE", 1, 0),
}


@pytest.mark.parametrize("layout", SETS, ids=lambda layout: layout.__name__)
def test_images_masks_and_test_images_of_a_public_layout_are_found(tmp_path, layout):
    layout(tmp_path)
    draft = draft_card(list_files(tmp_path), "x")
    card = parse(Competition, draft.tables(), "the draft")
    found = data_index.read_index(card, tmp_path)
    images, masks, classes, tested = SETS[layout]
    assert (card.files.train_images, card.files.train_masks, len(card.classes)) == (images, masks, classes)
    assert len(found) == 12
    assert (found["coverage"] > 0).all()
    assert len(data_index.test_search(card, tmp_path).find_sources(hidden=True)) == tested


def test_of_several_folders_of_masks_the_others_are_named(tmp_path):
    streets(tmp_path)
    draft = draft_card(list_files(tmp_path), "x")
    (key,) = [key for key in draft.unsure if key.name == "files.train_masks"]
    assert draft.value("files.mask_pattern").endswith(r"_labelIds\.png")
    assert "_color.png, gtFine/test/*/*_instanceIds.png" in key.reason


def test_masks_of_two_annotators_are_marked(tmp_path):
    eyes(tmp_path)
    draft = draft_card(list_files(tmp_path), "x")
    assert draft.value("files.mask_suffix") == "_1stHO.png"
    assert "2ndHO" in next(key.reason for key in draft.unsure if key.name == "files.train_masks")
