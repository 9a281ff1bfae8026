"""A generated run for the tests of the report: 60 images with a disc each, three folds, nothing unusual."""

import numpy as np
import pandas as pd

from pipeline.metrics import DetectionRates
from pipeline.postprocess.threshold_counts import THRESHOLDS, count_by_label
from pipeline.report.label_quality import reliability
from pipeline.report.report_data import (
    CrossFittedScore,
    LikeTest,
    Members,
    Picture,
    PseudoGain,
    ReportData,
    ScoreSurface,
    SimulatedShakeup,
    Submission,
    SurfacePoint,
)
from pipeline.statistics.bootstrap import Difference, Interval
from pipeline.statistics.symmetry_probe import SymmetryProbe

SIDE = 32
IMAGES = 60


def draw(number: int) -> Picture:
    """Image `number`: a disc that grows with it (none in every tenth), and probabilities, blurred at the outline."""
    y, x = np.mgrid[:SIDE, :SIDE]
    inside = (3 + number / 10) * (number % 10 > 0) - np.hypot(y - 16, x - 14)
    values = np.rint(255 / (1 + np.exp(-2 * inside))).astype(np.uint8)
    image = np.stack([values // 2 + 40, values // 3, 200 - values // 2], axis=2).astype(np.uint8)
    return Picture(image, (inside > 0).astype(np.uint8), values, (values >= 128).astype(np.uint8))


def number_of(image_id: str) -> int:
    return int(image_id.removeprefix("image"))


def make_images() -> pd.DataFrame:
    """Scores that depend on the image, but not on fold, kind or size."""
    pictures = [draw(number) for number in range(IMAGES)]
    return pd.DataFrame(
        {
            "image_id": [f"image{number:03}" for number in range(IMAGES)],
            "fold": np.arange(IMAGES) % 3,
            "score": 0.9 + 0.05 * np.sin(2.3 * np.arange(IMAGES)),
            "coverage": [picture.target.mean() for picture in pictures],
            "predicted": [picture.mask.mean() for picture in pictures],
            "label_error_score": 0.0,
            "summary": "a disc",
            "kind": np.where(np.arange(IMAGES) % 2, "odd", "even"),
        }
    )


def make_history() -> pd.DataFrame:
    """Two phases of three epochs; the second epoch is the best."""
    scores = {1: 0.7, 2: 0.8, 3: 0.79}
    return pd.DataFrame(
        [
            {
                "fold": fold,
                "phase": phase,
                "epoch": epoch,
                "loss": 1 / epoch,
                "score": score,
                "selection": score,
                "best": epoch < 3,
            }
            for fold in range(3)
            for phase in (1, 2)
            for epoch, score in scores.items()
        ]
    )


def make_surface() -> ScoreSurface:
    areas = np.array([0, 5, 50])
    scores = 0.9 - (THRESHOLDS - 0.5) ** 2 - np.array([0, 0.01, 0.1])[:, None]
    return ScoreSurface(
        areas,
        scores,
        SurfacePoint(0.5, 0),
        {0: SurfacePoint(0.48, 0), 1: SurfacePoint(0.5, 0), 2: SurfacePoint(0.52, 5)},
    )


def make_rules() -> pd.DataFrame:
    """The rules of the submission and those chosen without each fold, one of them another rule set."""
    return pd.DataFrame(
        {
            "chosen on": ["all folds", *(f"without fold {fold}" for fold in range(3))],
            "rules": ["total", "total", "components", "total"],
            "threshold": [0.5, 0.48, 0.51, 0.52],
            "area": [0, 0, 7, 5],
        }
    )


def make_like_test(**other: object) -> LikeTest:
    """No shift; images with a larger number are more like the test images. `other` replaces parts of it."""
    parts = {
        "summary": "test images do not differ from training images by more than chance (AUC 0.51, 0.40 to 0.62)",
        "differ": False,
        "score": Interval(0.8995, 0.88, 0.91),
        "effective": 55.0,
        "differences": pd.DataFrame({"statistic": ["noise"], "train": [3.0], "test": [3.1], "distance": [0.1]}),
        "probability": {f"image{number:03}": (number + 1) / (IMAGES + 1) for number in range(IMAGES)},
    }
    return LikeTest(**{**parts, **other})


def make_report_data(**other: object) -> ReportData:
    """The run; `other` replaces parts of it."""
    images = make_images()
    counts = sum(count_by_label(picture.values, picture.target) for picture in map(draw, range(IMAGES)))
    shares = reliability(counts).assign(share=lambda table: table["probability"])  # perfectly calibrated
    parts = {
        "title": "demo",
        "competition": "Discs",
        "metric": "mean_dice",
        "provenance": {
            "versions": {"numpy": "2.4"},
            "commit": "0123456789abcdef+",
            "made": "2026-01-02T03:04:05+00:00",
        },
        "images": images,
        "score": CrossFittedScore(Interval(0.9, 0.89, 0.91), 0.902, 0.88, 0.4),
        "picture": lambda image_id: draw(number_of(image_id)),
        "detection": DetectionRates(0.95, 1.0, 1.0),
        "masks": pd.DataFrame(),
        "epoch_metric": "mean_dice",
        "history": make_history(),
        "folds": pd.DataFrame({"fold": [0, 1, 2], "images": 20, "oof": [0.91, 0.9, np.nan], "seconds": [75, 80, 3675]}),
        "classes": pd.DataFrame({"class": ["disc"], "score": [0.9]}),
        "surfaces": {"disc": make_surface()},
        "rules": make_rules(),
        "separation": None,
        "reliability": shares,
        "members": Members(
            pd.DataFrame({"name": ["one", "two"], "weight": [0.6, 0.4], "score": [0.89, 0.9]}),
            pd.DataFrame({"errors of": ["one", "two"], "one": [1.0, 0.7], "two": [0.7, 1.0]}),
        ),
        "pseudo": PseudoGain(
            "demo_pseudo",
            "demo",
            pd.DataFrame(
                {"fold": [0, 1, 2], "labelled": [7, 0, 9], "with": [0.91, 0.9, 0.9], "without": [0.9, 0.9, 0.91]}
            ),
            (0.9029, 0.9036),
            Difference(-0.0007, -0.0034, 0.0015, 0.3),
        ),
        "submission": Submission(60, 6, images["predicted"].to_numpy()),
        "shakeup": SimulatedShakeup(np.random.default_rng(0).normal(0, 0.01, 500), 30, 70),
        "like_test": make_like_test(),
        "symmetries": [SymmetryProbe("flip_horizontal", 0.51, 60), SymmetryProbe("flip_vertical", 0.98, 60)],
    }
    return ReportData(**{**parts, **other})


BARE = {
    "history": pd.DataFrame(),
    "surfaces": {},
    "rules": pd.DataFrame(),
    "members": None,
    "pseudo": None,
    "submission": Submission(0, 0, np.zeros(0)),
    "shakeup": "the metric counts 3.0 effective groups.",
    "like_test": "there are no test images yet",
}


def make_bare_report_data(**other: object) -> ReportData:
    """A run with only the parts that every run has, and those of `other`."""
    return make_report_data(**{**BARE, **other})
