"""Extra training images: drawn at a ratio in named phases, never validated on, and left out where they leak."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from pipeline import config, rle, stages
from pipeline.cli import main
from pipeline.data import mask_files, windows
from pipeline.data.sample import samples_of
from pipeline.data.unpacked import unpacking
from pipeline.inference.prediction_store import PredictionStore
from pipeline.serving.bundle_prediction import predict_test
from pipeline.stages import training
from pipeline.stages.bundling import write_weights
from pipeline.stages.ensembling import load_members
from pipeline.stages.training import settings
from pipeline.training.checkpoint import FULL
from pipeline.training.distributed import processes
from pipeline.training.fold_data import build_loader
from tests.conftest import draw

TABLE = "\n[[data.extra]]\n"
FOLDER = Path("older")


def write_older(count=6, copies=(), folder=FOLDER):
    """Another competition in the tiny one's layout: images of its own, and brighter copies of the tiny one's.

    Args:
        copies: paths below tiny/, without the suffix, whose last part is the id.
    """
    (folder / "train/images").mkdir(parents=True, exist_ok=True)
    rng, rows = np.random.default_rng(9), ["id,rle_mask"]
    for number in range(count):
        image, mask = draw(rng, 36, 44, empty=False)
        Image.fromarray(image).save(folder / f"train/images/e{number}.png")
        rows.append(f"e{number},{rle.encode(mask)}")
    for path in copies:
        pixels = np.asarray(Image.open(f"tiny/{path}.png")).astype(float)
        copy_id = "-".join(Path(path).parts[::2])
        Image.fromarray((pixels * 0.8 + 30).clip(0, 255).astype(np.uint8)).save(folder / f"train/images/{copy_id}.png")
        rows.append(f"{copy_id},1 1")
    (folder / "train.csv").write_text("\n".join(rows) + "\n")


@pytest.fixture
def extend(tiny):
    """Add a [[data.extra]] with these lines to the tiny config, and read it."""

    def add(*lines, sets=()):
        path = Path("configs/tiny.toml")
        path.write_text(path.read_text() + TABLE + "\n".join(lines) + "\n")
        return config.load(path, sets)

    return add


def fold_data_of(context, monkeypatch):
    """The data that each fold, and the full fit, would be trained on."""
    found = {}
    monkeypatch.setattr(training, "fit", lambda job: found.update({job.fold: job.data}))
    for fold in context.fold_numbers():
        training._fit(context, fold, *stages.training.folds.hold_out(context.index, context.folds, fold))
    training._fit(context, FULL, context.index, None)
    return found


def test_extra_images_are_drawn_at_their_ratio_in_the_named_phases(extend, monkeypatch):
    write_older()
    cfg = extend('root = "older"', "ratio = 0.75", "phases = [2]")
    data = fold_data_of(stages.make_context(cfg), monkeypatch)[0]
    for phase, expected in ((1, 0), (2, 9)):  # of 12 training images
        loader = build_loader(data, cfg.train, phase, 5, processes())
        drawn = [position - 12 for position, _ in loader.sampler]
        assert sum(position >= 0 for position in drawn) == expected
        assert len(drawn) == 12 + expected
    assert sorted(np.bincount([position for position in drawn if position >= 0])) == [1, 1, 1, 2, 2, 2]
    samples = loader.dataset.samples
    assert {sample.path.parent for sample in samples[:12]} == {Path("tiny/train/images")}
    assert {sample.path.parent for sample in samples[12:]} == {Path("older/train/images")}
    mask = loader.dataset[12, 0][1]
    assert mask.any(), "every extra image has a disc"


def test_two_extra_sets_follow_each_other_and_do_not_change_other_draws(extend, monkeypatch):
    write_older()
    write_older(4, folder=Path("oldest"))
    alone = extend('root = "older"')
    both = extend('root = "oldest"', "ratio = 0.25")
    draws = []
    for cfg in (alone, both):
        data = fold_data_of(stages.make_context(cfg), monkeypatch)[0]
        draws.append(list(build_loader(data, cfg.train, 1, 5, processes()).sampler))
    without = [draw for draw in draws[1] if draw[0] < 18]
    assert without == draws[0]
    assert sum(position >= 18 for position, _ in draws[1]) == 3
    assert len(draws[1]) == 12 + 6 + 3


def test_copies_of_held_out_images_are_left_out_of_exactly_that_fold_and_of_test_images_everywhere(
    extend, monkeypatch, caplog
):
    stages.make_context(config.load("configs/tiny.toml"))
    fold_of = pd.read_csv("folds/tiny.csv", dtype={"image_id": str}).set_index("image_id")["fold"]
    sources = [fold_of.index[fold_of == fold][0] for fold in range(3)] + [fold_of.index[fold_of == 1][1]]
    test_id = sorted(Path("tiny/test/images").iterdir())[2].stem
    write_older(3, [*(f"train/images/{each}" for each in sources), f"test/images/{test_id}"])
    context = stages.make_context(extend('root = "older"'))
    with caplog.at_level("INFO"):
        found = fold_data_of(context, monkeypatch)
    own = {"e0", "e1", "e2"}
    copies = {f"train-{image_id}": fold_of[image_id] for image_id in sources}
    for fold, data in found.items():
        expected = own | {copy for copy, held_out in copies.items() if held_out != fold}
        assert set(data.extra[0].index["image_id"]) == expected
    assert [len(found[fold].extra[0].index) for fold in (0, 1, 2, FULL)] == [6, 5, 6, 7]
    assert "fold 1: data.extra.0: 5 of 8 images; left out are 1 near-duplicates of test images and 2 of held-out" in (
        caplog.text
    )


def test_masks_of_extra_images_are_decoded_once_for_all_windows(extend, monkeypatch):
    write_older()
    Path("older/train/masks").mkdir()
    for row in Path("older/train.csv").read_text().splitlines()[1:]:
        image_id, _, text = row.partition(",")
        mask = rle.decode(text, (36, 44)) * np.uint8(255)
        Image.fromarray(mask).save(f"older/train/masks/{image_id}.png")
    card = Path("tiny.toml").read_text()
    Path("older.toml").write_text(card.replace('train_csv = "train.csv"', 'train_masks = "train/masks"'))
    sets = ["data.crops.size=24", "data.crops.stride=12", "train.phases.0.crop=16", "train.phases.1.crop=16"]
    context = stages.make_context(extend('competition = "older.toml"', 'root = "older"', sets=sets))
    decoded, original = [], mask_files.read_raster
    for module in (mask_files, windows):
        monkeypatch.setattr(module, "read_raster", lambda path, **rest: decoded.append(path) or original(path, **rest))
    with unpacking() as unpacked:
        extra = fold_data_of(context._replace(unpacked=unpacked), monkeypatch)[0].extra[0]
        masks = [extra.labels.read(sample) for sample in samples_of(extra.index)]
    assert len(masks) == 6 * 2 * 3
    assert sorted(decoded) == sorted(Path("older/train/masks").iterdir()), "each file once, in all folds"
    assert [(mask == 1).mean() for mask in masks] == extra.index["coverage"].tolist()


def test_audit_counts_the_extra_images_that_are_left_out(extend, capsys):
    main(["folds", "configs/tiny.toml"])
    fold_of = pd.read_csv("folds/tiny.csv", dtype={"image_id": str}).set_index("image_id")["fold"]
    write_older(3, [f"train/images/{fold_of.index[fold_of == 2][0]}"])
    extend('root = "older"')
    capsys.readouterr()
    assert main(["audit", "configs/tiny.toml"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"set +images +near-duplicates of +number", said)
    counted = re.findall(r"data\.extra\.0 +4 +(.+?) +(\d+)\n", said)
    assert counted == [("test images", "0"), ("fold 0", "0"), ("fold 1", "0"), ("fold 2", "1")]
    assert len(list(Path("folds").glob("tiny.extra-*.csv"))) == 1


def test_other_extra_images_are_searched_again_and_the_same_ones_are_not(extend, monkeypatch):
    write_older()
    cfg = extend('root = "older"')
    searched = []
    original = stages.extra_sets.find_duplicates
    monkeypatch.setattr(stages.extra_sets, "find_duplicates", lambda *args: (searched.append(1), original(*args))[1])
    for _ in range(2):
        stages.make_context(cfg)
    assert len(searched) == 1
    write_older(7)
    stages.make_context(cfg)
    assert len(searched) == 2


def test_near_duplicates_are_those_of_the_files_and_not_of_their_names(extend):
    # The same ids and sizes as in the folder that was searched first, but e1 is a copy of a training image.
    write_older()
    shutil.copytree("older", "oldest")
    source = sorted(Path("tiny/train/images").iterdir())[4]
    shutil.copyfile(source, "oldest/train/images/e1.png")
    cfg = extend('root = "older"')
    found = [
        stages.make_context(config.load("configs/tiny.toml", [f"data.extra.0.root={folder}"])).extra.duplicates
        for folder in ("older", "oldest")
    ]
    assert found[0].empty
    assert found[1][["first", "second"]].to_numpy().tolist() == [[source.stem, "e1"]]
    assert len(list(Path("folds").glob("tiny.extra-*.csv"))) == 2
    shutil.copytree("tiny", "moved/tiny", copy_function=shutil.copyfile)  # with other times of change
    shutil.rmtree("runs", ignore_errors=True)
    stages.make_context(config.load("configs/tiny.toml", ["data.root=moved/tiny"]))
    assert len(list(Path("folds").glob("tiny.extra-*.csv"))) == 2, "a copy of the files needs no new search"
    for option in ("data.exif=false", "data.nodata=zero"):
        before = set(Path("folds").iterdir())
        stages.make_context(config.load(cfg.file, [option]))
        (path,) = set(Path("folds").iterdir()) - before
        assert path.match("tiny.extra-*.csv"), f"{option} changes what the search sees"


@pytest.mark.slow
def test_extra_images_are_never_validated_or_predicted(extend, monkeypatch):
    write_older()
    cfg = extend('root = "older"', "ratio = 1.0")
    validated, original = [], training.fit

    def spy(job):
        validated.extend(job.data.valid_index["path"])
        assert len(job.data.extra[0].index) == 6
        original(job)

    monkeypatch.setattr(training, "fit", spy)
    stages.predict(cfg)
    own = {path.stem for path in Path("tiny/train/images").iterdir()}
    assert {path.parent for path in validated} == {Path("tiny/train/images")}
    assert {path.stem for path in validated} == own
    stored = [
        PredictionStore(Path(f"runs/tiny/fold{fold}") / part).ids() for fold in range(3) for part in ("oof", "test")
    ]
    assert set().union(*stored[::2]) == own
    assert stored[1] == {path.stem for path in Path("tiny/test/images").iterdir()}


@pytest.mark.slow
def test_an_extra_set_reaches_a_submission_that_the_bundle_repeats(extend):
    write_older()
    cfgs = [extend('root = "older"', sets=["train.phases.0.repeats=6"])]
    done = stages.ensemble(cfgs)
    bundle = write_weights(Path("bundle"), load_members(cfgs), done)
    shutil.rmtree("older")
    predicted = predict_test(bundle, Path("tiny"), Path("working/submission.csv"))
    by_ensemble, by_bundle = (pd.read_csv(path, dtype=str, keep_default_na=False) for path in (done.csv, predicted.csv))
    assert by_ensemble.equals(by_bundle)
    assert by_ensemble["rle_mask"].nunique() > 2, "masks differ, or equality says nothing"


def test_a_table_of_predicted_masks_labels_a_folder_of_other_images(extend, monkeypatch):
    # In the columns of a submission, although the training table has others; images without a row are left out.
    write_older()
    shutil.move("older/train/images", "tiny/unlabelled")
    Path("tiny/theirs.csv").write_text("id,rle_mask\ne1,1 9\ne4,\n")
    card = Path("tiny.toml")
    card.write_text(card.read_text() + '[[train_columns]]\nid = "id"\nrle = "annotation"\ngroup = "well"\n')
    table = Path("tiny/train.csv")
    rows = table.read_text().replace("id,rle_mask", "id,annotation,well").splitlines()
    table.write_text("\n".join([rows[0], *(f"{row},{number}" for number, row in enumerate(rows[1:]))]) + "\n")
    context = stages.make_context(extend('images = "unlabelled"', 'csv = "theirs.csv"'))
    data = fold_data_of(context, monkeypatch)[0].extra[0]
    assert data.index["image_id"].tolist() == ["e1", "e4"]
    assert data.index["coverage"].tolist() == pytest.approx([9 / 36 / 44, 0])


def test_a_soft_extra_set_makes_all_targets_floats(extend, monkeypatch):
    write_older()
    rows = Path("older/train.csv").read_text().splitlines()
    Path("older/train.csv").write_text("\n".join([*rows, "e0,", "e0,", "e0,"]) + "\n")
    Path("older.toml").write_text(Path("tiny.toml").read_text().replace("[files]", 'annotators = "mean"\n[files]'))
    with pytest.raises(ValueError, match=r"train\.phases\.1\.loss: loss 'lovasz' is defined for masks of 0 and 1"):
        stages.make_context(extend('competition = "older.toml"', 'root = "older"'))
    text = Path("configs/tiny.toml").read_text().replace("lovasz", "jaccard")
    Path("configs/tiny.toml").write_text(text)
    cfg = config.load("configs/tiny.toml", ["train.phases.0.augment=none"])
    data = fold_data_of(stages.make_context(cfg), monkeypatch)[0]
    images = build_loader(data, cfg.train, 1, 5, processes()).dataset
    assert images[12, 0][1].unique().tolist() == [0, 0.25]
    assert images[0, 0][1].dtype == torch.float32
    assert build_loader(data, cfg.train, 2, 5, processes()).dataset[0, 0][1].dtype == torch.float32, "in every phase"


def test_extra_images_need_no_group_and_a_place_in_a_series_only_for_neighbours(extend, edit, capsys):
    # Ids of tiny are four digits; those of the extra images, such as e0, fit none of these patterns.
    write_older()
    edit("tiny.toml", "[files]", "volume_pattern = '(\\d\\d)(\\d\\d)'\ngroup_pattern = '0(\\d)'\n[files]")
    context = stages.make_context(extend('root = "older"'))
    assert context.index["group"].nunique() < len(context.index)
    (extra,) = context.extra.sets
    assert extra.index["image_id"].tolist() == [f"e{number}" for number in range(6)]
    assert "group" not in extra.index
    edit("configs/tiny.toml", "[data]", "[data]\nneighbours = 1")
    edit("configs/tiny.toml", "in_channels = 1\n", "")
    assert main(["train", "configs/tiny.toml", "--fold", "0"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(r"data\.extra\.0: card tiny: volume_pattern '.*' does not match the id 'e0'", said), said


# Bad input.


def other_card(old, new):
    Path("older.toml").write_text(Path("tiny.toml").read_text().replace(old, new))


def no_rows():
    Path("older/train.csv").write_text("id,rle_mask\n")


@pytest.mark.parametrize(
    ("prepare", "lines", "message"),
    [
        (no_rows, ['root = "older"'], r"data\.extra\.0: older/train\.csv: no row is about a training image"),
        (
            lambda: other_card('classes = ["disc"]', 'classes = ["ring"]'),
            ['competition = "older.toml"', 'root = "older"'],
            r"data\.extra\.0: card tiny has the classes ring, tiny disc: expected the same",
        ),
        (
            lambda: None,
            ['images = "test/images"', 'csv = "solution.csv"'],
            r"data\.extra\.0: 5 of its 5 images are files of the test set, the first is '\d+': .*use train\.pseudo",
        ),
        (
            lambda: None,
            ['competition = "tiny.toml"', 'root = "tiny"'],
            r"data\.extra\.0: 18 of its 18 images are files of the training set",
        ),
        (lambda: None, ["ratio = 0.5"], r"data\.extra\.0: the training set itself: set competition, root, images or"),
        (lambda: None, ['root = "older"', "phases = [1, 3]"], r"data\.extra\.0\.phases: there is no phase 3: expected"),
        (lambda: None, ['root = "older"', "ratio = 0"], r"data\.extra\.0\.ratio: 0: expected more than 0"),
        (lambda: None, ['root = "oldest"'], r"data\.extra\.0: .*oldest/train"),
        (lambda: None, ['competition = "salty"'], r"data\.extra\.0: unknown competition 'salty'"),
        (
            lambda: None,
            ['competition = "camvid_demo"'],
            r"data\.extra\.0: card camvid_demo has the classes .*, tiny disc: expected the same",
        ),
    ],
)
def test_an_unfit_extra_set_is_refused_in_one_line(tiny, capsys, prepare, lines, message):
    write_older()
    prepare()
    path = Path("configs/tiny.toml")
    path.write_text(path.read_text() + TABLE + "\n".join(lines) + "\n")
    assert main(["train", "configs/tiny.toml", "--fold", "0"]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert re.search(message, said[-1]), said[-1]
    assert "configs/tiny.toml: " in said[-1]
    assert not Path("runs/tiny").exists()


# Resuming.


def test_a_run_depends_on_its_extra_sets_but_not_on_their_folder(extend):
    write_older()
    plain = settings(stages.make_context(config.load("configs/tiny.toml")))
    assert "extra" not in plain
    cfg = extend('root = "older"')
    before = settings(stages.make_context(cfg))
    shutil.move("older", "moved")
    moved = config.load("configs/tiny.toml", ["data.extra.0.root=moved"])
    assert settings(stages.make_context(moved)) == before
    more = config.load("configs/tiny.toml", ["data.extra.0.root=moved", "data.extra.0.ratio=0.6"])
    assert settings(stages.make_context(more)) != before
    card = Path("tiny.toml").read_text()
    Path("rows.toml").write_text(card + '[dialect]\norder = "row"\n')
    other = config.load("configs/tiny.toml", ["data.extra.0.root=moved", "data.extra.0.competition=rows.toml"])
    assert settings(stages.make_context(other)) != before, "the same texts are other masks"
    table = Path("moved/train.csv")
    table.write_text(re.sub(r"e0,.*", "e0,1 1", table.read_text()))
    assert settings(stages.make_context(moved)) != before
