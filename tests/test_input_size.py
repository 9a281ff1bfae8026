"""data.size, phase.size, predict.scale and scaled views, from training to the CSV."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from pipeline import config, rle, stages
from pipeline.cli import main
from pipeline.config import Size, Tiles
from pipeline.data.index import read_index
from pipeline.data.labels import Labels
from pipeline.data.reader import Reader
from pipeline.data.resize import Resize, resize_image
from pipeline.data.sample import Sample
from pipeline.data.targets import read_target
from pipeline.inference.prediction_store import StoreWriter, start_store
from pipeline.inference.predictor import Predictor, predict_images, predict_windows
from pipeline.inference.resampling import scale_images
from pipeline.inference.tta import average_views, check_views, parse_view
from pipeline.metrics import VOID
from pipeline.serving.budget_plan import Costs, Member
from pipeline.serving.bundle_prediction import predict_test
from pipeline.stages.bundling import write_weights
from pipeline.stages.ensembling import load_members
from pipeline.stages.preflight import check_training
from pipeline.training.distributed import processes
from pipeline.training.fold_data import FoldData, PseudoData, build_loader
from pipeline.training.validation import Validator
from tests.conftest import draw

# ---------------------------------------------------------------------------------------------- views


def test_names_of_views_are_a_symmetry_a_scale_or_both():
    assert parse_view("scale_1.25") == parse_view("identity+scale_1.25") == parse_view("scale_1.250")
    view = parse_view("flip_horizontal+scale_0.8")
    assert (view.symmetry, view.scale) == (parse_view("flip_horizontal").symmetry, 0.8)
    check_views(("identity", "flip_horizontal", "scale_0.8", "flip_horizontal+scale_0.8"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("scale_0",), "view 'scale_0': expected a positive factor after scale_"),
        (("scale_-1",), "expected a positive factor"),
        (("scale_1",), "other than 1"),
        (("scale_1.0",), "other than 1"),
        (("scale_100",), "at most 10"),
        (("scale_",), "expected a positive factor"),
        (("scale_1e2",), "expected a positive factor"),
        (("scale_0.8+flip_horizontal",), "unknown view 'scale_0.8.flip_horizontal'.*flip_horizontal.scale_1.25"),
        (("flip_horizontl+scale_0.8",), "Did you mean 'flip_horizontal'"),
        (("scale_0.8", "identity+scale_0.80"), "different views"),
    ],
)
def test_wrong_names_of_views_are_refused(names, message):
    with pytest.raises(ValueError, match=message):
        check_views(names)


def test_a_scaled_view_predicts_the_scaled_image_and_resizes_its_probabilities_back():
    seen = []

    def predict(images):
        seen.append(images)
        return images / 255

    images = torch.rand(2, 1, 6, 8, generator=torch.Generator().manual_seed(0)).mul(255).round().byte()
    found = average_views(predict, images, ("scale_0.5",))
    assert seen[0].shape == (2, 1, 3, 4)
    assert found.shape == (2, 1, 6, 8)
    assert torch.equal(seen[0], scale_images(images, 0.5))
    expected = torch.nn.functional.interpolate(seen[0] / 255, (6, 8), mode="bilinear")
    torch.testing.assert_close(found, expected)
    average_views(predict, images, ("transpose+scale_1.5",))
    assert seen[1].shape == (2, 1, 12, 9)


def test_views_of_a_constant_prediction_are_constant_and_symmetric_ones_are_turned_back():
    images = torch.zeros(1, 1, 10, 14)
    images[..., 0, 0] = 255.0
    average = average_views(
        lambda images: images / 255, images, ("scale_2", "flip_vertical+scale_2", "rotate_90+scale_2")
    )
    assert average[0, 0].argmax() == 0, "the corner is at its place in every view"
    constant = average_views(lambda images: images * 0 + 0.3, images, ("scale_0.7", "transpose+scale_1.3"))
    torch.testing.assert_close(constant, torch.full((1, 1, 10, 14), 0.3))


def test_a_scaled_view_costs_its_number_of_pixels():
    member = Member("a", (0, 1), ("identity", "scale_2", "flip_horizontal+scale_0.5"))
    assert member.model_runs == 2 * (1 + 4 + 0.25)
    assert Costs(1.0, {"a": 3.0}).per_image((member,)) == 1 + 3 * 10.5


class Blur(nn.Module):
    """Logits that depend on neighbouring pixels."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.blur = nn.Conv2d(1, 1, 5, padding=2, padding_mode="reflect")

    def forward(self, images):
        return self.blur(images.float() / 128 - 1)


def test_scaled_views_of_an_image_of_one_tile_equal_those_of_the_whole_image():
    image = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 1, 48, 48)).astype(np.uint8))
    views = ("identity", "flip_horizontal+scale_1.25", "scale_0.8")
    whole = Predictor(Blur(), views, "float32")(image)
    tiled = Predictor(Blur(), views, "float32", tiles=Tiles(size=48, stride=32))(image)
    torch.testing.assert_close(tiled, whole)


# ---------------------------------------------------------------------------------------------- prediction


def write_images(folder, sizes):
    rng, rows = np.random.default_rng(0), []
    for number, size in enumerate(sizes):
        path = folder / f"{number}.png"
        Image.fromarray(draw(rng, *size, empty=False)[0]).save(path)
        rows.append({"image_id": str(number), "path": path, "height": size[0], "width": size[1]})
    return pd.DataFrame(rows)


def test_images_of_different_files_sizes_form_one_batch_and_come_back_at_their_own_size(tmp_path):
    index = write_images(tmp_path, [(30, 40), (20, 20), (33, 15)])
    seen = []

    class Model(Blur):
        def forward(self, images):
            seen.append(tuple(images.shape))
            return super().forward(images)

    reader = Reader(1, resize=Resize(Size(exact=(24, 32))))
    predictor = Predictor(Model(), ("identity",), "float32")
    options = {"reader": reader, "batch_size": 8, "workers": 0, "what": ""}
    stored = dict(predict_images(predictor, index, **options))
    assert seen == [(3, 1, 24, 32)]
    assert [stored[each].values.shape for each in "012"] == [(1, 30, 40), (1, 20, 20), (1, 33, 15)]
    at_one_size = dict(predict_images(predictor, index, size=(10, 11), **options))
    assert {each.values.shape for each in at_one_size.values()} == {(1, 10, 11)}


@pytest.mark.parametrize("factor", [0.5, 1.3, 0.37])
def test_tiles_of_a_resized_image_give_the_values_of_the_whole_resized_image(tmp_path, factor):
    """A pointwise model: tiles change nothing, so only the resizing could."""

    class Pointwise(nn.Module):
        def forward(self, images):
            return images.float() / 64 - 2

    index = write_images(tmp_path, [(90, 131)])
    sample, reader = Sample("0", (index["path"][0],)), Reader(1, resize=Resize(Size(factor=factor)))
    predictor = Predictor(Pointwise(), ("identity",), "float32", tiles=Tiles(size=32, stride=24))
    found = predict_windows(predictor, sample, reader).values
    image = torch.from_numpy(reader.read(sample).transpose(2, 0, 1).astype(np.float32))
    probs = Pointwise()(image).sigmoid().numpy().transpose(1, 2, 0)
    expected = np.rint(255 * resize_image(probs, (90, 131))).transpose(2, 0, 1)
    assert found.shape == (1, 90, 131)
    assert np.abs(found - expected).max() <= 1, "tiles are blended, which rounds"


# ---------------------------------------------------------------------------------------------- training data


def test_a_phase_draws_images_and_masks_at_its_own_size(tiny, card):
    index = read_index(card, Path("tiny"), False, Reader(1))
    labels, reader = Labels.of(card), Reader(1, resize=Resize(Size(factor=0.5)))
    phase = config.Phase(loss={"bce": 1.0}, epochs=1, lr=1e-3, augment="none")
    small = phase.model_copy(update={"size": Size(exact=(16, 24))})
    data = FoldData(0, index, index, labels, "mean_dice", reader)
    cfg = config.Train(phases=(small, phase), batch_size=6, workers=0)
    for number, size in ((1, (16, 24)), (2, (18, 22))):
        loader = build_loader(data, cfg, number, 0, processes())
        images, masks = next(iter(loader))
        assert images.shape[-2:] == masks.shape[-2:] == size
        (position, _), *_ = loader.sampler
        sample = loader.dataset.samples[position]
        resize = Resize(Size(exact=size))
        assert np.array_equal(images[0].permute(1, 2, 0), reader.at(resize).read(sample))
        assert np.array_equal(masks[0].permute(1, 2, 0), read_target(labels, sample, resize))


def test_every_phase_is_validated_at_data_size_and_at_the_size_of_the_files(tiny, card):
    index = read_index(card, Path("tiny"), False, Reader(1))
    reader = Reader(1, resize=Resize(Size(factor=0.5)))
    phase = config.Phase(loss={"bce": 1.0}, epochs=1, lr=1e-3, size=Size(exact=(16, 24)))
    data = FoldData(0, index, index, Labels.of(card), "mean_dice", reader)
    validator = Validator(data, config.Train(phases=(phase,), workers=0), processes())
    images, targets = next(iter(validator.loader))
    assert images.shape[-2:] == (18, 22)
    assert targets.shape[-2:] == (36, 44)


def context(*pairs):
    return stages.make_context(config.load("configs/tiny.toml", pairs))


def test_a_size_smaller_than_the_networks_stride_is_refused_with_key_and_image(tiny):
    with pytest.raises(
        ValueError, match=r"tiny\.toml: data\.size: image '\d+' would have 20×24 pixels, .* stride .* 32"
    ):
        check_training(context("data.size={longest=24}"))
    with pytest.raises(ValueError, match=r"train\.phases\.1\.size: image '\d+' would have 16×16 pixels"):
        check_training(context("train.phases.1.size={exact=[16,16]}"))


def test_objects_smaller_than_a_pixel_are_counted_before_training(tiny, caplog):
    lines = Path("tiny/train.csv").read_text().splitlines()
    masked = [number for number, line in enumerate(lines) if number and not line.endswith(",")]
    single = np.zeros((36, 44), np.uint8)
    single[3, 5] = single[30, 40] = 1
    image_id = lines[masked[0]].split(",")[0]
    lines[masked[0]] = f"{image_id},{rle.encode(single)}"
    Path("tiny/train.csv").write_text("\n".join(lines) + "\n")
    caplog.set_level(logging.WARNING)
    check_training(context("data.size={exact=[32,32]}", "data.doctor=false"))
    counted = f"2 of {len(masked) + 1} objects, in {len(masked)} masks"
    expected = f"configs/tiny.toml: data.size: {counted}, cover less than one pixel"
    assert next(line for line in caplog.messages if "cover less" in line).startswith(expected)
    assert "in 1 masks all do" in caplog.text
    caplog.clear()
    check_training(context("data.size={factor=2.0}", "data.doctor=false"))
    assert not caplog.messages


def test_a_crop_that_is_larger_than_the_resized_images_is_reported(tiny, caplog):
    crops = ("train.phases.0.crop=32", "train.phases.1.crop=40", "data.doctor=false")
    check_training(context(*crops, "data.size={exact=[36,44]}"))
    assert "train.phases.1.crop = 40: 18 of 18 images are smaller at this size" in caplog.text
    assert "phases.0" not in caplog.text


def test_a_pseudo_label_is_resized_with_its_image(tmp_path):
    label = np.zeros((1, 36, 44), np.uint8)
    label[0, :10, :20], label[0, 20:] = 1, VOID
    start_store(tmp_path, {})
    writer = StoreWriter(tmp_path)
    writer.write("a", label)
    writer.flush()
    data = PseudoData(pd.DataFrame({"image_id": ["a"]}), tmp_path, 0.5, (1,))
    found = data.images.read(Sample("a", (tmp_path / "a.png",), (36, 44)), Resize(Size(factor=0.5)))
    assert found.shape == (18, 22, 1)
    assert (found[:5, :10] == 1).all()
    assert (found[5:10] == 0).all()
    assert (found[10:] == VOID).all()


def test_images_of_several_sizes_are_whole_images_of_one_size(tiny, edit):
    rng = np.random.default_rng(0)
    first = sorted(Path("tiny/train/images").glob("*.png"))[0]
    image, mask = draw(rng, 50, 40, empty=False)
    Image.fromarray(image).save(first)
    lines = [
        f"{first.stem},{rle.encode(mask)}" if line.startswith(first.stem) else line
        for line in Path("tiny/train.csv").read_text().splitlines()
    ]
    Path("tiny/train.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"images of 2 sizes .* data\.size=\{exact="):
        check_training(context())
    with pytest.raises(ValueError, match="images of 2 sizes"):
        check_training(context("data.size={factor=2.0}"))
    check_training(context("data.size={exact=[40,40]}"))


def test_a_size_of_a_phase_does_not_go_with_crops(tiny):
    crops = ("data.crops.size=32", "train.phases.0.crop=32", "train.phases.1.crop=32")
    with pytest.raises(ValueError, match=r"train\.phases\.1\.size: data\.crops are cut at one size"):
        context(*crops, "train.phases.1.size={factor=0.5}")


# ---------------------------------------------------------------------------------------------- to the CSV


SETS = (
    "data.size={factor=1.5}",
    "train.phases.0.size={exact=[32,40]}",
    "predict.scale=1.2",
    "predict.views=['identity','flip_horizontal+scale_0.8','scale_1.25']",
)
TILED = (*SETS, "predict.tiles={size=48,stride=32}", "predict.views=['identity','scale_1.25']")


def rows(path):
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return dict(zip(table.iloc[:, 0], table.iloc[:, 1], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("sets", [SETS, TILED], ids=["whole", "tiles"])
def test_ensemble_bundle_and_batch_write_the_same_csv_at_another_size(tiny, edit, sets):
    edit("configs/tiny.toml", "epochs = 2\nlr = 3e-3", "epochs = 2\nrepeats = 6\nlr = 3e-3")
    cfgs = [config.load("configs/tiny.toml", sets)]
    done = stages.ensemble(cfgs)
    bundle = write_weights(Path("bundle"), load_members(cfgs), done)
    expected = rows(done.csv)
    assert len(set(expected.values())) > 2, "masks differ, or equality says nothing"
    predicted = predict_test(bundle, Path("tiny"), Path("working/submission.csv"))
    assert predicted.problems == {}
    assert rows(predicted.csv) == expected
    assert main(["batch-predict", "bundle", "--input", "tiny/test/images/*.png", "--output", "out"]) == 0
    table = pd.read_parquet("out")
    assert dict(zip(table["image_id"], table["rle"], strict=True)) == expected
    assert set(zip(table["height"], table["width"], strict=True)) == {(36, 44)}
    dropped = {each.name for each in bundle.record.fallbacks if each.drop == "view"}
    assert len(dropped) == len(cfgs[0].predict.views) - 1
    assert done.interval.mean > 0.6, "it learned at this size"
    made_by = json.loads(Path("runs/tiny/fold0/oof/store.json").read_text())
    assert made_by["scale"] == 1.2


@pytest.mark.slow
def test_another_size_trains_anew_and_another_scale_only_predicts_anew(submitted, monkeypatch):
    with pytest.raises(ValueError, match=r"data\.size"):
        stages.ensemble([config.load("configs/tiny.toml", ["data.size={factor=0.9}"])])
    with pytest.raises(ValueError, match=r"phases"):
        stages.ensemble([config.load("configs/tiny.toml", ["train.phases.0.size={factor=0.9}"])])
    monkeypatch.setattr(stages.training, "fit", lambda *_, **__: pytest.fail("trained again"))
    before = rows(submitted)
    stages.ensemble([config.load("configs/tiny.toml", ["predict.scale=1.5"])])
    assert rows(submitted) != before
