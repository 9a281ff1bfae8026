"""A prediction ends within its time budget, however long an image takes; only the models advance the clock."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline import competition, config
from pipeline.inference.predictor import Prediction
from pipeline.serving import single_pass, time_budget
from pipeline.serving.budget_plan import Fallback, Member, fold_fallbacks
from pipeline.serving.single_pass import LoadedImage, SinglePass
from pipeline.serving.time_budget import TimeBudget

HOUR = 3600.0
VIEWS = ("identity", "flip_horizontal")
PLAN = (Member("tiny", (0, 1, 2), VIEWS),)
FALLBACKS = (
    Fallback(drop="view", member="tiny", name="flip_horizontal", loss=0.1),
    *fold_fallbacks((Member("tiny", (0, 1, 2), ("identity",)),), {"tiny": {0: 0.1, 1: 0.2, 2: 0.3}}),
)


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=100.0)
    clock.monotonic = lambda: clock.now
    for module in (time_budget, single_pass):
        monkeypatch.setattr(module, "time", clock)
    return clock


def predict(clock, image, budget, images=6, *, fallbacks=FALLBACKS, noise=0.0, warm_up=1.0, batch_size=16, fails=()):
    """Predict; returns the images reached, the run, and its seconds.

    Args:
        image: seconds of all models on one image.
        warm_up: factor of each model's first pass.
        fails: images of which each model raises an error.
    """
    rng, called = np.random.default_rng(0), set()

    def load(cfg, fold):
        def predict(pixels, views):
            factor = rng.uniform(1 - noise, 1 + noise) * (1 if fold in called else warm_up)
            clock.now += image / 6 * len(views) * len(pixels) * factor
            called.add(fold)
            if any(int(image.max()) in fails for image in pixels):
                raise MemoryError("too large")
            return Prediction(torch.zeros(len(pixels), 1, 2, 2), None)

        return SimpleNamespace(predict=predict)

    cfg = config.load("configs/tiny.toml", [f"predict.batch_size={batch_size}"])
    bundle = SimpleNamespace(
        cfgs=(cfg,),
        card=competition.load("tiny.toml"),
        renderer=SimpleNamespace(used=np.ones(1, bool)),
        plan=PLAN,
        record=SimpleNamespace(fallbacks=fallbacks),
    )
    started = clock.now
    run = SinglePass(bundle, load, TimeBudget(images, budget))
    pixels = (torch.full((1, 2, 2), n, dtype=torch.uint8) for n in range(images))
    items = (LoadedImage(str(n), (), (each,), ((2, 2),)) for n, each in enumerate(pixels))
    reached = [image_id for image_id, stores in run(items)]
    return reached, run, clock.now - started


@pytest.mark.parametrize("noise", [0.0, 0.2], ids=["even", "uneven"])
@pytest.mark.parametrize("hours", [0.5, 1.2, 2.3, 3.5, 5.0])
@pytest.mark.parametrize("fallbacks", [FALLBACKS, ()], ids=["with fallbacks", "without fallbacks"])
def test_few_images_of_hours_each_end_within_the_budget(tiny, clock, hours, noise, fallbacks):
    reached, run, seconds = predict(clock, hours * HOUR, 8 * HOUR, fallbacks=fallbacks, noise=noise)
    assert seconds <= 8 * HOUR
    assert len(reached) >= 1
    if fallbacks and hours < 5:
        assert len(reached) == 6, "less is run, and all images fit"
        assert run.dropped == list(FALLBACKS[: len(run.dropped)])
    assert bool(run.dropped) == (bool(fallbacks) and hours > 1.25)


def test_the_next_image_is_not_started_if_it_would_end_after_the_budget(tiny, clock, caplog):
    reached, _, seconds = predict(clock, 2.3 * HOUR, 8 * HOUR, fallbacks=())
    assert (reached, seconds) == (["0", "1", "2"], pytest.approx(6.9 * HOUR))
    assert "time budget used up: 3 images not predicted; their rows keep the sample's value" in caplog.text


def test_as_many_images_of_a_batch_as_fit_are_predicted(tiny, clock):
    reached, _, seconds = predict(clock, 10.0, 175.0, images=40, fallbacks=(), batch_size=8)
    assert (len(reached), seconds) == (17, pytest.approx(170.0))


def test_a_slow_first_image_does_not_apply_fallbacks(tiny, clock):
    reached, run, _ = predict(clock, 10.0, 1300.0, images=100, warm_up=5.0)
    assert (len(reached), run.dropped) == (100, [])


def test_costs_are_checked_after_one_image_if_the_next_is_expensive(tiny, clock):
    _, run, _ = predict(clock, 2.3 * HOUR, 8 * HOUR)
    # 2.3 h are gone; 5.3 h of the 7.6 planned for are left to 5 images, and a model run takes 0.383 h: two fit.
    assert [fallback.name for fallback in run.dropped] == ["flip_horizontal", 0]


def test_no_image_is_started_if_loading_models_used_up_the_budget(clock):
    started = TimeBudget(6, 60.0)
    clock.now += 61.0
    assert started.count_that_fit(1, started.next_image_limit(PLAN)) == 0


def test_without_a_budget_all_images_are_predicted_in_full_batches(tiny, clock):
    reached, run, _ = predict(clock, 2.3 * HOUR, None, images=20)
    assert (len(reached), run.dropped, run.budget.batches) == (20, [], 2)


def test_images_on_which_all_models_fail_do_not_stop_the_prediction(tiny, clock):
    reached, run, _ = predict(clock, 10.0, 1000.0, images=20, fails=(0, 1, 2))
    assert (len(reached), set(run.problems), run.dropped) == (20, {"0", "1", "2"}, [])
