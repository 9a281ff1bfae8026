"""Labels in forms that are not read: which form it is, and what to do."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.card_draft.listing import Listing, spread
from pipeline.card_draft.tables import Table
from pipeline.quoting import shortened

NUM_FILES = 6  # of a suffix that are looked at
NUM_CELLS = 30
START = 1 << 16  # bytes of a file that are looked at
MIN_SHARE = 0.9  # of the cells of a column
CONVERT = "convert them to COCO's JSON, or to mask images with the names of the images"
BOXES = "boxes are no masks: there is nothing to segment"
WRITE_PAIRS = "write each as pairs of a start and a length with blanks between, as '1 3 10 5'"
SAVE_CSV = "save the table as CSV, with commas"


class Form(NamedTuple):
    """A form of labels, known by texts in its files."""

    name: str
    texts: tuple[str, ...]  # regular expressions, all of which are in the file
    advice: str = CONVERT


# The first that fits is taken.
JSON_FORMS = (
    Form("outlines in LabelMe's JSON", (r'"shapes"', r'"imagePath"')),
    Form("outlines in the JSON of VGG's annotator (VIA)", (r'"regions"', r'"shape_attributes"')),
    Form("objects in Supervisely's JSON", (r'"classTitle"|"geometryType"', r'"objects"')),
    Form("tasks of Label Studio", (r'"result"', r'"annotations"|"completions"')),
    Form("outlines in the JSON of Cityscapes", (r'"imgHeight"', r'"polygon"')),
    Form("outlines in GeoJSON", (r'"FeatureCollection"|"Feature"', r'"coordinates"')),
    Form("buildings as WKT in JSON", (r'"wkt"\s*:\s*"(MULTI)?POLYGON',)),
    Form(
        "COCO's JSON with its annotations in an object",
        (r'"images"', r'"categories"', r'"annotations"\s*:\s*\{'),
        "write them as a list: annotations = list(annotations.values())",
    ),
    Form(
        "runs in JSON",
        (r'^\s*\{\s*"[^"]+"\s*:\s*"\d+ \d+[\d ]*"',),
        "write them as a CSV with columns for ids and runs",
    ),
    Form("COCO's JSON without outlines", (r'"images"', r'"categories"', r'"annotations"'), BOXES),
)
XML_FORMS = (
    Form("outlines in CVAT's XML", (r"<annotations", r"<(polygon|mask|polyline)\b")),
    Form("outlines in XML", (r"<polygon|<Vertex|<pt>|<segmentation", r"<")),
    Form("boxes in XML", (r"<bndbox|<box",), BOXES),
)
SHARE = r" -?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?"  # each text in one way: no time is lost where a line fits only in part
TEXT_FORMS = (
    Form("outlines in YOLO's texts", (rf"^\d+({SHARE}){{6,}}\s*$", r"\d\.\d")),
    Form("boxes in YOLO's texts", (rf"^\d+({SHARE}){{4}}\s*$", r"\d\.\d"), BOXES),
)
BINARY_FORMS = {
    ".mat": Form("MATLAB files", (), "save each label image as a PNG with the name of its image"),
    ".seg": Form("texts of segments", (), "save each label image as a PNG with the name of its image"),
    ".h5": Form("HDF5 files", (), "save images and masks as files"),
    ".hdf5": Form("HDF5 files", (), "save images and masks as files"),
    ".mhd": Form("MetaImage volumes", (), "save each as a NIfTI volume"),
    ".mha": Form("MetaImage volumes", (), "save each as a NIfTI volume"),
    ".nrrd": Form("NRRD volumes", (), "save each as a NIfTI volume"),
    ".npz": Form("archives of arrays", (), "save images and masks as files"),
    ".parquet": Form("Parquet tables", (), "save the table as CSV, or images and masks as files"),
    ".feather": Form("Feather tables", (), SAVE_CSV),
    ".tsv": Form("tables with tabs", (), SAVE_CSV),
    ".xlsx": Form("tables of Excel", (), SAVE_CSV),
    ".xls": Form("tables of Excel", (), SAVE_CSV),
    ".pkl": Form("pickled files", (), "save a table as CSV, or images and masks as files"),
    ".tfrec": Form("TFRecords", (), "save images and masks as files"),
    ".tfrecord": Form("TFRecords", (), "save images and masks as files"),
}


def find_other_labels(listing: Listing, tables: Sequence[Table]) -> str | None:
    """Labels of a form that is not read, an example, and what to do, for a message; None if there are none.

    Args:
        tables: that have no column of masks.
    """
    found = next(_forms(listing, tables), None)
    return f"{found[0].name} are not read, such as {shortened(found[1], 60)}: {found[0].advice}" if found else None


def describe_binary(suffix: str) -> str | None:
    """What to do with files of a suffix in which images may be, for a message; None for other files."""
    form = BINARY_FORMS.get(f".{suffix.lower()}")
    return f"{form.name} (.{suffix}) are not read: {form.advice}" if form else None


def _forms(listing: Listing, tables: Sequence[Table]) -> Iterator[tuple[Form, str]]:
    yield from _forms_of_cells(tables, CELL_FORMS)
    texts = [path for path in listing.others if path.lower().endswith(".txt")]
    xmls = [path for path in listing.others if path.lower().endswith(".xml")]
    jsons = [*listing.jsons, *(path for path in listing.others if path.lower().endswith(".geojson"))]
    for paths, forms in ((jsons, JSON_FORMS), (xmls, XML_FORMS), (_in_largest_folder(texts), TEXT_FORMS)):
        for path in spread(paths, NUM_FILES):
            text = _start(listing.root / path)
            yield from ((form, path) for form in forms if _fits(form, text))
    for suffix, form in BINARY_FORMS.items():
        yield from ((form, path) for path in listing.others if path.lower().endswith(suffix))
    yield from _forms_of_cells(tables, BOX_FORMS)


def _forms_of_cells(tables: Sequence[Table], forms: Sequence[Form]) -> Iterator[tuple[Form, str]]:
    for form in forms:
        for table in tables:
            for column in table.columns:
                filled = [cell.strip() for cell in spread(table.cells[column].tolist(), NUM_CELLS) if cell.strip()]
                if _are_of_form(filled, form):
                    yield form, f"'{column}' of {table.name}"


def _are_of_form(cells: Sequence[str], form: Form) -> bool:
    """Whether nearly all cells fit the first text of a form, and half of them all others."""
    shares = [sum(bool(re.search(each, cell)) for cell in cells) / max(1, len(cells)) for each in form.texts]
    return shares[0] >= MIN_SHARE and min(shares) >= MIN_SHARE / 2


def _fits(form: Form, text: str) -> bool:
    return all(re.search(each, text, re.MULTILINE) for each in form.texts)


def _start(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(START).decode("utf-8", errors="replace")
    except OSError:
        return ""


def _in_largest_folder(paths: Sequence[str]) -> list[str]:
    """The paths in the folder that most of them are in: those of labels, and not a readme."""
    folders = Counter(path.rpartition("/")[0] for path in paths)
    largest = max(folders, key=lambda folder: folders[folder], default="")
    return [path for path in paths if path.rpartition("/")[0] == largest]


NUMBER = r"-?\d+(\.\d+)?"
PAIR = r"\d+[ ,;:/-]+\d+"
# COCO's counts have letters from "0" to "o", without base64's "+" and "/".
CELL_FORMS = (
    Form("runs with other separators", (rf"^({PAIR}[ ,;|]+){{2,}}{PAIR}[ ,;|]*$", r"[,;:|/-]"), WRITE_PAIRS),
    Form(
        "images in base64",
        (r"^(b'|data:image/\w+;base64,)?(iVBORw0KGgo|/9j/)",),
        "save each as a PNG named as its image",
    ),
    Form(
        "lists of pairs of numbers",
        (rf"^\[?\[?\s*[\[(]\s*{NUMBER}\s*,\s*{NUMBER}\s*[\])]\s*,\s*[\[(]",),
        f"if they are points, {CONVERT}; if they are runs, {WRITE_PAIRS}",
    ),
    Form("outlines of WKT", (r"^((MULTI)?POLYGON|LINESTRING)( Z)?\s*(\(|EMPTY)",)),
    Form("masks of COCO's counts", (r"^\{.*counts.*size|^\{.*size.*counts",), WRITE_PAIRS),
    Form("masks of COCO's counts", (r"^[0-o]{8,}$", r"[;<=>?@\[\\\]^`]"), WRITE_PAIRS),
)
BOX_FORMS = (Form("boxes", (rf"^\[?\s*({NUMBER}[\s,]+){{3}}{NUMBER}\s*\]?$",), BOXES),)
