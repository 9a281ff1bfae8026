"""Every card, on a miniature of its competition: masks are read and submissions written as Kaggle defines them."""

import csv
import re
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from pipeline import competition, config, scoring, stages
from pipeline.data.index import read_index
from pipeline.data.integrity import survey_train
from pipeline.data.labels import VOID, Labels, resize_masks
from pipeline.data.reader import Reader
from pipeline.data.sample import samples_of
from pipeline.ensemble.combine import combine_by
from pipeline.ensemble.pooling import renderer_at
from pipeline.ensemble.renderer import Renderer
from pipeline.kaggle.mock_test_set import TRUNCATED, write_hidden
from pipeline.postprocess.shares import Place
from pipeline.rle import Dialect
from pipeline.serving.bundle_prediction import predict_test
from pipeline.stages.bundling import write_weights
from pipeline.stages.ensembling import load_members
from pipeline.stages.preparing import make_context
from pipeline.stages.submitting import check_csv
from pipeline.stages.training import settings
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
    rendered, shape = placed(layout, cfg, renderer), layout.scored or layout.shape
    keys = [(image_id, number) for image_id in map(layout.ids, (100, 101)) for number in range(layout.classes)]
    for (image_id, number), row in zip(keys, rows, strict=True):
        here, values = rendered[image_id]
        masks = here.masks(values)
        assert np.array_equal(layout.text.read(row[-1], shape), masks[number])


def placed(layout, cfg, renderer):
    """Of both test images the renderer, whose threshold may be a share of its volume, and the combined values."""
    (member,) = load_members([cfg])
    stores = member.test_stores()
    values = {
        image_id: renderer.combine_with(lambda weighting, image_id=image_id: combine_by(weighting, [stores], image_id))
        for image_id in map(layout.ids, (100, 101))
    }
    places = {image_id: Place(volume=member.card.volume_of(image_id)) for image_id in values}
    renderer_of = renderer_at(renderer, places, values.items())
    return {image_id: (renderer_of(image_id), values[image_id]) for image_id in values}


def assert_texts_are_the_objects(rows, layout, cfg, renderer: Renderer):
    """A row for each object, as the stored predictions give them, and one for an image without any."""
    for image_id, (here, values) in placed(layout, cfg, renderer).items():
        labels = here.labels(values)
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


def test_slices_of_a_kidney_are_one_group_and_two_rows_share_an_image(folder):
    write_miniature("blood-vessel-segmentation", Path("data"))
    card = competition.load("blood-vessel-segmentation")
    index = read_index(card, Path("data"), reader=Reader.of(config_of("blood-vessel-segmentation"), card))
    index = index.set_index("image_id")
    assert index.groupby("group").size().to_dict() == {"kidney_1": 5, "kidney_2": 3, "kidney_3": 4}
    assert index["path"]["kidney_3_dense_0001"] == index["path"]["kidney_3_sparse_0001"]
    assert index["empty"][["kidney_3_dense_0001", "kidney_3_sparse_0001"]].tolist() == ["no", "yes"]
    # The neighbours of its only row are images without a row of their own.
    names = [Path(path).parts[-3:] for path in index["sources"]["kidney_3_dense_0001"][1:4]]
    assert names == [("kidney_3_sparse", "images", f"{number:04}.tif") for number in range(3)]


SCORED = {  # rows of solution and submission, and the score by hand
    # F0.5 of 1, and with precision 1/2 and recall 1. Over all pixels together it would be .86.
    "vesuvius-challenge-ink-detection": (
        ["Id,Predicted", "a,1 8", "b,1 2"],
        ["Id,Predicted", "a,1 8", "b,1 4"],
        (1 + 1.25 * 1 / 2 / (1 / 4 * 1 / 2 + 1)) / 2,
    ),
    # The larger vessel is found, the other is missed.
    "blood-vessel-segmentation": (
        ["id,rle,height,width", "kidney_5_0000,1 12,4,4", "kidney_6_0000,6 1,4,4"],
        ["id,rle", "kidney_5_0000,1 12", "kidney_6_0000,1 0"],
        1 / 2,
    ),
}


@pytest.mark.parametrize("slug", SCORED)
def test_fragments_and_kidneys_count_alike(folder, slug):
    solution, submission, expected = SCORED[slug]
    Path("solution.csv").write_text("\n".join(solution) + "\n")
    Path("submission.csv").write_text("\n".join(submission) + "\n")
    assert scoring.score(card_of(slug), Path("submission.csv"), Path("solution.csv"))[0] == pytest.approx(expected)


def test_images_of_its_own_come_before_shared_ones(folder):
    write_miniature("blood-vessel-segmentation", Path("data"))
    own = Path("data/train/kidney_3_dense/images/0001.tif")
    own.parent.mkdir(parents=True)
    own.write_bytes(Path("data/train/kidney_2/images/0001.tif").read_bytes())
    index = read_index(competition.load("blood-vessel-segmentation"), Path("data")).set_index("image_id")
    assert index["path"]["kidney_3_dense_0001"] == own


def test_an_image_with_two_ids_needs_the_row_of_one(folder):
    write_miniature("blood-vessel-segmentation", Path("data"))
    table, card = Path("data/train_rles.csv"), competition.load("blood-vessel-segmentation")
    rows = table.read_text().splitlines(keepends=True)
    table.write_text("".join(row for row in rows if not row.startswith("kidney_3_sparse_0001")))
    assert "kidney_3_sparse_0001" not in set(read_index(card, Path("data"))["image_id"])
    table.write_text("".join(row for row in rows if not row.startswith(("kidney_3_sparse_0001", "kidney_3_dense"))))
    with pytest.raises(ValueError, match=r"1 of 11 training images have no row"):
        read_index(card, Path("data"))


def test_a_row_whose_shared_image_is_missing_is_named(folder):
    write_miniature("blood-vessel-segmentation", Path("data"))
    table = Path("data/train_rles.csv")
    table.write_text(table.read_text() + "kidney_3_dense_0099,1 0\n")
    card = competition.load("blood-vessel-segmentation")
    with pytest.raises(ValueError, match=r"no image for 1 of 13 training ids .*, such as 'kidney_3_dense_0099'"):
        read_index(card, Path("data"))
    assert any("kidney_3_dense_0099" in error for error in survey_train(card, Path("data"))[1])


def test_a_run_depends_on_whose_images_are_shared(folder):
    write_miniature("blood-vessel-segmentation", Path("data"))
    context = make_context(config_of("blood-vessel-segmentation"))
    assert settings(context)["shared_images"] == {"kidney_3_dense": "kidney_3_sparse"}
    files = context.card.files.model_copy(update={"shared_images": {}})  # as on cards of older runs
    assert "shared_images" not in settings(context._replace(card=context.card.model_copy(update={"files": files})))


@pytest.mark.parametrize(
    ("slug", "folds"), [("blood-vessel-segmentation", 3), ("hubmap-hacking-the-human-vasculature", 4)]
)
def test_few_groups_are_a_fold_each_by_default(folder, slug, folds):
    write_miniature(slug, Path("data"))
    config_of(slug)
    path = Path("configs/mini.toml")
    path.write_text(path.read_text().replace("[folds]\ncount = 2\n", ""))
    context = make_context(config.load(path))
    assert context.cfg.folds.count == folds
    groups = context.index.merge(context.folds, on="image_id").groupby("fold")["group"].nunique()
    assert groups.tolist() == [1] * folds
    with pytest.raises(ValueError, match=f"folds.count is 2, folds/{slug}.csv has {folds} folds"):
        make_context(config.load(path, ["folds.count=2"]))
    with pytest.raises(ValueError, match=rf"mini.toml: folds: only = \[4\]: expected numbers from 0 to {folds - 1}"):
        make_context(config.load(path, ["folds.only=[4]"]))


def test_masks_are_reduced_by_majority():
    mask = np.zeros((1, 4, 4), dtype=np.uint8)
    mask[0, :2, :2] = 1  # the whole first pixel
    mask[0, 2:, 2] = 1  # half of the last one
    assert resize_masks(mask, (2, 2), exclusive=False).tolist() == [[[1, 0], [0, 0]]]


def test_void_pixels_do_not_count_in_the_majority():
    mask = np.array([[[1, 0], [VOID, VOID]], [[1, VOID], [VOID, VOID]]], dtype=np.uint8)
    assert resize_masks(mask[:1], (1, 1), exclusive=False).tolist() == [[[0]]]  # one of two pixels
    assert resize_masks(mask[1:], (1, 1), exclusive=False).tolist() == [[[VOID]]]  # three of four are void
    mask[0, 0] = [1, 1]
    assert resize_masks(mask[:1], (1, 1), exclusive=False).tolist() == [[[1]]]


def test_of_exclusive_classes_the_largest_is_kept_without_a_majority():
    numbers = np.array([[1, 1, 2, 2], [1, 1, 2, 3]], dtype=np.uint8)
    masks = (numbers == np.arange(4)[:, None, None]).astype(np.uint8)
    assert resize_masks(masks, (1, 2), exclusive=True).argmax(axis=0).tolist() == [[1, 2]]
    assert resize_masks(masks, (1, 1), exclusive=True)[:, 0, 0].tolist() == [0, 1, 0, 0]  # 4 of 8 pixels
    assert resize_masks(np.full_like(masks, VOID), (1, 1), exclusive=True).tolist() == [[[VOID]]] * 4


@pytest.mark.parametrize("height", [2, 4, 8])
def test_masks_are_reduced_by_majority_along_one_axis(height):
    mask = np.tile(np.array([1, 0, 1, 0, 0, 1], dtype=np.uint8), (1, 4, 1))  # two of three columns, then one of three
    assert resize_masks(mask, (height, 2), exclusive=False).tolist() == [[[1, 0]] * height]
    assert resize_masks(mask.transpose(0, 2, 1), (2, height), exclusive=False).tolist() == [
        [[1] * height, [0] * height]
    ]


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
