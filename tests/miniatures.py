"""Every competition in miniature: a few small images in its layout, with known masks.

This module shares no code with `pipeline`: RLE texts are encoded by plain loops as documented by Kaggle, and files are
written by their libraries. So an error in a card or in its reading is detected.
"""

import base64
import csv
import json
import warnings
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

SHAPE = (32, 40)  # not square, so that transposition is detected
Row = tuple[str, ...]


# ---------------------------------------------------------------------------------------------- texts, by loops


def runs_of(mask: np.ndarray, order: str) -> list[tuple[int, int]]:
    """Start (from 0) and length of each run."""
    height, width = mask.shape
    pixels = [(r, c) for c in range(width) for r in range(height)] if order == "column" else None
    pixels = pixels or [(r, c) for r in range(height) for c in range(width)]
    runs: list[tuple[int, int]] = []
    for place, (row, column) in enumerate(pixels):
        if mask[row, column]:
            if runs and sum(runs[-1]) == place:
                runs[-1] = runs[-1][0], runs[-1][1] + 1
            else:
                runs.append((place, 1))
    return runs


@dataclass(frozen=True)
class Text:
    """The text form of a competition's masks."""

    order: str = "column"
    relative: bool = False
    empty: str = ""

    def write(self, mask: np.ndarray) -> str:
        runs, end, words = runs_of(mask, self.order), 0, []
        for start, length in runs:
            words += [start - end if self.relative else start + 1, length]
            end = start + length
        return " ".join(map(str, words)) if runs else self.empty

    def read(self, text: str, shape: tuple[int, int]) -> np.ndarray:
        mask, end = np.zeros(shape, dtype=np.uint8), 0
        words = [] if text.strip() == self.empty else [int(word) for word in text.split()]
        for first, length in zip(words[::2], words[1::2], strict=True):
            start = end + first if self.relative else first - 1
            end = start + length
            for place in range(start, end):
                row, column = (
                    (place % shape[0], place // shape[0]) if self.order == "column" else divmod(place, shape[1])
                )
                mask[row, column] = 1
        return mask


class CocoText:
    """Masks encoded by COCO's library, deflated, in base64."""

    empty = ""

    def write(self, mask: np.ndarray) -> str:
        counts = coco.encode(np.asfortranarray(mask))["counts"]
        return base64.b64encode(zlib.compress(counts)).decode()

    def read(self, text: str, shape: tuple[int, int]) -> np.ndarray:
        if not text:
            return np.zeros(shape, dtype=np.uint8)
        with warnings.catch_warnings(action="ignore"):  # the library's warnings about numpy 2
            return coco.decode({"size": list(shape), "counts": zlib.decompress(base64.b64decode(text))})


# ---------------------------------------------------------------------------------------------- images


def draw(number: int, classes: int, shape: tuple[int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    """A noisy grey image (H, W) uint8 with a disc per class, and the masks (C, H, W); every third image is empty."""
    rng = np.random.default_rng(number)
    image = rng.integers(20, 90, shape).astype(np.uint8)
    masks = np.zeros((classes, *shape), dtype=np.uint8)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    for mask in masks:
        row, column, radius = rng.uniform(5, shape[0] - 5), rng.uniform(5, shape[1] - 5), rng.uniform(3, 7)
        if number % 3:
            mask[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = 1
            image[mask == 1] += 70 // classes
    return image, masks


def write_grey(path: Path, image: np.ndarray) -> None:
    Image.fromarray(image).save(path)


def write_colour(path: Path, image: np.ndarray) -> None:
    Image.fromarray(np.repeat(image[..., None], 3, axis=2)).save(path)


def write_sixteen(path: Path, image: np.ndarray) -> None:
    Image.fromarray(image.astype(np.uint16) * 200).save(path)


def write_moments(path: Path, image: np.ndarray) -> None:
    """Nine bands of temperatures at eight moments, in kelvin; path is that of the first band."""
    for band in range(8, 17):
        moments = np.repeat(image[..., None], 8, axis=2).astype(np.float32) / (band + 1) + 250 + np.arange(8)
        np.save(path.with_name(f"band_{band:02}.npy"), moments)


def write_layers(path: Path, image: np.ndarray) -> None:
    """Layers 30 to 34 of a fragment, of which 32, at path, is the image."""
    for layer in range(30, 35):
        write_sixteen(path.with_name(f"{layer}.tif"), np.roll(image, layer - 32, axis=0))


def write_dicom(path, stored, *, slope=None, intercept=0, inverted=False, bits=16):
    """A DICOM of one grey picture; with a slope, real values are stored · slope + intercept."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    header = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    header.Rows, header.Columns = stored.shape
    header.SamplesPerPixel = 1
    header.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    header.BitsAllocated = 8 * stored.dtype.itemsize
    header.BitsStored = min(bits, header.BitsAllocated)
    header.HighBit = header.BitsStored - 1
    header.PixelRepresentation = int(stored.dtype.kind == "i")
    if slope is not None:
        header.RescaleSlope, header.RescaleIntercept = slope, intercept
    header.PixelData = stored.tobytes()
    header.save_as(path, enforce_file_format=True)


# ---------------------------------------------------------------------------------------------- layouts


@dataclass(frozen=True)
class Layout:
    """The files of one competition and the format of its CSVs.

    Args:
        ids: of a training or test image, by its number.
        image: path of an image, from "train" or "test", and id.
        mask: path of a mask image, where masks are images.
        train_rows: rows of the training CSV, of an id, its masks, and how they are written.
        keys: rows of the sample, without the text, of an id.
    """

    ids: Callable[[int], str]
    image: Callable[[str, str], str]
    write: Callable[[Path, np.ndarray], None] = write_grey
    text: Text | CocoText = Text()
    sample: str = "sample_submission.csv"
    header: Row = ()  # of sample and solution
    train: str | None = "train.csv"
    train_header: Row = ()
    keys: Callable[[str], list[Row]] = lambda image_id: [(image_id,)]
    train_rows: Callable[[str, np.ndarray, Text], list[Row]] = lambda image_id, masks, text: [
        (image_id, text.write(masks[0]))
    ]
    mask: Callable[[str], str] | None = None
    write_mask: Callable[[Path, np.ndarray], None] = lambda path, masks: write_grey(path, masks[0] * 255)
    classes: int = 1
    objects: int = 0  # of an image, where each has a row of its own
    cells: bool = False  # the objects of an image share a row, each with a class and a confidence
    volumes: bool = False  # scored as volumes: the solution has the sizes of the slices
    shape: tuple[int, int] = SHAPE
    scored: tuple[int, int] | None = None  # size of submitted masks
    more: Callable[[Path, list[str]], None] = lambda root, ids: None  # further files, by the ids of training images
    config: dict[str, str] = field(default_factory=dict)


def organs_of_test_images(root: Path, ids: list[str]) -> None:
    _write_csv(root / "test.csv", ("id", "organ"), [(str(10100 + number), "lung") for number in range(4)])


def per_class(names: Iterable[str], id_separator: str) -> Callable[[str], list[Row]]:
    return lambda image_id: [(f"{image_id}{id_separator}{name}",) for name in names]


def rows_per_class(names: str, id_separator: str) -> Callable[[str, np.ndarray, Text], list[Row]]:
    return lambda image_id, masks, text: [
        (f"{image_id}{id_separator}{name}", text.write(mask)) for name, mask in zip(names.split(), masks, strict=True)
    ]


def filled_rows(image_id: str, masks: np.ndarray, text: Text) -> list[Row]:
    """Severstal's later format: a row for each class that is present, and none for an image without a mask."""
    return [(image_id, str(number), text.write(mask)) for number, mask in enumerate(masks, start=1) if mask.any()]


def two_parts(image_id: str, masks: np.ndarray, text: Text) -> list[Row]:
    """SIIM: a mask in several rows; the empty token with a blank before it."""
    left, right = masks[0].copy(), masks[0].copy()
    left[:, SHAPE[1] // 2 :] = right[:, : SHAPE[1] // 2] = 0
    parts = [part for part in (left, right) if part.any()]
    return [(image_id, text.write(part)) for part in parts] or [(image_id, " -1")]


def organs(image_id: str, masks: np.ndarray, text: Text) -> list[Row]:
    names = ("large_bowel", "small_bowel", "stomach")
    return [(image_id, name, text.write(mask)) for name, mask in zip(names, masks, strict=True)]


def one_each(image_id: str, masks: np.ndarray, text: Text) -> list[Row]:
    """A row for each object; here each class is one object."""
    return [(image_id, text.write(mask)) for mask in masks if mask.any()] or [(image_id, text.empty)]


def outlines(image_id: str, masks: np.ndarray, text: CocoText) -> list[str]:
    """A line of polygons.jsonl: the outline of each object, and one of another type."""
    objects = [cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)[0] for mask in masks if mask.any()]
    found = [{"type": "blood_vessel", "coordinates": [ring[:, 0].tolist() for ring in rings]} for rings in objects]
    other = {"type": "glomerulus", "coordinates": [[[0, 0], [9, 0], [9, 9]]]}
    return [json.dumps({"id": image_id, "annotations": [*found, other]})]


def tiles(root: Path, ids: list[str]) -> None:
    """The slide of each tile, and a tile without labels."""
    _write_csv(root / "tile_meta.csv", ("id", "source_wsi"), [(i, str(n // 3)) for n, i in enumerate([*ids, "none"])])
    _write(root / "train/none.tif", write_colour, np.zeros(SHAPE, dtype=np.uint8))


def kidney_slice(number: int) -> str:
    """Training: five volumes of three kidneys, the last row of an image that has another one too. Test: kidney 5."""
    if number >= 100:
        return f"kidney_5_{number - 100:04}"
    volumes = {"kidney_1_dense": 3, "kidney_1_voi": 2, "kidney_2": 3, "kidney_3_sparse": 3}
    ids = [f"{volume}_{place:04}" for volume, count in volumes.items() for place in range(count)]
    return [*ids, "kidney_3_dense_0001"][number]


CLOUDS = "Fish Flower Gravel Sugar"

LAYOUTS = {
    "tgs-salt-identification-challenge": Layout(
        ids=lambda n: f"{n:010x}",
        image=lambda part, i: f"{part}/images/{i}.png",
        header=("id", "rle_mask"),
    ),
    "carvana-image-masking-challenge": Layout(
        ids=lambda n: f"{n // 4:012x}_{n % 4 + 1:02}.jpg",
        image=lambda part, i: f"{part}/{i}",
        write=write_colour,
        text=Text(order="row"),
        header=("img", "rle_mask"),
        train="train_masks.csv",
    ),
    "airbus-ship-detection": Layout(
        ids=lambda n: f"{n:09x}.jpg",
        image=lambda part, i: f"{part}_v2/{i}",
        write=write_colour,
        sample="sample_submission_v2.csv",
        header=("ImageId", "EncodedPixels"),
        train="train_ship_segmentations_v2.csv",
        train_rows=one_each,
        objects=3,
    ),
    "data-science-bowl-2018": Layout(
        ids=lambda n: f"{n:064x}",
        image=lambda part, i: f"stage1_{part}/{i}/images/{i}.png",
        write=write_colour,
        sample="stage1_sample_submission.csv",
        header=("ImageId", "EncodedPixels"),
        train="stage1_train_labels.csv",
        train_rows=one_each,
        objects=3,
        config={"data.boundary": "2.0"},
    ),
    "sartorius-cell-instance-segmentation": Layout(
        ids=lambda n: f"{n:012x}",
        image=lambda part, i: f"{part}/{i}.png",
        text=Text(order="row"),
        header=("id", "predicted"),
        train_header=("id", "annotation"),
        train_rows=one_each,
        objects=3,
    ),
    "siim-acr-pneumothorax-segmentation": Layout(
        ids=lambda n: f"1.2.276.{n}",
        image=lambda part, i: f"dicom-images-{part}/1.3.{i}/1.4.{i}/{i}.dcm",
        write=lambda path, image: write_dicom(path, image, bits=8),
        text=Text(relative=True, empty="-1"),
        header=("ImageId", "EncodedPixels"),
        train="train-rle.csv",
        train_header=("ImageId", " EncodedPixels"),
        train_rows=two_parts,
    ),
    "severstal-steel-defect-detection": Layout(
        ids=lambda n: f"{n:09x}.jpg",
        image=lambda part, i: f"{part}_images/{i}",
        write=write_colour,
        header=("ImageId_ClassId", "EncodedPixels"),
        keys=per_class("1234", "_"),
        train_rows=rows_per_class("1 2 3 4", "_"),
        classes=4,
    ),
    "severstal-steel-defect-detection, later": Layout(
        ids=lambda n: f"{n:09x}.jpg",
        image=lambda part, i: f"{part}_images/{i}",
        write=write_colour,
        header=("ImageId_ClassId", "EncodedPixels"),
        keys=per_class("1234", "_"),
        train_header=("ImageId", "ClassId", "EncodedPixels"),
        train_rows=filled_rows,
        classes=4,
    ),
    "understanding_cloud_organization": Layout(
        ids=lambda n: f"{n:07x}.jpg",
        image=lambda part, i: f"{part}_images/{i}",
        write=write_colour,
        header=("Image_Label", "EncodedPixels"),
        keys=per_class(CLOUDS.split(), "_"),
        train_rows=rows_per_class(CLOUDS, "_"),
        classes=4,
        shape=(64, 96),
        scored=(350, 525),
    ),
    "hubmap-kidney-segmentation": Layout(
        ids=lambda n: f"{n:09x}",
        image=lambda part, i: f"{part}/{i}.tiff",
        write=write_colour,
        header=("id", "predicted"),
        train_header=("id", "encoding"),
    ),
    "hubmap-organ-segmentation": Layout(
        ids=lambda n: str(10000 + n),
        image=lambda part, i: f"{part}_images/{i}.tiff",
        write=write_colour,
        header=("id", "rle"),
        train_header=("id", "organ", "rle"),
        train_rows=lambda i, masks, text: [(i, ("lung", "spleen")[int(i) % 2], text.write(masks[0]))],
        more=organs_of_test_images,
        config={"ensemble.group": "organ"},
    ),
    "uw-madison-gi-tract-image-segmentation": Layout(
        ids=lambda n: f"case{n // 4}_day{n % 4 // 2}_slice_{n % 2 + 1:04}",
        image=lambda part, i: "{0}/{1}/{1}_{2}/scans/{3}_{4}_40_32_1.50_1.50.png".format(part, *i.split("_")),
        write=write_sixteen,
        text=Text(order="row"),
        header=("id", "class", "predicted"),
        keys=lambda i: [(i, name) for name in ("large_bowel", "small_bowel", "stomach")],
        train_header=("id", "class", "segmentation"),
        train_rows=organs,
        classes=3,
        volumes=True,
        config={"data.percentiles": "[1, 99]", "data.neighbours": "1"},
    ),
    "vesuvius-challenge-ink-detection": Layout(
        ids=str,
        image=lambda part, i: f"{part}/{i}/surface_volume/32.tif",
        write=write_layers,
        text=Text(order="row"),
        header=("Id", "Predicted"),
        train=None,
        mask=lambda i: f"train/{i}/inklabels.png",
        config={"data.neighbours": "[-2, 0, 2]"},
    ),
    "google-research-identify-contrails-reduce-global-warming": Layout(
        ids=lambda n: str(10**15 + n),
        image=lambda part, i: f"{part}/{i}/band_08.npy",
        write=write_moments,
        text=Text(empty="-"),
        header=("record_id", "encoded_pixels"),
        train=None,
        mask=lambda i: f"train/{i}/human_pixel_masks.npy",
        write_mask=lambda path, masks: np.save(path, masks[0][..., None].astype(np.int32)),
        config={"data.channels": "['ash_color(11, 13, 14, 15)']", "data.neighbours": "[-4, 0, 3]"},
    ),
    "hubmap-hacking-the-human-vasculature": Layout(
        ids=lambda n: f"{n:012x}",
        image=lambda part, i: f"{part}/{i}.tif",
        write=write_colour,
        text=CocoText(),
        header=("id", "height", "width", "prediction_string"),
        keys=lambda i: [(i, *map(str, SHAPE))],
        train="polygons.jsonl",
        train_rows=outlines,
        objects=3,
        cells=True,
        more=tiles,
    ),
    "blood-vessel-segmentation": Layout(
        ids=kidney_slice,
        image=lambda part, i: f"{part}/{i[:-5].replace('3_dense', '3_sparse')}/images/{i[-4:]}.tif",
        write=write_sixteen,
        text=Text(order="row", empty="1 0"),
        header=("id", "rle"),
        volumes=True,
        train="train_rles.csv",
        config={"data.neighbours": "{ offsets = 2, border = 'reflect' }"},
    ),
    "ultrasound-nerve-segmentation": Layout(
        ids=lambda n: f"{n // 4 + 1}_{n % 4 + 1}" if n < 100 else str(n),
        image=lambda part, i: f"{part}/{i}.tif",
        header=("img", "pixels"),
        train=None,
        mask=lambda i: f"train/{i}_mask.tif",
    ),
}


def write_miniature(slug: str, root: Path, train: int = 12, test: int = 4) -> dict[str, np.ndarray]:
    """Write the files of a competition into a folder; returns the masks (C, H, W) of every training image, by id."""
    layout, known = LAYOUTS[slug], {}
    tables = {"train": [], "sample": [], "solution": []}
    for part, first, count in (("train", 0, train), ("test", 100, test)):
        for number in range(first, first + count):
            image_id, (image, masks) = layout.ids(number), draw(number, layout.objects or layout.classes, layout.shape)
            if layout.objects:
                masks[1:] &= masks[:-1].cumsum(axis=0) == 0  # classes do not overlap
            _write(root / layout.image(part, image_id), layout.write, image)
            if part == "train":
                known[image_id] = masks
                tables["train"] += layout.train_rows(image_id, masks, layout.text)
                if layout.mask:
                    _write(root / layout.mask(image_id), layout.write_mask, masks)
            else:
                keys = layout.keys(image_id)
                scored = [_resized(mask, layout.scored) for mask in masks]
                if layout.cells:
                    texts = [f"0 1.0 {layout.text.write(mask)}" for mask in masks if mask.any()]
                    tables["solution"] += [(*keys[0], " ".join(texts))]
                elif layout.objects:
                    tables["solution"] += layout.train_rows(image_id, masks, layout.text)
                else:
                    texts = map(layout.text.write, scored)
                    size = tuple(map(str, layout.shape)) if layout.volumes else ()
                    tables["solution"] += [(*key, text, *size) for key, text in zip(keys, texts, strict=True)]
                placeholder = f"0 1.0 {layout.text.write(masks[0])}" if layout.cells else "1 1"
                tables["sample"] += [(*key, placeholder) for key in keys]
    layout.more(root, list(known))
    if layout.train and layout.train.endswith(".jsonl"):
        (root / layout.train).write_text("\n".join(tables["train"]) + "\n")
    elif layout.train:
        _write_csv(root / layout.train, layout.train_header or layout.header, tables["train"])
    _write_csv(root / layout.sample, layout.header, tables["sample"])
    sizes = ("height", "width") if layout.volumes else ()
    _write_csv(root / "solution.csv", (*layout.header, *sizes), tables["solution"])
    return known


def _resized(mask: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    return mask if size is None else cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST)


def _write(path: Path, write: Callable[[Path, np.ndarray], None], pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, pixels)


def _write_csv(path: Path, header: Row, rows: list[Row]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
