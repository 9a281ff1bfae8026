"""Every card, on a miniature of its competition: masks are read and submissions written as Kaggle defines them."""

import csv
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from pipeline import competition, config, scoring, stages
from pipeline.data.index import read_index
from pipeline.data.labels import Labels, resize_masks
from pipeline.data.sample import samples_of
from pipeline.ensemble.combine import combine
from pipeline.ensemble.renderer import Renderer
from pipeline.kaggle.mock_test_set import TRUNCATED, write_hidden
from pipeline.rle import Dialect
from pipeline.serving.bundle_prediction import predict_test
from pipeline.stages.bundling import write_weights
from pipeline.stages.ensembling import load_members
from pipeline.stages.submitting import check_csv
from tests.miniatures import LAYOUTS, write_miniature

pytestmark = pytest.mark.slow

DEMOS = {
    "demo",
    "camvid_demo",
    "defects_demo",
    "instances_demo",
    "large_demo",
    "volumes_demo",
    "bands_demo",
}  # have their own tests

CONFIG = """
competition = "{card}"

[data]
root = "data"

[folds]
count = 2

[model]
encoder = "tu-test_efficientnet"
weights = "none"
classes = {classes}
decoder_channels = [8, 8, 8, 8, 8]

[train]
batch_size = 4
precision = "float32"

[[train.phases]]
loss = {{ bce = 1.0, dice = 1.0 }}
epochs = 1
lr = 3e-3

[[train.phases]]
loss = {{ lovasz = 1.0, bce = 0.5 }}
epochs = 1
lr = 1e-3

[predict]
views = ["identity"]
"""


def card_of(slug):
    return competition.load(slug.partition(",")[0])


def config_of(slug):
    """The config of a miniature, which is also written to disk."""
    layout = LAYOUTS[slug]
    Path("configs").mkdir()
    channels = layout.classes + ("data.boundary" in layout.config)
    Path("configs/mini.toml").write_text(CONFIG.format(card=card_of(slug).name, classes=channels))
    return config.load("configs/mini.toml", [f"{key}={value}" for key, value in layout.config.items()])


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DATA", raising=False)
    return tmp_path


@pytest.mark.parametrize("slug", LAYOUTS)
def test_masks_read_from_each_layout_equal_the_generated_ones(folder, slug):
    known, card = write_miniature(slug, Path("data")), card_of(slug)
    index = read_index(card, Path("data"))
    assert set(index["image_id"]) == set(known)
    for row, sample in zip(index.itertuples(), samples_of(index), strict=True):
        masks = known[row.image_id]
        if card.instances:
            assert np.array_equal(Labels.of(card).read_instances(sample), numbered(masks))
            masks = masks.max(axis=0, keepdims=True)
        assert np.array_equal(Labels.of(card).read(sample), masks.transpose(1, 2, 0))
        assert row.empty == ("no" if known[row.image_id].any() else "yes")
        assert 0 <= row.coverage <= 1


@pytest.mark.parametrize("slug", LAYOUTS)
def test_each_card_trains_bundles_and_submits(folder, slug):
    layout, card = LAYOUTS[slug], card_of(slug)
    write_miniature(slug, Path("data"), test=2)
    cfg = config_of(slug)
    done = stages.ensemble([cfg])
    header, *rows = csv.reader(done.csv.read_text().splitlines())
    sample = list(csv.reader((Path("data") / layout.sample).read_text().splitlines()))
    assert header == sample[0]
    if card.instances:
        assert_texts_are_the_objects(separated(rows) if layout.cells else rows, layout, cfg, done.selection.renderer)
    else:
        assert [row[:-1] for row in rows] == [row[:-1] for row in sample[1:]]
        assert_texts_are_the_masks(rows, layout, cfg, done.selection.renderer)
    assert 0 <= scoring.score(card, done.csv, Path("data/solution.csv"))[0] <= 1
    assert scoring.score(card, Path("data/solution.csv"), Path("data/solution.csv"))[0] == pytest.approx(1)
    assert_a_bundle_does_the_same(cfg, done)


def assert_a_bundle_does_the_same(cfg, done):
    """A bundle writes the ensemble's CSV for the same images, and a valid CSV for unknown images."""
    bundle = write_weights(Path("bundle"), load_members([cfg]), done)
    predict_test(bundle, Path("data"), Path("bundled.csv"))
    assert Path("bundled.csv").read_text() == done.csv.read_text()
    images = write_hidden(bundle.card, Path("data"), Path("hidden"))
    predicted = predict_test(bundle, Path("hidden"), Path("hidden.csv"))
    check_csv(Path("hidden.csv"), bundle.card, Path("hidden"))
    assert len(predicted.problems) == (images > TRUNCATED), predicted.problems


def separated(rows):
    """A row for each object: of cells of its class, confidence and text; blank for an image without one."""
    found = []
    for image_id, *_, cell in rows:
        words = cell.split()
        assert set(words[::3]) <= {"0"}
        assert all(0 < float(word) <= 1 for word in words[1::3])
        found += [(image_id, text) for text in words[2::3]] or [(image_id, "")]
    return found


def numbered(masks):
    """Objects with consecutive numbers from 1."""
    there = masks[masks.any(axis=(1, 2))]
    return (there * np.arange(1, len(there) + 1)[:, None, None]).sum(axis=0)


def assert_texts_are_the_masks(rows, layout, cfg, renderer: Renderer):
    """The texts of the CSV, decoded by plain loops, are the masks of the stored predictions."""
    (member,) = load_members([cfg])
    stores = member.test_stores()
    shape = layout.scored or layout.shape
    keys = [(image_id, number) for image_id in map(layout.ids, (100, 101)) for number in range(layout.classes)]
    for (image_id, number), row in zip(keys, rows, strict=True):
        masks = renderer.masks(combined_values(renderer, stores, image_id))
        assert np.array_equal(layout.text.read(row[-1], shape), masks[number])


def combined_values(renderer, stores, image_id):
    return renderer.combine_with(lambda name, weights: combine([stores], image_id, name, np.array(weights)))


def assert_texts_are_the_objects(rows, layout, cfg, renderer: Renderer):
    """A row for each object, as the stored predictions give them, and one for an image without any."""
    (member,) = load_members([cfg])
    stores = member.test_stores()
    for image_id in map(layout.ids, (100, 101)):
        labels = renderer.labels(combined_values(renderer, stores, image_id))
        texts = [text for key, text in rows if key == image_id]
        found = sum(place * layout.text.read(text, layout.shape) for place, text in enumerate(texts, start=1))
        assert np.array_equal(found, labels)
        assert len(texts) == max(1, labels.max())
    assert list(dict.fromkeys(row[0] for row in rows)) == [layout.ids(100), layout.ids(101)]


def test_every_shipped_card_has_a_miniature():
    tried = {slug.partition(",")[0] for slug in LAYOUTS} | DEMOS | {"nuclei", "nuclei_instances", "heart"}
    assert tried == set(competition.known_cards())


def test_group_pattern_gives_the_group_of_each_image(folder):
    write_miniature("carvana-image-masking-challenge", Path("data"))
    index = read_index(competition.load("carvana-image-masking-challenge"), Path("data"))
    assert index.groupby("group").size().tolist() == [4, 4, 4]


def test_masks_are_reduced_by_majority():
    mask = np.zeros((1, 4, 4), dtype=np.uint8)
    mask[0, :2, :2] = 1  # the whole first pixel
    mask[0, 2:, 2] = 1  # half of the last one
    assert resize_masks(mask, (2, 2)).tolist() == [[[1, 0], [0, 0]]]


@pytest.mark.parametrize("height", [2, 4, 8])
def test_masks_are_reduced_by_majority_along_one_axis(height):
    mask = np.tile(np.array([1, 0, 1, 0, 0, 1], dtype=np.uint8), (1, 4, 1))  # two of three columns, then one of three
    assert resize_masks(mask, (height, 2)).tolist() == [[[1, 0]] * height]
    assert resize_masks(mask.transpose(0, 2, 1), (2, height)).tolist() == [[[1] * height, [0] * height]]


@pytest.mark.parametrize("slug", LAYOUTS)
def test_the_doctor_reports_no_error_in_a_correct_layout(folder, slug):
    write_miniature(slug, Path("data"))
    assert [finding for finding in stages.doctor(config_of(slug)).findings if finding.level == "bad"] == []


TEMPLATE = Path(__file__).parent.parent / "docs" / "card.toml"


def test_the_template_is_a_valid_card_and_contains_every_key():
    assert competition.load(str(TEMPLATE)).name == "my-competition"
    shown, table = {"": set()}, ""
    for line in TEMPLATE.read_text().splitlines():
        if header := re.match(r"(?:# )?\[+([a-z_]+)\]+", line):
            table = header[1]
            shown.setdefault(table, set())
        elif key := re.match(r"(?:# )?([a-z_]+) = ", line):
            shown[table].add(key[1])
    tables = {"files", "columns", "train_columns", "masks", "dialect", "leaderboard"}
    known = {
        "": competition.Competition.model_fields.keys() - tables - {"generated"},
        "files": competition.Files.model_fields.keys(),
        "columns": competition.Columns.model_fields.keys() - {"label"} | {"class"},
        "masks": competition.Masks.model_fields.keys(),
        "dialect": {each.name for each in fields(Dialect)},
        "leaderboard": competition.Leaderboard.model_fields.keys(),
    }
    assert {name: keys for name, keys in shown.items() if name in known} == known
