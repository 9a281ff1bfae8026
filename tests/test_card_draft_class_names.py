"""Names of classes are found in the files of public sets that name the values or colours of mask images."""

import json

import pytest

from pipeline.card_draft.class_names import find_class_names
from pipeline.card_draft.listing import list_files
from pipeline.card_draft.tables import read_tables

VALUES = {0: "background", 1: "crack", 2: "spall"}
COLOURS = {(0, 0, 0): "background", (128, 64, 0): "crack", (0, 0, 255): "spall"}
FILES = {
    "values.csv": ("Pixel Value, Class\n0, background\n1, crack\n2, spall\n", VALUES),
    "index.csv": ("Idx,Ratio,Name\n0,0.5,background\n1,0.3,crack\n2,0.2,spall\n", VALUES),
    "rgb.csv": ("name,r,g,b\nbackground,0,0,0\ncrack,128,64,0\nspall,0,0,255\n", COLOURS),
    "blanks.csv": ("name, r, g, b\nbackground, 0, 0, 0\ncrack, 128, 64, 0\nspall, 0, 0, 255\n", COLOURS),
    "red.csv": ("class_name,red,green,blue\nbackground,0,0,0\ncrack,128,64,0\nspall,0,0,255\n", COLOURS),
    "hex.csv": ("label,color\nbackground,#000000\ncrack,#804000\nspall,#0000ff\n", COLOURS),
    "lists.csv": ('id,class,rgb\n0,background,"[0, 0, 0]"\n1,crack,"[128, 64, 0]"\n2,spall,"[0, 0, 255]"\n', COLOURS),
    "tabs.txt": ("0\tbackground\n1\tcrack\n2\tspall\n", VALUES),
    "colons.txt": ("0: background\n1: crack\n2: spall\n", VALUES),
    "after.txt": ("background 0 0 0\ncrack 128 64 0\nspall 0 0 255\n", COLOURS),
    "labelmap.txt": (
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncrack:128,64,0::\nspall:0,0,255::\n",
        COLOURS,
    ),
    "both.txt": ("0 background 0 0 0\n1 crack 128 64 0\n2 spall 0 0 255\n", VALUES),
    "by_value.json": (json.dumps({"0": "background", "1": "crack", "2": "spall"}), VALUES),
    "by_name.json": (json.dumps({"labels": {"background": 0, "crack": 1, "spall": 2}, "numTraining": 12}), VALUES),
    "by_hex.json": (json.dumps({"#000000": "background", "#804000": "crack", "#0000ff": "spall"}), COLOURS),
    "coco.json": (json.dumps({"categories": [{"id": n, "name": name} for n, name in VALUES.items()]}), VALUES),
    "titles.json": (json.dumps({"classes": [{"title": n, "color": list(c)} for c, n in COLOURS.items()]}), COLOURS),
}
LISTS = {
    "codes.txt": "background\ncrack\nspall\n",
    "labels.txt": "__ignore__\nbackground\ncrack\nspall\n",
    "classes.json": json.dumps(["background", "crack", "spall"]),
}


def found_in(folder, name, text):
    (folder / "images").mkdir()
    (folder / "images/crack_1.png").touch()
    (folder / name).write_text(text)
    listing = list_files(folder)
    return find_class_names(listing, read_tables(listing)[0])


@pytest.mark.parametrize("name", FILES)
def test_a_file_names_values_or_colours(tmp_path, name):
    text, expected = FILES[name]
    first, *_ = found_in(tmp_path, name, text)
    assert (first.file, dict(first.by_value), first.is_sure) == (name, expected, True)


@pytest.mark.parametrize("name", LISTS)
def test_names_alone_are_those_of_values_from_0_and_a_guess(tmp_path, name):
    (found,) = found_in(tmp_path, name, LISTS[name])
    assert (dict(found.by_value), found.is_sure) == (VALUES, False)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.txt", "crack_1\ncrack_2\n"),  # names of images, in a file that is not named as a list of classes
        ("labels.csv", "id,name\n0,crack_1.png\n1,crack_2.png\n"),
        ("labels.csv", "id,class\n0,crack\n1,crack\n2,spall\n"),  # a class for each image
        ("readme.txt", "3 images\nof 4 cracks\n"),
        ("classes.txt", "1\n2\n3\n"),
        ("mask.txt", f"{'01' * 4000} 1\n"),  # pixels as text
    ],
)
def test_files_of_other_things_name_no_classes(tmp_path, name, text):
    assert not [each for each in found_in(tmp_path, name, text) if each.cover([0, 1])]
