"""Drafts are the same with the further files of real competitions: masks, metadata, regions, other annotators."""

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from pipeline import competition
from pipeline.card_draft.drafting import draft_card
from pipeline.card_draft.listing import list_files
from tests.card_drafts import compare
from tests.miniatures import Text, write_miniature
from tests.test_card_draft_layouts import write, write_csv

Masks = Mapping[str, np.ndarray]
SEEN_BY_HAND = {"classes", "dialect.empty"}  # keys that these files do not show either


def salt(root: Path, known: Masks) -> None:
    for image_id, masks in known.items():
        write(root / f"train/masks/{image_id}.png", masks[0] * 255)


def carvana(root: Path, known: Masks) -> None:
    for image_id, masks in known.items():
        write(root / f"train_masks/{image_id[:-4]}_mask.gif", masks[0] * 255)
    cars = sorted({image_id[:12] for image_id in known})
    write_csv(root / "metadata.csv", [("id", "year", "make"), *((car, "2000", "x") for car in cars)])


def nuclei(root: Path, known: Masks) -> None:
    for number, (image_id, masks) in enumerate(known.items()):
        for place, mask in enumerate(masks):
            write(root / f"stage1_train/{image_id}/masks/{number * 10 + place:064x}.png", mask * 255)


def ink(root: Path, known: Masks) -> None:
    region = np.full((32, 40), 255, np.uint8)
    for image_id, masks in known.items():
        write(root / f"train/{image_id}/mask.png", region)
        write(root / f"train/{image_id}/ir.png", masks[0] * 9 + np.arange(40, dtype=np.uint8))
        rows = [("Id", "Predicted"), (image_id, Text(order="row").write(masks[0]))]
        write_csv(root / f"train/{image_id}/inklabels_rle.csv", rows)
    for folder in (root / "test").iterdir():
        write(folder / "mask.png", region)


def contrails(root: Path, known: Masks) -> None:
    for image_id, masks in known.items():
        planes = np.repeat(masks[0][..., None, None], 3, axis=3).astype(np.int32)
        np.save(root / f"train/{image_id}/human_individual_masks.npy", planes)
    (root / "train_metadata.json").write_text(json.dumps([{"record_id": image_id} for image_id in known]))


def cells(root: Path, known: Masks) -> None:
    rows = list(csv.reader((root / "train.csv").read_text().splitlines()))[1:]
    more = [(image_id, text, "40", "32", "shsy5y", "s[x_1]") for image_id, text in rows]
    write_csv(root / "train.csv", [("id", "annotation", "width", "height", "cell_type", "sample_id"), *more])


def kidneys_in_3d(root: Path, known: Masks) -> None:
    for image_id, masks in known.items():
        volume, _, number = image_id.rpartition("_")
        write(root / f"train/{volume}/labels/{number}.tif", masks[0] * 255)


def kidneys(root: Path, known: Masks) -> None:
    for image_id in known:
        (root / f"train/{image_id}.json").write_text(json.dumps([{"type": "Feature", "geometry": {}}]))
        (root / f"train/{image_id}-anatomical-structure.json").write_text("[]")
    rows = [(f"{image_id}.tiff", "40", f"p{image_id[-1]}") for image_id in known]
    write_csv(root / "HuBMAP-20-dataset_information.csv", [("image_file", "width_pixels", "patient_number"), *rows])


def organs(root: Path, known: Masks) -> None:
    rows = list(csv.reader((root / "train.csv").read_text().splitlines()))[1:]
    more = [(image_id, organ, "HPA", "32", "40", "0.4", text, "37", "Male") for image_id, organ, text in rows]
    header = ("id", "organ", "data_source", "img_height", "img_width", "pixel_size", "rle", "age", "sex")
    write_csv(root / "train.csv", [header, *more])
    tests = [row[:6] for row in csv.reader((root / "test.csv").read_text().splitlines())]
    write_csv(root / "test.csv", [header[:6], *(((*row, "Hubmap", "32", "40", "0.4")) for row in tests[1:])])


def vessels(root: Path, known: Masks) -> None:
    write_csv(root / "wsi_meta.csv", [("source_wsi", "age", "sex"), ("1", "50", "F")])
    rows = [(image_id, str(number // 3), "1", "10", "20") for number, image_id in enumerate([*known, "none"])]
    write_csv(root / "tile_meta.csv", [("id", "source_wsi", "dataset", "i", "j"), *rows])


def scans(root: Path, known: Masks) -> None:
    """Images of several sizes, which are in their names, and a hidden test set."""
    sizes = ("266_266_1.50_1.50", "310_360_1.50_1.50", "234_234_1.63_1.63")
    for number, path in enumerate(sorted(root.glob("train/*/*/scans/*.png"))):
        path.rename(path.with_name(path.name.replace("40_32_1.50_1.50", sizes[number % 3])))
    write_csv(root / "sample_submission.csv", [("id", "class", "predicted")])
    shutil.rmtree(root / "test")


MORE: dict[str, Callable[[Path, Masks], None]] = {
    "tgs-salt-identification-challenge": salt,
    "carvana-image-masking-challenge": carvana,
    "data-science-bowl-2018": nuclei,
    "vesuvius-challenge-ink-detection": ink,
    "google-research-identify-contrails-reduce-global-warming": contrails,
    "sartorius-cell-instance-segmentation": cells,
    "blood-vessel-segmentation": kidneys_in_3d,
    "hubmap-kidney-segmentation": kidneys,
    "hubmap-organ-segmentation": organs,
    "hubmap-hacking-the-human-vasculature": vessels,
    "uw-madison-gi-tract-image-segmentation": scans,
}


@pytest.mark.parametrize("slug", MORE)
def test_further_files_change_no_key(tmp_path, slug):
    known = write_miniature(slug, tmp_path)
    (tmp_path / "solution.csv").unlink()
    MORE[slug](tmp_path, known)
    card = competition.load(slug)
    found = list(compare(draft_card(list_files(tmp_path), slug, card.metric), card, tmp_path))
    assert {key.name for key in found if not key.is_equal} <= SEEN_BY_HAND
    assert all(key.is_marked for key in found if not key.is_equal)


def test_a_table_of_depths_is_proposed_as_the_meta_table(tmp_path):
    slug = "tgs-salt-identification-challenge"
    known = write_miniature(slug, tmp_path)
    write_csv(tmp_path / "depths.csv", [("id", "z"), *((image_id, "100") for image_id in known)])
    draft = draft_card(list_files(tmp_path), slug, "tgs_precision")
    assert draft.value("files.train_meta") == "depths.csv"
    assert "files.train_meta" in [key.name for key in draft.unsure]
