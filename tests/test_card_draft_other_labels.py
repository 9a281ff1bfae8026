"""Labels in forms that are not read: the one line says which file, which form, and what to do."""

import json

import pytest

from pipeline.card_draft.drafting import draft_card
from pipeline.card_draft.listing import list_files
from tests.public_sets import blobs
from tests.test_card_draft_layouts import write

TO_COCO = "convert them to COCO's JSON, or to mask images with the names of the images"
PAIRS = "write each as pairs of a start and a length with blanks between, as '1 3 10 5'"
COCO = {"images": [{"id": 1, "file_name": "a_1.png"}], "categories": [{"id": 1, "name": "x"}]}
BOX = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}
FILES = {
    "train.csv": [
        ('image_id,rle\na_1,"1,3,10,5,20,2"\na_2,"4,3,10,5,20,2"\n', "runs with other separators", PAIRS),
        ("image_id,rle\na_1,1 3|10 5|20 2|\na_2,4 3|10 5|20 2|\n", "runs with other separators", PAIRS),
        ('image_id,rle\na_1,"[(1, 3), (10, 5)]"\na_2,"[(4, 3), (10, 5)]"\n', "lists of pairs", "if they are runs"),
        ("image_id,mask\na_1,iVBORw0KGgoAAAA\na_2,iVBORw0KGgoAAAB\n", "images in base64", "save each as a PNG"),
        ('ImageId,Wkt\na_1,"POLYGON ((0 1, 2 3, 4 5, 0 1))"\na_2,POLYGON EMPTY\n', "outlines of WKT", TO_COCO),
    ],
    "train.tsv": [("image_id\trle\na_1\t1 3\n", "tables with tabs", "save the table as CSV, with commas")],
    "labels/a_1.json": [
        ('{"features": {"xy": [{"wkt": "POLYGON ((1 2, 3 4, 5 6))"}]}}', "WKT in JSON", TO_COCO),
        ('{"type": "FeatureCollection", "features": [{"geometry": {"coordinates": []}}]}', "GeoJSON", TO_COCO),
    ],
    "labels/a_1.txt": [
        ("0 0.5 .25 1e-3 0.75 1 0\n" * 9, "outlines in YOLO's texts", TO_COCO),
        ("0 0.5 .25 1e-3 0.75\n" * 9, "boxes in YOLO's texts", "there is nothing to segment"),
    ],
    "train.json": [
        ('{"a_1": "1 3 10 5", "a_2": "4 3"}', "runs in JSON", "write them as a CSV"),
        (json.dumps(COCO | {"annotations": {"1": BOX}}), "annotations in an object", "write them as a list"),
        (json.dumps(COCO | {"annotations": [BOX]}), "without outlines", "there is nothing to segment"),
    ],
}


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in FILES.items() for case in cases])
def test_the_message_names_the_form_the_file_and_what_to_do(tmp_path, name, case):
    text, form, advice = case
    for number in range(1, 4):
        write(tmp_path / f"images/a_{number}.png", blobs(number)[0])
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="not read") as error:
        draft_card(list_files(tmp_path), "x")
    message = str(error.value)
    assert form in message
    assert name in message
    assert advice in message
    assert "\n" not in message


def test_a_line_of_numbers_that_ends_in_a_word_takes_no_time(tmp_path):
    """Such as those of oriented boxes; each of 40 numbers could once be read in four ways."""
    for number in range(1, 4):
        write(tmp_path / f"images/a_{number}.png", blobs(number)[0])
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/a_1.txt").write_text(f"0{' 1234.5' * 40} plane 0\n" * 9)
    with pytest.raises(ValueError, match="labels"):
        draft_card(list_files(tmp_path), "x")
