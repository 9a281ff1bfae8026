"""The gate: a mask is emptied if the image head's probability that the class is in the image is too low."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from safetensors.numpy import save_file

from pipeline import config, stages
from pipeline.cli import main
from pipeline.config import Tiles
from pipeline.data.index import read_index
from pipeline.data.reader import Reader
from pipeline.data.sample import Sample, samples_of
from pipeline.ensemble.combine import InMemoryStore, read_heads
from pipeline.ensemble.renderer import Postprocess, Renderer
from pipeline.ensemble.selection import Oof, select_multilabel
from pipeline.inference.prediction_store import PredictionStore, start_store
from pipeline.inference.predictor import Predictor, predict_to_store, predict_windows
from pipeline.metrics import VOID, count, metric_names, pixel_metric, stack
from pipeline.models import build_model
from pipeline.models.segmenter import Outputs
from pipeline.postprocess.rule_variants import VariantSearch
from pipeline.postprocess.rules import Rules, apply, with_gate
from pipeline.postprocess.search import GATES, RULE_SETS, RuleSearch
from pipeline.postprocess.shares import Place
from pipeline.postprocess.threshold_counts import THRESHOLDS
from pipeline.serving.bundle import RECORD_FILE, read_bundle
from pipeline.serving.bundle_prediction import predict_test
from pipeline.stages.bundling import write_weights
from pipeline.stages.ensembling import load_members
from pipeline.stages.ensembling import test_masks as masks_of_test
from pipeline.stages.training import predict_test as predict_with_models
from tests.conftest import build_once
from tests.test_bundle import rows

DICE = pixel_metric("mean_dice")
AREAS = np.array([0, 1, 4, 12])


# The search


@st.composite
def images_with_heads(draw):
    values = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 40, 128, 220, 255]))
    target = arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, VOID])) | st.just(np.zeros((4, 5), np.uint8))
    fold, head = st.integers(0, 1), st.sampled_from([0, 1, 2, 60, 128, 254, 255])
    return [(draw(values), draw(target), Place(draw(fold)), draw(head)) for _ in range(draw(st.integers(1, 5)))]


def search(images, metric=DICE, rule_sets=tuple(RULE_SETS)):
    found = RuleSearch(metric, AREAS, rule_sets=rule_sets)
    for image in images:
        found.add(*image)
    return found.grids()


def score_by_apply(rules, images, metric=DICE):
    masks = (apply(values, rules, image_value / 255) for values, _, _, image_value in images)
    return metric.scores(stack(count(mask, target) for mask, (_, target, *_) in zip(masks, images, strict=True))).mean()


@pytest.mark.parametrize("name", metric_names("pixels", complete=True))
@settings(max_examples=8, deadline=None)
@given(images_with_heads())
def test_scores_of_gates_equal_a_loop_with_apply(name, images):
    metric = pixel_metric(name)
    grid = search(images, metric, ["gate"])["gate"]
    for area in AREAS.tolist():
        for threshold in THRESHOLDS[[0, 50, 127, 254]].tolist():
            for gate in GATES[[0, 1, 2, 11, -2, -1]].tolist():
                rules = Rules(threshold, area, gate=gate or None)
                expected = np.nan_to_num(score_by_apply(rules, images, metric))
                if grid.denominator.any():
                    assert grid.score(rules) == pytest.approx(expected, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(images_with_heads())
def test_gates_of_zero_equal_the_rules_without_a_gate(images):
    grids = search(images)
    assert np.array_equal(grids["gate"].numerator[..., 0], grids["total"].numerator)


@settings(max_examples=10, deadline=None)
@given(images_with_heads(), st.sampled_from(GATES[1:].tolist()))
def test_variants_of_a_gate_equal_a_loop_with_apply(images, gate):
    rules = Rules(0.5, 0, gate=gate)
    variants = VariantSearch(DICE, [rules, Rules(0.5, 0)])
    for image in images:
        variants.add(*image)
    scores = variants.scores()
    assert {each.gate for each in scores.columns} == {None, gate}
    for each in list(scores.columns)[::41]:
        assert scores.score(each) == pytest.approx(score_by_apply(each, images), abs=1e-12)


def test_gates_are_left_out_if_an_image_has_no_head():
    image = np.full((2, 2), 200, np.uint8), np.ones((2, 2), np.uint8), Place(0)
    assert "gate" in search([(*image, 9), (*image, 200)])
    assert "gate" not in search([(*image, 9), (*image, None)])


@given(st.integers(0, 255), st.sampled_from(GATES[1:].tolist()))
def test_rules_with_a_decided_gate_give_the_same_mask(image_value, gate):
    values, rules = np.full((2, 3), 200, np.uint8), Rules(0.5, 0, gate=gate, share=0.5)
    decided = with_gate(rules, image_value)
    assert decided.gate is None
    assert np.array_equal(apply(values, decided), apply(values, rules, image_value / 255))


# Prediction


class Columns(torch.nn.Module):
    """Logits of two classes; those of the image head are its own, of the image's first column."""

    image_head, gives_image_logits = True, False

    def forward(self, images):
        logits = (images.float() - 128).expand(-1, 2, -1, -1) / 32
        image_logits = logits[..., 0].mean(dim=-1)
        return Outputs(logits, (), image_logits) if self.gives_image_logits else logits


def halves():
    """Two images, dark on the left and bright on the right, and the other way round."""
    dark, bright = torch.full((1, 1, 8, 8), 96, dtype=torch.uint8), torch.full((1, 1, 8, 8), 192, dtype=torch.uint8)
    return torch.cat([torch.cat([dark, bright], dim=-1), torch.cat([bright, dark], dim=-1)])


LOW, HIGH = torch.tensor([-1.0, 2.0]).sigmoid().tolist()  # of columns of 96 and of 192


def test_the_probability_of_the_image_head_is_the_mean_over_the_views():
    one = Predictor(Columns(), ("identity",), "float32").predict(halves())
    assert one.image_probs[:, 0].tolist() == pytest.approx([LOW, HIGH])
    both = Predictor(Columns(), ("identity", "flip_horizontal"), "float32").predict(halves())
    assert both.image_probs.numpy() == pytest.approx((LOW + HIGH) / 2)
    assert torch.equal(both.probs, one.probs)


def test_prediction_does_not_change_what_the_model_returns():
    model = Columns()
    Predictor(model, ("identity",), "float32").predict(halves())
    assert isinstance(model(halves()), torch.Tensor)


@pytest.mark.parametrize("backend", ["eager", "fuse_conv_bn"])
def test_every_backend_gives_the_image_head_of_a_network(backend):
    torch.manual_seed(0)
    options = {"encoder": "tu-test_resnet", "weights": "none", "in_channels": 1, "decoder_channels": (16, 16, 8, 8, 8)}
    model = build_model(config.Model(**options, classes=2, image_head=0.2)).eval()
    found = Predictor(model, ("identity", "flip_horizontal"), "float32", backend=backend).predict(halves())
    logits = []
    model.image_head.register_forward_hook(lambda _module, _inputs, output: logits.append(output))
    with torch.inference_mode():
        for turned in (halves(), halves().flip(-1)):
            model(turned)
    expected = torch.stack(logits).sigmoid().mean(dim=0)
    torch.testing.assert_close(found.image_probs, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("tiles", [None, Tiles(size=16, stride=16)], ids=["whole", "tiles"])
def test_the_store_has_the_image_head_beside_the_pixels_and_resumes(tiny, card, tiles):
    index, folder = read_index(card, tiny / "tiny"), tiny / "store"
    options = {"reader": Reader(1), "batch_size": 4, "workers": 0, "what": "test"}
    predictor = Predictor(Columns(), ("identity",), "float32", tiles=tiles)
    start_store(folder, {})
    for some in (index.iloc[:7], index):
        predict_to_store(predictor, some, folder, **options)
    store = PredictionStore(folder)
    for sample in samples_of(index):
        image = torch.from_numpy(Reader(1).read(sample)[..., 0].astype(np.float32))
        heads = ((image[:, 0] - 128) / 32).mean().sigmoid().item()
        found = store.read_image_values(sample.image_id)
        assert found.dtype == np.uint8
        assert found.shape == (2,)
        if tiles is None:
            assert found.tolist() == [round(255 * heads)] * 2


def test_the_image_head_of_tiles_is_the_highest_of_all(tmp_path):
    Image.fromarray(np.hstack([np.full((16, 16), level, np.uint8) for level in (96, 192, 96)])).save(tmp_path / "a.png")
    predictor = Predictor(Columns(), ("identity",), "float32", tiles=Tiles(size=16, stride=16))
    found = predict_windows(predictor, Sample("a", (tmp_path / "a.png",)), Reader(1))
    assert found.image_values.tolist() == [round(255 * HIGH)] * 2


def test_a_damaged_list_of_image_heads_is_reported_with_its_file(tmp_path):
    start_store(tmp_path, {})
    save_file({"a": np.zeros((1, 2, 2), np.uint8)}, tmp_path / "000-00000.safetensors", {"image_values": "{"})
    with pytest.raises(ValueError, match=r"000-00000\.safetensors: damaged .*: remove it"):
        PredictionStore(tmp_path)


# Members


def test_the_probability_of_an_ensemble_is_the_weighted_mean_of_the_members_with_a_head():
    def store(*image_values):
        return InMemoryStore(np.zeros(0), np.array(image_values, np.uint8) if image_values else None)

    stores = [[store(100, 0), store(101, 0)], [store()], [store(200, 255)], []]  # the last: of weight 0, not run
    heads = read_heads(stores, "a")
    assert heads == ((100.5, 0.0), None, (200.0, 255.0), None)
    place = Place(heads=heads)
    assert place.image_value((0.3, 0.4, 0.3, 0.0), 0) == 150  # (100.5 + 200) / 2
    assert place.image_value((0.1, 0.5, 0.4, 0.0), 1) == 204  # .8 · 255
    assert place.image_value((0.0, 1.0, 0.0, 0.0), 0) is None
    assert Place().image_value((1.0,), 0) is None


def test_a_gate_without_any_head_is_an_error_and_not_an_open_gate():
    renderer = Renderer((Postprocess("mean", (1.0,), "gate", Rules(0.5, 0, gate=0.3)),))
    with pytest.raises(ValueError, match=r"gate 0\.3 without image_prob"):
        renderer.at_place(Place())
    with pytest.raises(ValueError, match=r"gate 0\.3 without image_prob"):
        renderer.masks(np.zeros((1, 2, 2), np.uint8))


def make_oof(heads_of, members=1, images=36, folds=3, seed=0):
    """Discs that half of the images only seem to have: values of true and of false ones are alike.

    Args:
        heads_of: from random numbers and whether the disc is true to the members' heads.
    """
    rng, known, heads = np.random.default_rng(seed), {}, {}
    rows_, columns = np.ogrid[:20, :20]
    for number in range(images):
        row, column = rng.uniform(6, 14, 2)
        disc = ((rows_ - row) ** 2 + (columns - column) ** 2 < rng.uniform(3, 6) ** 2).astype(np.uint8)
        values = (60 + 130 * disc + rng.normal(0, 10, (members, *disc.shape))).clip(0, 255).astype(np.uint8)
        is_true = bool(rng.random() < 0.5)
        known[f"{number:02}"] = values[:, None], disc[None] * np.uint8(is_true)
        heads[f"{number:02}"] = heads_of(rng, is_true)
    ids = list(known)
    fold_of = np.arange(images) % folds
    return Oof(ids, fold_of, known.__getitem__, members, lambda items, _: items, heads_of=heads.__getitem__)


def good_head(rng, is_true):
    return (float(rng.integers(120, 256) if is_true else rng.integers(0, 100)),)


def test_a_gate_is_selected_where_the_head_knows_which_discs_are_true():
    oof = make_oof(lambda rng, is_true: (good_head(rng, is_true),))
    selection, without = (select_multilabel(each, DICE, 1) for each in (oof, replace(oof, heads_of=lambda _: ())))
    (part,) = selection.renderer.parts
    assert 95 / 255 < part.rules.gate < 130 / 255
    assert selection.score > without.score + 0.2
    scores = [
        DICE.scores(stack([count(selection.held_out(oof.places[each]).masks(values[0])[0], target[0])])).mean()
        for each, (values, target) in ((each, oof.read(each)) for each in oof.image_ids)
    ]
    assert scores == pytest.approx(selection.scores.per_image())


def test_a_gate_by_luck_is_not_selected():
    # The head is random: in sample the best gate scores higher, on the folds left out it does not.
    oof = make_oof(lambda rng, _: ((float(rng.integers(0, 256)),),), images=18, seed=3)
    selection = select_multilabel(oof, DICE, 1)
    images = [(values[0, 0], target[0], place, int(place.heads[0][0])) for values, target, place in oof.images("")]
    grids = search(images)
    assert grids["gate"].best()[1] > grids["total"].best()[1] + 0.02
    assert selection.renderer.parts[0].rules.gate is None


def test_a_member_without_a_head_leaves_the_gate_to_the_others():
    oof = make_oof(lambda rng, is_true: (good_head(rng, is_true), None), members=2)
    selection = select_multilabel(oof, DICE, 1)
    (part,) = selection.renderer.parts
    assert part.rules.gate is not None
    assert min(part.weights) > 0
    assert select_multilabel(oof.only(1), DICE, 1).renderer.parts[0].rules.gate is None


# A submission


def with_head(text):
    return text.replace("[model]\n", "[model]\nimage_head = 0.2\n")


@pytest.fixture(scope="session")
def with_head_once(submitted_once, tmp_path_factory):
    """The trained tiny competition with one more config, whose model has an image head."""

    def build() -> None:
        shutil.copytree(submitted_once, Path(), dirs_exist_ok=True)
        Path("configs/head.toml").write_text(with_head(Path("configs/tiny.toml").read_text()))
        predict_with_models(*load_members([config.load("configs/head.toml")]))

    return build_once(tmp_path_factory, "with_head", build)


@pytest.fixture
def gated(with_head_once, tmp_path, monkeypatch):
    """The configs of a member with an image head and of one without, and rules whose gate some test images pass."""
    shutil.copytree(with_head_once, tmp_path / "gated")
    monkeypatch.chdir(tmp_path / "gated")
    monkeypatch.delenv("DATA", raising=False)
    cfgs = [config.load(f"configs/{name}.toml") for name in ("head", "seed1")]
    stores = load_members(cfgs)[0].test_stores()
    values = sorted(read_heads([stores], image_id)[0][0] for image_id in stores[0].ids())
    rules = Rules(0.3, 4, gate=(values[-3] + values[-2]) / 2 / 255)  # the two highest pass
    assert round(values[-3]) / 255 < rules.gate <= round(values[-2]) / 255

    def best(candidates, _):
        return ("gate", rules) if "gate" in candidates.grids else ("total", Rules(0.5, 0))  # of a member without a head

    monkeypatch.setattr("pipeline.ensemble.candidate_rules.CandidateRules.best", best)
    return cfgs, rules


@pytest.mark.slow
@pytest.mark.parametrize("configs", [("head",), ("head", "seed1")], ids=["one member", "with one without a head"])
def test_bundle_ensemble_and_batch_write_the_same_masks_with_a_gate(gated, configs):
    cfgs, rules = gated
    cfgs = [cfg for cfg in cfgs if cfg.name in configs]
    done = stages.ensemble(cfgs)
    bundle = write_weights(Path("bundle"), load_members(cfgs), done)
    assert bundle.renderer.parts[0].rules == rules
    predicted = predict_test(bundle, Path("tiny"), Path("working/submission.csv"))
    assert rows(predicted.csv) == rows(done.csv)
    assert predicted.problems == {}
    assert main(["batch-predict", "bundle", "--input", "tiny/test/images/*.png", "--output", "out"]) == 0
    batch = pd.read_parquet("out").set_index("image_id")["rle"].to_dict()
    assert batch == rows(done.csv)
    masks = rows(done.csv)
    emptied = {key for key, text in masks.items() if text == ""}
    without = [part._replace(rules=rules._replace(gate=None)) for part in done.selection.renderer.parts]
    plain = masks_of_test(load_members(cfgs), set(masks), Renderer(tuple(without)))
    assert any(plain(key).any() for key in emptied), "the gate emptied a mask, or equality says nothing"
    assert len(set(masks.values())) > 2


@pytest.mark.slow
def test_a_bundle_with_a_gate_and_no_image_head_is_refused(gated):
    cfgs, _ = gated
    done = stages.ensemble(cfgs[:1])
    write_weights(Path("bundle"), load_members(cfgs[:1]), done)
    path = Path("bundle", RECORD_FILE)
    record = json.loads(path.read_text())
    record["configs"]["head"]["model"]["image_head"] = 0.0
    path.write_text(json.dumps(record))
    with pytest.raises(ValueError, match=r"has a gate, but no config with a weight has model\.image_head"):
        read_bundle(Path("bundle"))
