"""Cards drafted from folders in the layout of public data sets: all images and their masks are read."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.card_draft.draft import CardDraft
from pipeline.card_draft.drafting import draft_card
from pipeline.card_draft.listing import list_files
from pipeline.competition import DRAFTED_SAMPLE, Competition
from pipeline.data import index as data_index
from pipeline.data.labels import Labels
from pipeline.data.sample import samples_of
from pipeline.schema import parse
from tests.public_sets import NIFTI, SETS, TRAIN, blobs, write
from tests.test_card_draft_layouts import write_csv

# Of each layout: the folders of images and masks, and the numbers of classes, training images, test images and groups.
EXPECTED: dict[str, tuple[str, str | None, int, int, int, int]] = {
    "ade20k": ("ADEChallengeData2016/images/training", "ADEChallengeData2016/annotations/training", 95, 36, 4, 36),
    "bbbc039": ("images", "masks", 1, 12, 0, 12),
    "bdd100k": ("bdd100k/images/10k/train", "bdd100k/labels/sem_seg/masks/train", 4, 12, 4, 12),
    "busi": ("Dataset_BUSI_with_GT", "Dataset_BUSI_with_GT", 1, 18, 0, 18),
    "camvid": ("CamVid/train", "CamVid/train_labels", 5, 12, 4, 3),
    "camvid_segnet": ("CamVid/train", "CamVid/trainannot", 4, 12, 4, 3),
    "cellpose": ("train", "train", 1, 12, 4, 12),
    "chaos_mr": ("Train_Sets/MR", "Train_Sets/MR", 4, 24, 8, 4),
    "chase_db1": ("CHASEDB1", "CHASEDB1", 1, 28, 0, 14),
    "chips": ("train", "train_labels", 1, 12, 4, 12),
    "cityscapes": ("leftImg8bit/train", "gtFine/train", 7, 12, 4, 6),
    "clothes": ("png_images/IMAGES", "png_masks/MASKS", 5, 12, 0, 12),
    "clouds38": ("38-Cloud_training/train_red", "38-Cloud_training/train_gt", 1, 12, 4, 12),
    "covid_nifti": ("ct_scans", "lung_mask", 3, 20, 0, 5),
    "crack500": ("traincrop", "traincrop", 1, 12, 4, 3),
    "cvc_clinic": ("PNG/Original", "PNG/Ground Truth", 1, 24, 0, 5),
    "dagm": (".", ".", 1, 12, 0, 3),
    "deepcrack": ("train_img", "train_lab", 1, 12, 4, 12),
    "deepglobe_land": ("train", "train", 3, 12, 4, 12),
    "deepglobe_roads": ("train", "train", 1, 12, 4, 12),
    "drive": ("DRIVE/training/images", "DRIVE/training/1st_manual", 1, 12, 4, 12),
    "drive_with_test_labels": ("DRIVE/training/images", "DRIVE/training/1st_manual", 1, 12, 4, 12),
    "drone": (
        "dataset/semantic_drone_dataset/original_images",
        "dataset/semantic_drone_dataset/label_images_semantic",
        4,
        12,
        0,
        12,
    ),
    "dsb": ("stage1_train", "stage1_train", 1, 12, 4, 12),
    "dubai": ("Semantic segmentation dataset", "Semantic segmentation dataset", 3, 16, 0, 4),
    "floodnet": ("FloodNet/train/train-org-img", "FloodNet/train/train-label-img", 4, 12, 4, 12),
    "hrf": ("images", "manual1", 1, 24, 0, 24),
    "inria": ("AerialImageDataset/train/images", "AerialImageDataset/train/gt", 1, 16, 4, 16),
    "isic2017": ("ISIC-2017_Training_Data", "ISIC-2017_Training_Part1_GroundTruth", 1, 12, 4, 12),
    "isic2018": ("ISIC2018_Task1-2_Training_Input", "ISIC2018_Task1_Training_GroundTruth", 1, 12, 4, 12),
    "kitti_road": ("data_road/training/image_2", "data_road/training/gt_image_2", 3, 12, 4, 12),
    "kitti_semantic": ("training/image_2", "training/semantic", 6, 12, 4, 12),
    "kolektor": (".", ".", 1, 24, 0, 6),
    "kolektor2": ("train", "train", 1, 12, 4, 12),
    "kvasir": ("Kvasir-SEG/images", "Kvasir-SEG/masks", 1, 12, 0, 12),
    "landcover": ("images", "masks", 5, 12, 0, 12),
    "lgg_mri": ("kaggle_3m", "kaggle_3m", 1, 44, 0, 4),
    "loveda": ("Train", "Train", 6, 12, 4, 12),
    "lung_slices": ("2d_images", "2d_masks", 1, 16, 0, 4),
    "lungs": ("Lung Segmentation/CXR_png", "Lung Segmentation/masks", 1, 21, 4, 21),
    "magnetic_tiles": (".", ".", 1, 18, 0, 3),
    "mapillary": ("training/images", "training/labels", 5, 12, 4, 12),
    "massachusetts": ("png/train", "png/train_labels", 1, 12, 4, 12),
    "montgomery": ("MontgomerySet/CXR_png", "MontgomerySet/ManualMask", 1, 12, 0, 12),
    "mvtec": (".", ".", 1, 22, 0, 22),
    "mvtec_one": ("test", "ground_truth", 1, 11, 0, 11),
    "neu_seg": ("images/training", "annotations/training", 4, 12, 4, 12),
    "pascal_voc": ("VOCdevkit/VOC2012/JPEGImages", "VOCdevkit/VOC2012/SegmentationClass", 3, 12, 0, 12),
    "pets": ("images", "annotations/trimaps", 3, 24, 0, 24),
    "ph2": ("PH2 Dataset images", "PH2 Dataset images", 1, 12, 0, 12),
    "potsdam": ("2_Ortho_RGB", "5_Labels_all", 4, 12, 0, 3),
    "seismic": ("train/images", None, 1, 12, 4, 12),
    "seismic_masks": ("train/images", "train/masks", 1, 12, 4, 12),
    "stare": ("stare-images", "labels-ah", 1, 12, 0, 12),
    "train_val_test": ("train/images", "train/masks", 1, 12, 4, 12),
    "uavid": ("uavid_train", "uavid_train", 4, 16, 4, 4),
    "vaihingen": ("top", "gts_for_participants", 4, 12, 0, 12),
    "water": ("Water Bodies Dataset/Images", "Water Bodies Dataset/Masks", 1, 12, 0, 12),
}
REFUSED = {
    "chaos_ct": r"24 files look like masks, such as .*/liver_GT_000\.png, .* images, such as .*\.dcm",
    "covid_stacks": r"none of 1 images can be read.* an array of \(12, 32, 32, 1\).* save each image of a stack",
    "faces": r"36 files look like masks, such as .*00000_hair\.png, .* images, such as .*0\.jpg",
    "fluo": r"40 files look like masks, such as .*/01_GT/SEG/man_seg001\.tif, but .* images, such as .*/01/t000\.tif",
}


def drafted(name: str, root: Path) -> tuple[CardDraft, Competition]:
    """The draft of a layout, written below a folder, and its card."""
    SETS[name](root)
    draft = draft_card(list_files(root), name)
    return draft, parse(Competition, draft.tables(), "the draft")


def unsure(draft: CardDraft) -> dict[str, str]:
    """The keys to check, with their reasons."""
    return {key.name: key.reason for key in draft.unsure}


@pytest.mark.parametrize("name", [name for name in SETS if name not in REFUSED])
def test_images_masks_test_images_and_groups_of_a_public_layout_are_found(tmp_path, name):
    if name in NIFTI:
        pytest.importorskip("nibabel")
    _, card = drafted(name, tmp_path / "x")
    index = data_index.read_index(card, tmp_path / "x")
    tested = data_index.test_search(card, tmp_path / "x").find_sources(hidden=True)
    found = card.files.train_images, card.files.train_masks, len(card.classes), len(index), len(tested)
    assert (*found, index["group"].nunique()) == EXPECTED[name]


@pytest.mark.parametrize("name", REFUSED)
def test_a_layout_that_a_card_cannot_describe_is_refused_in_one_line_with_the_files(tmp_path, name):
    with pytest.raises(ValueError, match=REFUSED[name]):
        drafted(name, tmp_path)


def masks_of(card: Competition, root: Path) -> dict[str, np.ndarray]:
    """The masks (H, W, C) of the training images."""
    return {each.image_id: Labels.of(card).read_mask(each) for each in samples_of(data_index.read_index(card, root))}


def test_of_several_folders_of_masks_the_others_are_named_and_held_out_ones_are_not_among_them(tmp_path):
    draft, card = drafted("cityscapes", tmp_path)
    assert card.files.mask_pattern.endswith(r"_labelIds\.png")
    assert "_color.png" in unsure(draft)["files.train_masks"]
    assert "gtFine/val" not in unsure(draft)["files.train_masks"]
    assert dict(draft.facts)["not trained on"] == "masks of held-out parts: gtFine/test, gtFine/val"


def test_masks_of_a_validation_part_alone_leave_the_training_masks_certain(tmp_path):
    draft, _ = drafted("train_val_test", tmp_path)
    assert "files.train_masks" not in unsure(draft)
    assert dict(draft.facts)["not trained on"] == "masks of held-out parts: val"


def test_masks_of_two_annotators_are_marked(tmp_path):
    draft, card = drafted("chase_db1", tmp_path)
    assert card.files.mask_suffix == "_1stHO.png"
    assert "2ndHO" in unsure(draft)["files.train_masks"]


def test_masks_of_the_left_and_the_right_side_are_parts_of_one_mask(tmp_path):
    _, card = drafted("montgomery", tmp_path)
    found = masks_of(card, tmp_path)
    assert card.several_rows
    for number in range(1, TRAIN + 1):
        assert np.array_equal(found[f"MCUCXR_{number:04}_{number % 2}"][..., 0], blobs(number, 2)[1] > 0)


def test_superpixels_beside_photographs_are_no_channels(tmp_path):
    draft, card = drafted("isic2017", tmp_path)
    assert not card.files.channels
    assert "_superpixels.png" in unsure(draft)["files.train_images"]


def test_images_of_a_folder_named_good_have_empty_masks(tmp_path):
    draft, card = drafted("mvtec_one", tmp_path / "bottle")
    assert card.images_without_rows == "empty"
    assert "good_000" in unsure(draft)["images_without_rows"]
    assert {name for name, mask in masks_of(card, tmp_path / "bottle").items() if not mask.any()} == {
        "good_000",
        "good_001",
        "good_002",
    }


@pytest.mark.parametrize(("name", "void"), [("camvid", "Void"), ("deepglobe_land", "unknown")])
def test_a_class_whose_name_says_so_is_void(tmp_path, name, void):
    draft, card = drafted(name, tmp_path)
    assert card.masks.void == (0, 0, 0)
    assert void not in card.classes
    assert void in unsure(draft)["masks.void"]


def test_the_rows_of_a_table_of_colours_name_the_classes_of_label_images(tmp_path):
    draft, card = drafted("drone", tmp_path)
    assert card.masks.values == {"unlabeled": 0, "paved-area": 1, "dirt": 2, "grass": 3}
    assert "masks.values" in unsure(draft)


def test_the_one_class_of_a_table_of_colours_is_the_name_of_the_mask(tmp_path):
    draft, card = drafted("deepglobe_roads", tmp_path)
    assert card.classes == ("road",)
    assert "classes" not in unsure(draft)


def test_more_classes_than_a_mask_has_are_classes_and_no_shares(tmp_path):
    _, card = drafted("ade20k", tmp_path)
    assert not card.masks.soft
    assert card.exclusive


def test_a_class_in_one_mask_of_many_is_found(tmp_path):
    for number in range(60):
        image, labels = blobs(number, 2)
        write(tmp_path / f"images/s{number}.png", image)
        write(tmp_path / f"masks/s{number}.png", labels * (9 if number == 30 else 1))
    draft = draft_card(list_files(tmp_path), "x")
    assert set(draft.value("masks.values").values()) == {0, 1, 2, 9, 18}


@pytest.mark.parametrize("name", ["bbbc039", "cellpose"])
def test_numbers_of_objects_are_no_classes(tmp_path, name):
    draft, card = drafted(name, tmp_path)
    assert card.masks.above == 0
    assert "with a metric of objects" in unsure(draft)["masks.above"]
    of_objects = draft_card(list_files(tmp_path), name, "dsb_precision")
    assert of_objects.value("masks.objects")


def test_every_colour_but_black_is_above_0(tmp_path):
    _, card = drafted("bbbc039", tmp_path)
    objects = draft_card(list_files(tmp_path), "x", "dsb_precision")
    index = data_index.read_index(parse(Competition, objects.tables(), ""), tmp_path)
    assert data_index.read_index(card, tmp_path)["coverage"].tolist() == index["coverage"].tolist()


def test_test_masks_beside_test_images_are_no_test_images(tmp_path):
    draft, _ = drafted("kolektor2", tmp_path)
    assert draft.value("files.pattern") == r"(\d+)\.png"


def test_without_test_images_the_folder_of_training_images_is_not_taken_for_theirs(tmp_path):
    draft, _ = drafted("mvtec_one", tmp_path / "bottle")
    assert draft.value("files.train_images") == "test"
    assert draft.value("files.test_images") == "test_images"


def test_a_column_of_sequences_is_the_group(tmp_path):
    draft, card = drafted("cvc_clinic", tmp_path)
    assert card.columns.group == "sequence_id"
    assert "columns.group" in unsure(draft)


@pytest.mark.parametrize("name", ["pascal_voc", "pets", "mvtec"])
def test_years_and_a_few_kinds_of_images_are_no_groups(tmp_path, name):
    draft, _ = drafted(name, tmp_path / "x")
    assert draft.value("group_pattern") is None


def test_towns_with_numbers_are_groups(tmp_path):
    for number, town in enumerate(("austin", "chicago", "kitsap", "tyrol-w", "vienna") * 3):
        image, labels = blobs(number)
        write(tmp_path / f"train/images/{town}{number // 5 + 1}.tif", image)
        write(tmp_path / f"train/gt/{town}{number // 5 + 1}.tif", labels * 255)
    draft = draft_card(list_files(tmp_path), "x")
    index = data_index.read_index(parse(Competition, draft.tables(), ""), tmp_path)
    assert sorted(index["group"].unique()) == ["austin", "chicago", "kitsap", "tyrol-w", "vienna"]


def test_a_set_without_a_sample_submission_names_the_drafted_one(tmp_path):
    draft, card = drafted("isic2018", tmp_path)
    assert card.files.sample_submission == DRAFTED_SAMPLE
    assert "a row for each of 4 test images" in unsure(draft)["files.sample_submission"]
    write_csv(tmp_path / DRAFTED_SAMPLE, [("id", "rle"), ("ISIC_0002001", "")])
    assert draft_card(list_files(tmp_path), "isic2018").keys == draft.keys
