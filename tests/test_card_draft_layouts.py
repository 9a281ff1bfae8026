"""Cards drafted from folders of other forms: masks and images read with them are those that were written."""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.card_draft.drafting import draft_card
from pipeline.card_draft.listing import list_files
from pipeline.competition import Competition
from pipeline.data.index import read_index, read_test_index
from pipeline.data.labels import Labels
from pipeline.data.sample import samples_of
from pipeline.schema import parse
from tests.miniatures import Text, draw, write_dicom

COUNT, TEST_COUNT = 12, 4


def write(path: Path, pixels: np.ndarray) -> None:
    """A file in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".npy":
        np.save(path, pixels)
    elif path.suffix.lower() == ".dcm":
        write_dicom(path, pixels)
    else:
        Image.fromarray(pixels).save(path)


def write_csv(path: Path, rows: Sequence[Sequence[str]], *, encoding: str = "utf-8", delimiter: str = ",") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n").writerows(rows)


def train_images(root: Path, place: Callable[[int], str]) -> dict[int, np.ndarray]:
    """Write the training images; returns their masks (H, W)."""
    masks = {}
    for number in range(COUNT):
        image, (masks[number],) = draw(number, 1)
        write(root / place(number), image)
    return masks


def test_images(root: Path, place: Callable[[int], str]) -> None:
    for number in range(100, 100 + TEST_COUNT):
        write(root / place(number), draw(number, 1)[0])


test_images.__test__ = False  # it writes images of the test set


def write_sample(root: Path, ids: Callable[[int], str], header: Sequence[str] = ("id", "rle")) -> None:
    write_csv(root / "sample_submission.csv", [header, *((ids(n), "1 1") for n in range(100, 100 + TEST_COUNT))])


def write_table(
    root: Path, masks: dict[int, np.ndarray], ids: Callable[[int], str], name: str = "train.csv", **options
):
    rows = [(ids(number), Text().write(mask)) for number, mask in masks.items()]
    write_csv(root / name, [("id", "rle"), *rows], **options)


def drafted(root: Path, metric: str = "", **options) -> Competition:
    draft = draft_card(list_files(root), "x", metric, **options)
    return parse(Competition, draft.tables(), "the draft")


def assert_masks(card: Competition, root: Path, masks: dict[str, np.ndarray], *, tested: bool = True) -> None:
    """The training masks are these by id, and the sample's images are found."""
    index = read_index(card, root)
    found = {each.image_id: Labels.of(card).read_mask(each)[..., 0] for each in samples_of(index)}
    assert set(found) == set(masks)
    assert all(np.array_equal(found[image_id], masks[image_id]) for image_id in masks)
    if tested:
        assert len(read_test_index(card, root)) == TEST_COUNT


def named(masks: dict[int, np.ndarray], ids: Callable[[int], str]) -> dict[str, np.ndarray]:
    return {ids(number): mask for number, mask in masks.items()}


# ---------------------------------------------------------------------------------------------- tables

PLACES = {
    "plain": ("train/{}.png", "test/{}.png", "im{:04}a"),
    "upper-case suffix": ("train/{}.PNG", "test/{}.PNG", "x{}y"),
    "ids with suffix": ("train/{}", "test/{}", "{:03}x.jpg"),
    "numbers as ids": ("train_images/{}.bmp", "test_images/{}.bmp", "{}"),
    "folders of images": ("images/train/{}.tif", "images/test/{}.tif", "a-{}-b"),
    "a folder for each image": ("train/{0}/{0}.png", "test/{0}/{0}.png", "q{}z"),
    "a folder with a fixed name": ("data/train/{}/scan.npy", "data/test/{}/scan.npy", "case-{}"),
    "prefix": ("train/image_{}.png", "test/image_{}.png", "{:03}"),
    "prefix and end": ("train/img-{}_rgb.png", "test/img-{}_rgb.png", "{:03}"),
    "deep": ("d/train/a/b/{}.webp", "d/test/a/b/{}.webp", "w{}w"),
    "one folder": ("images/{}.png", "images/{}.png", "p{}p"),
    "dicom": ("stage/train/{}.dcm", "stage/test/{}.dcm", "1.2.{}.5"),
}


@pytest.mark.parametrize("form", PLACES)
def test_images_of_a_table_are_found(tmp_path, form):
    train, test, name = PLACES[form]
    lossy = name.endswith(".jpg")
    masks = train_images(tmp_path, lambda number: train.format(name.format(number)))
    test_images(tmp_path, lambda number: test.format(name.format(number)))
    write_table(tmp_path, masks, name.format)
    write_sample(tmp_path, name.format)
    card = drafted(tmp_path)
    assert_masks(card, tmp_path, named(masks, name.format))
    assert lossy or card.images_without_rows == ("ignore" if form == "one folder" else "refuse")


def test_images_of_two_suffixes_are_found(tmp_path):
    masks = train_images(tmp_path, lambda n: f"train/i{n}.{'png' if n % 2 else 'bmp'}")
    test_images(tmp_path, lambda n: f"test/i{n}.{'png' if n % 2 else 'bmp'}")
    write_table(tmp_path, masks, "i{}".format)
    write_sample(tmp_path, "i{}".format)
    assert_masks(drafted(tmp_path), tmp_path, named(masks, "i{}".format))


def test_masks_beside_the_table_are_no_images_and_a_table_of_more_columns_is_the_meta_table(tmp_path):
    masks = train_images(tmp_path, lambda n: f"train/images/i{n}x.png")
    for number, mask in masks.items():
        write(tmp_path / f"train/masks/i{number}x.png", mask * 255)
    test_images(tmp_path, lambda n: f"test/images/i{n}x.png")
    write_table(tmp_path, masks, "i{}x".format)
    write_sample(tmp_path, "i{}x".format)
    every = [*range(COUNT), *range(100, 100 + TEST_COUNT)]
    write_csv(tmp_path / "depths.csv", [("image", "z"), *((f"i{n}x", str(n * 7)) for n in every)])
    card = drafted(tmp_path)
    assert_masks(card, tmp_path, named(masks, "i{}x".format))
    assert (card.files.train_images, card.files.train_meta, card.columns.meta_id) == (
        "train/images",
        "depths.csv",
        "image",
    )


def test_a_byte_order_mark_is_skipped_and_semicolons_are_refused_with_the_table(tmp_path):
    masks = train_images(tmp_path, "train/i{}.png".format)
    write_sample(tmp_path, "i{}".format)
    test_images(tmp_path, "test/i{}.png".format)
    write_table(tmp_path, masks, "i{}".format, encoding="utf-8-sig")
    assert_masks(drafted(tmp_path), tmp_path, named(masks, "i{}".format))
    write_table(tmp_path, masks, "i{}".format, delimiter=";")
    with pytest.raises(
        ValueError, match=r"no labels.*train\.csv: its columns are separated by ';', save it with commas"
    ):
        drafted(tmp_path)


def test_joint_ids_of_numbered_images_are_split_into_image_and_class(tmp_path):
    masks = train_images(tmp_path, "train/{}.jpg".format)
    test_images(tmp_path, "test/{}.jpg".format)
    names = ("1", "2", "3")
    rows = [(f"{n}.jpg_{name}", Text().write(mask)) for n, mask in masks.items() for name in names]
    write_csv(tmp_path / "train.csv", [("ImageId_ClassId", "EncodedPixels"), *rows])
    tested = [(f"{n}.jpg_{name}", "") for n in range(100, 100 + TEST_COUNT) for name in names]
    write_csv(tmp_path / "sample_submission.csv", [("ImageId_ClassId", "EncodedPixels"), *tested])
    card = drafted(tmp_path)
    assert (card.classes, card.columns.id_separator, card.files.suffix) == (names, "_", "")
    assert_masks(card, tmp_path, named(masks, "{}.jpg".format))


def test_a_hidden_test_set_keeps_its_columns_and_folder(tmp_path):
    masks = train_images(tmp_path, "train/i{}.png".format)
    write_table(tmp_path, masks, "i{}".format)
    write_csv(tmp_path / "sample_submission.csv", [("id", "rle")])
    (tmp_path / "test").mkdir()
    draft = draft_card(list_files(tmp_path), "x")
    assert draft.value("files.test_images") == "test"
    assert "files.test_images" in [key.name for key in draft.unsure]
    assert_masks(parse(Competition, draft.tables(), ""), tmp_path, named(masks, "i{}".format), tested=False)


def test_without_a_sample_submission_the_training_tables_columns_are_taken_and_marked(tmp_path):
    masks = train_images(tmp_path, "train/i{}.png".format)
    test_images(tmp_path, "test/i{}.png".format)
    write_table(tmp_path, masks, "i{}".format)
    draft = draft_card(list_files(tmp_path), "x")
    assert {"files.sample_submission", "columns.id", "columns.rle"} <= {key.name for key in draft.unsure}
    assert draft.value("files.test_images") == "test"
    assert_masks(parse(Competition, draft.tables(), ""), tmp_path, named(masks, "i{}".format), tested=False)


@pytest.mark.parametrize("order", ["column", "row"])
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize("empty", ["", "-1", "1 0"])
def test_the_dialect_is_that_of_the_table(tmp_path, order, relative, empty):
    text = Text(order, relative, empty)
    masks = train_images(tmp_path, "train/i{}.png".format)
    write_csv(tmp_path / "train.csv", [("id", "rle"), *((f"i{n}", text.write(mask)) for n, mask in masks.items())])
    write_sample(tmp_path, "i{}".format)
    test_images(tmp_path, "test/i{}.png".format)
    draft = draft_card(list_files(tmp_path), "x")
    card = parse(Competition, draft.tables(), "")
    assert (card.dialect.order, card.dialect.relative, card.dialect.empty) == (order, relative, empty)
    assert "dialect.order" not in [key.name for key in draft.unsure]
    assert_masks(card, tmp_path, named(masks, "i{}".format))


# ---------------------------------------------------------------------------------------------- mask images

MASK_PLACES = {
    "folders": ("train/{}.png", "train_masks/{}.png", "test/{}.png"),
    "images and labels": ("images/{}.png", "labels/{}.png", "test/{}.png"),
    "one folder": ("train/{}.png", "train/{}_mask.png", "test/{}.png"),
    "another suffix": ("train/{}.jpg", "train_masks/{}_mask.gif", "test/{}.jpg"),
    "prefixes": ("train/image_{}.png", "gt/mask_{}.png", "test/image_{}.png"),
    "train and test below": ("img/train/{}.png", "ann/train/{}.png", "img/test/{}.png"),
    "a folder for each image": ("train/{}/image.png", "train/{}/mask.png", "test/{}/image.png"),
    "vessels": ("training/images/{}_training.tif", "training/1st_manual/{}_manual1.gif", "test/images/{}_test.tif"),
    "no word of masks": ("A/{}.png", "B/{}.png", "test/{}.png"),
    "arrays": ("train/images/{}.npy", "train/masks/{}.npy", "test/images/{}.npy"),
}


@pytest.mark.parametrize("form", MASK_PLACES)
def test_mask_images_are_found(tmp_path, form):
    image, mask, test = MASK_PLACES[form]
    masks = train_images(tmp_path, lambda n: image.format(f"{n + 21}"))
    for number, each in masks.items():
        write(tmp_path / mask.format(f"{number + 21}"), each * 255)
        if form == "vessels":  # the region of the retina, which is the same in all images
            write(tmp_path / f"training/mask/{number + 21}_training_mask.gif", np.ones_like(each) * 255)
    test_images(tmp_path, lambda n: test.format(n + 21))
    write_sample(tmp_path, lambda n: f"{n + 21}")
    assert_masks(drafted(tmp_path), tmp_path, {f"{n + 21}": each for n, each in masks.items()})


def test_masks_without_tables_make_a_card_whose_columns_are_marked(tmp_path):
    masks = train_images(tmp_path, "images/s{}.png".format)
    for number, each in masks.items():
        write(tmp_path / f"masks/s{number}.png", each * 255)
    draft = draft_card(list_files(tmp_path), "x")
    assert {"files.sample_submission", "files.test_images", "columns.id"} <= {key.name for key in draft.unsure}
    assert_masks(parse(Competition, draft.tables(), ""), tmp_path, named(masks, "s{}".format), tested=False)


def test_two_values_of_a_mask_are_background_and_class(tmp_path):
    masks = train_images(tmp_path, "images/s{}.png".format)
    for number, each in masks.items():
        write(tmp_path / f"masks/s{number}.png", each * 3)
    card = drafted(tmp_path)
    assert list(card.masks.values.values()) == [3]
    assert_masks(card, tmp_path, named(masks, "s{}".format), tested=False)


def test_one_value_in_all_masks_is_that_of_the_object(tmp_path):
    masks = train_images(tmp_path, "images/s{}.png".format)
    for number, each in masks.items():
        write(tmp_path / f"masks/s{number}.png", np.full_like(each, 5))
    assert list(drafted(tmp_path).masks.values.values()) == [5]


@pytest.mark.parametrize(("name", "is_soft"), [("probe_{}.png", False), ("{}_soft.png", True), ("{}_probs.png", True)])
def test_masks_are_shares_where_a_word_of_their_names_says_so(tmp_path, name, is_soft):
    masks = train_images(tmp_path, lambda number: f"images/{name.format(number)}")
    for number, each in masks.items():
        write(tmp_path / f"masks/{name.format(number)}", each * (100 + number % 2))
    assert drafted(tmp_path).masks.soft == is_soft


def test_folders_named_tr_and_te_are_the_two_parts(tmp_path):
    masks = train_images(tmp_path, "tr/images/s{}.png".format)
    for number, each in masks.items():
        write(tmp_path / f"tr/masks/s{number}.png", each * 255)
    test_images(tmp_path, "te/images/s{}.png".format)
    assert drafted(tmp_path).files.test_images == "te/images"


def test_masks_some_of_which_are_in_colour_are_not_told_apart(tmp_path):
    masks = train_images(tmp_path, "images/s{}.png".format)
    for number, each in masks.items():
        pixels = each * 3
        write(tmp_path / f"masks/s{number}.png", np.stack([pixels, pixels, each * 5], axis=2) if number % 2 else pixels)
    (key,) = [key for key in draft_card(list_files(tmp_path), "x").unsure if key.name == "masks.values"]
    assert key.value is None
    assert key.reason.startswith("some masks are grey, others in colour: values 0, 3, [0, 0, 0], [3, 3, 5] ")


@pytest.mark.parametrize(("folder", "quality"), [("masks", 95), ("BW", 95), ("BW", 80)])
def test_jpeg_masks_get_a_threshold(tmp_path, folder, quality):
    masks = train_images(tmp_path, "images/s{}.png".format)
    for number, each in masks.items():
        (tmp_path / folder).mkdir(exist_ok=True)
        Image.fromarray(each * 255).save(tmp_path / f"{folder}/s{number}.jpg", quality=quality)
    assert drafted(tmp_path).masks.above == 127


def test_a_few_grey_objects_in_jpeg_masks_are_a_class(tmp_path):
    masks = train_images(tmp_path, "images/s{}.png".format)
    (tmp_path / "masks").mkdir()
    for number, each in masks.items():
        pixels = each * 255
        pixels[:6, :6] = 128
        Image.fromarray(pixels).save(tmp_path / f"masks/s{number}.jpg", quality=75)
    (key,) = [key for key in draft_card(list_files(tmp_path), "x").unsure if key.name == "masks.values"]
    assert key.reason.startswith("JPEG blurs values, and these are not black and white")


def test_a_pattern_by_which_an_id_has_several_images_is_marked(tmp_path):
    train_images(tmp_path, lambda number: f"images/s{number}_w1{7919 * (number + 1) % 65521:04x}.png")
    masks = train_images(tmp_path, lambda number: f"images/s{number}_w2{104729 * (number + 1) % 65521:04x}.png")
    for number, each in masks.items():
        write(tmp_path / f"masks/s{number}.png", each * 255)
    (key,) = [key for key in draft_card(list_files(tmp_path), "x").unsure if key.name == "files.pattern"]
    assert f"but {COUNT} ids have several: images/s0_w11eef.png and images/s0_w2" in key.reason


def test_one_mask_with_another_value_does_not_make_white_ignored(tmp_path):
    for number, each in train_images(tmp_path, "images/s{}.png".format).items():
        write(tmp_path / f"masks/s{number}.png", each * (255 if number else 7))
    assert drafted(tmp_path).masks.void is None


@pytest.mark.parametrize("codes", [[0, 1, 2], [0, 60, 120], [(0, 0, 0), (255, 0, 0), (0, 0, 255)]])
def test_classes_in_jpeg_masks_are_marked(tmp_path, codes):
    write_scene(tmp_path, codes)
    for path in sorted((tmp_path / "train_labels").iterdir()):
        Image.open(path).save(path.with_suffix(".jpg"), quality=95)
        path.unlink()
    (key,) = [key for key in draft_card(list_files(tmp_path), "x").unsure if key.name == "masks.values"]
    assert key.value is None
    assert key.reason.startswith("JPEG blurs values, and these are not black and white: save masks of classes as PNG")


def write_scene(root: Path, codes: Sequence, *, void: int | None = None) -> None:
    """Scenes of three classes, in grey or in colours, and void pixels."""
    for number in range(COUNT):
        image, masks = draw(number + 1, 2)
        write(root / f"train/s{number}.png", image)
        labels = np.where(masks[1] == 1, 2, masks[0])
        pixels = np.array(codes, dtype=np.uint8)[labels]
        if void is not None:
            pixels[:2] = void
        write(root / f"train_labels/s{number}_L.png", pixels)
    test_images(root, "test/s{}.png".format)


def test_codes_of_classes_are_in_the_order_of_the_sample_submission(tmp_path):
    write_scene(tmp_path, [0, 1, 2], void=11)
    rows = [(f"s{n}", name, "") for n in range(100, 104) for name in ("sky", "road", "car")]
    write_csv(tmp_path / "sample_submission.csv", [("id", "class", "predicted"), *rows])
    draft = draft_card(list_files(tmp_path), "x")
    card = parse(Competition, draft.tables(), "")
    assert card.exclusive
    assert card.masks.values == {"sky": 0, "road": 1, "car": 2}
    assert card.masks.void == 11
    assert {"masks.values", "masks.void"} <= {key.name for key in draft.unsure}
    assert len(read_index(card, tmp_path)) == COUNT


def test_colours_of_classes_have_the_names_of_a_table_of_colours(tmp_path):
    colours = {"sky": (128, 128, 128), "road": (128, 64, 128), "car": (64, 0, 128)}
    write_scene(tmp_path, list(colours.values()))
    write_csv(tmp_path / "class_dict.csv", [("name", "r", "g", "b"), *((n, *map(str, c)) for n, c in colours.items())])
    card = drafted(tmp_path)
    assert card.masks.values == colours
    assert card.exclusive
    assert len(read_index(card, tmp_path)) == COUNT


def test_codes_without_names_are_classes_named_by_their_codes(tmp_path):
    write_scene(tmp_path, [0, 1, 2], void=255)
    card = drafted(tmp_path)
    assert (len(card.classes), card.masks.void, card.exclusive) == (3, 255, True)
    assert len(read_index(card, tmp_path)) == COUNT


def test_label_images_of_objects_are_found_with_a_metric_of_objects(tmp_path):
    for number in range(COUNT):
        image, masks = draw(number + 1, 3)
        write(tmp_path / f"train/o{number}.png", image)
        labels = np.zeros(image.shape, np.uint16)
        for value, mask in enumerate(masks, start=1):
            labels[mask == 1] = value
        write(tmp_path / f"labels/o{number}.png", labels)
    test_images(tmp_path, "test/o{}.png".format)
    write_sample(tmp_path, "o{}".format)
    card = drafted(tmp_path, "dsb_precision")
    assert card.instances
    assert card.masks.objects
    assert len(read_index(card, tmp_path)) == COUNT


@pytest.mark.parametrize("metric", ["dsb_precision", ""])
def test_a_mask_file_for_each_object_is_found(tmp_path, metric):
    whole = {}
    for number in range(COUNT):
        image, masks = draw(number + 1, 3)
        write(tmp_path / f"stage1_train/a{number}b/images/a{number}b.png", image)
        for place, mask in enumerate(masks):
            write(tmp_path / f"stage1_train/a{number}b/masks/{number}f{place}e.png", mask * 255)
        whole[f"a{number}b"] = masks.max(axis=0)
    test_images(tmp_path, lambda n: f"stage1_test/a{n}b/images/a{n}b.png")
    write_sample(tmp_path, "a{}b".format)
    card = drafted(tmp_path, metric)
    assert (card.instances, card.several_rows) == (bool(metric), not metric)
    assert_masks(card, tmp_path, whole)


def test_slices_of_nifti_volumes_are_images(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    for folder, is_mask in (("imagesTr", False), ("labelsTr", True)):
        (tmp_path / folder).mkdir()
        for volume in range(4):
            slices = [draw(volume * 5 + n, 1) for n in range(5)]
            stack = np.stack([mask[0] if is_mask else image for image, mask in slices], axis=-1).transpose(1, 0, 2)
            nibabel.save(nibabel.Nifti1Image(stack, np.eye(4)), tmp_path / folder / f"liver_{volume}.nii.gz")
    card = drafted(tmp_path)
    assert (card.files.train_images, card.files.train_masks) == ("imagesTr", "labelsTr")
    assert len(read_index(card, tmp_path)) == 20
    damaged = tmp_path / "imagesTr/liver_0.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:40])
    assert drafted(tmp_path) == card  # the doctor reports it


# ---------------------------------------------------------------------------------------------- outlines


def test_cocos_json_is_found(tmp_path):
    masks = train_images(tmp_path, "train/c{}.jpg".format)
    annotations = []
    for number, mask in masks.items():
        rings, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        annotations += [
            {"id": number, "image_id": number, "category_id": 1, "segmentation": [ring.reshape(-1).tolist()]}
            for ring in rings
        ]
    images = [{"id": n, "file_name": f"c{n}.jpg", "height": 32, "width": 40} for n in masks]
    content = {"images": images, "categories": [{"id": 1, "name": "ship"}], "annotations": annotations}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_train.json").write_text(json.dumps(content))
    test_images(tmp_path, "test/c{}.jpg".format)
    write_sample(tmp_path, "c{}".format)
    card = drafted(tmp_path)
    assert (card.files.train_coco, card.classes) == ("annotations/instances_train.json", ("ship",))
    assert len(read_index(card, tmp_path)) == COUNT
    assert len(read_test_index(card, tmp_path)) == TEST_COUNT


# ---------------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize(
    ("ids", "group", "volume"),
    [
        ([f"p{n // 4}_{n % 4}" for n in range(12)], 3, None),
        ([f"scan{n // 4}_slice_{n % 4 + 1:03}" for n in range(12)], 3, "slices"),
        ([f"case{n // 6}_day{n // 3 % 2}_slice_{n % 3:04}" for n in range(12)], 2, "slices"),
        ([f"{n:08x}"[::-1] for n in range(12)], 12, None),
        ([f"img{n}" for n in range(12)], 12, None),
    ],
)
def test_ids_show_groups_and_volumes(tmp_path, ids, group, volume):
    masks = train_images(tmp_path, lambda n: f"train/{ids[n]}.png")
    write_table(tmp_path, masks, ids.__getitem__)
    draft = draft_card(list_files(tmp_path), "x")
    card = parse(Competition, draft.tables(), "")
    assert read_index(card, tmp_path)["group"].nunique() == group
    assert (card.volume_pattern is not None) == (volume == "slices")
    proposed = {"group_pattern", "volume_pattern"} & {key.name for key in draft.keys}
    assert proposed <= {key.name for key in draft.unsure}


def test_a_column_of_patients_is_the_group(tmp_path):
    masks = train_images(tmp_path, "train/i{}.png".format)
    write_table(tmp_path, masks, "i{}".format)
    rows = [(f"i{n}", f"P{n // 3}", str(n % 2)) for n in range(COUNT)]
    write_csv(tmp_path / "meta.csv", [("id", "patient_id", "sex"), *rows])
    draft = draft_card(list_files(tmp_path), "x")
    card = parse(Competition, draft.tables(), "")
    assert (card.columns.group, card.folds) == ("patient_id", 4)
    assert read_index(card, tmp_path)["group"].nunique() == 4
    assert "columns.group" in [key.name for key in draft.unsure]


# ---------------------------------------------------------------------------------------------- bad input


def test_two_training_tables_are_both_named_and_one_can_be_chosen(tmp_path):
    masks = train_images(tmp_path, "train/i{}.png".format)
    write_table(tmp_path, masks, "i{}".format, name="train_a.csv")
    write_table(tmp_path, masks, "i{}".format, name="train_b.csv")
    with pytest.raises(ValueError, match=r"2 tables could be .*train_a\.csv, train_b\.csv.*TABLE=train_a\.csv"):
        drafted(tmp_path)
    assert drafted(tmp_path, table="train_b.csv").files.train_csv == "train_b.csv"
    with pytest.raises(ValueError, match=r"TABLE=c\.csv: not a table.*train_a\.csv, train_b\.csv"):
        drafted(tmp_path, table="c.csv")


def test_images_without_labels_are_one_line(tmp_path):
    train_images(tmp_path, "train/i{}.png".format)
    with pytest.raises(ValueError, match=r"12 images, but no labels: no table .*no CSV: put the training table"):
        drafted(tmp_path)


def test_a_table_of_other_images_is_one_line_with_both(tmp_path):
    masks = train_images(tmp_path, "train/i{}.png".format)
    write_table(tmp_path, masks, "other{}".format)
    with pytest.raises(ValueError, match=r"no image has an id of train\.csv, such as 'other0'; .*train/i0\.png"):
        drafted(tmp_path)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        ("dice", "METRIC=dice: unknown metric 'dice'"),
        ("surface_dice", "METRIC=surface_dice: .*needs volume_pattern"),
        ("ap60", "METRIC=ap60: .*packed_objects"),
        ("mean_f_beta", "METRIC=mean_f_beta: metric 'mean_f_beta' needs beta"),
    ],
)
def test_a_metric_that_does_not_fit_is_one_line(tmp_path, metric, message):
    masks = train_images(tmp_path, "train/i{}.png".format)
    write_table(tmp_path, masks, "i{}".format)
    with pytest.raises(ValueError, match=message):
        drafted(tmp_path, metric)


def test_a_metric_with_parameters_is_a_table_on_the_card(tmp_path):
    masks = train_images(tmp_path, "train/i{}.png".format)
    write_table(tmp_path, masks, "i{}".format)
    assert drafted(tmp_path, "mean_f_beta(beta=2)").metric == "mean_f_beta(beta=2)"


def test_folders_without_images_are_one_line(tmp_path):
    with pytest.raises(ValueError, match="no file in this folder"):
        drafted(tmp_path)
    (tmp_path / "a.h5").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"no image: HDF5 files \(\.h5\) are not read: save images and masks as files"):
        drafted(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        drafted(tmp_path / "none")
