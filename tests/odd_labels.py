"""Unusual label files, each with the expected mask or the expected error.

Every case is a competition of two images of 6×9 pixels, `a` and `b`: `lay_out` writes it, and a test or the fuzzer
reads it like any other. Files are written by their libraries, and masks are pictures in text: this module uses no
function of `pipeline` to read or write.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from PIL import Image

SHAPE = HEIGHT, WIDTH = 6, 9
VOID, VOID_OBJECT = 255, -1


def picture(*rows: str) -> np.ndarray:
    """An array from text: digits are labels, a point is 0, V is void."""
    return np.array([[{".": 0, "V": VOID_OBJECT}.get(sign, sign) for sign in row] for row in rows], dtype=np.int32)


THREE = picture(  # objects; the second and the third touch
    "11.......",
    "11.33....",
    "1.2233...",
    "..22.....",
    ".........",
    ".........",
)
CORNER = picture(*["........."] * 4, "......VVV", "......VVV")
WITH_VOID = np.where(CORNER == VOID_OBJECT, VOID_OBJECT, THREE)
SQUARE = picture(".........", ".111.....", ".111.....", ".........", ".........", ".........")
NOTHING = np.zeros(SHAPE, np.int32)


@dataclass(frozen=True)
class Odd:
    """One case.

    Args:
        write: writes the label files into the competition's folder.
        files: lines of the card's [files] that name them.
        top: lines above the card's tables.
        masks: lines of the card's [masks].
        objects: of `a`, (6, 9) numbers; VOID_OBJECT where void.
        mask: of `a`, (6, 9), or (6, 9, C) of several classes; 255 where void.
        refused: a regular expression for the error, if the label is invalid.
    """

    name: str
    write: Callable[[Path], None]
    files: str = 'train_masks = "masks"'
    top: str = ""
    masks: str = ""
    columns: str = ""
    objects: np.ndarray | None = None
    mask: np.ndarray | None = None
    refused: str | None = None


def lay_out(odd: Odd, folder: Path) -> Path:
    """Write the competition of a case to `folder`/data, and its card, whose path is returned."""
    root = folder / "data"
    for part, ids in (("train", "ab"), ("test", "t")):
        (root / part).mkdir(parents=True)
        for image_id in ids:
            Image.fromarray(np.arange(54, dtype=np.uint8).reshape(SHAPE)).save(root / part / f"{image_id}.png")
    (root / "sample_submission.csv").write_text("id,rle\nt,\n")
    odd.write(root)
    classes = "" if "classes" in odd.top else 'classes = ["cell"]\n'
    metric = "dsb_precision" if "instances" in odd.top else "mean_dice"
    card = folder / "odd.toml"
    card.write_text(
        f'name = "odd"\ntitle = "Odd"\nmetric = "{metric}"\n{classes}{odd.top}\n[files]\ntrain_images = "train"\n'
        f'test_images = "test"\n{odd.files}\n[columns]\nid = "id"\nrle = "rle"\n{odd.columns}\n[masks]\n{odd.masks}\n'
    )
    return card


# ---------------------------------------------------------------------------------------------- mask images


def saved(pixels: np.ndarray, suffix: str = ".png", *, colours: np.ndarray | None = None) -> Callable[[Path], None]:
    """A mask file per image: that of `a`, and an empty one."""

    def write(root: Path) -> None:
        (root / "masks").mkdir()
        for image_id, values in (("a", pixels), ("b", np.zeros_like(pixels))):
            save(root / "masks" / f"{image_id}{suffix}", values, colours)

    return write


def save(path: Path, pixels: np.ndarray, colours: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, pixels)
    elif path.suffix == ".tif":
        tifffile.imwrite(path, pixels, photometric="minisblack")
    else:
        image = Image.fromarray(pixels)
        if colours is not None:
            image.putpalette(colours.astype(np.uint8).tobytes())
        image.save(path)


def object_files(*parts: np.ndarray) -> Callable[[Path], None]:
    """A file for each object of `a`, and one of `b`, as in DSB 2018."""

    def write(root: Path) -> None:
        for number, mask in enumerate(parts):
            save(root / "masks" / "a" / f"{number}.png", mask)
        save(root / "masks" / "b" / "0.png", np.zeros(SHAPE, np.uint8))

    return write


IN_FOLDERS = "train_masks = \"masks\"\nmask_pattern = '([^/]+)/[^/]+'"
OBJECTS = {"top": "instances = true", "masks": "objects = true"}
EACH = [(number == THREE).astype(np.uint8) * 255 for number in (1, 2, 3)]
PALETTE = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0], [90, 90, 90], *[[9, 9, 9]] * 251, [224, 224, 192]])
COLOURS = np.array([[0, 0, 0], [0, 0, 9], [0, 200, 0], [255, 0, 1]], np.uint8)
ALL_VOID = np.full(SHAPE, 255, np.uint8)
CODES = np.where(CORNER == VOID_OBJECT, VOID, SQUARE).astype(np.uint8)  # 0, 1 and 255
TWO = np.stack([THREE == 1, THREE == 2], axis=-1).astype(np.int32)
TWO_VOID = np.where((CORNER == VOID_OBJECT)[..., None], VOID, TWO)
TWO_CLASSES = {"top": 'classes = ["cell", "rim"]', "columns": 'id_separator = "_"'}

MASK_IMAGES = [
    Odd("label image of 8 bits", saved(THREE.astype(np.uint8)), **OBJECTS, objects=THREE),
    Odd(
        "label image of 16 bits, with gaps",
        saved(np.array([0, 7, 300, 65000], np.uint16)[THREE]),
        **OBJECTS,
        objects=THREE,
    ),
    Odd(
        "label image of 32 bits",
        saved(THREE * 70000, ".tif"),
        files='train_masks = "masks"\nmask_suffix = ".tif"',
        **OBJECTS,
        objects=THREE,
    ),
    Odd(
        "label image of whole floats",
        saved(THREE.astype(np.float32), ".npy"),
        files='train_masks = "masks"\nmask_suffix = ".npy"',
        **OBJECTS,
        objects=THREE,
    ),
    Odd("label image with a palette", saved(THREE.astype(np.uint8), colours=PALETTE), **OBJECTS, objects=THREE),
    Odd("label image in colours", saved(COLOURS[THREE]), **OBJECTS, objects=THREE),
    Odd(
        "label image in colours with alpha",
        saved(np.concatenate([COLOURS, [[255]] * 4], axis=1).astype(np.uint8)[THREE]),
        **OBJECTS,
        objects=THREE,
    ),
    Odd("label image in grey as colours", saved(np.stack([THREE.astype(np.uint8)] * 3, -1)), **OBJECTS, objects=THREE),
    Odd(
        "label image with void",
        saved(np.where(CORNER == VOID_OBJECT, 255, THREE).astype(np.uint8)),
        top="instances = true",
        masks="objects = true\nvoid = 255",
        objects=WITH_VOID,
    ),
    Odd(
        "label image of a palette with void",
        saved(np.where(CORNER == VOID_OBJECT, 255, THREE).astype(np.uint8), colours=PALETTE),
        top="instances = true",
        masks="objects = true\nvoid = 255",
        objects=WITH_VOID,
    ),
    Odd("label image that is one object", saved(np.ones(SHAPE, np.uint8)), **OBJECTS, objects=np.ones(SHAPE, np.int32)),
    Odd(
        "label image whose palette begins with white",
        saved(THREE.astype(np.uint8), colours=255 - PALETTE),
        **OBJECTS,
        refused=r"masks/a\.png: objects as a palette whose first colour is not black",
    ),
    Odd(
        "label image of fractions",
        saved((THREE / 2).astype(np.float32), ".npy"),
        files='train_masks = "masks"\nmask_suffix = ".npy"',
        **OBJECTS,
        refused=r"masks/a\.npy: a label image of float32, 0 to 1\.5: expected whole numbers",
    ),
    Odd(
        "label image with a hole that is no number",
        saved(np.where(THREE == 3, np.nan, THREE), ".npy"),
        files='train_masks = "masks"\nmask_suffix = ".npy"',
        **OBJECTS,
        refused=r"masks/a\.npy: a label image of float64, nan to nan: expected whole numbers",
    ),
    Odd(
        "label image below 0",
        saved(-THREE, ".npy"),
        files='train_masks = "masks"\nmask_suffix = ".npy"',
        **OBJECTS,
        refused=r"masks/a\.npy: a label image of int32, -3 to 0: expected whole numbers",
    ),
    Odd(
        "label image that is transposed",
        saved(np.ascontiguousarray(THREE.T).astype(np.uint8)),
        **OBJECTS,
        refused=r"masks/a\.png: mask of \(9, 6\), its image .*a\.png is \(6, 9\): .*transposed",
    ),
    Odd(
        "label image as JPEG",
        saved(THREE.astype(np.uint8), ".jpg"),
        files='train_masks = "masks"\nmask_suffix = ".jpg"',
        **OBJECTS,
        refused=r"masks/a\.jpg: a label image as JPEG, which blurs values",
    ),
    Odd(
        "label images of which an id has two",
        object_files(EACH[0], EACH[1]),
        files=IN_FOLDERS,
        **OBJECTS,
        refused=r"masks/a/1\.png and .*masks/a/0\.png are both the mask of 'a'",
    ),
    Odd("void beside 0 and 1", saved(CODES), masks="void = 255", mask=CODES),
    Odd(
        "void between 0 and 255",
        saved(np.where(CODES == 255, 128, CODES * 255).astype(np.uint8)),
        masks="void = 128",
        mask=CODES,
    ),
    Odd("void and a value", saved(CODES), masks="values = { cell = 1 }\nvoid = 255", mask=CODES),
    Odd(
        "void and above",
        saved(np.array([3, 190], np.uint8)[SQUARE] + np.where(CODES == 255, np.uint8(252), np.uint8(0))),
        masks="above = 127\nvoid = 255",
        mask=CODES,
    ),
    Odd(
        "void that is 0",
        saved(np.where(CODES == 255, 0, CODES * 100 + 50).astype(np.uint8)),
        masks="values = { cell = 150 }\nbackground = 50\nvoid = 0",
        mask=CODES,
    ),
    Odd(
        "void of a palette",
        saved(CODES, colours=PALETTE),
        masks="void = 255",
        mask=CODES,
    ),
    Odd(
        "void as a colour",
        saved(np.where((CODES == 255)[..., None], [9, 9, 200], (CODES * 255)[..., None]).astype(np.uint8)),
        masks="void = [9, 9, 200]",
        mask=CODES,
    ),
    Odd(
        "void of classes that may overlap",
        saved(np.where(CORNER == VOID_OBJECT, 255, THREE % 3).astype(np.uint8)),
        **TWO_CLASSES,
        masks="values = { cell = 1, rim = 2 }\nvoid = 255",
        mask=TWO_VOID,
    ),
    Odd("void alone", saved(ALL_VOID), masks="void = 255", mask=ALL_VOID),
    Odd(
        "void beside other values",
        saved(np.where(CORNER == VOID_OBJECT, 255, THREE).astype(np.uint8)),
        masks="void = 255",
        refused=r"masks/a\.png: a mask of values 0, 1, 2, 3: expected 0 and 1",
    ),
    Odd("mask of one bit", saved(SQUARE == 1), mask=SQUARE),
    Odd("mask of 16 bits", saved((SQUARE * 65535).astype(np.uint16)), mask=SQUARE),
    Odd("mask with a palette", saved(SQUARE.astype(np.uint8), colours=PALETTE), mask=SQUARE),
    Odd("a file for each object", object_files(*EACH), files=IN_FOLDERS, top="instances = true", objects=THREE),
    Odd(
        "a file for each object, with void",
        object_files(EACH[0], np.maximum(EACH[1], 128 * (CORNER == VOID_OBJECT).astype(np.uint8)), EACH[2]),
        files=IN_FOLDERS,
        top="instances = true",
        masks="void = 128",
        objects=WITH_VOID,
    ),
    Odd(
        "a file for each part of a mask",
        object_files(*EACH),
        files=IN_FOLDERS,
        top="several_rows = true",
        mask=(THREE > 0).astype(np.int32),
    ),
    Odd(
        "a file for each object, none of them here",
        lambda root: save(root / "masks" / "b" / "0.png", EACH[0]),
        files=IN_FOLDERS,
        top='instances = true\nimages_without_rows = "empty"',
        objects=NOTHING,
    ),
    Odd(
        "files of one mask without a word",
        object_files(*EACH),
        files=IN_FOLDERS,
        refused=r"masks/a/1\.png and .*masks/a/0\.png are both the mask of 'a': .*several_rows = true",
    ),
    Odd(
        "a file for each object, one of another size",
        object_files(EACH[0], np.zeros((3, 4), np.uint8)),
        files=IN_FOLDERS,
        top="instances = true",
        refused=r"masks/a/1\.png: mask of \(3, 4\), its image .*a\.png is \(6, 9\)",
    ),
]

# ---------------------------------------------------------------------------------------------- COCO's JSON

BOX = [1, 1, 4, 1, 4, 3, 1, 3]  # x, y, …: columns 1 to 3 of rows 1 and 2, as in SQUARE
SQUARE_COUNTS = [7, 2, 4, 2, 4, 2, 33]  # by columns of six pixels
SQUARE_LETTERS = "724000m0"  # the same; from the fourth on, differences


def coco(*annotations: dict[str, Any], encoding: str = "utf-8", text: str | None = None, **changes: Any) -> Callable:
    """annotations.json of both images, with these annotations of `a` (image 7)."""
    content = {
        "images": [
            {"id": 7, "file_name": "a.png", "height": HEIGHT, "width": WIDTH},
            {"id": 9, "file_name": "b.png", "height": HEIGHT, "width": WIDTH},
        ],
        "categories": [{"id": 3, "name": "cell"}, {"id": 5, "name": "unsure"}],
        "annotations": [
            {"id": number, "image_id": 7, "category_id": 3, "iscrowd": 0, **each}
            for number, each in enumerate(annotations, start=1)
        ],
        **changes,
    }
    return lambda root: (root / "annotations.json").write_text(text or json.dumps(content), encoding=encoding)


def named(first: str, second: str = "b.png", **of_first: Any) -> dict[str, Any]:
    """The entries of images with other file names."""
    size = {"height": HEIGHT, "width": WIDTH}
    images = [{"id": 7, "file_name": first, **size, **of_first}, {"id": 9, "file_name": second, **size}]
    return {"images": images}


def polygons(*each: list[Any]) -> dict[str, Any]:
    return {"segmentation": list(each)}


def runs(counts: Any, size: tuple[int, int] = SHAPE) -> dict[str, Any]:
    return {"segmentation": {"size": list(size), "counts": counts}}


COCO = {"files": 'train_coco = "annotations.json"'}
RIGHT = [6, 3, 9, 3, 9, 6, 6, 6]  # columns 6 to 8 of rows 3 to 5
BOTH = np.maximum(SQUARE, picture(*["........."] * 3, *["......111"] * 3))
AS_VOID = np.where(BOTH > SQUARE, VOID, SQUARE)
AT = r"annotations\.json: annotations\.0 \(id 1\): "

COCO_FILES = [
    Odd("polygon", coco(polygons(BOX)), **COCO, mask=SQUARE),
    Odd("polygon of fractions", coco(polygons([0.6, 1.4, 3.6, 1.4, 3.6, 2.6, 0.6, 2.6])), **COCO, mask=SQUARE),
    Odd("polygon over the edge", coco(polygons([5.6, 3, 9.4, 3, 9.4, 6.5, 5.6, 6.5])), **COCO, mask=BOTH - SQUARE),
    Odd("two polygons of one object", coco(polygons(BOX, RIGHT)), **COCO, mask=BOTH),
    Odd("polygons that overlap are no holes", coco(polygons(BOX, BOX)), **COCO, mask=SQUARE),
    Odd("runs", coco(runs(SQUARE_COUNTS)), **COCO, mask=SQUARE),
    Odd("compressed runs", coco(runs(SQUARE_LETTERS)), **COCO, mask=SQUARE),
    Odd(
        "two objects",
        coco(polygons(BOX), polygons(RIGHT)),
        **COCO,
        top="instances = true",
        objects=BOTH + BOTH - SQUARE,
    ),
    Odd("a crowd", coco(polygons(BOX), {**polygons(RIGHT), "iscrowd": 1}), **COCO, mask=AS_VOID),
    Odd(
        "a crowd of runs among objects",
        coco(polygons(RIGHT), {**runs(SQUARE_COUNTS), "iscrowd": 1}),
        **COCO,
        top="instances = true",
        objects=np.where(SQUARE > 0, VOID_OBJECT, BOTH),
    ),
    Odd("only crowds", coco({**polygons(BOX), "iscrowd": 1}), **COCO, mask=SQUARE),
    Odd("a crowd on an object", coco(polygons(BOX), {**polygons(BOX), "iscrowd": 1}), **COCO, mask=SQUARE),
    Odd(
        "a category of void",
        coco(polygons(BOX), {**polygons(RIGHT), "category_id": 5}),
        **COCO,
        top='ignore_class = "unsure"',
        mask=AS_VOID,
    ),
    Odd(
        "a category that does not count",
        coco(polygons(BOX), {**polygons(RIGHT), "category_id": 5}),
        **COCO,
        mask=SQUARE,
    ),
    Odd("no annotations", coco(), **COCO, mask=NOTHING),
    Odd("a byte-order mark", coco(polygons(BOX), encoding="utf-8-sig"), **COCO, mask=SQUARE),
    Odd("a path in the name", coco(polygons(BOX), **named("train/a.png")), **COCO, mask=SQUARE),
    Odd("a path of Windows", coco(polygons(BOX), **named("C:\\pictures\\a.png")), **COCO, mask=SQUARE),
    Odd("ids that are words", coco({**polygons(BOX), "image_id": "x"}, **named("a.png", id="x")), **COCO, mask=SQUARE),
    Odd(
        "an image of another size",
        coco(polygons(BOX), **named("a.png", height=60, width=90)),
        **COCO,
        refused=r"image 'a\.png' is \(60, 90\) in the JSON, its file is \(6, 9\)",
    ),
    Odd("runs of another size", coco(runs([54], (9, 6))), **COCO, refused=AT + r"runs of size \[9, 6\], the image's"),
    Odd("runs that are too short", coco(runs([7, 2])), **COCO, refused=AT + "counts of 9 pixels, expected the 54"),
    Odd("runs below 0", coco(runs([60, -6])), **COCO, refused=AT + r"counts \[60, -6\]: expected whole numbers"),
    Odd("runs of other letters", coco(runs("~~")), **COCO, refused=AT + "letters .* are not COCO's"),
    Odd(
        "a coordinate of 1e400",
        coco(polygons([1, 1, float("inf"), 1, 4, 3])),
        **COCO,
        refused=AT + r"the point \(inf, 1\)",
    ),
    Odd(
        "a coordinate that is NaN",
        coco(polygons([1, 1, 4, float("nan"), 4, 3])),
        **COCO,
        refused=AT + r"the point \(4, nan\)",
    ),
    Odd(
        "a coordinate of 400 digits",
        coco(polygons([1, 1, 10**400, 1, 4, 3])),
        **COCO,
        refused=AT + "a polygon .*expected numbers",
    ),
    Odd(
        "a polygon of another image",
        coco(polygons([100, 100, 400, 100, 400, 300])),
        **COCO,
        refused=AT + r"the point \(100, 100\) is far outside of its image of 9×6",
    ),
    Odd(
        "two points alone",
        coco(polygons([1, 1, 4, 3])),
        **COCO,
        refused="1 of 1 objects have no polygon of 3 points or more",
    ),
    Odd("two points beside a polygon", coco(polygons(BOX, [1, 1, 4, 3])), **COCO, mask=SQUARE),
    Odd("an object of two points beside a sound one", coco(polygons([1, 1, 4, 3]), polygons(BOX)), **COCO, mask=SQUARE),
    Odd("an object without an outline beside a sound one", coco(polygons(BOX), polygons()), **COCO, mask=SQUARE),
    Odd("half a point", coco(polygons([1, 1, 4, 1, 4])), **COCO, refused=AT + "a polygon .*expected numbers"),
    Odd(
        "points in pairs", coco(polygons([[1, 1], [4, 1], [4, 3]])), **COCO, refused=AT + "a polygon .*expected numbers"
    ),
    Odd("a box alone", coco({"bbox": [1, 1, 3, 2]}), **COCO, refused=AT + "segmentation is None: expected polygons"),
    Odd("no outline", coco(polygons()), **COCO, refused="1 of 1 objects have no polygon of 3 points or more"),
    Odd(
        "two points in pairs",
        coco(polygons([[1, 1], [4, 1], [4, 3], [1, 3]])),
        **COCO,
        refused=AT + "a polygon .*expected",
    ),
    Odd(
        "an image that is not there",
        coco({**polygons(BOX), "image_id": 8}),
        **COCO,
        refused=AT + "image_id 8, category_id 3",
    ),
    Odd(
        "a category that is not there",
        coco({**polygons(BOX), "category_id": 8}),
        **COCO,
        refused=AT + "image_id 7, category_id 8",
    ),
    Odd(
        "a class without a category",
        coco(categories=[{"id": 3, "name": "Cell"}]),
        **COCO,
        refused=r"no category 'cell'\. Did you mean 'Cell'",
    ),
    Odd(
        "an image twice", coco(**named("a.png", "train/a.png")), **COCO, refused=r"images\.1 \(id 9, .*is listed twice"
    ),
    Odd("an image without a name", coco(images=[{"id": 7}]), **COCO, refused=r"images\.0\.file_name: Field required"),
    Odd("a file that was cut", coco(text='{"images": ['), **COCO, refused=r"annotations\.json: .*expected COCO's JSON"),
    Odd("a list", coco(text="[]"), **COCO, refused=r"annotations\.json: .*expected COCO's JSON"),
    Odd("an empty file", coco(text=" "), **COCO, refused=r"annotations\.json: .*expected COCO's JSON"),
    Odd("no file", lambda root: None, **COCO, refused=r"annotations\.json: no such file"),
]

# ---------------------------------------------------------------------------------------------- outlines in lines

RING = [[1, 1], [3, 1], [3, 2], [1, 2]]  # the outline's pixels belong to the object
LINES = {"files": 'train_polygons = "lines.jsonl"'}


def line(*rings: Any, image_id: str = "a", kind: str = "cell") -> str:
    return json.dumps({"id": image_id, "annotations": [{"type": kind, "coordinates": [each]} for each in rings]})


def lines(*each: str, encoding: str = "utf-8") -> Callable[[Path], None]:
    """lines.jsonl; `b` has a line without an object, at the end."""
    text = "\n".join([*each, line(image_id="b")]) + "\n"
    return lambda root: (root / "lines.jsonl").write_text(text, encoding=encoding)


OUTLINES = [
    Odd("outline", lines(line(RING)), **LINES, mask=SQUARE),
    Odd("outline over the edge", lines(line([[6, 3], [8.9, 3], [8.9, 6.5], [6, 6.5]])), **LINES, mask=BOTH - SQUARE),
    Odd("blank lines", lines("", line(RING), "  "), **LINES, mask=SQUARE),
    Odd("lines with a byte-order mark", lines(line(RING), encoding="utf-8-sig"), **LINES, mask=SQUARE),
    Odd(
        "an outline of void",
        lines(line(RING)[:-2] + ", " + line([[6, 3], [8, 3], [8, 5], [6, 5]], kind="unsure").split("[", 1)[1]),
        **LINES,
        top='ignore_class = "unsure"',
        mask=AS_VOID,
    ),
    Odd(
        "an outline of 1e400",
        lines(line(RING).replace("[3, 2]", "[1e400, 2]")),
        **LINES,
        refused=r"line 1: the point \(inf, 2\)",
    ),
    Odd(
        "an outline of NaN",
        lines(line(RING).replace("[3, 2]", "[NaN, 2]")),
        **LINES,
        refused=r"line 1: the point \(nan, 2\)",
    ),
    Odd(
        "an outline of 400 digits",
        lines(line([[1, 1], [10**400, 1], [3, 2]])),
        **LINES,
        refused="line 1: expected .*OverflowError",
    ),
    Odd(
        "an outline elsewhere",
        lines(line([[90, 1], [99, 1], [99, 2]])),
        **LINES,
        refused=r"line 1: the point \(90, 1\) is far outside",
    ),
    Odd("an outline of two points", lines(line([[1, 1], [3, 2]])), **LINES, refused="line 1: an outline of 2 points"),
    Odd("an outline of words", lines(line([["x", "y"]] * 3)), **LINES, refused="line 1: expected"),
    Odd("an outline without a ring", lines(line([])), **LINES, refused="line 1: expected"),
    Odd("a line that was cut", lines(line(RING)[:40]), **LINES, refused="line 1: expected"),
    Odd("a line that is nested deeply", lines("[" * 100_000), **LINES, refused="line 1: expected"),
    Odd(
        "a line of an id twice", lines(line(RING), line(RING)), **LINES, refused="line 2: id 'a' repeats that of line 1"
    ),
    Odd(
        "COCO's JSON in place of lines",
        lambda root: coco(polygons(BOX))(root) and (root / "annotations.json").rename(root / "lines.jsonl"),
        **LINES,
        refused=r"lines\.jsonl: one COCO JSON.*files\.train_coco",
    ),
]

# ---------------------------------------------------------------------------------------------- rows


def rows(*each: str) -> Callable[[Path], None]:
    """train.csv with a column for the class; the last row is of `b`."""
    return lambda root: (root / "train.csv").write_text("\n".join(["id,rle,kind", *each, "b,,cell"]) + "\n")


ROWS = {"files": 'train_csv = "train.csv"', "columns": 'class = "kind"', "top": 'ignore_class = "unsure"'}
RUNS = {"square": "8 2 14 2 20 2", "right": "40 3 46 3 52 3"}  # from 1, by columns

TABLES = [
    Odd("a row of void", rows(f"a,{RUNS['square']},cell", f"a,{RUNS['right']},unsure"), **ROWS, mask=AS_VOID),
    Odd("a row of void alone", rows(f"a,{RUNS['right']},unsure"), **ROWS, mask=np.where(BOTH > SQUARE, VOID, 0)),
    Odd(
        "void that ends outside",
        rows(f"a,{RUNS['square']},cell", "a,50 9,unsure"),
        **ROWS,
        refused=r"train\.csv: line \d+, id 'a': .*past the last of the 54 pixels",
    ),
]

ODD = [*MASK_IMAGES, *COCO_FILES, *OUTLINES, *TABLES]
