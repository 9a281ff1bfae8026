"""Checks before the first fold is trained, and errors in a config with file and key."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline import competition, config, stages
from pipeline.cli import main
from pipeline.models import check_batch
from pipeline.stages import training
from pipeline.stages.preflight import check_training
from tests.conftest import write_tiny

pytestmark = pytest.mark.slow

CONFIG = "configs/tiny.toml"


def context(*pairs):
    return stages.make_context(config.load(CONFIG, pairs))


def rewrite(train, test=3, size=(36, 44)):
    """Write the tiny competition with other numbers of images."""
    shutil.rmtree("tiny")
    write_tiny(Path("tiny"), train, test, size)


def empty_all():
    lines = Path("tiny/train.csv").read_text().splitlines()
    Path("tiny/train.csv").write_text("\n".join([lines[0], *(line.split(",")[0] + "," for line in lines[1:])]) + "\n")


# ---------------------------------------------------------------------------------------------- masks


def test_masks_that_are_all_empty_are_refused_before_training(tiny, capsys):
    empty_all()
    assert main(["train", CONFIG]) == 2
    assert "all 18 training masks are empty: nothing can be learned from them" in capsys.readouterr().err
    assert not list(Path("runs").rglob("*.jsonl"))


def test_masks_that_are_all_empty_are_accepted_with_doctor_off(tiny):
    empty_all()
    check_training(context("data.doctor=false"))


def test_fold_that_trains_only_on_empty_masks_is_refused(tiny):
    ready = context()
    inside = ready.index["image_id"].isin(ready.folds["image_id"][ready.folds["fold"] == 1])
    index = ready.index.assign(coverage=ready.index["coverage"].where(inside, 0.0))
    with pytest.raises(ValueError, match=r"folds/tiny\.csv: fold 1 trains on 12 images whose masks are empty: nothing"):
        check_training(ready._replace(index=index))


@pytest.mark.parametrize(
    ("shares", "message"), [([1.0, 0.0], r"have one class only \(sky\)"), ([0.0, 0.0], "are void everywhere")]
)
def test_exclusive_masks_of_one_class_are_refused(tiny, shares, message):
    card = competition.load("camvid_demo").model_copy(update={"classes": ("sky", "road")})
    index = pd.DataFrame({"image_id": ["a", "b"], "coverage_sky": shares[0], "coverage_road": shares[1]})
    with pytest.raises(ValueError, match=f"all 2 training masks {message}: nothing can be learned"):
        check_training(context()._replace(card=card, index=index))


# ---------------------------------------------------------------------------------------------- sizes and numbers


def resize(image_id, size):
    path = Path(f"tiny/train/images/{image_id}.png")
    Image.open(path).resize(size).save(path)
    text = Path("tiny/train.csv").read_text()
    line = next(line for line in text.splitlines() if line.startswith(image_id))
    Path("tiny/train.csv").write_text(text.replace(line, f"{image_id},"))


def test_image_of_another_size_is_refused_before_any_fold_is_trained(tiny, capsys):
    ready = context()
    odd = ready.folds["image_id"][ready.folds["fold"] == 0].iloc[0]  # held out by fold 0, which could train without it
    shutil.rmtree("folds")
    resize(odd, (50, 36))
    assert main(["train", CONFIG]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"configs/tiny.toml: images of 2 sizes (mostly 36×44, least often 36×50, such as '{odd}')" in said
    assert "such as train.phases.0.crop=256" in said
    assert not list(Path("runs").rglob("*.jsonl"))


def test_folds_that_each_train_on_one_size_are_accepted(tiny):
    ready = context()
    two = ready.folds.assign(fold=np.arange(18) % 2)
    index = ready.index.assign(height=np.where(np.arange(18) % 2, 36, 32))
    check_training(ready._replace(folds=two, index=index))


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (
            [],
            "fold 0 trains on 1 image, one per batch: .* 32×32 pixels has features of 1×1.*repeats = 2 or more",
        ),
        (["train.batch_size=1", "train.phases.0.repeats=2"], "one per batch: .*set train.batch_size = 2 or more"),
    ],
)
def test_batch_of_one_small_image_is_refused_with_what_to_change(tiny, pairs, message):
    rewrite(3, size=(32, 32))
    with pytest.raises(ValueError, match=f"configs/tiny.toml: train.phases.0: .*{message}"):
        check_training(context("folds.count=2", "data.doctor=false", *pairs))


@pytest.mark.parametrize(
    "pairs",
    [
        ["train.phases.0.repeats=2", "train.phases.1.repeats=2"],
        ["train.phases.0.crop=64", "train.phases.1.crop=64"],
        ["folds.count=3"],
    ],
)
def test_each_remedy_for_a_batch_of_one_small_image_trains(tiny, pairs):
    rewrite(3, size=(32, 32))
    pairs = ["folds.count=2", "data.doctor=false", *pairs]
    check_training(context(*pairs))
    assert training.train(config.load(CONFIG, pairs), 0).weights.is_file()


@pytest.mark.parametrize("images", [2, 3])
def test_two_or_three_images_train_predict_and_submit(tiny, images):
    rewrite(images, test=1)
    done = stages.ensemble([config.load(CONFIG, ["folds.count=2", "data.doctor=false"])])
    assert done.summary.rows == 1


def test_single_training_image_is_refused_because_folds_need_two(tiny):
    rewrite(1)
    with pytest.raises(ValueError, match=r"configs/tiny\.toml: 1 image: folds need at least 2"):
        context()


def test_only_trained_batch_norms_need_more_than_one_value():
    cfg = config.Model(encoder="tu-test_resnet", weights="none", arch="fcn32s")  # a decoder without batch norm
    with pytest.raises(ValueError, match="batch norm needs more than one value"):
        check_batch(cfg, (32, 32))
    check_batch(cfg, (32, 32), frozen=True)


@pytest.mark.parametrize(("size", "refused"), [((32, 32), True), ((33, 32), False), ((64, 64), False)])
def test_features_of_more_than_one_pixel_allow_a_batch_of_one_image(size, refused):
    cfg = config.Model(encoder="tu-test_efficientnet", weights="none", decoder_channels=(16, 16, 8, 8, 8))
    if refused:
        with pytest.raises(ValueError, match="features of 1×1"):
            check_batch(cfg, size)
    else:
        check_batch(cfg, size)


def test_an_architecture_that_pools_the_image_needs_two_images_at_any_size():
    with pytest.raises(ValueError, match="batch norm needs more than one value"):
        check_batch(config.Model(arch="deeplabv3plus", encoder="tu-test_resnet", weights="none"), (128, 128))


def test_fewer_batches_than_one_update_needs_are_refused_before_the_first_fold(tiny):
    with pytest.raises(
        ValueError, match=r"tiny\.toml: train\.phases\.0: fold 0 trains on 12 images, 3 batches an epoch"
    ):
        check_training(context("train.accumulate=4"))
    check_training(context("train.accumulate=3"))


# ---------------------------------------------------------------------------------------------- file and key

# The option that is set, and the key that the message names after the config's file.
MISTAKES = {
    "competition=tinyy": "competition: unknown competition 'tinyy'",
    "competition=cards/gone.toml": "competition: cards/gone.toml: no such file",
    "model.arch=unett": "model.arch: unknown arch 'unett'",
    "model.encoder=tu-resnt18": "model.encoder: unknown encoder 'tu-resnt18'",
    "model.encoder=tu-levit_128": "model.encoder: 'tu-levit_128' gives no pyramid",
    "model.classes=2": "model.classes is 2, but the card tiny has 1",
    "model.dilation_rates=[2,4,6]": "model.dilation_rates has no effect in unet",
    "model.weights=gone.pt": 'model.weights: no file \'gone.pt\': expected "imagenet", "none", "run:<',
    "model.weights=image.pt": "model.weights: no file 'image.pt': expected",
    "model.weights=run:sub/far": "model.weights: configs/sub/far.toml: competition: unknown competition 'gone'",
    "model.weights=ImageNet": "model.weights: no file 'ImageNet'. Did you mean 'imagenet'?",
    "model.weights=run:gone": "model.weights: configs/gone.toml: no such file",
    "model.weights=run:runs/a/fold0": "model.weights: run:runs/a/fold0 is neither the name of a config nor",
    "model.weights=run:gone.safetensors": "model.weights: gone.safetensors: no such file",
    "model.image_gate=true": "model.image_gate needs the image head",
    "predict.views=['flop']": "predict.views: unknown view 'flop'",
    "predict.views=[]": "predict.views: expected one or more different views",
    "predict.output_stride=8": "predict.output_stride: has no effect in unet",
    "train.phases.1.loss={jacard=1}": "train.phases.1.loss: unknown loss 'jacard'",
    "train.phases.0.loss={bce=0}": "train.phases.0.loss: all weights are 0",
    "train.phases.0.loss_options={dice={smoth=2}}": "train.phases.0.loss_options: loss 'dice': unknown option 'smoth'",
    "data.boundary=2": "data.boundary separates touching objects",
    "train.optimizer=AdamV": "train.optimizer: unknown optimizer 'AdamV'. Did you mean 'adam",
    "train.optimizer=ADAMW": "train.optimizer: unknown optimizer 'ADAMW'. Did you mean 'adamw'?",
    "train.optimizer_options={eps='a'}": "train.optimizer_options: adamw: eps: 'a': expected a number",
    "train.balance=kind": "train.balance: no column 'kind'",
    "train.pseudo={from='gone'}": "train.pseudo.from: configs/gone.toml: no such file",
    "train.pseudo={from='mine'}": "train.pseudo.from: mine from mine: a config cannot label for itself",
    "folds.balance=['kind']": "folds.balance: no column 'kind'",
    "folds.count=19": "18 images cannot fill 19 folds: lower folds.count to 18",
}


@pytest.mark.parametrize("pair", MISTAKES)
def test_error_in_a_config_names_its_file_and_key(tiny, capsys, pair):
    Path(CONFIG).rename("configs/mine.toml")
    Path("configs/sub").mkdir()
    Path("configs/sub/far.toml").write_text(Path("configs/mine.toml").read_text().replace("tiny.toml", "gone"))
    assert main(["train", "configs/mine.toml", "--set", pair]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"pipeline train: configs/mine.toml: {MISTAKES[pair]}" in said
    assert len(said) <= 300
    assert not list(Path("runs").rglob("*.jsonl"))


def test_a_frozen_encoder_with_random_weights_is_logged(tiny, caplog):
    check_training(context("train.phases.1.freeze_encoder=true"))
    assert "random weights" not in caplog.text
    check_training(context("train.phases.0.freeze_encoder=true"))
    assert "train.phases.0.freeze_encoder: the encoder has random weights" in caplog.text


@pytest.mark.parametrize("command", ["ensemble", "report", "sweep"])
def test_weights_that_a_second_config_lacks_are_named_before_the_first_is_trained(tiny, capsys, edit, command):
    shutil.copy(CONFIG, "configs/second.toml")
    edit("configs/second.toml", 'weights = "none"', 'weights = "gone.pt"')
    assert main([command, CONFIG, "--configs", "tiny second"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"pipeline {command}: configs/second.toml: model.weights: no file 'gone.pt'" in said
    assert not list(Path("runs").rglob("*.jsonl"))


@pytest.mark.parametrize(("key", "source"), [("train.pseudo", "'far'"), ("train.teacher", "['far']")])
def test_a_config_of_another_competition_cannot_label_or_teach(tiny, capsys, key, source):
    other = Path("tiny.toml").read_text().replace('name = "tiny"', 'name = "other"')
    Path("other.toml").write_text(other)
    Path("configs/far.toml").write_text(Path(CONFIG).read_text().replace('"tiny.toml"', '"other.toml"'))
    assert main(["train", CONFIG, "--set", f"{key}={{from={source}}}"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        f"{key}.from: configs/far.toml: its competition is other, that of tiny is tiny, and labels have to be of"
        in said
    )


def test_error_in_the_pseudo_label_source_is_found_before_it_is_trained(tiny, capsys, edit):
    shutil.copy(CONFIG, "configs/source.toml")
    edit("configs/source.toml", "lovasz", "lovasc")
    assert main(["train", CONFIG, "--set", "train.pseudo={from='source'}"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        "configs/tiny.toml: train.pseudo.from: configs/source.toml: train.phases.1.loss: unknown loss 'lovasc'" in said
    )
    assert not list(Path("runs").rglob("*.jsonl"))


def test_fold_count_that_differs_from_the_folds_file_names_both_files(tiny, capsys):
    context()
    assert main(["train", CONFIG, "--set", "folds.count=4"]) == 2
    assert "configs/tiny.toml: folds.count is 4, folds/tiny.csv has 3 folds" in capsys.readouterr().err
