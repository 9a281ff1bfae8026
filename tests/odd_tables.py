"""Competitions with unusual tables and names: a plain one with one change each, and the expected result.

This module shares no code with `pipeline`. `ODD` has the layouts by name; `write(name, folder)` writes one and returns
the expected result: the plain competition, a part of it, or an error.
"""

import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 8, 10
IDS = (
    "im00",
    "im01",
    "im02",
    "caf\u00e9",
    "007",
    "im05",
    "im06",
    "im07",
)  # a composed character, and leading zeros that must be kept
TEST = ("te00", "te01", "caf\u00e9_t")
GROUPS = ("a", "a", "b", "b", "c", "c", "d", "d")


def image_of(place: int) -> np.ndarray:
    """(H, W) uint8, different for each place."""
    return np.random.default_rng(place).integers(0, 256, (HEIGHT, WIDTH)).astype(np.uint8)


def mask_of(place: int) -> np.ndarray:
    """(H, W) uint8, 0 or 1; empty for every third."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    if place % 3:
        mask[1 : 2 + place % 5, 2:7] = 1
    return mask


def rle_of(mask: np.ndarray) -> str:
    """Column order, from 1, one pixel after the other."""
    flat, text, start = [*mask.flatten(order="F").tolist(), 0], [], None
    for number, value in enumerate(flat, start=1):
        if value and start is None:
            start = number
        elif not value and start is not None:
            text += [str(start), str(number - start)]
            start = None
    return " ".join(text)


@dataclass
class Layout:
    """A competition to be written: change its parts, then `write`.

    Attributes:
        train: rows of train.csv, the header first; each a list of cells.
        sample: likewise, of sample_submission.csv.
        meta: likewise; None: no such file.
        images, masks: pixels by path below the folder.
        card: lines of the card by table; "" are those before the first.
        ids: training ids that are expected to be read.
        empty: those of them whose masks are expected to be empty, in addition to those that are.
        extra: further files, by path.
        after: called with the folder after writing.
    """

    train: list[list[str]] | None
    sample: list[list[str]]
    images: dict[str, np.ndarray]
    card: dict[str, dict[str, str]]
    meta: list[list[str]] | None = None
    ids: tuple[str, ...] = IDS
    empty: tuple[str, ...] = ()
    extra: dict[str, bytes] = field(default_factory=dict)
    after: Callable[[Path], None] = lambda folder: None
    encode: Callable[[str, str], bytes] = lambda name, text: text.encode()  # of a table, by its name

    def write(self, folder: Path) -> Path:
        """Write all files into a folder; returns the card's path."""
        tables = {"train.csv": self.train, "sample_submission.csv": self.sample, "meta.csv": self.meta}
        for name, rows in tables.items():
            if rows is not None:
                text = "".join(",".join(row) + "\n" for row in rows)
                self._put(folder / name, self.encode(name, text))
        for name, pixels in self.images.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, format={".jpg": "BMP"}.get(path.suffix.lower()))
        for name, content in self.extra.items():
            self._put(folder / name, content)
        text = ""
        for table, lines in self.card.items():
            text += f"[{table}]\n" * bool(table) + "".join(f"{key} = {value}\n" for key, value in lines.items())
        self._put(folder / "card.toml", self.encode("card.toml", text))
        self.after(folder)
        return folder / "card.toml"

    @staticmethod
    def _put(path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def masks_as_files(self, name: Callable[[str], str]) -> None:
        """Mask images in place of train.csv; `name` gives an id's path."""
        self.train = None
        self.card["files"].pop("train_csv")
        self.images |= {name(key): mask_of(place) * np.uint8(255) for place, key in enumerate(IDS)}

    def rename(self, change: Callable[[str], str]) -> None:
        """Other paths of the images."""
        self.images = {change(name): pixels for name, pixels in self.images.items()}


def plain() -> Layout:
    """Eight training and three test images with RLE, and the card for them."""
    return Layout(
        train=[["id", "rle"], *([key, rle_of(mask_of(place))] for place, key in enumerate(IDS))],
        sample=[["id", "rle"], *([key, "1 1"] for key in TEST)],
        images={f"train/{key}.png": image_of(place) for place, key in enumerate(IDS)}
        | {f"test/{key}.png": image_of(100 + place) for place, key in enumerate(TEST)},
        card={
            "": {"name": '"odd"', "title": '"Odd"', "classes": '["disc"]', "metric": '"mean_dice"'},
            "files": {"train_images": '"train"', "test_images": '"test"', "train_csv": '"train.csv"'},
            "columns": {"id": '"id"', "rle": '"rle"'},
            "dialect": {"order": '"column"'},
        },
    )


@dataclass(frozen=True)
class Odd:
    """One odd layout.

    Attributes:
        change: of the plain layout.
        says: a regular expression for the error; None: it is read as the layout defines.
    """

    change: Callable[[Layout], None]
    says: str | None = None


ODD: dict[str, Odd] = {}


def odd(says: str | None = None) -> Callable[[Callable[[Layout], None]], Callable[[Layout], None]]:
    """Name a change of the plain layout as one of `ODD`, by its function's name."""

    def add(change: Callable[[Layout], None]) -> Callable[[Layout], None]:
        ODD[change.__name__.replace("_", " ")] = Odd(change, says)
        return change

    return add


def write(name: str, folder: Path) -> tuple[Layout, str | None]:
    """Write the layout of that name; returns it and the expected error."""
    layout, each = plain(), ODD[name]
    each.change(layout)
    layout.write(folder)
    return layout, each.says


def _of_train(change: Callable[[str], str]) -> Callable[[str], str]:
    return lambda name: change(name) if name.startswith("train/") else name


# ---------------------------------------------------------------------------------------------------------- names


@odd()
def nothing_odd(layout):
    pass


@odd()
def suffix_in_capitals(layout):
    layout.rename(lambda name: name.replace(".png", ".PNG"))


@odd()
def suffix_in_capitals_of_some(layout):
    layout.rename(lambda name: name.replace("1.png", "1.Png").replace("2.png", "2.PNG"))


@odd()
def suffix_of_the_card_in_capitals(layout):
    layout.card["files"]["suffix"] = '".PNG"'


@odd()
def masks_by_pattern_with_some_suffixes_in_capitals(layout):
    layout.masks_as_files(lambda key: f"train/masks/{key}.{'PNG' if key == 'im02' else 'png'}")
    layout.rename(lambda name: name if "masks" in name else name.replace("train/", "train/images/"))
    layout.card["files"] |= {
        "train_masks": '"train"',
        "pattern": r"'(?:images/)?([^/]+)\.png'",
        "mask_pattern": r"'masks/([^/]+)\.png'",
    }


@odd()
def file_names_decomposed(layout):
    layout.rename(lambda name: unicodedata.normalize("NFD", name))


@odd()
def ids_decomposed(layout):
    layout.encode = lambda name, text: unicodedata.normalize("NFD", text).encode()


@odd(r"are both image 'caf\u00e9'")
def file_names_in_both_forms(layout):
    layout.images[unicodedata.normalize("NFD", "train/caf\u00e9.png")] = image_of(9)


@odd(r"8 of 8 training ids in train\.csv.*ids end in '\.png' already: set suffix = \"\" on the card")
def ids_with_the_suffix(layout):
    layout.train[1:] = [[f"{key}.png", text] for key, text in layout.train[1:]]


@odd(r"3 of 3 test ids in sample_submission\.csv.*ids end in '\.png' already: set suffix = \"\" on the card")
def ids_of_the_sample_with_the_suffix(layout):
    layout.sample[1:] = [[f"{key}.png", text] for key, text in layout.sample[1:]]


@odd(r"2 ids end in '\.png' and the others do not: write all the same")
def ids_of_some_with_the_suffix(layout):
    for row in layout.train[3:5]:
        row[0] += ".png"


@odd()
def ids_with_the_suffix_on_a_card_without(layout):
    for row in (*layout.train[1:], *layout.sample[1:]):
        row[0] += ".png"
    layout.card["files"]["suffix"] = '""'
    layout.ids = tuple(f"{key}.png" for key in IDS)


@odd(r"such as '007'; .*the names match with suffix = \"\.png\" on the card")
def no_suffix_on_the_card(layout):
    layout.card["files"]["suffix"] = '""'


@odd(r"no name has the suffix '\.png', the folder contains 8 others.*match with suffix = \"\.jpg\" on the card")
def another_suffix(layout):
    layout.rename(_of_train(lambda name: name.replace(".png", ".jpg")))


@odd(r"no image for 1 of 8.*have the suffix '\.jpg': set pattern = '\(\[\^/\]\+\)\(\?:\\\.jpg\|\\\.png\)'")
def another_suffix_of_one(layout):
    layout.rename(lambda name: name.replace("im02.png", "im02.jpg"))


@odd(r"'7' and '007' differ in zeros at the start")
def zeros_dropped_by_a_spreadsheet(layout):
    layout.train[5][0] = "7"


@odd(r"'IM00' and 'im00' differ in upper and lower case")
def ids_in_capitals(layout):
    layout.train[1][0] = "IM00"


@odd(r"'train/007' and '007' differ in folders before the name")
def ids_with_a_folder(layout):
    layout.train[1:] = [[f"train/{key}", text] for key, text in layout.train[1:]]


@odd(r"'5\.0' and '5' differ in '\.0' at the end, which a table of numbers adds")
def ids_as_numbers_with_a_point(layout):
    layout.rename(lambda name: name.replace("im05", "5"))
    layout.train[6][0] = "5.0"


@odd()
def masks_beside_images_by_their_suffix(layout):
    layout.masks_as_files(lambda key: f"train/{key}_mask.png")
    layout.card["files"] |= {"train_masks": '"train"', "mask_suffix": '"_mask.png"'}


@odd()
def images_beside_masks_by_their_suffix(layout):
    layout.rename(lambda name: name.replace(".png", "_img.png"))
    layout.masks_as_files(lambda key: f"train/{key}.png")
    layout.card["files"] |= {"train_masks": '"train"', "suffix": '"_img.png"'}


@odd(r"all 8 files as images and as masks.*separate them by suffix and mask_suffix")
def images_as_their_own_masks(layout):
    layout.masks_as_files(lambda key: f"train/{key}.png")
    layout.card["files"]["train_masks"] = '"train"'


@odd()
def hidden_files(layout):
    for part, key in (("train", "im00"), ("test", "te00")):
        names = (f"._{key}.png", ".DS_Store", "Thumbs.db", "desktop.ini", f"__MACOSX/{key}.png", ".hidden.png")
        layout.extra |= {f"{part}/{name}": b"\0\5\x16\7" for name in names}
    layout.card["files"]["suffix"] = '".png"'


@odd()
def hidden_files_below_a_pattern(layout):
    hidden_files(layout)
    layout.card["files"]["pattern"] = r"'(?:.*/)?([^/]+)\.png'"


@odd()
def hidden_files_where_ids_hold_the_suffix(layout):
    hidden_files(layout)
    ids_with_the_suffix_on_a_card_without(layout)


@odd()
def folders_that_are_links(layout):
    layout.rename(_of_train(lambda name: name.replace("train/", "elsewhere/" if "im0" in name else "train/site_a/")))
    layout.card["files"]["pattern"] = r"'(?:[^/]+/)?([^/]+)\.png'"

    def link(folder: Path) -> None:
        (folder / "train/site_b").symlink_to(os.path.relpath(folder / "elsewhere", folder / "train"))

    layout.after = link


@odd()
def a_link_to_the_folder_that_it_lies_in(layout):
    layout.card["files"]["pattern"] = r"'(?:.+/)?([^/]+)\.png'"
    layout.after = lambda folder: (folder / "train/again").symlink_to(".")


@odd()
def a_folder_called_as_an_image(layout):
    layout.extra["train/more.png/note.txt"] = b"none"


@odd(r"train: no image for 8 of 8.*8 are in the subfolder .*train/train/: set this folder on the card")
def a_folder_too_many(layout):
    layout.rename(_of_train(lambda name: name.replace("train/", "train/train/")))


@odd(r"the folder contains nothing")
def an_empty_folder(layout):
    layout.rename(_of_train(lambda name: name.replace("train/", "trian/")))
    layout.after = lambda folder: (folder / "train").mkdir()


@odd(r"train: no such folder")
def no_folder(layout):
    layout.rename(_of_train(lambda name: name.replace("train/", "trian/")))


@odd(r"no name has the pattern '\(\\d\{9\}\)\\\.png', the folder contains 8 others, such as '007\.png'")
def a_pattern_that_fits_nothing(layout):
    layout.card["files"]["pattern"] = r"'(\d{9})\.png'"


@odd(r"1 of 9 training images have no row in train\.csv, such as 'new\.png': on the card, images_without_rows = ")
def an_image_without_a_row(layout):
    layout.images["train/new.png"] = image_of(9)


@odd()  # which is not predicted, and reported
def a_test_image_without_a_row(layout):
    layout.images["test/new.png"] = image_of(9)


@odd(r"no image for 1 of 3 test ids in sample_submission\.csv, such as 'te00'; there are 2 with suffix '\.png'")
def a_test_row_without_an_image(layout):
    layout.images.pop("test/te00.png")


@odd(r"1 of 8 training images have no mask in masks, such as 'im01\.png': on the card, images_without_rows = \"empty\"")
def a_background_image_without_a_mask_file(layout):
    layout.masks_as_files(lambda key: f"masks/{key}.png")
    layout.images.pop("masks/im01.png")
    layout.card["files"]["train_masks"] = '"masks"'


@odd()
def a_background_image_without_a_mask_file_by_the_cards_word(layout):
    a_background_image_without_a_mask_file(layout)
    layout.card[""]["images_without_rows"] = '"empty"'
    layout.empty = ("im01",)


@odd()
def an_image_without_a_mask_file_that_is_ignored(layout):
    a_background_image_without_a_mask_file(layout)
    layout.card[""]["images_without_rows"] = '"ignore"'
    layout.ids = tuple(key for key in IDS if key != "im01")


@odd(r"no mask: .*masks: no name has the suffix '\.png'")
def no_mask_of_that_suffix(layout):
    layout.masks_as_files(lambda key: f"masks/{key}.bmp")
    layout.card["files"]["train_masks"] = '"masks"'


# --------------------------------------------------------------------------------------------------------- tables


def _encoded(layout: Layout, encode: Callable[[str], bytes], name: str = "train.csv") -> None:
    layout.encode = lambda each, text: encode(text) if each == name else text.encode()


@odd()
def byte_order_marks(layout):
    layout.encode = lambda name, text: b"\xef\xbb\xbf" + text.encode()


@odd()
def a_byte_order_mark_before_a_quoted_header(layout):
    _encoded(layout, lambda text: b"\xef\xbb\xbf" + text.replace("id,rle", '"id","rle"').encode())


@odd()
def lines_end_as_on_windows(layout):
    layout.encode = lambda name, text: text.replace("\n", "\r\n").encode()


@odd()
def lines_end_as_on_old_macs(layout):
    _encoded(layout, lambda text: text.replace("\n", "\r").encode())


@odd()
def no_line_break_at_the_end(layout):
    _encoded(layout, lambda text: text.rstrip("\n").encode())


@odd()
def rows_end_in_a_comma(layout):
    layout.train[1:] = [[*row, ""] for row in layout.train[1:]]


@odd()
def rows_and_header_end_in_commas(layout):
    layout.train = [[*row, "", ""] for row in layout.train]


@odd()
def some_rows_end_in_a_comma(layout):
    layout.train[4].append(" ")


@odd(r"train\.csv: line 5: 3 fields, the header has 2: a cell with a comma in it needs quotes")
def a_row_with_a_field_too_many(layout):
    layout.train[4].append("5 1")


@odd(r"train\.csv: line 9: 1 fields, the header has 2: is the file truncated")
def the_last_row_is_cut_off(layout):
    layout.train[8] = ["im0"]


@odd()
def blanks_in_the_header(layout):
    layout.train[0] = [" id ", "\trle"]


@odd()
def blanks_around_ids(layout):
    for row in (*layout.train[1:4], layout.sample[1]):
        row[0] = f" {row[0]}\u00a0"


@odd()
def blank_lines_and_rows_of_commas(layout):
    layout.train[3:3] = [[""], ["", ""], ["  ", " "]]
    layout.train += [["", ""], [""]]


@odd()
def every_cell_in_quotes(layout):
    layout.train = [[f'"{cell}"' for cell in row] for row in layout.train]


@odd()
def a_line_break_within_a_cell(layout):
    layout.train[3][1] = '"' + layout.train[3][1].replace(" ", "\n", 3).replace("\n", " ", 1) + '"'


@odd(r"train\.csv: not a CSV: line \d+: .*is a quote missing")
def a_quote_that_nothing_closes(layout):
    layout.train[3][1] = '"' + layout.train[3][1]


@odd()
def an_index_column_without_a_name(layout):
    layout.train = [["", *layout.train[0]], *([str(place), *row] for place, row in enumerate(layout.train[1:]))]


@odd(r"two columns are named 'rle'")
def a_column_that_is_there_twice(layout):
    layout.train = [[*row, "1 1"] for row in layout.train]
    layout.train[0][2] = " rle"


@odd()
def a_column_that_nobody_asked_for_twice(layout):
    layout.train = [[*row, "x", "y"] for row in layout.train]
    layout.train[0][2:] = ["age", "age"]


@odd(r"no column 'rle', it has: id, mask")
def a_column_of_another_name(layout):
    layout.train[0][1] = "mask"


@odd(r"its columns are separated by ';', save it with commas")
def semicolons(layout):
    _encoded(layout, lambda text: text.replace(",", ";").encode())


@odd(r"its columns are separated by '\\t', save it with commas")
def tabs(layout):
    _encoded(layout, lambda text: text.replace(",", "\t").encode())


@odd(r"train\.csv: no row is about a training image")
def a_header_alone(layout):
    layout.train = layout.train[:1]


@odd(r"train\.csv: not a CSV: it is empty")
def an_empty_table(layout):
    layout.train = []


@odd(r"line 1 has zero bytes")
def zero_bytes(layout):
    _encoded(layout, lambda text: text.encode().replace(b"id", b"i\0d", 1))


@odd(r"it is in UTF-16: save it as UTF-8")
def utf_16(layout):
    _encoded(layout, lambda text: text.encode("utf-16"))


@odd(r"it is not in UTF-8: save it as UTF-8")
def latin_1(layout):
    _encoded(layout, lambda text: text.encode("latin-1"))


@odd(r"it is a zip file: unpack it")
def a_zip_called_csv(layout):
    _encoded(layout, lambda text: b"PK\x03\x04\x14\0\0\0\xff\xff" + text.encode())


@odd(r"1000002 columns, expected at most 10000")
def a_million_columns(layout):
    layout.train = [[*layout.train[0], *map("c{}".format, range(1_000_000))], layout.train[1]]


@odd(r"line 4: 1 rows have no id")
def a_row_without_an_id(layout):
    layout.train[3][0] = " "


@odd(r"1 of 9 rows repeat an id, the first is 'im00' \(line 10\)")
def an_id_that_repeats_but_for_blanks(layout):
    layout.train.append(["im00 ", ""])


# Names of columns of the pipeline's tables that a competition's column may have too.
OWN = [
    "image_id",
    "path",
    "height",
    "width",
    "rle_void",
    "mask_path",
    "mask_paths",
    "line",
    "coverage",
    "coverage_disc",
    "coverage_x",
    "empty",
    "group",
    "box",
    "image",
    "fold",
    "part",
    "label",
    "score",
    "predicted",
    "suspicion",
    "said",
    "size",
    "confidence",
    "Index",
    "index",
    "count",
    "target",
    "probs",
    "mask",
]


@odd()
def more_columns_called_as_the_pipelines_own(layout):
    layout.train = [[*row, *([f"x{place}"] * len(OWN))] for place, row in enumerate(layout.train)]
    layout.train[0] = ["id", "rle", *OWN]


@odd()
def meta_columns_called_as_the_pipelines_own(layout):
    layout.card["files"]["train_meta"] = '"meta.csv"'
    layout.meta = [["id", *OWN, "rle"], *([key, *([f"x{key}"] * len(OWN)), "1 1"] for key in IDS)]


def grouped(layout, groups=GROUPS):
    layout.card["columns"]["group"] = '"patient"'
    layout.train = [[*row, group] for row, group in zip(layout.train, ("patient", *groups), strict=True)]


@odd()
def groups_with_blanks_around(layout):
    grouped(layout, ("a", "a ", "b", "\tb", "c", "c", "d", "d"))


@odd(r"no 'patient' \(columns\.group\) for 2 of 8 training images, the first is 'im05'")
def groups_that_are_blank(layout):
    grouped(layout, ("a", "a", "b", "b", "c", "", " ", "d"))


@odd(r"no 'patient' \(columns\.group\) for 2 of 8 training images, the first is 'im05'")
def groups_that_are_nan(layout):
    grouped(layout, ("a", "a", "b", "b", "c", "nan", "None", "d"))


@odd(r"no 'patient' \(columns\.group\) for 1 of 9 training images, the first is 'new'")
def an_image_without_a_row_hence_without_a_group(layout):
    grouped(layout)
    layout.images["train/new.png"] = image_of(9)
    layout.card[""]["images_without_rows"] = '"empty"'


@odd(r"the rows of image 'im00' have the patient 'a' and 'z': expected one")
def rows_of_one_image_in_two_groups(layout):
    grouped(layout)
    layout.card[""]["several_rows"] = "true"
    layout.train.append(["im00", "", "z"])


@odd()
def groups_in_a_column_called_path(layout):
    grouped(layout)
    layout.train[0][2] = "path"
    layout.card["columns"]["group"] = '"path"'


@odd()
def groups_in_a_meta_column_called_coverage(layout):
    layout.card["columns"]["group"] = '"coverage"'
    layout.card["files"]["train_meta"] = '"meta.csv"'
    layout.meta = [["id", "coverage"], *(list(pair) for pair in zip(IDS, GROUPS, strict=True))]


# --------------------------------------------------------------------------------------- empty masks, classes, samples


def _token(token: str, *, on_card: str | None = None) -> Callable[[Layout], None]:
    def change(layout: Layout) -> None:
        layout.train[1:] = [[key, text or token] for key, text in layout.train[1:]]
        if on_card is not None:
            layout.card["dialect"]["empty"] = f'"{on_card}"'

    return change


for _empty in ("-1", " -1", "0", "nan", "None", "[]", "-", "null", "1 0", "0 0"):
    _says = rf"if '{_empty.strip()}' stands for an empty mask, set \[dialect\] empty = \"{_empty.strip()}\"".replace(
        "[]", r"\[\]"
    )
    ODD[f"empty as {_empty!r}"] = Odd(_token(_empty), _says)
    if _empty.strip() != "0":
        ODD[f"empty as {_empty!r}, on the card"] = Odd(_token(_empty, on_card=_empty.strip()))


def _two_classes(layout, names, id_separator="_"):
    layout.card[""]["classes"] = str(list(names)).replace("'", '"')
    layout.card["columns"]["id_separator"] = f'"{id_separator}"'
    texts = [rle_of(mask_of(place)) for place in range(len(IDS))]
    layout.train[1:] = [
        [f"{key}{id_separator}{name}", text if name == names[0] else ""]
        for key, text in zip(IDS, texts, strict=True)
        for name in names
    ]
    layout.sample[1:] = [[f"{key}{id_separator}{name}", "1 1"] for key in TEST for name in names]


@odd()
def a_joint_within_the_names_of_classes(layout):
    _two_classes(layout, ("large_bowel", "bowel", "the_large_bowel"))


@odd(r"train\.csv: line 2, image 'im00': class '' is not on the card")
def an_id_without_a_class(layout):
    _two_classes(layout, ("large_bowel", "stomach"))
    layout.train[1][0] = "im00"


@odd(
    r"sample_submission\.csv: its header is id,height, rle, the card's is id,rle: "
    r"add to \[columns\] on the card: copied = \['height'\]"
)
def a_sample_with_more_columns(layout):
    layout.sample = [["id", "height", " rle"], *([key, "8", text] for key, text in layout.sample[1:])]


@odd(r"its header is id,EncodedPixels, the card's is id,rle: write the sample's names into \[columns\]")
def a_sample_of_other_columns(layout):
    layout.sample[0][1] = "EncodedPixels"


@odd()
def a_sample_with_blanks_in_its_header(layout):
    layout.sample[0] = ["id", " rle"]


@odd()
def a_sample_whose_columns_have_another_order(layout):
    layout.sample = [row[::-1] for row in layout.sample]


@odd()
def a_sample_of_a_header_alone(layout):
    layout.sample = layout.sample[:1]
    layout.images = {name: pixels for name, pixels in layout.images.items() if name.startswith("train/")}
    layout.after = lambda folder: (folder / "test").mkdir()


@odd()
def a_sample_of_a_header_alone_and_no_test_images(layout):
    a_sample_of_a_header_alone(layout)
    layout.after = lambda folder: None


@odd()
def one_training_image_and_one_test_image(layout):
    layout.ids = IDS[:1]
    layout.train, layout.sample = layout.train[:2], layout.sample[:2]
    layout.images = {f"train/{IDS[0]}.png": image_of(0), f"test/{TEST[0]}.png": image_of(100)}
