"""The same objects in every label format give the same masks, objects, folds and training."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline import competition, config, folds, stages
from pipeline.cli import main
from pipeline.data.crops import crop_index
from pipeline.data.index import read_index
from pipeline.data.labels import VOID, Labels, resize_masks
from pipeline.data.sample import samples_of
from pipeline.demos.instances import draw_cell_image, rles_of_instances
from pipeline.demos.salt import TEST, TRAIN
from pipeline.doctor.label_pairs import check_label_sources
from pipeline.stages.doctor import doctor
from tests.conftest import CONFIG

ROWS, VALUES, FILES, RUNS, POLYGONS = "rows", "a label image", "a file each", "COCO's runs", "outlines"
LABELS = {
    ROWS: 'train_csv = "train.csv"',
    VALUES: 'train_masks = "masks"',
    FILES: "train_masks = \"masks\"\nmask_pattern = '([^/]+)/[^/]+'",
    RUNS: 'train_coco = "coco.json"',
    POLYGONS: 'train_polygons = "outlines.jsonl"',
}


def write(folder, kind, *, train=8, test=2, void=None, top="instances = true"):
    """Write a competition of cultures with cells in one label format; `void` is a rectangle in label images."""
    root, labels = folder / "data", {}
    for part, number in (("train", train), ("test", test)):
        (root / part).mkdir(parents=True)
        cultures = [draw_cell_image(0, {"train": TRAIN, "test": TEST}[part], each + 6) for each in range(number)]
        for culture in cultures:
            Image.fromarray(culture.image).save(root / part / f"{culture.image_id}.png")
        labels[part] = {culture.image_id: culture.labels for culture in cultures}
    for part, name in (("train", "train.csv"), ("test", "solution.csv")):
        rows = [f"{key},{text}" for key, each in labels[part].items() for text in rles_of_instances(each)]
        (root / name).write_text("\n".join(["id,rle", *rows]) + "\n")
    (root / "sample_submission.csv").write_text("\n".join(["id,rle", *(f"{key}," for key in labels["test"])]) + "\n")
    if void is not None:
        for each in labels["train"].values():
            each[void] = 65535
    WRITERS[kind](root, labels["train"])
    objects = "instances" in top and kind == VALUES
    masks = f"objects = {str(objects).lower()}\n" + ("" if objects or kind != VALUES else "above = 0\n")
    masks += "void = 65535\n" if void is not None else ""
    (folder / "card.toml").write_text(
        f'name = "cells"\ntitle = "Cells"\nclasses = ["cell"]\n{top}\nimages_without_rows = "empty"\n'
        f'metric = "{"dsb_precision" if "instances" in top else "mean_dice"}"\n[files]\ntrain_images = "train"\n'
        f'test_images = "test"\n{LABELS[kind]}\n[columns]\nid = "id"\nrle = "rle"\n[masks]\n{masks}'
    )
    return labels["train"]


def write_label_images(root, labels):
    (root / "masks").mkdir()
    for image_id, each in labels.items():
        Image.fromarray(each.astype(np.uint16)).save(root / "masks" / f"{image_id}.png")


def write_files(root, labels):
    for image_id, each in labels.items():
        for number in range(1, each.max() + 1):
            (root / "masks" / image_id).mkdir(parents=True, exist_ok=True)
            Image.fromarray((each == number).astype(np.uint8) * 255).save(
                root / "masks" / image_id / f"{number:02}.png"
            )


def write_coco(root, labels):
    size = {"height": 96, "width": 112}
    images = [{"id": number, "file_name": f"{key}.png", **size} for number, key in enumerate(labels)]
    found = {"images": images, "categories": [{"id": 1, "name": "cell"}], "annotations": []}
    for image, each in zip(images, labels.values(), strict=True):
        for number in range(1, each.max() + 1):
            flat = (each == number).ravel(order="F").astype(np.int8)
            changes = np.flatnonzero(np.diff(flat, prepend=0))
            counts = np.diff(changes, prepend=0, append=flat.size).tolist()
            runs = {"size": [96, 112], "counts": counts}
            found["annotations"].append({"image_id": image["id"], "category_id": 1, "segmentation": runs})
    (root / "coco.json").write_text(json.dumps(found))


def write_outlines(root, labels):
    """Exact outlines of a cell and of its holes, with every boundary pixel."""
    lines = []
    for image_id, each in labels.items():
        cells = []
        for number in range(1, each.max() + 1):
            mask = (each == number).astype(np.uint8)
            rings, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cells.append({"type": "cell", "coordinates": [ring[:, 0].tolist() for ring in rings]})
        lines.append(json.dumps({"id": image_id, "annotations": cells}))
    (root / "outlines.jsonl").write_text("\n".join(lines) + "\n")


WRITERS = {
    ROWS: lambda root, labels: None,
    VALUES: write_label_images,
    FILES: write_files,
    RUNS: write_coco,
    POLYGONS: write_outlines,
}


def numbered(labels):
    """Objects numbered by their first pixels."""
    values, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    order = np.argsort(np.argsort(np.where(values > 0, first, -1)))
    return np.where(labels > 0, order[inverse].reshape(labels.shape), 0)


@pytest.mark.parametrize("kind", LABELS)
def test_every_label_format_gives_the_same_masks_objects_boundaries_and_folds(kind, tmp_path):
    cells = write(tmp_path, kind)
    card = competition.load(str(tmp_path / "card.toml"))
    index = read_index(card, tmp_path / "data")
    assert index["coverage"].tolist() == [(cells[key] > 0).mean() for key in index["image_id"]]
    labels, with_borders = Labels.of(card), Labels.of(card, boundary=2.0)
    for sample in samples_of(index):
        true = cells[sample.image_id]
        assert np.array_equal(numbered(labels.read_instances(sample)), numbered(true))
        assert np.array_equal(labels.read(sample)[..., 0], true > 0)
        assert np.array_equal(with_borders.read(sample)[..., 0], true > 0)
        assert with_borders.read(sample)[..., 1].any() == (true.max() > 1)
        assert np.array_equal(labels.read_scored(sample)[0], true > 0)
    by_rows = tmp_path / "rows"
    write(by_rows, ROWS)
    other = read_index(competition.load(str(by_rows / "card.toml")), by_rows / "data")
    assert folds.index_digest(index) == folds.index_digest(other)  # what folds are made from


@pytest.mark.parametrize("kind", LABELS)
def test_windows_equal_those_of_the_whole_mask_in_every_label_format(kind, tmp_path):
    cells = write(tmp_path, kind, train=4, top="several_rows = true")
    card = competition.load(str(tmp_path / "card.toml"))
    index, labels = read_index(card, tmp_path / "data"), Labels.of(card)
    crops = crop_index(index, labels, config.Crops(size=40, stride=30))
    assert len(crops) > len(index)
    for sample, coverage in zip(samples_of(crops), crops["coverage"], strict=True):
        true = cells[sample.image_id][sample.box.slices] > 0
        assert np.array_equal(labels.read(sample)[..., 0], true)
        assert coverage == true.mean()


def test_void_is_not_counted_as_mask_in_a_window(tmp_path):
    write(tmp_path, VALUES, train=2, void=np.s_[:40, :40], top="")
    card = competition.load(str(tmp_path / "card.toml"))
    index, labels = read_index(card, tmp_path / "data"), Labels.of(card)
    crops = crop_index(index, labels, config.Crops(size=40, stride=40))
    corner = crops[crops["box"].map(lambda box: box[:2] == (0, 0))]
    assert (labels.read(samples_of(corner)[0]) == VOID).all()
    assert corner[["coverage", "empty"]].iloc[0].tolist() == [0, "yes"]


def test_a_resized_pixel_is_void_if_most_of_its_area_is_void():
    masks = np.array([[[255, 255, 1, 1], [255, 0, 1, 255]]], np.uint8)
    assert resize_masks(masks, (1, 2), exclusive=False).tolist() == [[[255, 1]]]


def test_crops_with_boundaries_between_objects_are_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, VALUES, train=2)
    (tmp_path / "cells.toml").write_text(
        'competition = "card.toml"\n[data]\nroot = "data"\nboundary = 2\ncrops = { size = 64 }\n[model]\nclasses = 2\n'
        'in_channels = 1\nencoder = "tu-test_efficientnet"\nweights = "none"\ndecoder_channels = [16, 16, 8, 8, 8]\n'
        "[[train.phases]]\nloss = { bce = 1.0 }\nepochs = 1\nlr = 1e-3\ncrop = 64\n"
    )
    with pytest.raises(
        ValueError, match=r"data\.crops reads masks by window, which does not support boundaries between objects"
    ):
        stages.check(config.load("cells.toml"))


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Label images with void, trained and submitted, as current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA", raising=False)
    cells = write(tmp_path, VALUES, void=np.s_[:30, :50])
    (tmp_path / "configs").mkdir()
    text = CONFIG.replace('"tiny.toml"', '"card.toml"').replace('root = "tiny"', 'root = "data"\nboundary = 2')
    text = text.replace("in_channels = 1", "in_channels = 1\nclasses = 2").replace("count = 3", "count = 2")
    text = text.replace("epochs = 2", "epochs = 1").replace("lr = 3e-3", "lr = 3e-3\nmix = { copy_paste = 0.5 }")
    (tmp_path / "configs/cells.toml").write_text(text)
    return cells


@pytest.mark.slow
def test_label_images_with_void_work_in_all_stages(trained, capsys):
    cfg = config.load("configs/cells.toml")
    assert not doctor(cfg).bad
    done = stages.ensemble([cfg])
    assert done.metric == "dsb_precision"
    assert 0 <= done.interval.mean <= 1
    assert main(["score", "card.toml", str(done.csv), "data/solution.csv"]) == 0
    assert "dsb_precision" in capsys.readouterr().out
    assert stages.report([cfg]).is_file()


def objects_found(folder):
    """The doctor's line on objects."""
    (folder / "cells.toml").write_text(
        'competition = "card.toml"\n[data]\nroot = "data"\n[model]\nencoder = "tu-test_efficientnet"\n'
        'weights = "none"\nin_channels = 1\n'
        "decoder_channels = [16, 16, 8, 8, 8]\n[[train.phases]]\nloss = { bce = 1.0 }\nepochs = 1\nlr = 1e-3\n"
    )
    (found,) = [each for each in doctor(config.load(folder / "cells.toml")).findings if each.check == "objects"]
    return found


@pytest.mark.slow
def test_the_doctor_counts_objects_and_warns_if_each_mask_is_one_object(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = write(tmp_path, VALUES)
    found = objects_found(tmp_path)
    counts = [each.max() for each in cells.values() if each.any()]
    assert (found.level, found.message) == ("good", f"{min(counts)} to {max(counts)} per image in 7 images with a mask")
    for image_id, each in cells.items():
        Image.fromarray((each > 0).astype(np.uint8)).save(tmp_path / "data/masks" / f"{image_id}.png")
    found = objects_found(tmp_path)
    assert found.level == "look"
    assert "rows, values or files hold one object each" in found.message


def test_a_folder_of_images_of_another_size_is_not_a_second_label_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = write(tmp_path, ROWS, top="several_rows = true")
    (tmp_path / "data/small").mkdir()
    for image_id in cells:
        Image.fromarray(np.zeros((9, 9), np.uint8)).save(tmp_path / "data/small" / f"{image_id}.png")
    card = competition.load("card.toml")
    assert check_label_sources(card, tmp_path / "data", read_index(card, tmp_path / "data")) == []
