"""A bundle predicts the same as `make ensemble`, reading each image once."""

import json
import logging
import os
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
from pipeline.data.reader import Reader
from pipeline.data.sample import Sample
from pipeline.ensemble.renderer import Postprocess, Renderer
from pipeline.ensemble.selection import Oof
from pipeline.inference.predictor import Prediction
from pipeline.kaggle.metadata import DatasetMetadata, write_metadata
from pipeline.postprocess.rules import Rules
from pipeline.serving import single_pass, time_budget
from pipeline.serving.budget_plan import Member
from pipeline.serving.bundle import RECORD_FILE, read_bundle
from pipeline.serving.bundle_prediction import OrderedPredictions, predict_test
from pipeline.serving.single_pass import LoadedImages, read_images
from pipeline.serving.tta_ablation import rank_fallbacks
from pipeline.stages.bundling import write_weights
from pipeline.stages.ensembling import load_members
from pipeline.training.checkpoint import load_weights, read_record, save_checkpoint
from tests.conftest import draw

pytestmark = pytest.mark.slow

BOTH = ["configs/tiny.toml", "configs/seed1.toml"]


def bundled(*configs: str, half: bool = False, batch_size: int = 16, sets: tuple[str, ...] = ()):
    cfgs = [config.load(path, [f"predict.batch_size={batch_size}", *sets]) for path in configs]
    done = stages.ensemble(cfgs)
    return write_weights(Path("bundle"), load_members(cfgs), done, half=half), done


def rows(path: Path) -> dict[str, str]:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    return dict(zip(table.iloc[:, 0], table.iloc[:, 1], strict=True))


@pytest.mark.parametrize("configs", [BOTH[:1], BOTH], ids=["one config", "two configs"])
def test_bundle_and_ensemble_write_the_same_csv(submitted, configs):
    bundle, done = bundled(*configs)
    predicted = predict_test(bundle, Path("tiny"), Path("working/submission.csv"))
    assert rows(predicted.csv) == rows(done.csv)
    assert predicted.problems == {}
    assert len(set(rows(done.csv).values())) > 2, "masks differ, or equality says nothing"


def test_prediction_needs_no_pretrained_weights_and_not_the_tag(submitted, monkeypatch):
    # Another version of timm, such as that of Kaggle's image, may not know a tag.
    _, done = bundled(*BOTH[:1])
    path = Path("bundle", RECORD_FILE)
    record = json.loads(path.read_text())
    record["configs"]["tiny"]["model"] |= {"encoder": "tu-test_efficientnet.of_tomorrow", "weights": "imagenet"}
    path.write_text(json.dumps(record))
    monkeypatch.setattr("pipeline.models.pretrained.pretrained_file", None)  # must not be called
    predicted = predict_test(read_bundle(Path("bundle")), Path("tiny"), Path("working/submission.csv"))
    assert rows(predicted.csv) == rows(done.csv)
    assert len(set(rows(done.csv).values())) > 2, "masks differ, or equality says nothing"


def test_a_tiled_image_is_read_by_window(submitted, monkeypatch):
    bundle, done = bundled(*BOTH[:1], sets=("predict.tiles={size=32,stride=24}",))

    def whole(*_):
        raise MemoryError("read whole")

    monkeypatch.setattr(Reader, "read", whole)
    predicted = predict_test(bundle, Path("tiny"), Path("working/submission.csv"))
    assert rows(predicted.csv) == rows(done.csv)
    assert predicted.problems == {}
    assert len(set(rows(done.csv).values())) > 2, "masks differ, or equality says nothing"


def test_a_damaged_tiled_image_does_not_affect_other_images(submitted):
    bundle, done = bundled(*BOTH[:1], sets=("predict.tiles={size=32,stride=24}",))
    expected, bad = rows(done.csv), sorted(rows(done.csv))[1]
    Path(f"tiny/test/images/{bad}.png").write_bytes(b"no image")
    predicted = predict_test(bundle, Path("tiny"), Path("working/submission.csv"))
    assert list(predicted.problems) == [bad]
    found = rows(predicted.csv)
    assert {key: text for key, text in found.items() if key != bad} == {
        key: text for key, text in expected.items() if key != bad
    }


def test_a_bundle_applies_a_variant_of_rules_like_the_ensemble(submitted, monkeypatch):
    variant = Rules(0.4, 20, min_component=8, presence_threshold=0.5, presence_area=4, fill_holes=True, keep_largest=2)
    monkeypatch.setattr("pipeline.ensemble.candidate_rules.CandidateRules.best", lambda *_: ("variants", variant))
    bundle, done = bundled(*BOTH[:1])
    assert bundle.renderer.parts[0][2:4] == ("variants", variant)
    predicted = predict_test(bundle, Path("tiny"), Path("working/submission.csv"))
    assert rows(predicted.csv) == rows(done.csv)
    assert len(set(rows(done.csv).values())) > 2, "masks differ, or equality says nothing"


@pytest.mark.parametrize("share_in", ["image", "volume", "test set"])
def test_a_bundle_applies_a_share_like_the_ensemble(submitted, monkeypatch, share_in):
    rules = Rules(0.1, 4, share=0.07, share_in=share_in, fill_holes=True)
    monkeypatch.setattr("pipeline.ensemble.candidate_rules.CandidateRules.best", lambda *_: ("variants", rules))
    monkeypatch.setattr("pipeline.competition.Competition.volume_of", lambda _, image_id: image_id[-1])
    bundle, done = bundled(*BOTH)
    assert bundle.renderer.parts[0].rules == rules
    predicted = predict_test(bundle, Path("tiny"), Path("working/submission.csv"))
    assert rows(predicted.csv) == rows(done.csv)
    assert len(set(rows(done.csv).values())) > 2, "masks differ, or equality says nothing"
    masks = [rle.decode(text, (36, 44)) for text in rows(done.csv).values()]
    assert any("share of the whole" in note for note in done.notes) == (share_in != "image")
    if share_in == "test set":
        assert np.mean(masks) == pytest.approx(0.07, abs=0.02)
        assert main(["batch-predict", "bundle", "--input", "tiny/test/images/*.png", "--output", "out"]) == 2


def test_a_bundle_can_be_moved(submitted, tmp_path, monkeypatch):
    _, done = bundled(*BOTH[:1])
    shutil.move("bundle", tmp_path / "elsewhere")
    shutil.copytree("tiny", tmp_path / "input")
    expected = rows(done.csv)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    predicted = predict_test(read_bundle(tmp_path / "elsewhere"), tmp_path / "input", Path("submission.csv"))
    assert rows(predicted.csv) == expected


def poison(path):
    """One NaN in a checkpoint's weights."""
    weights, record = load_weights(path), read_record(path)
    next(value for value in weights.values() if value.is_floating_point()).view(-1)[0] = float("nan")
    save_checkpoint(path, weights, record)


def test_non_finite_weights_are_refused_before_predicting_locally_and_in_a_bundle(submitted, capsys):
    bundle, done = bundled(*BOTH[:1])
    poison(Path("bundle/tiny-fold1.safetensors"))
    poison(Path("runs/tiny/fold1/best.safetensors"))
    assert main(["ensemble", *BOTH[:1], "--set", "predict.views=['transpose']"]) == 2
    assert "runs/tiny/fold1/best.safetensors: 1 of " in capsys.readouterr().err
    assert main(["batch-predict", "bundle", "--input", "tiny/test/images/*.png", "--output", "out"]) == 2
    assert "bundle/tiny-fold1.safetensors: 1 of " in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"bundle/tiny-fold1\.safetensors: 1 of .* are not finite"):
        predict_test(bundle, Path("tiny"), Path("working/submission.csv"))
    with pytest.raises(ValueError, match=r"fold1/best\.safetensors: 1 of .* are not finite"):
        write_weights(Path("again"), load_members([config.load(BOTH[0])]), done, half=False)


def test_an_image_with_non_finite_probabilities_does_not_affect_other_images(submitted, caplog):
    bundle, done = bundled(*BOTH[:1])
    folder = hide({name: Path(f"tiny/test/images/{name}.png").read_bytes() for name in rows(done.csv)})
    odd = sorted(rows(done.csv))[1]
    shown = np.array(Image.open(folder / f"test/images/{odd}.png"))

    def load(*which):
        predictor = bundle.predictor(*which)

        class Odd:
            def predict(self, images, views):
                probs = predictor(images, views).clone()
                probs[(images == torch.from_numpy(shown)).all(dim=(1, 2, 3))] = torch.nan
                return Prediction(probs)

        return Odd()

    predicted = predict_test(bundle, folder, Path("working/submission.csv"), load=load)
    assert "are not finite" in predicted.problems.pop(odd)
    assert predicted.problems == {}
    assert rows(predicted.csv) == rows(done.csv) | {odd: "1 1"}
    assert "batch size reduced" not in caplog.text, "the batch is not too large"


# ---------------------------------------------------------------------------------------------- a hidden test set


def hide(images: dict[str, np.ndarray | bytes | None], folder: Path = Path("hidden")) -> Path:
    """Write a test set in the tiny competition's layout; an image is an array, bytes, or None for no file."""
    (folder / "test/images").mkdir(parents=True)
    for image_id, content in images.items():
        path = folder / f"test/images/{image_id}.png"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            Image.fromarray(content).save(path)
    sample = "\n".join(["id,rle_mask", *(f"{image_id},1 1" for image_id in images)])
    (folder / "sample_submission.csv").write_text(sample + "\n")
    return folder


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    if height == 1:
        return scene(20, width, seed)[:1]
    return draw(np.random.default_rng(seed), height, width, empty=False)[0]


def test_images_of_other_sizes_colours_and_damage_leave_a_valid_csv(submitted, caplog):
    bundle, _ = bundled(*BOTH[:1])
    whole = scene(36, 44)
    path = Path("tiny/test/images/0000.png")
    images = {
        "a": whole,
        "b": scene(70, 31),
        "row": scene(20, 44)[:1],
        "colour": np.stack([whole] * 3, axis=2),
        "truncated": path.read_bytes()[:200],
        "gone": None,
        "text": b"not an image",
        "z": whole,
    }
    caplog.set_level(logging.WARNING, "pipeline")
    done = predict_test(bundle, hide(images), Path("submission.csv"))
    found = rows(done.csv)
    assert list(found) == list(images)
    assert set(done.problems) == {"truncated", "gone", "text"}
    assert all(found[image_id] == "1 1" for image_id in done.problems)
    assert found["a"] == found["z"] == found["colour"] != "1 1"
    for image_id, content in images.items():
        if isinstance(content, np.ndarray):
            rle.decode(found[image_id], content.shape[:2])
    assert sum("has no mask" in line for line in caplog.messages) == 3
    assert json.loads(Path("submission.json").read_text())["problems"] == done.problems


def test_a_valid_csv_exists_before_the_first_image(submitted):
    bundle, _ = bundled(*BOTH[:1])
    seen = []

    def load(cfg, fold):
        seen.append(rows(Path("submission.csv")))
        return bundle.predictor(cfg, fold)

    predict_test(bundle, hide({"a": scene(36, 44), "b": scene(36, 44)}), Path("submission.csv"), load=load)
    assert seen[0] == {"a": "1 1", "b": "1 1"}


class Faulty:
    """A model that fails on batches larger than `most`, and on images of a given height."""

    def __init__(self, predictor, most=99, height=0):
        self.predictor, self.most, self.height = predictor, most, height

    def predict(self, images, views):
        if len(images) > self.most or images.shape[-2] == self.height:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.predictor.predict(images, views)


def test_a_batch_too_large_for_memory_is_predicted_in_smaller_batches(submitted, caplog):
    bundle, _ = bundled(*BOTH[:1])
    images = {f"{number:02}": scene(36, 44, number) for number in range(20)}
    folder = hide(images)
    expected = rows(predict_test(bundle, folder, Path("plain.csv")).csv)
    faulty = predict_test(
        bundle, folder, Path("submission.csv"), load=lambda *which: Faulty(bundle.predictor(*which), most=3)
    )
    assert rows(faulty.csv) == expected
    assert faulty.problems == {}
    assert "a batch of 16 failed (OutOfMemoryError): batch size reduced to 8" in caplog.text


def test_an_image_on_which_models_fail_does_not_affect_other_images(submitted):
    bundle, _ = bundled(*BOTH[:1])
    folder = hide({"a": scene(36, 44), "huge": scene(50, 44), "z": scene(36, 44)})
    done = predict_test(
        bundle, folder, Path("submission.csv"), load=lambda *which: Faulty(bundle.predictor(*which), height=50)
    )
    assert done.problems == {"huge": "CUDA out of memory"}
    assert rows(done.csv)["huge"] == "1 1"


def test_non_consecutive_rows_of_an_image_get_its_masks(submitted):
    rendered = []
    stream = iter([("a", [[1]]), ("b", [[2]]), ("c", None)])

    def render(_image_id, stores):
        rendered.extend([] if stores is None else [stores])
        return None if stores is None else np.array(stores)

    in_turn = OrderedPredictions(stream, render, {"a"})
    answers = [in_turn(image_id) for image_id in ("a", "b", "a", "c", "d")]
    assert [None if each is None else each.item() for each in answers] == [1, 2, 1, None, None]
    assert len(rendered) == 2


def test_an_image_that_cannot_be_rendered_does_not_affect_other_images(submitted, monkeypatch):
    bundle, _ = bundled(*BOTH[:1])
    folder = hide({"a": scene(36, 44), "odd": scene(1, 44), "z": scene(36, 44)})
    render_masks = Renderer.masks

    def careful(renderer, combined):
        masks = render_masks(renderer, combined)
        if masks.shape[-2] == 1:
            raise ZeroDivisionError
        return masks

    monkeypatch.setattr(Renderer, "masks", careful)
    done = predict_test(bundle, folder, Path("submission.csv"))
    assert done.problems == {"odd": "ZeroDivisionError"}
    assert rows(done.csv)["odd"] == "1 1" != rows(done.csv)["z"]


def test_reading_ahead_in_processes_gives_the_same_csv(submitted):
    bundle, done = bundled(*BOTH[:1])
    assert rows(predict_test(bundle, Path("tiny"), Path("submission.csv"), workers=2).csv) == rows(done.csv)


class Fatal(Reader):
    """A reader that kills its process if it is a reader process."""

    def read(self, sample):
        if sample.image_id == "fatal" and torch.utils.data.get_worker_info():
            os._exit(1)
        return super().read(sample)


def test_if_a_reading_process_dies_the_main_process_reads_the_rest(tmp_path, caplog):
    places = []
    for name in ("a", "b", "fatal", "c"):
        Image.fromarray(scene(36, 44)).save(tmp_path / f"{name}.png")
        places.append((name, Sample(name, (tmp_path / f"{name}.png",))))
    items = list(read_images(LoadedImages(places, [Fatal(1)]), workers=1))
    assert [item.image_id for item in items] == ["a", "b", "fatal", "c"]
    assert not any(item.problem for item in items)
    assert "reading the rest in this process" in caplog.text


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError(104, "Connection reset by peer")])
def test_pixels_lost_with_their_reading_process_are_read_again(tmp_path, monkeypatch, caplog, error):
    def broken(dataset, **_):
        yield dataset[0]
        raise error

    monkeypatch.setattr(single_pass, "Loader", broken)
    Image.fromarray(scene(36, 44)).save(tmp_path / "a.png")
    images = [(name, Sample(name, (tmp_path / "a.png",))) for name in "abc"]
    items = read_images(LoadedImages(images, [Reader(1)]), workers=1)
    assert [item.image_id for item in items] == ["a", "b", "c"]
    assert "reading the rest in this process" in caplog.text


def test_any_error_of_a_reader_affects_one_image_only(tmp_path):
    class Failing(Reader):
        def read(self, sample):
            raise IndexError("tuple index out of range")

    Image.fromarray(scene(36, 44)).save(tmp_path / "a.png")
    read = LoadedImages([("a", Sample("a", (tmp_path / "a.png",)))], [Failing()])[0]
    assert (read.image_id, read.pixels, read.problem) == ("a", (), "tuple index out of range")


# ---------------------------------------------------------------------------------------------- the budget


class Clock:
    """A clock that only the test advances, so that other load has no effect."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(time_budget, "time", clock)
    monkeypatch.setattr(single_pass, "time", clock)
    return clock


class Slow:
    """A model that takes `seconds` per view and image, ± 30%, and 5 times as long the first time."""

    def __init__(self, predictor, seconds, clock, seed):
        self.predictor, self.seconds, self.clock = predictor, seconds, clock
        self.rng, self.warm = np.random.default_rng(seed), False

    def predict(self, images, views):
        self.clock.now += self.seconds * len(views) * len(images) * self.rng.uniform(0.7, 1.3) * (1 if self.warm else 5)
        self.warm = True
        return self.predictor.predict(images, views)


def slowly(bundle, folder, clock, budget, seconds=0.01):
    clock.now = 0.0
    return predict_test(
        bundle,
        folder,
        Path("submission.csv"),
        budget=budget,
        load=lambda cfg, fold: Slow(bundle.predictor(cfg, fold), seconds, clock, seed=fold),
    )


IMAGES = {f"{number:02}": (36, 44) for number in range(80)}  # 3 folds, 2 views, 10 ms: .06 s each, 4.8 s in all


@pytest.fixture
def many(submitted):
    bundle, _ = bundled(*BOTH[:1], batch_size=4)
    return bundle, hide({image_id: scene(*size) for image_id, size in IMAGES.items()})


def test_nothing_is_dropped_within_the_budget_and_the_estimate_is_right(many, clock):
    done = slowly(*many, clock, budget=60)
    assert done.dropped == []
    assert done.first_estimate == pytest.approx(done.seconds, rel=0.2)
    assert done.seconds > 4.8, "the model's time counted"


@pytest.mark.parametrize(("share", "least"), [(0.75, 1), (0.5, 2)], ids=["a view", "a view and folds"])
def test_fallbacks_are_applied_in_order_and_the_estimate_is_right(many, clock, caplog, share, least):
    caplog.set_level(logging.INFO, "pipeline")
    bundle, folder = many
    whole = slowly(bundle, folder, clock, budget=None).seconds
    done = slowly(bundle, folder, clock, budget=share * whole)
    assert len(done.dropped) >= least
    assert done.dropped == list(bundle.record.fallbacks[: len(done.dropped)])
    assert [fallback.drop for fallback in done.dropped[:2]] == ["view", "fold"][: len(done.dropped)]
    assert done.first_estimate == pytest.approx(done.seconds, rel=0.2)
    assert done.problems == {}
    first = done.dropped[0]
    change = f"score {-first.loss:+.4f} on training images"
    assert f"dropped to save time: view {first.name} of tiny ({change})" in caplog.text


def test_images_after_the_budget_keep_the_samples_value(many, clock, caplog):
    bundle, folder = many
    done = slowly(bundle, folder, clock, budget=0.5)
    found = rows(done.csv)
    assert found.keys() == IMAGES.keys()
    assert set(done.problems.values()) == {"not reached"}
    assert {found[image_id] for image_id in done.problems} == {"1 1"}
    assert done.seconds <= 0.5
    assert (
        f"time budget used up: {len(done.problems)} images not predicted; their rows keep the sample's value"
        in caplog.text
    )


def test_fallbacks_start_with_the_view_of_least_score_loss_and_end_with_one_model(many):
    bundle, _ = many
    views, folds = bundle.record.fallbacks[:1], bundle.record.fallbacks[1:]
    assert [fallback.drop for fallback in views] == ["view"]
    assert -1 < views[0].loss < 1
    assert [fallback.drop for fallback in folds] == ["fold", "fold"]
    assert [fallback.loss for fallback in folds] == [None, None]


# ---------------------------------------------------------------------------------------------- what is bundled


def test_members_may_have_different_numbers_of_views(submitted):
    path = Path("configs/seed1.toml")
    path.write_text(path.read_text() + '\n[predict]\nviews = ["identity"]\n')
    bundle, done = bundled(*BOTH)
    assert [member.views for member in bundle.plan] == [("identity", "flip_horizontal"), ("identity",)]
    assert [fallback.drop for fallback in bundle.record.fallbacks] == ["view", *["fold"] * 4]
    assert rows(predict_test(bundle, Path("tiny"), Path("submission.csv")).csv) == rows(done.csv)


def test_bfloat16_weights_change_almost_no_pixel(submitted):
    _, done = bundled(*BOTH[:1])
    full = sum(path.stat().st_size for path in Path("bundle").glob("*.safetensors"))
    half, _ = bundled(*BOTH[:1], half=True)
    assert sum(path.stat().st_size for path in Path("bundle").glob("*.safetensors")) < 0.7 * full
    found, expected = rows(predict_test(half, Path("tiny"), Path("submission.csv")).csv), rows(done.csv)
    for image_id, text in expected.items():
        pair = [rle.decode(each, (36, 44)) for each in (text, found[image_id])]
        assert np.count_nonzero(pair[0] != pair[1]) < 0.02 * 36 * 44


def test_a_bundle_records_its_evaluation_and_provenance(submitted):
    bundle, done = bundled(*BOTH[:1])
    assert bundle.record.evaluation.score == done.interval.mean
    assert set(bundle.record.provenance.versions) >= {"torch", "timm"}
    assert bundle.renderer == done.selection.renderer


def swap(folder: Path) -> None:
    (folder / "tiny-fold0.safetensors").rename(folder / "x")
    (folder / "tiny-fold1.safetensors").rename(folder / "tiny-fold0.safetensors")
    (folder / "x").rename(folder / "tiny-fold1.safetensors")


def rewrite(old: str, new: str):
    def change(folder: Path) -> None:
        path = folder / RECORD_FILE
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    return change


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / RECORD_FILE).unlink(), "bundle.json: no such file. make bundle writes it"),
        (lambda folder: (folder / "tiny-fold1.safetensors").unlink(), "tiny-fold1.safetensors: no such file"),
        (swap, "tiny-fold0.safetensors held out fold 1, expected fold 0 as in bundle.json"),
        (lambda folder: (folder / "tiny-fold2.safetensors").write_bytes(b"x"), "not a checkpoint of this pipeline"),
        (rewrite("{", ""), "bundle.json: not JSON"),
        (rewrite('"format": 1', '"format": 2'), "bundle.json: format"),
        (rewrite('"fallbacks"', '"fallbackz"'), "unknown key 'fallbackz'. Did you mean 'fallbacks'?"),
        (rewrite('"batch_size"', '"batchsize"'), "unknown key 'batchsize'"),
        (rewrite('"rule_set": "', '"rule_set": "no'), "rule_set 'no"),
    ],
)
def test_a_damaged_bundle_is_refused_in_one_line(submitted, harm, message):
    bundled(*BOTH[:1])
    harm(Path("bundle"))
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        read_bundle(Path("bundle"))


def test_weights_of_another_model_are_refused(submitted):
    bundled(*BOTH[:1])
    rewrite("8,\n     8,\n     8", "16,\n     8,\n     8")(Path("bundle"))
    bundle = read_bundle(Path("bundle"))
    with pytest.raises(ValueError, match="weights of another model"):
        predict_test(bundle, Path("tiny"), Path("submission.csv"))
    assert rows(Path("submission.csv")) == dict.fromkeys(rows(Path("submissions/tiny.csv")), "1 1")


# ---------------------------------------------------------------------------------------------- from the command line


def run_bundle(*options: str) -> int:
    return main(["run-bundle", "bundle", "--data", "hidden", *options])


def test_run_bundle_writes_a_submission(submitted, capsys):
    bundled(*BOTH[:1])
    hide({"a": scene(36, 44), "gone": None})
    assert run_bundle("--csv", "mine.csv", "--budget", "1h") == 0
    said = capsys.readouterr().out
    assert "mine.csv  2 rows" in said
    assert "no mask     1 images: see mine.json for the reasons" in said
    assert rows(Path("mine.csv"))["gone"] == "1 1"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "eight"], "budget 'eight': expected hours, minutes and seconds, such as 8h"),
        (["--data", "nowhere"], "nowhere/sample_submission.csv: no such file"),
    ],
)
def test_a_user_error_is_one_line(submitted, capsys, options, message):
    bundled(*BOTH[:1])
    hide({"a": scene(36, 44)})
    assert run_bundle(*options) == 2
    assert message in capsys.readouterr().err


def test_an_unreadable_test_set_is_an_error_except_in_the_rerun(submitted, capsys, monkeypatch):
    bundled(*BOTH[:1])
    hide({"a": b"no image", "b": None})
    assert run_bundle() == 2
    assert "none of 2 images could be predicted" in capsys.readouterr().err
    assert rows(Path("submission.csv")) == {"a": "1 1", "b": "1 1"}
    monkeypatch.setenv("KAGGLE_IS_COMPETITION_RERUN", "1")
    assert run_bundle() == 0


def test_folds_of_another_config_are_not_bundled(submitted):
    path = Path("configs/tiny.toml")
    path.write_text(path.read_text().replace("lr = 1e-3", "lr = 2e-3"))
    with pytest.raises(
        ValueError, match=r"runs/tiny/fold0 was trained with train\.phases\.1\.lr = 0\.001, now it is 0\.002"
    ):
        bundled("configs/tiny.toml")


def test_missing_oof_predictions_are_made_before_bundling(submitted):
    shutil.rmtree("runs/tiny/fold1/oof")
    bundle, done = bundled(*BOTH[:1])
    assert bundle.record.evaluation.score == done.interval.mean
    assert len(list(Path("runs/tiny/fold1/oof").glob("*.safetensors"))) == 1


def test_uncommitted_changes_are_logged_and_recorded(submitted, monkeypatch, caplog):
    monkeypatch.setattr("pipeline.manifest.commit", lambda: "0123456789abcdef+")
    bundle, _ = bundled(*BOTH[:1])
    assert bundle.record.provenance.commit == "0123456789abcdef+"
    assert "files differ from commit 0123456: the bundle cannot be reproduced from it" in caplog.text


# ---------------------------------------------------------------------------------------------- score loss of a view


def test_the_view_with_the_smallest_score_loss_is_dropped_first():
    # The target is the first two of four pixels. "good" predicts these, "bad" the others, "so-so" one of each.
    target = np.array([[[1, 1, 0, 0]]], np.uint8)
    seen = {"good": [250, 250, 0, 0], "so-so": [250, 0, 0, 250], "bad": [0, 0, 250, 250]}
    oof = Oof(["x"], np.zeros(1, int), lambda _: (None, target), 1, lambda items, _: items)
    renderer = Renderer((Postprocess("mean", (1.0,), "total", Rules(0.5, 0)),))
    plan = (Member("m", (0, 1), ("bad", "so-so", "good")),)
    fallbacks = rank_fallbacks(
        plan,
        renderer,
        oof,
        lambda member, view, image_id: np.array([[seen[view]]], np.uint8),
        "mean_dice",
        {"m": {0: 0.2, 1: 0.1}},
    )
    # With all views, pixels 1 and 4 have 167 of 255: dice = 2·1 / (2 + 2). Without "bad", pixel 1 is certain, and
    # pixels 2 and 4 have 125 of 255, below .5: dice = 2·1 / (1 + 2).
    assert [(fallback.name, fallback.loss) for fallback in fallbacks[:2]] == [
        ("bad", pytest.approx(1 / 2 - 2 / 3)),
        ("so-so", pytest.approx(1 / 2 - 1)),
    ]
    assert [(fallback.drop, fallback.name) for fallback in fallbacks[2:]] == [("fold", 1)]


def test_owner_and_half_are_kept_in_the_next_bundle(submitted, monkeypatch):
    monkeypatch.setattr("pipeline.stages.bundling.write_code", lambda folder, members: folder.mkdir(parents=True))
    monkeypatch.setattr("pipeline.stages.bundling.write_bundle_metadata", describe_without_notebooks)
    cfgs = [config.load(BOTH[0])]
    assert stages.bundle(cfgs).owner == stages.PLACEHOLDER_OWNER
    shutil.rmtree("dist/kaggle/tiny/code")
    stages.bundle(cfgs, "me", half=True)
    shutil.rmtree("dist/kaggle/tiny/code")
    again = stages.bundle(cfgs)
    assert (again.owner, again.bundle.record.half) == ("me", True)
    for name in ("bundle.json", "dataset-metadata.json"):
        Path("dist/kaggle/tiny/weights", name).write_text("{")
    shutil.rmtree("dist/kaggle/tiny/code")
    anew = stages.bundle(cfgs)
    assert (anew.owner, anew.bundle.record.half) == (stages.PLACEHOLDER_OWNER, False)


def test_a_damaged_bundle_is_replaced_and_extra_weights_are_removed(submitted):
    bundled(*BOTH[:1])
    Path("bundle/bundle.json").write_text("{")
    Path("bundle/tiny-fold9.safetensors").write_bytes(b"old")
    bundled(*BOTH[:1])
    left = sorted(path.name for path in Path("bundle").glob("*.safetensors"))
    assert left == [f"tiny-fold{fold}.safetensors" for fold in range(3)]


def describe_without_notebooks(folder, owner, record, card):
    write_metadata(
        folder / "weights",
        DatasetMetadata(title="tiny-weights", id=f"{owner}/tiny-weights", licenses=({"name": "other"},)),
    )
