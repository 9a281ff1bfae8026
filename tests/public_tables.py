"""Small folders of public tables of masks, and of annotation formats, with drawn images and masks.

As in tests/public_sets.py, each function writes the files of one set below a folder, named and nested as that set has
them.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco

from tests.miniatures import Text
from tests.public_sets import (
    SIZE,
    TEST,
    TRAIN,
    VALID,
    blobs,
    cells,
    colours_of,
    lines,
    slug,
    split,
    write_palette,
    write_text,
)
from tests.test_card_draft_layouts import write, write_csv

TABLES: dict[str, Callable[[Path], None]] = {}
COLUMN, ROW = Text(), Text(order="row")


def layout(function: Callable[[Path], None]) -> Callable[[Path], None]:
    """Add a layout to TABLES by its name."""
    TABLES[function.__name__] = function
    return function


def parts_of(labels: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """The values of labels (H, W) that are there but 0, each with its mask (H, W)."""
    return [(value, (labels == value).astype(np.uint8)) for value in np.unique(labels[labels > 0]).tolist()]


def from_zero(mask: np.ndarray) -> str:
    """Runs in row order, pixels numbered from 0."""
    words = ROW.write(mask).split()
    return " ".join(str(int(word) - 1) if place % 2 == 0 else word for place, word in enumerate(words))


def write_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content))


def box(labels: np.ndarray) -> list[int]:
    """The x, y, width and height of what is not 0; of an empty mask of one pixel."""
    rows, columns = np.nonzero(labels)
    if not rows.size:
        return [0, 0, 1, 1]
    return [int(v) for v in (columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1)]


def corners(mask: np.ndarray) -> list[int]:
    """The box of a mask as a polygon: x, y, x, y, …"""
    x, y, width, height = box(mask)
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def filled_box(mask: np.ndarray) -> np.ndarray:
    """The mask (H, W) of the box of a mask."""
    x, y, width, height = box(mask)
    filled = np.zeros(mask.shape, np.uint8)
    filled[y : y + height, x : x + width] = mask.any()
    return filled


# ------------------------------------------------------------------------------------------------ tables of masks


@layout
def fashion(root: Path) -> None:
    """A row for each garment: the class in a column, sizes too; names of classes in a JSON; ids without a suffix."""
    rows, tested = [], []
    for part, _, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = blobs(seed, 3)
        name = slug(seed, 32)
        write(root / f"{part}/{name}.jpg", image)
        if part == "train":
            rows += [(name, COLUMN.write(m), "40", "56", str(10 * v), "115,136") for v, m in parts_of(labels)]
        else:
            tested += [(name, "1 1", "0", "0")]
    write_csv(root / "train.csv", [("ImageId", "EncodedPixels", "Height", "Width", "ClassId", "AttributesIds"), *rows])
    write_csv(root / "sample_submission.csv", [("ImageId", "EncodedPixels", "ClassId", "AttributesIds"), *tested])
    categories = [{"id": n, "name": f"garment {n}", "supercategory": "x", "level": 2} for n in range(46)]
    write_json(root / "label_descriptions.json", {"info": {}, "categories": categories, "attributes": []})


@layout
def fashion_with_attributes(root: Path) -> None:
    """As above, of another year: the class is joined to attributes, ids have a suffix."""
    rows, tested = [], []
    for part, number, seed in split(("train", 36), ("test", TEST)):
        image, labels = blobs(seed, 3, (24, 32))
        name = f"{slug(seed, 32)}.jpg"
        write(root / f"{part}/{name}", image)
        if part == "train":
            rows += [(name, COLUMN.write(mask), "24", "32", f"{value}_1_{number}") for value, mask in parts_of(labels)]
        else:
            tested += [(name, "1 2", "23"), (name, "6 4", "6")]
    write_csv(root / "train.csv", [("ImageId", "EncodedPixels", "Height", "Width", "ClassId"), *rows])
    write_csv(root / "sample_submission.csv", [("ImageId", "EncodedPixels", "ClassId"), *tested])


@layout
def bowl_stages(root: Path) -> None:
    """Two stages: solutions with usages beside samples, and a table of classes of images."""
    rows = {"train": [], "test": [], "test_final": []}
    header = ("ImageId", "EncodedPixels")
    for part, _, seed in split(("train", TRAIN), ("test", TEST), ("test_final", TEST)):
        image, labels = cells(seed)
        name = slug(seed, 64)
        stage = "stage2" if part == "test_final" else "stage1"
        write(root / (f"{stage}_{part}/{name}/images/{name}.png"), image)
        rows[part] += [(name, COLUMN.write(mask), "72", "96", "Public") for _, mask in parts_of(labels)]
    names = {part: list(dict.fromkeys(row[0] for row in each)) for part, each in rows.items()}
    write_csv(root / "stage1_train_labels.csv", [header, *(row[:2] for row in rows["train"])])
    write_csv(root / "stage1_sample_submission.csv", [header, *((name, "") for name in names["test"])])
    write_csv(root / "stage2_sample_submission_final.csv", [header, *((name, "") for name in names["test_final"])])
    write_csv(root / "stage1_solution.csv", [(*header, "Height", "Width", "Usage"), *rows["test"]])
    write_csv(root / "stage2_solution_final.csv", [(*header, "Height", "Width", "Usage"), *rows["test_final"]])
    classes = [(f"{name}.png", "white", "purple") for name in (*names["train"], *names["test"])]
    write_csv(root / "classes.csv", [("filename", "foreground", "background"), *classes])


@layout
def steel_folds(root: Path) -> None:
    """The training table again with folds; an index column; images without a defect have no row."""
    rows, tested = [], []
    for part, number, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = blobs(seed, 3)
        name = f"{slug(seed, 9)}.jpg"
        write(root / f"{part}_images/{name}", image)
        if part == "test":
            tested += [(f"{name}_{value}", "1 409600") for value in (1, 2, 3)]
        elif number % 3:
            rows += [(name, str(value), COLUMN.write(mask)) for value, mask in parts_of(labels)]
    header = ("ImageId", "ClassId", "EncodedPixels")
    write_csv(root / "train.csv", [header, *rows])
    folds = [(str(n), *row, str(n % 5)) for n, row in enumerate(rows)]
    write_csv(root / "train_folds.csv", [("Unnamed: 0", *header, "fold"), *folds])
    write_csv(root / "sample_submission.csv", [("ImageId_ClassId", "EncodedPixels"), *tested])


@layout
def numbered_rows(root: Path) -> None:
    """A column of row numbers, which are names of images too; images numbered from 0; runs numbered from 0."""
    rows, tested = [], []
    for part, number, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = blobs(seed)
        labels[-1, -1] = 1
        labels[0, 0] = 1
        place = 3 * number + 2
        write(root / f"{part}/{part}/{place}.png", image)
        (rows if part == "train" else tested).append((str(number), f"{place}.png", from_zero(labels)))
    write_csv(root / "train_masks.csv", [("Unnamed: 0", "image", "rle"), *rows])
    write_csv(root / "sampleSubmission.csv", [("image", "rle"), *((row[1], "1 1") for row in tested)])


@layout
def missing_as_words(root: Path) -> None:
    """Empty masks as NaN, as tables written by hand have them; a byte order mark."""
    rows, tested = [], []
    for part, number, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = blobs(seed)
        write(root / f"{part}/img_{seed}.png", image)
        if part == "train":
            rows.append((f"img_{seed}", COLUMN.write(labels) if number % 3 else "NaN"))
        else:
            tested.append((f"img_{seed}", ""))
    write_csv(root / "train.csv", [("image_id", "rle_mask"), *rows], encoding="utf-8-sig")
    write_csv(root / "sample_submission.csv", [("image_id", "rle_mask"), *tested])


@layout
def ids_with_paths(root: Path) -> None:
    """Ids are paths; a part and a fold are in columns."""
    rows, tested = [], []
    for part, number, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = blobs(seed)
        name = f"{part}/images/scan_{seed:05}.png"
        write(root / name, image)
        (rows if part == "train" else tested).append((name, COLUMN.write(labels), part, str(number % 5)))
    write_csv(root / "train.csv", [("path", "mask", "split", "fold"), *rows])
    write_csv(root / "sample_submission.csv", [("path", "mask"), *((row[0], "") for row in tested)])


@layout
def columns_of_classes(root: Path) -> None:
    """A column of masks for each class."""
    rows = []
    for number in range(TRAIN):
        image, labels = blobs(number, 2)
        write(root / f"train/{number:04}.png", image)
        rows.append((f"{number:04}.png", *(COLUMN.write((labels == v).astype(np.uint8)) for v in (1, 2))))
    write_csv(root / "train.csv", [("filename", "rle_bone", "rle_tissue"), *rows])


@layout
def boxes_beside_masks(root: Path) -> None:
    """Boxes as lists of whole numbers, and areas, beside masks in row order; one row per object."""
    rows, tested = [], []
    for part, _, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = blobs(seed, 3)
        write(root / f"{part}/{slug(seed, 12)}.png", image)
        for value, mask in parts_of(labels):
            rows.append((slug(seed, 12), str(box(mask)), str(mask.sum()), f"cell {value}", ROW.write(mask)))
        if part == "test":
            tested.append((slug(seed, 12), ""))
    tests = {name for name, _ in tested}
    rows = [row for row in rows if row[0] not in tests]
    write_csv(root / "train.csv", [("id", "bbox", "area", "cell_type", "annotation"), *rows])
    write_csv(root / "sample_submission.csv", [("id", "predicted"), *tested])


@layout
def boxes_alone(root: Path) -> None:
    """Boxes in lists, and no masks: nothing to segment."""
    rows = []
    for number in range(TRAIN):
        image, labels = blobs(number, 3)
        write(root / f"train/{slug(number, 9)}.jpg", image)
        rows += [(slug(number, 9), "56", "40", str(box(mask)), "usask_1") for _, mask in parts_of(labels)]
    write_csv(root / "train.csv", [("image_id", "width", "height", "bbox", "source"), *rows])
    write_csv(root / "sample_submission.csv", [("image_id", "PredictionString"), (slug(0, 9), "1.0 0 0 50 50")])


@layout
def boxes_in_words(root: Path) -> None:
    """Boxes of whole numbers between blanks, and no masks."""
    rows = []
    for number in range(TRAIN):
        image, labels = blobs(number, 3)
        write(root / f"train/{slug(number, 9)}.png", image)
        rows += [(slug(number, 9), " ".join(map(str, box(mask)[::-1]))) for _, mask in parts_of(labels)]
    write_csv(root / "train.csv", [("image_id", "boxes"), *rows])


@layout
def polygons_in_cells(root: Path) -> None:
    """Outlines as a list of points in a column."""
    rows = []
    for number in range(TRAIN):
        image, labels = blobs(number, 2)
        write(root / f"images/{number:04}.png", image)
        for value, mask in parts_of(labels):
            flat = corners(mask)
            rows.append((f"{number:04}.png", f"kind {value}", str([*zip(flat[::2], flat[1::2], strict=True)])))
    write_csv(root / "annotations.csv", [("image", "label", "polygon"), *rows])


@layout
def coco_strings(root: Path) -> None:
    """COCO's compressed counts as they are, beside heights and widths."""
    rows = []
    for number in range(TRAIN):
        image, labels = blobs(number)
        write(root / f"train/{slug(number, 9)}.png", image)
        counts = coco.encode(np.asfortranarray(labels))["counts"].decode()
        rows.append((slug(number, 9), "40", "56", counts))
    write_csv(root / "train.csv", [("image_id", "height", "width", "rle"), *rows])


@layout
def x_rays_as_png(root: Path) -> None:
    """Training and test images in one folder with their masks in another; tables of names; 0, 1 at the end."""
    rows = {"train": [], "test": []}
    for part, number, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = blobs(seed)
        found = number % 3 != 0
        name = f"{number}_{part}_{int(found)}_.png"
        write(root / f"siim-acr-pneumothorax/png_images/{name}", image)
        write(root / f"siim-acr-pneumothorax/png_masks/{name}", labels * 255 * found)
        rows[part].append((name, f"1.2.276.0.{seed}", str(int(found))))
    for part, each in rows.items():
        write_csv(
            root / f"siim-acr-pneumothorax/stage_1_{part}_images.csv",
            [("new_filename", "ImageId", "has_pneumo"), *each],
        )


@layout
def cloud_cover(root: Path) -> None:
    """A folder of bands for each chip, masks named by chips, a table of places."""
    rows = []
    for part, number, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = blobs(seed)
        name = slug(seed, 4)
        for place, band in enumerate(("B02", "B03", "B04", "B08")):
            write(root / f"{part}_features/{name}/{band}.tif", image[..., place % 3].astype(np.uint16) * 20)
        if part == "train":
            write(root / f"train_labels/{name}.tif", labels)
            rows.append((name, f"Place {number % 4}", "2020-04-29T08:20:47Z", f"az://./train_features/{name}"))
    write_csv(root / "train_metadata.csv", [("chip_id", "location", "datetime", "cloudpath"), *rows])


@layout
def masks_of_boxes(root: Path) -> None:
    """A mask file for each object, whose name has the image, the class and the box; tables of all of them."""
    rows = []
    for part, _, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = blobs(seed, 2)
        name = slug(seed, 16)
        write(root / f"{part}/{name}.jpg", image)
        for value, mask in parts_of(labels) if part == "train" else ():
            path = f"{name}_m0{value}4bq_{slug(seed + value, 8)}.png"
            write(root / f"challenge-2019-train-masks/{path}", mask * 255)
            rows.append((path, name, f"/m/0{value}4bq", slug(seed + value, 8), "0.1", "0.2", "0.3", "0.4", "0.0"))
    header = ("MaskPath", "ImageID", "LabelName", "BoxID", "BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax", "PredictedIoU")
    write_csv(root / "challenge-2019-train-segmentation-masks.csv", [header, *rows])
    names = [(slug(seed, 16), "56", "40", "/m/014bq 0.5 eNoLTDAFAAGmANM=") for part, _, seed in split(("test", TEST))]
    header = ("ImageID", "ImageWidth", "ImageHeight", "PredictionString")
    write_csv(root / "sample_submission.csv", [header, *names])


@layout
def cells_without_masks(root: Path) -> None:
    """Four files for each image, and classes of images: nothing to segment."""
    rows = []
    for number in range(TRAIN):
        image, _ = blobs(number)
        for colour in ("red", "green", "blue", "yellow"):
            write(root / f"train/{slug(number)}_{colour}.png", image[..., 0])
        rows.append((slug(number), "8|5|0"))
    write_csv(root / "train.csv", [("ID", "Label"), *rows])
    header = ("ID", "ImageWidth", "ImageHeight", "PredictionString")
    write_csv(root / "sample_submission.csv", [header, (slug(0), "56", "40", "0 1 eNoLCAgIMAEABJkBdQ==")])


# --------------------------------------------------------------------------------------- annotations in other files


def coco_of(items: Sequence[tuple[str, np.ndarray]], names: dict[int, str], *, crowd: bool = False) -> dict[str, Any]:
    """COCO's JSON of files and their labels (H, W), whose values are places among the categories, from 1."""
    images, found = [], []
    keys = list(names)
    for number, (file, labels) in enumerate(items):
        images.append({"id": 70 + number, "file_name": file, "height": labels.shape[0], "width": labels.shape[1]})
        for value, mask in parts_of(labels):
            is_crowd = crowd and value == 1
            counts = coco.encode(np.asfortranarray(filled_box(mask)))["counts"].decode()
            shape = {"size": list(mask.shape), "counts": counts} if is_crowd else [corners(mask)]
            entry = {"id": len(found) + 1, "image_id": 70 + number, "category_id": keys[value - 1], "bbox": box(mask)}
            found.append({**entry, "segmentation": shape, "iscrowd": int(is_crowd), "area": int(mask.sum())})
    categories = [{"id": key, "name": name, "supercategory": "x"} for key, name in names.items()]
    return {"info": {}, "licenses": [], "images": images, "annotations": found, "categories": categories}


@layout
def coco2017(root: Path) -> None:
    """A file of annotations for each part, and others of key points and captions; gaps between categories; crowds."""
    items: dict[str, list] = {"train": [], "val": []}
    for part, _, seed in split(("train", TRAIN), ("val", VALID), ("test", TEST)):
        image, labels = blobs(seed, 3)
        name = f"{seed:012}.jpg"
        write(root / f"{part}2017/{name}", image)
        if part != "test":
            items[part].append((name, labels))
    names = {1: "person", 3: "car", 18: "dog"}
    for part, each in items.items():
        content = coco_of(each, names, crowd=True)
        write_json(root / f"annotations/instances_{part}2017.json", content)
        captions = [{"id": 1, "image_id": 70, "caption": "a dog"}]
        write_json(root / f"annotations/captions_{part}2017.json", {**content, "annotations": captions})
        people = [{**entry, "keypoints": [1, 1, 2]} for entry in content["annotations"] if entry["category_id"] == 1]
        write_json(root / f"annotations/person_keypoints_{part}2017.json", {**content, "annotations": people})


@layout
def litter(root: Path) -> None:
    """One JSON; names of images repeat in folders."""
    items = []
    for number in range(24):
        image, labels = blobs(number, 3)
        name = f"batch_{number // 8 + 1}/{number % 8:06}.jpg"
        write(root / f"data/{name}", image)
        items.append((name, labels))
    write_json(root / "data/annotations.json", coco_of(items, {0: "Can", 1: "Bottle", 5: "Carton"}))
    write_text(root / "data/all_image_urls.csv", "https://x/1.jpg,https://x/2.jpg\n")


@layout
def roboflow_coco(root: Path) -> None:
    """A folder for each part with its JSON; a category that no object has."""
    for part, count in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        items = []
        for _, number, seed in split((part, count)):
            image, labels = blobs(seed + 500 * len(part), 2)
            name = f"frame{number}_png.rf.{slug(seed + len(part), 32)}.jpg"
            write(root / f"{part}/{name}", image)
            items.append((name, labels))
        names = {1: "crack", 2: "spall", 3: "rust"}
        content = coco_of(items, names)
        content["categories"].insert(0, {"id": 0, "name": "defects", "supercategory": "none"})
        write_json(root / f"{part}/_annotations.coco.json", content)
    write_text(root / "README.roboflow.txt")
    write_text(root / "README.dataset.txt")


@layout
def car_parts(root: Path) -> None:
    """Folders of two parts, each with its JSON and its images in a folder."""
    for part, count, start in (("trainset", TRAIN, 0), ("testset", TEST, 100)):
        items = []
        for number in range(start, start + count):
            image, labels = blobs(number, 3)
            write(root / f"{part}/JPEGImages/car{number}.jpg", image)
            items.append((f"JPEGImages/car{number}.jpg", labels))
        write_json(root / f"{part}/annotations.json", coco_of(items, {1: "hood", 2: "wheel", 3: "door"}))


@layout
def roboflow_masks(root: Path) -> None:
    """Masks beside augmented copies of images, and a table of their values, a blank in its header, in each folder."""
    for part, number, seed in split(("train", TRAIN), ("valid", VALID), ("test", TEST)):
        image, labels = blobs(seed, 2)
        name = f"frame{number // 3}_png.rf.{slug(seed, 31)}0"
        write(root / f"{part}/{name}.jpg", image)
        write(root / f"{part}/{name}_mask.png", labels)
        write_text(root / f"{part}/_classes.csv", "Pixel Value, Class\n0, background\n1, crack\n2, spall\n")
    write_text(root / "README.dataset.txt")


@layout
def labelme(root: Path) -> None:
    """A JSON beside each image."""
    for part, _, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = blobs(seed, 2)
        write(root / f"{part}/{seed:04}.jpg", image)
        shapes = []
        for value, mask in parts_of(labels):
            flat = corners(mask)
            points = [list(point) for point in zip(flat[::2], flat[1::2], strict=True)]
            shapes.append({"label": f"kind {value}", "points": points, "shape_type": "polygon", "flags": {}})
        content = {"version": "5.0.1", "flags": {}, "shapes": shapes, "imagePath": f"{seed:04}.jpg", "imageData": None}
        write_json(root / f"{part}/{seed:04}.json", {**content, "imageHeight": 40, "imageWidth": 56})


@layout
def via(root: Path) -> None:
    """A JSON of all images for each part."""
    for part, count in (("train", TRAIN), ("val", VALID)):
        content = {}
        for _, _, seed in split((part, count)):
            image, labels = blobs(seed + len(part), 2)
            name = f"{part}{seed:04}.jpg"
            write(root / f"{part}/{name}", image)
            regions = []
            for _, mask in parts_of(labels):
                flat = corners(mask)
                shape = {"name": "polygon", "all_points_x": flat[::2], "all_points_y": flat[1::2]}
                regions.append({"shape_attributes": shape, "region_attributes": {"name": "balloon"}})
            content[f"{name}1234"] = {"filename": name, "size": 1234, "regions": regions, "file_attributes": {}}
        write_json(root / f"{part}/via_region_data.json", content)


@layout
def yolo(root: Path) -> None:
    """A text of polygons for each image, in folders of images and labels."""
    for part, _, seed in split(("train", TRAIN), ("val", VALID)):
        image, labels = blobs(seed, 2)
        write(root / f"images/{part}/{seed:06}.jpg", image)
        rows = []
        for value, mask in parts_of(labels):
            flat = corners(mask)
            points = [f"{number / (56, 40)[place % 2]:.6f}" for place, number in enumerate(flat)]
            rows.append(" ".join([str(value - 1), *points]))
        write_text(root / f"labels/{part}/{seed:06}.txt", "\n".join(rows))
    write_text(root / "data.yaml", "train: images/train\nval: images/val\nnc: 2\nnames: [crack, spall]\n")


@layout
def cvat(root: Path) -> None:
    """One XML of polygons of all images."""
    texts = []
    for number in range(TRAIN):
        image, labels = blobs(number, 2)
        write(root / f"images/frame_{number:06}.png", image)
        texts.append(f'<image id="{number}" name="frame_{number:06}.png" width="56" height="40">')
        for value, mask in parts_of(labels):
            flat = corners(mask)
            points = ";".join(f"{x:.2f},{y:.2f}" for x, y in zip(flat[::2], flat[1::2], strict=True))
            texts.append(f'<polygon label="kind {value}" occluded="0" points="{points}"></polygon>')
        texts.append("</image>")
    write_text(root / "annotations.xml", f"<annotations><version>1.1</version>{''.join(texts)}</annotations>")


@layout
def boxes_in_xml(root: Path) -> None:
    """An XML of boxes for each image, in folders of defects: nothing to segment."""
    for number in range(TRAIN):
        image, _ = blobs(number)
        name = f"{('Missing_hole', 'Short', 'Spur')[number % 3]}"
        write(root / f"PCB_DATASET/images/{name}/{number:02}_{name.lower()}_01.jpg", image)
        text = "<annotation><object><name>short</name><bndbox><xmin>3</xmin></bndbox></object></annotation>"
        write_text(root / f"PCB_DATASET/Annotations/{name}/{number:02}_{name.lower()}_01.xml", text)


@layout
def supervisely(root: Path) -> None:
    """A JSON of bitmaps for each image, in folders ann and img."""
    for number in range(TRAIN):
        image, _ = blobs(number)
        write(root / f"ds1/img/pexels-{number}.png", image)
        bitmap = {"data": "eJwB", "origin": [1, 1]}
        entry = {"classTitle": "person_bmp", "geometryType": "bitmap", "bitmap": bitmap, "points": {"exterior": []}}
        content = {"description": "", "size": {"height": 40, "width": 56}, "tags": [], "objects": [entry]}
        write_json(root / f"ds1/ann/pexels-{number}.png.json", content)
    write_json(root / "meta.json", {"classes": [{"title": "person_bmp", "shape": "bitmap", "color": "#F6FF00"}]})


@layout
def label_studio(root: Path) -> None:
    """One JSON of tasks."""
    tasks = []
    for number in range(TRAIN):
        image, labels = blobs(number)
        write(root / f"images/{number:04}.png", image)
        flat = corners(labels)
        points = [list(point) for point in zip(flat[::2], flat[1::2], strict=True)]
        value = {"points": points, "polygonlabels": ["crack"]}
        result = [{"type": "polygonlabels", "value": value, "original_width": 56, "original_height": 40}]
        data = {"image": f"/data/upload/1/{slug(number, 8)}-{number:04}.png"}
        tasks.append({"id": number, "annotations": [{"result": result}], "data": data})
    write_json(root / "project-1-at-2023.json", tasks)


@layout
def matlab_labels(root: Path) -> None:
    """Label images in MATLAB files."""
    for number in range(1, TRAIN + 1):
        write(root / f"photos/{number:04}.jpg", blobs(number)[0])
        write_text(root / f"annotations/pixel-level/{number:04}.mat", "MATLAB 5.0 MAT-file")
    write_text(root / "label_list.mat", "MATLAB 5.0 MAT-file")


# ------------------------------------------------------------------------------------------------- street scenes


@layout
def audi(root: Path) -> None:
    """The word for the kind of file is in the middle of names; colours in a JSON; folders of drives."""
    for number in range(TRAIN):
        image, labels = blobs(number, 3)
        drive = f"2018{('0807_145028', '0810_142822', '1107_133258')[number % 3]}"
        stamp = drive.replace("_", "")
        colours = [(180, 50, 180), (255, 0, 0), (182, 89, 6), (204, 153, 255)]
        for kind, pixels in (("camera", image), ("label", colours_of(labels, colours))):
            name = f"{stamp}_{kind}_frontcenter_{number * 91:09}.png"
            write(root / f"camera_lidar_semantic/{drive}/{kind}/cam_front_center/{name}", pixels)
        name = f"{stamp}_camera_frontcenter_{number * 91:09}.json"
        write_json(root / f"camera_lidar_semantic/{drive}/camera/cam_front_center/{name}", {"cam_name": "front"})
    names = {"#b432b4": "RD normal street", "#ff0000": "Car 1", "#b65906": "Bicycle 1", "#cc99ff": "Pedestrian 1"}
    write_json(root / "camera_lidar_semantic/class_list.json", names)


@layout
def driving_india(root: Path) -> None:
    """Labels and instance labels beside each other, folders with numbers, void 255, names that repeat in folders."""
    for part, number, seed in split(("train", TRAIN), ("val", VALID), ("test", TEST)):
        image, labels = blobs(seed, 3)
        folder = number // 4 + 3 * ("train", "val", "test").index(part)
        name = f"{part}/{folder}/{100 + number:06}"
        write(root / f"idd20k_lite/leftImg8bit/{name}_image.jpg", image)
        if part != "test":
            write(root / f"idd20k_lite/gtFine/{name}_label.png", np.array([255, 0, 2, 5], np.uint8)[labels])
            write(root / f"idd20k_lite/gtFine/{name}_inst_label.png", labels * 3)


@layout
def wild_dash(root: Path) -> None:
    for number in range(TRAIN):
        image, labels = blobs(number, 3)
        name = f"{('us', 'de', 'jp')[number % 3]}{number:04}_100000"
        write(root / f"wd_public_02/images/{name}.jpg", image)
        ids = np.array([0, 7, 11, 26], np.uint8)[labels]
        write(root / f"wd_public_02/semantic/{name}.png", ids)
        write(root / f"wd_public_02/panoptic/{name}.png", np.dstack([ids, labels, ids]))
    content = {"images": [], "annotations": [{"segments_info": [], "file_name": "x.png"}], "categories": []}
    write_json(root / "wd_public_02/panoptic.json", content)
    write_text(root / "wd_public_02/readme.txt")


@layout
def drives360(root: Path) -> None:
    """Labels of some frames of each drive; frames of drives have the same numbers."""
    for number in range(18):
        image, labels = blobs(number, 3)
        drive = f"2013_05_28_drive_000{number // 6}_sync/image_00"
        name = f"{250 + number % 6:010}.png"
        write(root / f"data_2d_raw/{drive}/data_rect/{name}", image)
        if number % 6 < 4:
            ids = np.array([0, 7, 11, 26], np.uint8)[labels]
            for folder, pixels in (("semantic", ids), ("semantic_rgb", np.dstack([ids * 5, ids * 3, ids]))):
                write(root / f"data_2d_semantics/train/{drive}/{folder}/{name}", pixels)
            write(root / f"data_2d_semantics/train/{drive}/instance/{name}", ids.astype(np.uint16) * 1000)


@layout
def rails(root: Path) -> None:
    """All is in folders of a validation part; the folder of masks has no word for them."""
    for number in range(TRAIN):
        image, labels = blobs(number, 3)
        write(root / f"rs19_val/jpgs/rs19_val/rs{number:05}.jpg", image)
        write(root / f"rs19_val/uint8/rs19_val/rs{number:05}.png", np.array([255, 0, 12, 17], np.uint8)[labels])
        write_json(root / f"rs19_val/jsons/rs19_val/rs{number:05}.json", {"frame": f"rs{number:05}", "objects": []})
    write_json(root / "rs19_val/rs19-config.json", {"labels": [{"name": "road", "color": [128, 64, 128]}]})


@layout
def trails(root: Path) -> None:
    """Colours and ids of classes in folders beside the images."""
    for part, _, seed in split(("train", TRAIN), ("val", VALID), ("test", TEST)):
        image, labels = blobs(seed, 3)
        write(root / f"tas500v1.1/{part}/15379{seed:05}.png", image)
        if part != "test":
            ids = np.array([255, 0, 3, 22], np.uint8)[labels]
            write(root / f"tas500v1.1/{part}_labels/15379{seed:05}.png", np.dstack([ids, ids // 2, ids // 3]))
            write(root / f"tas500v1.1/{part}_labels_ids/15379{seed:05}.png", ids)


@layout
def off_road(root: Path) -> None:
    """A word for masks is in the folder of the images too; names repeat the folder; colours in a text."""
    colours = {"void": (0, 0, 0), "dirt": (108, 64, 20), "grass": (0, 102, 0), "tree": (0, 255, 0)}
    for number in range(TRAIN):
        image, labels = blobs(number, 3)
        scene = ("creek", "park-1", "trail-3", "trail-4")[number % 4]
        write(root / f"RUGD_frames-with-annotations/{scene}/{scene}_{number:05}.png", image)
        write(root / f"RUGD_annotations/{scene}/{scene}_{number:05}.png", colours_of(labels, list(colours.values())))
    lines_ = [f"{n} {name} {' '.join(map(str, colour))}" for n, (name, colour) in enumerate(colours.items())]
    write_text(root / "RUGD_annotations/RUGD_annotation-colormap.txt", "\n".join(lines_))


@layout
def forest(root: Path) -> None:
    """Folders of several sensors with other endings, and masks in colour, for each part."""
    for part, _, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = blobs(seed, 3)
        start = root / f"freiburg_forest_annotated/{part}"
        name = f"b{seed % 3 + 1}-{seed:05}"
        write(start / f"rgb/{name}_Clipped.jpg", image)
        write(start / f"depth_gray/{name}_Clipped_redict_depth_gray.png", image[..., 0])
        write(start / f"nir_color/{name}.png", image[..., ::-1])
        write(
            start / f"GT_color/{name}_mask.png",
            colours_of(labels, [(170, 170, 170), (0, 255, 0), (102, 102, 51), (0, 60, 0)]),
        )


@layout
def rellis(root: Path) -> None:
    """Folders of sequences; label images as ids and in colours in folders beside the images."""
    for number in range(TRAIN):
        image, labels = blobs(number, 3)
        name = f"frame{number * 5:06}-15816{number:05}_750"
        start = root / f"Rellis-3D/{number // 4:05}/pylon_camera_node"
        ids = np.array([0, 3, 4, 19], np.uint8)[labels]
        write(start / f"{name}.jpg", image)
        write(start.with_name("pylon_camera_node_label_id") / f"{name}.png", ids)
        write(start.with_name("pylon_camera_node_label_color") / f"{name}.png", np.dstack([ids, ids * 3, ids * 9]))
    write_text(root / "Rellis-3D/train.lst", "00000/pylon_camera_node/x.jpg 00000/pylon_camera_node_label_id/x.png\n")


@layout
def game(root: Path) -> None:
    """Palette masks in parts, each unpacked in folders of its own."""
    for number in range(1, TRAIN + 1):
        image, labels = blobs(number, 3)
        part = f"{(number - 1) // 6 + 1:02}"
        write(root / f"{part}_images/images/{number:05}.png", image)
        write_palette(root / f"{part}_labels/labels/{number:05}.png", np.array([0, 7, 11, 26], np.uint8)[labels])


@layout
def towns(root: Path) -> None:
    """Masks of 16 bits and several channels: the class is in one of them, the number of the object in another."""
    import cv2

    for number in range(TRAIN):
        image, labels = blobs(number, 3)
        write(root / f"RAND_CITYSCAPES/RGB/{number:07}.png", image)
        rows = np.arange(SIZE[0])[:, None] * 40 + number  # numbers of objects, many of them
        pixels = np.dstack([labels * 0, (labels > 0) * rows, np.array([0, 3, 4, 10])[labels]]).astype(np.uint16)
        (root / "RAND_CITYSCAPES/GT/LABELS").mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / f"RAND_CITYSCAPES/GT/LABELS/{number:07}.png"), pixels)
        write(root / f"RAND_CITYSCAPES/GT/COLOR/{number:07}.png", np.dstack([labels * 60, labels * 9, labels]))
        write(root / f"RAND_CITYSCAPES/Depth/Depth/{number:07}.png", image[..., 0].astype(np.uint16) * 99)


@layout
def lanes(root: Path) -> None:
    """Blanks in folders, records and cameras; masks in colour with a word at the end."""
    for number in range(TRAIN):
        image, labels = blobs(number, 2)
        camera = number % 2 + 5
        place = f"Record00{number // 4 + 1}/Camera {camera}/170927_0638{number:05}_Camera_{camera}"
        write(root / f"ColorImage_road02/ColorImage/{place}.jpg", image)
        write(
            root / f"Labels_road02/Label/{place}_bin.png",
            colours_of(labels, [(0, 0, 0), (70, 130, 180), (220, 20, 60)]),
        )


@layout
def simulator(root: Path) -> None:
    """Parts A and B; the class is the red of the masks."""
    for part, number, seed in split(("A", TRAIN), ("B", TRAIN)):
        image, labels = blobs(seed, 3)
        start = root / f"data{part}/data{part}"
        write(start / f"CameraRGB/{'F' * (part == 'A')}{number + 60}-{number + 1}.png", image)
        reds = np.array([0, 7, 9, 10], np.uint8)[labels]
        pixels = np.dstack([reds, reds * 0, reds * 0])
        write(start / f"CameraSeg/{'F' * (part == 'A')}{number + 60}-{number + 1}.png", pixels)


# -------------------------------------------------------------------------------------- defects, things and people


@layout
def fabrics(root: Path) -> None:
    """Images with a defect have masks, those without one are in folders below another one."""
    for number in range(TRAIN):
        image, labels = blobs(number)
        name = f"{number:04}_0{number % 3 + 19}_0{number % 4}"
        write(root / f"Defect_images/{name}.png", image)
        write(root / f"Mask_images/{name}_mask.png", labels * 255)
        if number % 2:
            name = f"{2306881 + number % 3}-210020u/{number + 50:04}_000_05.png"
            write(root / f"NODefect_images/{name}", blobs(number + 50)[0])


@layout
def visa(root: Path) -> None:
    """Folders of objects; normal and anomalous images; masks of numbers for kinds of defects; tables of paths."""
    rows = []
    for item in ("candle", "capsules"):
        for number in range(8):
            image, labels = blobs(number + 30 * len(item), 2)
            write(root / f"{item}/Data/Images/Normal/{number:04}.JPG", blobs(number + 500)[0])
            rows.append((f"{item}/Data/Images/Normal/{number:04}.JPG", "normal", ""))
            if number < 6:
                write(root / f"{item}/Data/Images/Anomaly/{number:03}.JPG", image)
                write(root / f"{item}/Data/Masks/Anomaly/{number:03}.png", labels)
                path = f"{item}/Data/Masks/Anomaly/{number:03}.png"
                rows.append((f"{item}/Data/Images/Anomaly/{number:03}.JPG", "melt", path))
        own = [row for row in rows if row[0].startswith(item)]
        write_csv(root / f"{item}/image_anno.csv", [("image", "label", "mask"), *own])
    splits = [(row[0].partition("/")[0], "train" if n % 3 else "test", *row) for n, row in enumerate(rows)]
    write_csv(root / "split_csv/1cls.csv", [("object", "split", "label", "image", "mask"), *splits])


@layout
def cracks_twice(root: Path) -> None:
    """All images in one folder, and again in folders of a training and a test part; JPEG masks."""
    for part, number, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = lines(seed)
        name = f"{('CFD', 'CRACK500', 'noncrack_noncrack')[number % 3]}_{seed:03}.jpg"
        labels = labels * (number % 3 != 2)
        for start in ("", f"{part}/"):
            write(root / f"crack_segmentation_dataset/{start}images/{name}", image)
            write(root / f"crack_segmentation_dataset/{start}masks/{name}", labels * 255)
    write_text(root / "crack_segmentation_dataset/readme")


@layout
def pavements(root: Path) -> None:
    """Names begin with the part."""
    for part, number, seed in split(("train", TRAIN), ("valid", VALID), ("test", TEST)):
        image, labels = lines(seed)
        write(root / f"croppedimg/{part}_{number:04}.jpg", image)
        write(root / f"croppedgt/{part}_{number:04}.png", labels * 255)


@layout
def leaves(root: Path) -> None:
    """Images and masks, and augmented copies of both; masks of one grey value."""
    for number in range(TRAIN):
        image, labels = blobs(number)
        write(root / f"data/data/images/{number:05}.jpg", image)
        write(root / f"data/data/masks/{number:05}.png", labels * 38)
        for copy in range(3):
            write(root / f"aug_data/aug_data/images/{number:05}_{copy}.jpg", image)
            write(root / f"aug_data/aug_data/masks/{number:05}_{copy}.png", labels * 38)


@layout
def rosettes(root: Path) -> None:
    """A label image of numbered leaves and an image of centres beside each image, in folders; tables of counts."""
    for folder in ("A1", "A2"):
        for number in range(1, 9):
            image, labels = cells(number + 10 * len(folder), (60, 64))
            start = root / f"training/{folder}/plant{number:03}"
            alpha = np.full((60, 64, 1), 255, np.uint8)
            write(start.with_name(f"{start.name}_rgb.png"), np.concatenate([image, alpha], axis=2))
            write(start.with_name(f"{start.name}_label.png"), labels)
            write(start.with_name(f"{start.name}_fg.png"), (labels > 0).astype(np.uint8) * 255)
            write(start.with_name(f"{start.name}_centers.png"), (labels > 0).astype(np.uint8))
        write_text(root / f"training/{folder}/{folder}.csv", "plant001_rgb.png, 9\nplant002_rgb.png, 8\n")
        write(root / f"testing/{folder}/plant{40 + len(folder):03}_rgb.png", cells(77, (60, 64))[0])


@layout
def food(root: Path) -> None:
    """Names of classes in a text with their numbers."""
    for part, number, seed in split(("train", TRAIN), ("test", TEST)):
        image, labels = blobs(seed, 3)
        write(root / f"FoodSeg103/Images/img_dir/{part}/{number:08}.jpg", image)
        write(root / f"FoodSeg103/Images/ann_dir/{part}/{number:08}.png", np.array([0, 1, 3, 4], np.uint8)[labels])
    names = ("background", "candy", "egg tart", "french fries", "chocolate")
    write_text(root / "FoodSeg103/category_id.txt", "\n".join(f"{n}\t{name}" for n, name in enumerate(names)))
    write_text(root / "FoodSeg103/ImageSets/train.txt", "00000000.jpg\n")


@layout
def underwater(root: Path) -> None:
    """Masks of pure colours; of the test set also one folder of masks for each class."""
    colours = [(0, 0, 0), (0, 0, 255), (255, 0, 255), (255, 255, 0)]
    for part, number, seed in split(("train_val", TRAIN), ("TEST", TEST)):
        image, labels = blobs(seed, 3)
        write(root / f"{part}/images/{'dfw'[number % 3]}_r_{number}_.jpg", image)
        write(root / f"{part}/masks/{'dfw'[number % 3]}_r_{number}_.bmp", colours_of(labels, colours))
        if part == "TEST":
            for value, name in enumerate(("HD", "RI", "FV"), start=1):
                path = root / f"TEST/masks/{name}/{'dfw'[number % 3]}_r_{number}_.bmp"
                write(path, (labels == value).astype(np.uint8) * 255)
    write_text(root / "TEST/testing_set.txt")


@layout
def saliency(root: Path) -> None:
    """Parts are named TR and TE; folders repeat their names."""
    for part, number, seed in split(("TR", TRAIN), ("TE", TEST)):
        image, labels = blobs(seed)
        name = f"{('ILSVRC2012_val', 'sun', 'n01532829')[number % 3]}_{seed:08}"
        write(root / f"DUTS-{part}/DUTS-{part}-Image/{name}.jpg", image)
        write(root / f"DUTS-{part}/DUTS-{part}-Mask/{name}.png", labels * 255)


@layout
def portraits(root: Path) -> None:
    """Cut-outs with an alpha channel are the labels; the names of folders repeat the kind of file."""
    for number in range(TRAIN):
        image, labels = blobs(number)
        place = f"{1803151818 + number // 4}/{{}}_0000000{number % 2}/1803151818-{number:08}"
        write(root / f"clip_img/{place.format('clip')}.jpg", image)
        alpha = (labels * 255)[..., None]
        write(root / f"matting/{place.format('matting')}.png", np.concatenate([image * (alpha > 0), alpha], axis=2))


@layout
def seismic_volumes(root: Path) -> None:
    """One array of a volume, and one of its labels."""
    volume = np.stack([blobs(number, 3)[0].mean(axis=2) for number in range(TRAIN)])
    labels = np.stack([blobs(number, 3)[1] for number in range(TRAIN)])
    write(root / "data/train/train_seismic.npy", volume.astype(np.float32))
    write(root / "data/train/train_labels.npy", labels)
    write(root / "data/test_once/test1_seismic.npy", volume.astype(np.float32)[:5])
    write(root / "data/test_once/test1_labels.npy", labels[:5])


@layout
def seismic_segy(root: Path) -> None:
    """A volume in a format that is no image."""
    write_text(root / "TrainingData_Image.segy", "SEG-Y")
    write_text(root / "TrainingData_Labels.segy", "SEG-Y")
