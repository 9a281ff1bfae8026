"""Small folders in the layouts of public data sets for segmentation, with drawn images and masks.

Each function writes the files of one set below a folder, named and nested as that set has them.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.test_card_draft_layouts import write, write_csv

SIZE = (40, 56)  # height and width of the images
TRAIN, VALID, TEST = 12, 4, 4  # images of each part
SETS: dict[str, Callable[[Path], None]] = {}
NIFTI = ("covid_nifti", "lung_slices")  # layouts with volumes, which need a package to be written


def layout(function: Callable[[Path], None]) -> Callable[[Path], None]:
    """Add a layout to SETS by its name."""
    SETS[function.__name__] = function
    return function


def blobs(number: int, classes: int = 1, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """An image in colour (H, W, 3), and labels (H, W) from 0, the background, to the number of classes."""
    rng = np.random.default_rng(number)
    image = rng.normal(90, 12, (*size, 3))
    labels = np.zeros(size, np.uint8)
    rows, columns = np.ogrid[: size[0], : size[1]]
    for name in range(1, classes + 1):
        row, column = rng.uniform(8, size[0] - 8), rng.uniform(8, size[1] - 8)
        radius = rng.uniform(5, 9)
        inside = (rows - row) ** 2 + ((columns - column) / 1.4) ** 2 < radius**2
        labels[inside] = name
        image[inside] += np.array([90, 20, -40]) if name % 2 else np.array([-30, 60, 80])
    return image.clip(0, 255).astype(np.uint8), labels


def cells(number: int, size: tuple[int, int] = (72, 96)) -> tuple[np.ndarray, np.ndarray]:
    """A dark image in colour (H, W, 3) with some bright discs, and labels (H, W): a number for each disc, from 1."""
    rng = np.random.default_rng(number)
    image = rng.normal(30, 6, (*size, 3))
    labels = np.zeros(size, np.uint8)
    places = [(row, column) for row in range(8, size[0] - 6, 14) for column in range(8, size[1] - 6, 14)]
    rows, columns = np.ogrid[: size[0], : size[1]]
    for name, place in enumerate(rng.permutation(places)[: rng.integers(8, 20)], start=1):
        inside = (rows - place[0]) ** 2 + (columns - place[1]) ** 2 < rng.uniform(3, 6) ** 2
        labels[inside] = name
        image[inside] += 110
    return image.clip(0, 255).astype(np.uint8), labels


def lines(number: int, size: tuple[int, int] = SIZE) -> tuple[np.ndarray, np.ndarray]:
    """An image in colour (H, W, 3) with dark lines, and their mask (H, W), 0 and 1."""
    rng = np.random.default_rng(number)
    image = rng.normal(150, 10, (*size, 3))
    labels = np.zeros(size, np.uint8)
    rows, columns = np.mgrid[: size[0], : size[1]]
    for _ in range(3):
        angle, shift, bend = rng.uniform(0, 3.1), rng.uniform(-12, 12), rng.uniform(1, 5)
        across = (rows - size[0] / 2) * np.cos(angle) + (columns - size[1] / 2) * np.sin(angle)
        along = (columns - size[1] / 2) * np.cos(angle) - (rows - size[0] / 2) * np.sin(angle)
        labels[np.abs(across - shift - bend * np.sin(along / 7)) < 1.3] = 1
    image[labels == 1] -= 70
    return image.clip(0, 255).astype(np.uint8), labels


def split(*counts: tuple[str, int]) -> Iterator[tuple[str, int, int]]:
    """The part, the number in the part, and a seed, of each image of parts of so many images."""
    for place, (part, count) in enumerate(counts):
        for number in range(count):
            yield part, number, 1000 * place + 3 * number + 1


def grey(image: np.ndarray) -> np.ndarray:
    return image.mean(axis=2).astype(np.uint8)


def write_text(path: Path, text: str = "x\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def write_palette(path: Path, labels: np.ndarray) -> None:
    """A PNG of indices, with a palette of 256 colours of which the first is black, and the last grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(labels, mode=None).convert("P")
    image.putdata(labels.reshape(-1).tolist())
    colours = np.random.default_rng(0).integers(1, 255, (256, 3))
    colours[0], colours[255] = 0, (224, 224, 192)
    image.putpalette(colours.astype(np.uint8).reshape(-1).tolist())
    image.save(path)


def border(labels: np.ndarray, value: int = 255) -> np.ndarray:
    """Labels with a value at the edges of their objects."""
    edge = np.zeros(labels.shape, bool)
    edge[1:] |= labels[1:] != labels[:-1]
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    return np.where(edge, value, labels).astype(np.uint8)


def colours_of(labels: np.ndarray, colours: Sequence[Sequence[int]]) -> np.ndarray:
    return np.array(colours, dtype=np.uint8)[labels]


def slug(number: int, length: int = 24) -> str:
    """A random name of letters and digits."""
    letters = np.random.default_rng(number + 77).integers(0, 36, length)
    return "".join("abcdefghijklmnopqrstuvwxyz0123456789"[n] for n in letters)


# ------------------------------------------------------------------------------------------------- street scenes

STREET = np.array([0, 7, 11, 21, 23, 26], np.uint8)  # ids of unlabelled, road, building, vegetation, sky and car
CAMVID = {"Sky": (128, 128, 128), "Building": (128, 0, 0), "Road": (128, 64, 128), "Car": (64, 0, 128)}


@layout
def cityscapes(root: Path) -> None:
    """Towns as folders; four files of labels for each image, those of the test set without a class."""
    towns = {
        "train": ("aachen", "bochum", "hanover", "krefeld", "ulm", "zurich"),
        "val": ("frankfurt", "lindau"),
        "test": ("berlin", "bonn"),
    }
    for part, number, seed in split(("train", TRAIN), ("val", VALID), ("test", TEST)):
        image, labels = blobs(seed, 5)
        town = towns[part][number % len(towns[part])]
        name = f"{part}/{town}/{town}_{number:06}_000019"
        ids = STREET[labels] if part != "test" else np.full(SIZE, 0, np.uint8)
        ids[-3:] = 1  # the own car
        write(root / f"leftImg8bit/{name}_leftImg8bit.png", image)
        write(root / f"gtFine/{name}_gtFine_labelIds.png", ids)
        write(root / f"gtFine/{name}_gtFine_instanceIds.png", np.where(ids > 23, ids * 1000.0, ids).astype(np.uint16))
        write(
            root / f"gtFine/{name}_gtFine_color.png",
            np.dstack([ids * 5, ids * 3, ids, np.full(SIZE, 255)]).astype("u1"),
        )
        polygons = {
            "imgHeight": 40,
            "imgWidth": 56,
            "objects": [{"label": "road", "polygon": [[0, 0], [9, 0], [9, 9]]}],
        }
        write_text(root / f"gtFine/{name}_gtFine_polygons.json", json.dumps(polygons))
    write_text(root / "license.txt")
    write_text(root / "README")


@layout
def camvid(root: Path) -> None:
    """Colour masks of all three parts, and a table of colours with classes that no mask has."""
    for part, number, seed in split(("train", TRAIN), ("val", VALID), ("test", TEST)):
        image, labels = blobs(seed, 3)
        video = ("0001TP", "0006R0", "Seq05VD")[number % 3]
        write(root / f"CamVid/{part}/{video}_{number * 30:06}.png", image)
        write(root / f"CamVid/{part}_labels/{video}_{number * 30:06}_L.png", colours_of(labels, list(CAMVID.values())))
    rows = [
        (name, *map(str, colour)) for name, colour in [*CAMVID.items(), ("Tunnel", (64, 0, 64)), ("Void", (0, 0, 0))]
    ]
    write_csv(root / "CamVid/class_dict.csv", [("name", "r", "g", "b"), *rows])


@layout
def camvid_segnet(root: Path) -> None:
    """Label images of 0 to 11, where 11 is void, and lists of paths."""
    for part, number, seed in split(("train", TRAIN), ("val", VALID), ("test", TEST)):
        image, labels = blobs(seed, 3)
        name = f"{('0001TP', '0006R0', 'Seq05VD')[number % 3]}_{number * 30:06}.png"
        write(root / f"CamVid/{part}/{name}", image)
        write(root / f"CamVid/{part}annot/{name}", np.array([11, 1, 3, 8], np.uint8)[border(labels, 0)])
        write_text(root / f"CamVid/{part}.txt", f"/SegNet/CamVid/{part}/{name} /SegNet/CamVid/{part}annot/{name}\n")


@layout
def kitti_road(root: Path) -> None:
    """Red is no road, magenta is road, black is not counted; the word road is in the middle of the masks' names."""
    for part, number, seed in split(("training", TRAIN), ("testing", TEST)):
        image, labels = blobs(seed, 2)
        kind = ("um", "umm", "uu")[number % 3]
        write(root / f"data_road/{part}/image_2/{kind}_{number // 3:06}.png", image)
        write_text(root / f"data_road/{part}/calib/{kind}_{number // 3:06}.txt")
        if part == "training":
            colours = colours_of(labels, [(255, 0, 0), (255, 0, 255), (0, 0, 0)])
            write(root / f"data_road/{part}/gt_image_2/{kind}_road_{number // 3:06}.png", colours)
            if kind == "um":
                write(root / f"data_road/{part}/gt_image_2/{kind}_lane_{number // 3:06}.png", colours)


@layout
def kitti_semantic(root: Path) -> None:
    for part, number, seed in split(("training", TRAIN), ("testing", TEST)):
        image, labels = blobs(seed, 5)
        write(root / f"{part}/image_2/{number:06}_10.png", image)
        if part == "training":
            ids = STREET[labels]
            write(root / f"{part}/semantic/{number:06}_10.png", ids)
            write(root / f"{part}/semantic_rgb/{number:06}_10.png", np.dstack([ids * 5, ids * 3, ids]))
            write(root / f"{part}/instance/{number:06}_10.png", ids.astype(np.uint16) * 256)


@layout
def bdd100k(root: Path) -> None:
    """Masks of 0 to 18 and 255, colours, polygons; the test set has no labels."""
    for part, _, seed in split(("train", TRAIN), ("val", VALID), ("test", TEST)):
        image, labels = blobs(seed, 4)
        name = f"{slug(seed, 8)}-{slug(seed + 1, 8)}"
        write(root / f"bdd100k/images/10k/{part}/{name}.jpg", image)
        if part != "test":
            ids = np.array([255, 0, 2, 10, 13], np.uint8)[labels]
            write(root / f"bdd100k/labels/sem_seg/masks/{part}/{name}.png", ids)
            write(
                root / f"bdd100k/labels/sem_seg/colormaps/{part}/{name}.png", np.dstack([ids, ids // 2, ids // 3, ids])
            )
            write_text(root / f"bdd100k/labels/sem_seg/polygons/sem_seg_{part}.json", "[]")


@layout
def mapillary(root: Path) -> None:
    """Palette images of 66 classes, of which 65 is void; images of several sizes."""
    for part, number, seed in split(("training", TRAIN), ("validation", VALID), ("testing", TEST)):
        size = (40 + 4 * (number % 3), 56 + 8 * (number % 2))
        image, labels = blobs(seed, 4, size)
        write(root / f"{part}/images/{slug(seed, 22)}.jpg", image)
        if part != "testing":
            ids = np.array([65, 13, 17, 27, 55], np.uint8)[labels]
            write_palette(root / f"{part}/labels/{slug(seed, 22)}.png", ids)
            write(root / f"{part}/instances/{slug(seed, 22)}.png", ids.astype(np.uint16) * 256)
            write(root / f"{part}/panoptic/{slug(seed, 22)}.png", np.dstack([ids, ids, ids * 0]))
    write_text(root / "config.json", json.dumps({"labels": [{"name": "animal--bird", "color": [165, 42, 42]}]}))


@layout
def pascal_voc(root: Path) -> None:
    """Masks of some of the images: palettes with void borders; the parts are in lists."""
    for _, number, seed in split(("all", 2 * TRAIN)):
        image, labels = blobs(seed, 2)
        name = f"200{7 + number % 3}_{number:06}"
        write(root / f"VOCdevkit/VOC2012/JPEGImages/{name}.jpg", image)
        write_text(root / f"VOCdevkit/VOC2012/Annotations/{name}.xml", "<annotation/>")
        if number % 2:
            write_palette(root / f"VOCdevkit/VOC2012/SegmentationClass/{name}.png", border(labels * np.uint8(7)))
            write_palette(root / f"VOCdevkit/VOC2012/SegmentationObject/{name}.png", border(labels))
    for part in ("train", "val", "trainval"):
        write_text(root / f"VOCdevkit/VOC2012/ImageSets/Segmentation/{part}.txt", "2008_000001\n")


@layout
def ade20k(root: Path) -> None:
    """150 classes from 1, 0 is none of them; the test images are in a folder of their own."""
    for part, number, seed in split(("train", 3 * TRAIN), ("val", VALID), ("test", TEST)):
        image, labels = blobs(seed, 4)
        folder = {"train": "training", "val": "validation"}.get(part)
        if folder:
            base, name = root / "ADEChallengeData2016", f"{folder}/ADE_{part}_{number + 1:08}"
            ids = np.array([0, *np.random.default_rng(seed).integers(1, 151, 4)], np.uint8)[labels]
            write(base / f"images/{name}.jpg", image)
            write(base / f"annotations/{name}.png", ids)
        else:
            write(root / f"release_test/testing/ADE_test_{number + 1:08}.jpg", image)
    write_text(
        root / "ADEChallengeData2016/objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t0.1\t9\t9\t1\twall\n"
    )


@layout
def train_val_test(root: Path) -> None:
    """Train, validation and test folders, the first two with masks."""
    for part, number, seed in split(("train", TRAIN), ("val", VALID), ("test", TEST)):
        image, labels = blobs(seed)
        write(root / f"{part}/images/{part[0]}{number}x.png", image)
        if part != "test":
            write(root / f"{part}/masks/{part[0]}{number}x.png", labels * 255)


# ------------------------------------------------------------------------------------------------- vessels


def field_of_view() -> np.ndarray:
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    return (((rows - 20) ** 2 + ((columns - 28) / 1.4) ** 2) < 18**2).astype(np.uint8) * 255


@layout
def drive(root: Path) -> None:
    for part, number, seed in split(("training", TRAIN), ("test", TEST)):
        image, labels = lines(seed)
        name = f"{21 + number if part == 'training' else 1 + number:02}"
        write(root / f"DRIVE/{part}/images/{name}_{part}.tif", image)
        write(root / f"DRIVE/{part}/mask/{name}_{part}_mask.gif", field_of_view())
        if part == "training":
            write(root / f"DRIVE/{part}/1st_manual/{name}_manual1.gif", labels * 255)


@layout
def drive_with_test_labels(root: Path) -> None:
    drive(root)
    for number in range(TEST):
        for reader, folder in enumerate(("1st_manual", "2nd_manual"), start=1):
            write(
                root / f"DRIVE/test/{folder}/{1 + number:02}_manual{reader}.gif", lines(1000 + 3 * number + 1)[1] * 255
            )


@layout
def chase_db1(root: Path) -> None:
    """Both eyes of each child, and the masks of two observers, in one folder."""
    for number in range(1, 15):
        for eye in "LR":
            image, labels = lines(2 * number + (eye == "R"))
            write(root / f"CHASEDB1/Image_{number:02}{eye}.jpg", image)
            write(root / f"CHASEDB1/Image_{number:02}{eye}_1stHO.png", labels * 255)
            write(root / f"CHASEDB1/Image_{number:02}{eye}_2ndHO.png", labels * 255)


@layout
def stare(root: Path) -> None:
    for number in (1, 2, 3, 4, 5, 44, 77, 81, 82, 139, 162, 163):
        image, labels = lines(number)
        write(root / f"stare-images/im{number:04}.ppm", image)
        write(root / f"labels-ah/im{number:04}.ah.ppm", labels * 255)
        write(root / f"labels-vk/im{number:04}.vk.ppm", labels * 255)


@layout
def hrf(root: Path) -> None:
    """Suffixes in upper and lower case, and masks of the field of view."""
    for number in range(1, 9):
        for place, kind in enumerate(("dr", "g", "h")):
            image, labels = lines(3 * number + place)
            name = f"{number:02}_{kind}"
            path = root / f"images/{name}.{'JPG' if kind == 'dr' else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path, format="JPEG")
            write(root / f"manual1/{name}.tif", labels * 255)
            write(root / f"mask/{name}_mask.tif", np.repeat(field_of_view()[..., None], 3, axis=2))


# ------------------------------------------------------------------------------------------------- surfaces


@layout
def dagm(root: Path) -> None:
    """Classes as folders with the same numbers; only images with a defect have a mask; test images have masks too."""
    for kind in range(1, 4):
        for part, number, seed in split(("Train", 10), ("Test", 6)):
            image, labels = blobs(seed + kind)
            name = f"{number + (576 if part == 'Train' else 1):04}"
            write(root / f"Class{kind}/{part}/{name}.PNG", grey(image))
            if number % 3 == 0:
                write(root / f"Class{kind}/{part}/Label/{name}_label.PNG", labels * 255)
            write_text(root / f"Class{kind}/{part}/Label/Labels.txt")


@layout
def mvtec_one(root: Path) -> None:
    """Training images without defects; masks of the test images, in folders of defects with the same numbers."""
    for number in range(8):
        write(root / f"train/good/{number:03}.png", blobs(number)[0])
    for number in range(3):
        write(root / f"test/good/{number:03}.png", blobs(50 + number)[0])
    for place, defect in enumerate(("broken_large", "contamination")):
        for number in range(4):
            image, labels = blobs(100 * place + number)
            write(root / f"test/{defect}/{number:03}.png", image)
            write(root / f"ground_truth/{defect}/{number:03}_mask.png", labels * 255)
    write_text(root / "license.txt")


@layout
def mvtec(root: Path) -> None:
    """Several categories of the set above."""
    for kind in ("bottle", "cable"):
        mvtec_one(root / kind)


@layout
def kolektor(root: Path) -> None:
    for place in range(1, 7):
        for part in range(4):
            image, labels = blobs(10 * place + part)
            write(root / f"kos{place:02}/Part{part}.jpg", grey(image))
            write(root / f"kos{place:02}/Part{part}_label.bmp", labels * 255 * (part == 2))


@layout
def kolektor2(root: Path) -> None:
    """Masks beside the images, of the test set too."""
    for part, number, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = blobs(seed)
        name = f"{part}/{(10000 if part == 'train' else 20000) + number}"
        write(root / f"{name}.png", image)
        write(root / f"{name}_GT.png", labels * 255 * (number % 3 > 0))


@layout
def deepcrack(root: Path) -> None:
    for part, number, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = lines(seed)
        write(root / f"{part}_img/{11111 + number * 17}-{number % 3}.jpg", image)
        write(root / f"{part}_lab/{11111 + number * 17}-{number % 3}.png", labels * 255)


@layout
def crack500(root: Path) -> None:
    """An image and its mask differ in the suffix only."""
    for part, number, seed in split(("train", TRAIN), ("val", VALID), ("test", TEST)):
        image, labels = lines(seed)
        name = f"{part}crop/20160222_0808{number // 4:02}_{1 + 640 * (number % 4)}_{361}"
        write(root / f"{name}.jpg", image)
        write(root / f"{name}.png", labels * 255)
        write_text(root / f"{part}.txt", f"{name}.jpg {name}.png\n")


@layout
def neu_seg(root: Path) -> None:
    for part, number, seed in split(("training", TRAIN), ("test", TEST)):
        image, labels = blobs(seed, 3)
        name = f"{part}/{number + 1 + 200 * (part == 'test'):06}"
        write(root / f"images/{name}.jpg", grey(image))
        write(root / f"annotations/{name}.png", labels)


@layout
def magnetic_tiles(root: Path) -> None:
    for place, kind in enumerate(("MT_Blowhole", "MT_Break", "MT_Free")):
        for number in range(6):
            image, labels = blobs(10 * place + number, size=(40 + number, 56))
            write(root / f"{kind}/Imgs/exp{1 + number % 3}_num_{1087 + 10 * place + number}.jpg", grey(image))
            mask = labels * 255 * (kind != "MT_Free")
            write(root / f"{kind}/Imgs/exp{1 + number % 3}_num_{1087 + 10 * place + number}.png", mask)


# ------------------------------------------------------------------------------------------------- earth


@layout
def seismic(root: Path) -> None:
    """A table of RLE and depths, mask images, and test images; no sample submission."""
    from tests.miniatures import Text

    rows, depths = [], []
    for part, number, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = blobs(seed, size=(101, 101))
        name = slug(seed, 10)
        write(root / f"{part}/images/{name}.png", image)
        depths.append((name, str(100 + 7 * number)))
        if part == "train":
            write(root / f"{part}/masks/{name}.png", labels.astype(np.uint16) * 65535)
            rows.append((name, Text().write(labels)))
    write_csv(root / "train.csv", [("id", "rle_mask"), *rows])
    write_csv(root / "depths.csv", [("id", "z"), *depths])


@layout
def seismic_masks(root: Path) -> None:
    """As above, without the table of RLE."""
    seismic(root)
    (root / "train.csv").unlink()


@layout
def deepglobe_roads(root: Path) -> None:
    rows = []
    for part, _, seed in split(("train", TRAIN), ("valid", VALID), ("test", TEST)):
        image, labels = lines(seed)
        name = f"{part}/{100034 + seed * 7}"
        write(root / f"{name}_sat.jpg", image)
        mask = f"{name}_mask.png" if part == "train" else ""
        if mask:
            write(root / mask, np.repeat((labels * 255)[..., None], 3, axis=2))
        rows.append((str(100034 + seed * 7), part, f"{name}_sat.jpg", mask))
    write_csv(root / "metadata.csv", [("image_id", "split", "sat_image_path", "mask_path"), *rows])
    classes = [("road", "255", "255", "255"), ("background", "0", "0", "0")]
    write_csv(root / "class_dict.csv", [("name", "r", "g", "b"), *classes])


@layout
def deepglobe_land(root: Path) -> None:
    """Colour masks, whose classes have names in a table; one of them is not scored."""
    colours = {
        "urban_land": (0, 255, 255),
        "agriculture_land": (255, 255, 0),
        "water": (0, 0, 255),
        "unknown": (0, 0, 0),
    }
    for part, _, seed in split(("train", TRAIN), ("valid", VALID), ("test", TEST)):
        image, labels = blobs(seed, 2)
        write(root / f"{part}/{100 + seed}_sat.jpg", image)
        if part == "train":
            write(root / f"{part}/{100 + seed}_mask.png", colours_of(labels, list(colours.values())))
    rows = [(name, *map(str, colour)) for name, colour in colours.items()]
    write_csv(root / "class_dict.csv", [("name", "r", "g", "b"), *rows])


@layout
def chips(root: Path) -> None:
    """A folder of bands for each image."""
    for part, _, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = blobs(seed)
        for place, band in enumerate(("B02", "B03", "B08")):
            write(root / f"{part}/chip{seed}x/{band}.tif", image[..., place])
        if part == "train":
            write(root / f"train_labels/chip{seed}x.tif", labels)


@layout
def massachusetts(root: Path) -> None:
    """TIFF and PNG copies of the same images, with test labels; and a table of them."""
    rows = []
    for part, _, seed in split(("train", TRAIN), ("val", VALID), ("test", TEST)):
        image, labels = lines(seed)
        name = f"{10078660 + seed * 15}_15"
        mask = np.repeat((labels * 255)[..., None], 3, axis=2)
        write(root / f"tiff/{part}/{name}.tiff", image)
        write(root / f"tiff/{part}_labels/{name}.tif", mask)
        write(root / f"png/{part}/{name}.png", image)
        write(root / f"png/{part}_labels/{name}.png", mask)
        rows.append((name, part, f"tiff/{part}/{name}.tiff", f"tiff/{part}_labels/{name}.tif"))
    write_csv(root / "metadata.csv", [("image_id", "split", "tiff_image_path", "tif_label_path"), *rows])
    write_csv(
        root / "label_class_dict.csv",
        [("name", "r", "g", "b"), ("background", "0", "0", "0"), ("road", "255", "255", "255")],
    )


@layout
def inria(root: Path) -> None:
    """Towns with numbers."""
    for part, number, seed in split(("train", 16), ("test", TEST)):
        image, labels = blobs(seed)
        towns = ("austin", "chicago", "kitsap", "tyrol-w") if part == "train" else ("bellingham", "sfo")
        name = f"{towns[number % len(towns)]}{number // len(towns) + 1}"
        write(root / f"AerialImageDataset/{part}/images/{name}.tif", image)
        if part == "train":
            write(root / f"AerialImageDataset/{part}/gt/{name}.tif", labels * 255)


@layout
def landcover(root: Path) -> None:
    for number, name in enumerate(
        f"{row}-{column}-D-{kind}" for row in ("M-33", "N-34") for column in (20, 48, 62) for kind in ("c-4-2", "d-2-2")
    ):
        image, labels = blobs(number, 4)
        write(root / f"images/{name}.tif", image)
        write(root / f"masks/{name}.tif", labels)
    for part in ("train", "val", "test"):
        write_text(root / f"{part}.txt", "M-33-20-D-c-4-2_0\n")
    write_text(root / "split.py")


@layout
def loveda(root: Path) -> None:
    """Regions as folders; 0 is no data, classes from 1."""
    for part, number, seed in split(("Train", TRAIN), ("Val", VALID), ("Test", TEST)):
        image, labels = blobs(seed, 4)
        region = ("Rural", "Urban")[number % 2]
        write(root / f"{part}/{region}/images_png/{seed}.png", image)
        if part != "Test":
            labels[:3] = 255
            write(root / f"{part}/{region}/masks_png/{seed}.png", labels + np.uint8(1))


@layout
def drone(root: Path) -> None:
    """Label images and colour images in different folders, and a table of colours with blanks."""
    colours = [(0, 0, 0), (128, 64, 128), (130, 76, 0), (0, 102, 0)]
    for number in range(TRAIN):
        image, labels = blobs(number, 3)
        write(root / f"dataset/semantic_drone_dataset/original_images/{number:03}.jpg", image)
        write(root / f"dataset/semantic_drone_dataset/label_images_semantic/{number:03}.png", labels)
        write(root / f"RGB_color_image_masks/RGB_color_image_masks/{number:03}.png", colours_of(labels, colours))
    names = ("unlabeled", "paved-area", "dirt", "grass")
    rows = [(name, *(f" {value}" for value in colour)) for name, colour in zip(names, colours, strict=True)]
    write_csv(root / "class_dict_seg.csv", [("name", " r", " g", " b"), *rows])


@layout
def dubai(root: Path) -> None:
    """Tiles as folders whose images have the same names; colour masks; classes in a JSON."""
    colours = [(226, 169, 41), (132, 41, 246), (110, 193, 228)]
    for tile in range(1, 5):
        for number in range(1, 5):
            image, labels = blobs(10 * tile + number, 2)
            start = f"Semantic segmentation dataset/Tile {tile}"
            write(root / f"{start}/images/image_part_{number:03}.jpg", image)
            write(root / f"{start}/masks/image_part_{number:03}.png", colours_of(labels, colours))
    write_text(
        root / "Semantic segmentation dataset/classes.json", '{"classes": [{"title": "Water", "color": "#E2A929"}]}'
    )


@layout
def uavid(root: Path) -> None:
    """Videos as folders, whose frames have the same names."""
    for part, number, seed in split(("train", 16), ("val", VALID), ("test", TEST)):
        image, labels = blobs(seed, 3)
        start = f"uavid_{part}/seq{number // 4 + {'train': 1, 'val': 16, 'test': 21}[part]}"
        write(root / f"{start}/Images/{number % 4 * 100:06}.png", image)
        if part != "test":
            colours = [(0, 0, 0), (128, 0, 0), (128, 64, 128), (0, 128, 0)]
            write(root / f"{start}/Labels/{number % 4 * 100:06}.png", colours_of(labels, colours))


@layout
def potsdam(root: Path) -> None:
    """Six colours, and the endings of names differ in upper and lower case."""
    colours = [(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0)]
    for number in range(TRAIN):
        image, labels = blobs(number, 3)
        name = f"top_potsdam_{2 + number // 4}_{10 + number % 4}"
        write(root / f"2_Ortho_RGB/{name}_RGB.tif", image)
        write(root / f"5_Labels_all/{name}_label.tif", colours_of(labels, colours))
        write(
            root / f"5_Labels_all_noBoundary/{name}_label_noBoundary.tif",
            colours_of(border(labels, 4), [*colours, (0, 0, 0)]),
        )


@layout
def vaihingen(root: Path) -> None:
    """Labels of some of the areas."""
    colours = [(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0)]
    for number in range(1, 2 * TRAIN + 1):
        image, labels = blobs(number, 3, size=(40 + number % 5, 56))
        write(root / f"top/top_mosaic_09cm_area{number}.tif", image)
        write(root / f"dsm/dsm_09cm_matching_area{number}.tif", grey(image).astype(np.float32) / 7)
        if number % 2:
            write(root / f"gts_for_participants/top_mosaic_09cm_area{number}.tif", colours_of(labels, colours))


@layout
def clouds38(root: Path) -> None:
    """A folder for each band, whose name is in the file's name too."""
    for part, number, seed in split(("training", TRAIN), ("test", TEST)):
        image, labels = blobs(seed)
        start, name = (
            part.removesuffix("ing"),
            f"patch_{number + 1}_{number // 3 + 1}_by_{number % 3 + 1}_LC08_L1TP_002053_20160520_20170324_01_T1",
        )
        for band, channel in (("blue", 0), ("green", 1), ("red", 2), ("nir", 0)):
            path = root / f"38-Cloud_{part}/{start}_{band}/{band}_{name}.TIF"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., channel].astype(np.uint16) * 40).save(path, format="TIFF")
        if part == "training":
            path = root / f"38-Cloud_{part}/train_gt/gt_{name}.TIF"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels * 255).save(path, format="TIFF")
    write_csv(root / "38-Cloud_training/training_patches_38-Cloud.csv", [("name",), ("patch_1",)])


@layout
def floodnet(root: Path) -> None:
    for part, _, seed in split(("train", TRAIN), ("val", VALID), ("test", TEST)):
        image, labels = blobs(seed, 3)
        write(root / f"FloodNet/{part}/{part}-org-img/{6000 + seed}.jpg", image)
        write(root / f"FloodNet/{part}/{part}-label-img/{6000 + seed}_lab.png", labels)


@layout
def water(root: Path) -> None:
    """JPEG masks of images of many sizes."""
    for number in range(TRAIN):
        image, labels = blobs(number, size=(32 + 3 * number, 60 - number))
        write(root / f"Water Bodies Dataset/Images/water_body_{number + 1}.jpg", image)
        write(root / f"Water Bodies Dataset/Masks/water_body_{number + 1}.jpg", labels * 255)


# ------------------------------------------------------------------------------------------------- medicine


@layout
def lgg_mri(root: Path) -> None:
    patients = ("TCGA_CS_4941_19960909", "TCGA_CS_4942_19970222", "TCGA_DU_5849_19950405", "TCGA_HT_7680_19970202")
    for place, patient in enumerate(patients):
        for number in range(1, 12):
            image, labels = blobs(20 * place + number)
            write(root / f"kaggle_3m/{patient}/{patient}_{number}.tif", image)
            write(root / f"kaggle_3m/{patient}/{patient}_{number}_mask.tif", labels * 255 * (3 < number < 9))
    rows = [(patient.rpartition("_")[0], "2", "1", "F") for patient in patients]
    write_csv(root / "kaggle_3m/data.csv", [("Patient", "RNASeqCluster", "MethylationCluster", "gender"), *rows])
    write_text(root / "kaggle_3m/README.md")


@layout
def kvasir(root: Path) -> None:
    """JPEG masks in colour, and boxes."""
    boxes = {}
    for number in range(TRAIN):
        image, labels = blobs(number, size=(40 + number, 56))
        name = f"cju{slug(number, 22)}"
        write(root / f"Kvasir-SEG/images/{name}.jpg", image)
        write(root / f"Kvasir-SEG/masks/{name}.jpg", np.repeat((labels * 255)[..., None], 3, axis=2))
        boxes[name] = {
            "height": 40,
            "width": 56,
            "bbox": [{"label": "polyp", "xmin": 1, "ymin": 1, "xmax": 9, "ymax": 9}],
        }
    write_text(root / "Kvasir-SEG/kavsir_bboxes.json", json.dumps(boxes))


@layout
def cvc_clinic(root: Path) -> None:
    """PNG and TIFF copies, a name with a blank, and a table of the sequences."""
    rows = []
    for number in range(1, 25):
        image, labels = blobs(number)
        for form, suffix in (("PNG", "png"), ("TIF", "tif")):
            write(root / f"{form}/Original/{number}.{suffix}", image)
            write(root / f"{form}/Ground Truth/{number}.{suffix}", labels * 255)
        paths = [
            f"{form}/{part}/{number}.{form.lower()}" for form in ("PNG", "TIF") for part in ("Original", "Ground Truth")
        ]
        rows.append((str(number), str(1 + number // 6), "6", *paths))
    header = (
        "frame_id",
        "sequence_id",
        "number_of_frames",
        "png_image_path",
        "png_mask_path",
        "tif_image_path",
        "tif_mask_path",
    )
    write_csv(root / "metadata.csv", [header, *rows])


@layout
def isic2018(root: Path) -> None:
    names = {"Training": TRAIN, "Validation": VALID, "Test": TEST}
    for part, number, seed in split(*names.items()):
        image, labels = blobs(seed, size=(40, 56 + 4 * (number % 3)))
        write(root / f"ISIC2018_Task1-2_{part}_Input/ISIC_{seed:07}.jpg", image)
        if part == "Training":
            write(root / f"ISIC2018_Task1_{part}_GroundTruth/ISIC_{seed:07}_segmentation.png", labels * 255)
    for folder in (
        "ISIC2018_Task1-2_Training_Input",
        "ISIC2018_Task1_Training_GroundTruth",
        "ISIC2018_Task1-2_Test_Input",
    ):
        write_text(root / folder / "ATTRIBUTION.txt")
        write_text(root / folder / "LICENSE.txt")


@layout
def isic2017(root: Path) -> None:
    """Superpixels beside the images, and tables of the patients."""
    for part, _, seed in split(("Training", TRAIN), ("Validation", VALID), ("Test_v2", TEST)):
        image, labels = blobs(seed)
        write(root / f"ISIC-2017_{part}_Data/ISIC_{seed:07}.jpg", image)
        superpixels = (np.indices(SIZE) // 8).sum(axis=0).astype(np.uint8)
        write(
            root / f"ISIC-2017_{part}_Data/ISIC_{seed:07}_superpixels.png",
            np.dstack([superpixels, superpixels * 0, superpixels * 0]),
        )
        write(root / f"ISIC-2017_{part}_Part1_GroundTruth/ISIC_{seed:07}_segmentation.png", labels * 255)
    rows = [(f"ISIC_{seed:07}", "55", "female") for part, _, seed in split(("Training", TRAIN))]
    write_csv(
        root / "ISIC-2017_Training_Data/ISIC-2017_Training_Data_metadata.csv",
        [("image_id", "age_approximate", "sex"), *rows],
    )
    write_csv(
        root / "ISIC-2017_Training_Part3_GroundTruth.csv",
        [("image_id", "melanoma", "seborrheic_keratosis"), *((each[0], "0.0", "1.0") for each in rows)],
    )


@layout
def ph2(root: Path) -> None:
    """A folder for each image, with folders of the image, of the lesion, and of regions of one colour."""
    for number in range(2, 2 + TRAIN):
        image, labels = blobs(number)
        start = f"PH2 Dataset images/IMD{number:03}/IMD{number:03}"
        write(root / f"{start}_Dermoscopic_Image/IMD{number:03}.bmp", image)
        write(root / f"{start}_lesion/IMD{number:03}_lesion.bmp", labels * 255)
        if number % 2:
            write(root / f"{start}_roi/IMD{number:03}_R1_Label4.bmp", labels * 255)
    write_text(root / "PH2_dataset.txt")


@layout
def montgomery(root: Path) -> None:
    """Masks of the left and of the right lung."""
    for number in range(1, TRAIN + 1):
        image, labels = blobs(number, 2)
        name = f"MCUCXR_{number:04}_{number % 2}"
        write(root / f"MontgomerySet/CXR_png/{name}.png", grey(image))
        write(root / f"MontgomerySet/ManualMask/leftMask/{name}.png", (labels == 1).astype(np.uint8) * 255)
        write(root / f"MontgomerySet/ManualMask/rightMask/{name}.png", (labels == 2).astype(np.uint8) * 255)
        write_text(root / f"MontgomerySet/ClinicalReadings/{name}.txt")


@layout
def lungs(root: Path) -> None:
    """Two sets in one folder: names of masks of the one end in a word; some images have no mask."""
    for number in range(1, TRAIN + 1):
        image, labels = blobs(number)
        for start, ending in (("MCUCXR", ""), ("CHNCXR", "_mask")):
            name = f"{start}_{number:04}_{number % 2}"
            write(root / f"Lung Segmentation/CXR_png/{name}.png", grey(image))
            write_text(root / f"Lung Segmentation/ClinicalReadings/{name}.txt")
            if number % 4 or not ending:
                write(root / f"Lung Segmentation/masks/{name}{ending}.png", labels * 255)
    for number in range(TEST):
        write(root / f"Lung Segmentation/test/CHNCXR_{number + 300:04}_0.png", grey(blobs(900 + number)[0]))


@layout
def busi(root: Path) -> None:
    for place, finding in enumerate(("benign", "malignant", "normal")):
        for number in range(1, 7):
            image, labels = blobs(10 * place + number, 2, size=(40 + number, 56))
            name = f"Dataset_BUSI_with_GT/{finding}/{finding} ({number})"
            write(root / f"{name}.png", image)
            write(root / f"{name}_mask.png", (labels == 1).astype(np.uint8) * 255 * (finding != "normal"))
            if finding == "benign" and number == 4:
                write(root / f"{name}_mask_1.png", (labels == 2).astype(np.uint8) * 255)


@layout
def chaos_mr(root: Path) -> None:
    """DICOM slices and PNG masks of the same names, in folders of patients."""
    for part, number, seed in split(("Train", 24), ("Test", 8)):
        image, labels = blobs(seed, 3, size=(48, 48))
        patient = {"Train": 1, "Test": 30}[part] + number // 6
        start = f"{part}_Sets/MR/{patient}/T2SPIR"
        name = f"IMG-{patient:04}-{number % 6 + 1:05}"
        write(root / f"{start}/DICOM_anon/{name}.dcm", grey(image))
        if part == "Train":
            write(root / f"{start}/Ground/{name}.png", np.array([0, 63, 126, 189], np.uint8)[labels])


@layout
def chaos_ct(root: Path) -> None:
    """As above, but names of masks are not those of the images."""
    for part, number, seed in split(("Train", 24), ("Test", 8)):
        image, labels = blobs(seed, 1, size=(48, 48))
        start = f"{part}_Sets/CT/{number // 6 + 1 + 20 * (part == 'Test')}"
        write(root / f"{start}/DICOM_anon/i{number % 6:04},0000b.dcm", grey(image))
        if part == "Train":
            write(root / f"{start}/Ground/liver_GT_{number % 6:03}.png", labels * 255)


@layout
def covid_stacks(root: Path) -> None:
    """All images in one array."""
    images, masks = zip(*(blobs(number, 3, (32, 32)) for number in range(TRAIN)), strict=True)
    write(root / "images_medseg.npy", np.stack([grey(image)[..., None] for image in images]).astype(np.float32))
    write(root / "masks_medseg.npy", np.eye(4)[np.stack(masks)].astype(np.float64))
    write(
        root / "test_images_medseg.npy", np.stack([grey(image)[..., None] for image in images[:3]]).astype(np.float32)
    )


@layout
def covid_nifti(root: Path) -> None:
    """Volumes, and three folders of masks; their names differ from those of the scans."""
    import nibabel

    rows = []
    for number in range(1, 6):
        slices = [blobs(10 * number + z, 2, (32, 32)) for z in range(4)]
        image = np.stack([grey(each) for each, _ in slices], axis=-1).astype(np.int16) * 10 - 1000
        labels = np.stack([each for _, each in slices], axis=-1)
        row = []
        for folder, name, pixels in (
            ("ct_scans", f"coronacases_org_{number:03}", image),
            ("lung_mask", f"coronacases_{number:03}", labels),
            ("infection_mask", f"coronacases_{number:03}", (labels == 1).astype(np.uint8)),
            ("lung_and_infection_mask", f"coronacases_{number:03}", labels),
        ):
            (root / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(pixels, np.eye(4)), root / f"{folder}/{name}.nii.gz")
            row.append(f"../input/covid19-ct-scans/{folder}/{name}.nii.gz")
        rows.append(tuple(row))
    write_csv(root / "metadata.csv", [("ct_scan", "lung_mask", "infection_mask", "lung_and_infection_mask"), *rows])


@layout
def lung_slices(root: Path) -> None:
    """Slices as images, and volumes beside them."""
    import nibabel

    for patient in range(4):
        slices = [blobs(10 * patient + z, 1, (32, 32)) for z in range(4)]
        for number, (image, labels) in enumerate(slices):
            name = f"ID_{patient:04}_Z_{number * 7 + 100:04}"
            write(root / f"2d_images/{name}.tif", grey(image))
            write(root / f"2d_masks/{name}.tif", labels * 255)
        for folder, start, pixels in (("3d_images", "IMG", 0), ("3d_masks", "MASK", 1)):
            stack = np.stack([grey(each[0]) if pixels == 0 else each[1] for each in slices], axis=-1)
            (root / folder).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(stack, np.eye(4)), root / f"{folder}/{start}_{patient + 2:04}.nii.gz")
    write_csv(root / "lung_stats.csv", [("img_id", "lung_area_px"), ("ID_0000_Z_0100", "90")])


# ------------------------------------------------------------------------------------------------- cells, pets, people


@layout
def dsb(root: Path) -> None:
    """A folder for each image, with a mask file for each object."""
    for part, number, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = blobs(seed, 4, size=(40 + 8 * (number % 2), 56))
        name = slug(seed, 64)
        write(root / f"stage1_{part}/{name}/images/{name}.png", image)
        if part == "train":
            for value in np.unique(labels[labels > 0]):
                write(
                    root / f"stage1_{part}/{name}/masks/{slug(seed * 10 + int(value), 64)}.png",
                    (labels == value).astype("u1") * 255,
                )


@layout
def bbbc039(root: Path) -> None:
    """Images of 16 bits; masks with a colour for each object, and alpha; lists of the parts."""
    for number in range(TRAIN):
        image, labels = cells(number)
        name = f"IXMtest_{'ABCD'[number % 4]}{number:02}_s{number % 9 + 1}_w1{slug(number, 8).upper()}-2D49-4"
        write(root / f"images/{name}.tif", grey(image).astype(np.uint16) * 9)
        write(
            root / f"masks/{name}.png",
            np.dstack([labels, labels * 0, labels * 0, np.full(labels.shape, 255)]).astype(np.uint8),
        )
    for part in ("training", "validation", "test"):
        write_text(root / f"metadata/{part}.txt", "IXMtest_A00.png\n")


@layout
def fluo(root: Path) -> None:
    """Frames of two videos in folders, label images of some of them, and other label images of all."""
    for video in ("01", "02"):
        for number in range(8):
            image, labels = cells(10 * int(video) + number)
            write(root / f"Fluo-N2DL-HeLa/{video}/t{number:03}.tif", grey(image).astype(np.uint16) * 100)
            write(root / f"Fluo-N2DL-HeLa/{video}_ST/SEG/man_seg{number:03}.tif", labels.astype(np.uint16))
            write(
                root / f"Fluo-N2DL-HeLa/{video}_GT/TRA/man_track{number:03}.tif",
                (labels * (labels > 2)).astype(np.uint16),
            )
            if number % 2:
                write(root / f"Fluo-N2DL-HeLa/{video}_GT/SEG/man_seg{number:03}.tif", labels.astype(np.uint16))
        write_text(root / f"Fluo-N2DL-HeLa/{video}_GT/TRA/man_track.txt", "1 0 7 0\n")


@layout
def cellpose(root: Path) -> None:
    """Images and label images side by side, of the test set too."""
    for part, number, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = cells(seed)
        write(root / f"{part}/{number:03}_img.png", image)
        write(root / f"{part}/{number:03}_masks.png", labels.astype(np.uint16))


@layout
def pets(root: Path) -> None:
    """Trimaps: 1 is the pet, 2 the background, 3 the border; hidden files beside them."""
    for number in range(24):
        image, labels = blobs(number, size=(40 + number % 5, 56))
        name = f"{('Abyssinian', 'american_bulldog', 'Birman', 'pug')[number % 4]}_{number // 4 + 1}"
        write(root / f"images/{name}.jpg", image)
        write(root / f"annotations/trimaps/{name}.png", border(np.where(labels == 1, 1, 2), 3))
        write_text(root / f"annotations/trimaps/._{name}.png")
        write_text(root / f"annotations/xmls/{name}.xml", "<annotation/>")
    for part in ("list", "trainval", "test"):
        write_text(root / f"annotations/{part}.txt", "Abyssinian_1 1 1 1\n")


@layout
def clothes(root: Path) -> None:
    """Images and masks differ in the word at the start; PNG and JPEG copies; a table of the classes."""
    for number in range(1, TRAIN + 1):
        image, labels = blobs(number, 4)
        write(root / f"png_images/IMAGES/img_{number:04}.png", image)
        write(root / f"png_masks/MASKS/seg_{number:04}.png", np.array([0, 4, 19, 41, 58], np.uint8)[labels])
        write(root / f"jpeg_images/IMAGES/img_{number:04}.jpeg", image)
        write(root / f"jpeg_masks/MASKS/seg_{number:04}.jpeg", np.array([0, 4, 19, 41, 58], np.uint8)[labels])
    write_csv(
        root / "labels.csv",
        [("", "label_list"), *((str(n), name) for n, name in enumerate(("null", "boots", "jeans")))],
    )


@layout
def faces(root: Path) -> None:
    """A mask file for each part of a face, in folders of 2,000 images, with other zeros at the start of numbers."""
    for number in range(TRAIN):
        image, labels = blobs(number, 3)
        write(root / f"CelebAMask-HQ/CelebA-HQ-img/{number}.jpg", image)
        for value, name in enumerate(("hair", "nose", "skin"), start=1):
            write(
                root / f"CelebAMask-HQ/CelebAMask-HQ-mask-anno/{number // 6}/{number:05}_{name}.png",
                np.repeat(((labels == value) * 255).astype("u1")[..., None], 3, axis=2),
            )
    write_text(root / "CelebAMask-HQ/CelebA-HQ-to-CelebA-mapping.txt")
