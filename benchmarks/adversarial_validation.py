"""The score weighted by likeness to the test images, against the plain one and the truth; and false alarms.

    python benchmarks/adversarial_validation.py [--quick] [--runs 15] [--null-runs 100] [--images 300] [--test 150]

Generated images of discs on a textured background vary in noise, size of the discs, contrast and emptiness. A fixed
segmentation, a blur and a threshold, scores each of them by Dice. In each shift, test images are drawn from the same
range as training images, but with other frequencies. The truth is the mean score of 16,000 fresh test images. Each run
draws new training and test images, and compares them without looking at the test images' masks.

"closer" is the share of runs in which the weighted score lies nearer to the truth than the plain one; "alarms" the
share in which test images are said to differ; errors are means of absolute differences to the truth. Without a shift,
weighted and plain score should be equal within the spread of the plain one, and alarms be rare.

The second table has sets without a shift, of several sizes: the 95th percentile of the AUC, and the share of alarms,
with the interval above one half alone and with the AUC at MIN_AUC or more as well.
"""

import argparse
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.data.image_statistics import compute_statistics
from pipeline.metrics import Scores
from pipeline.stages.train_test_shift import summarize_prediction
from pipeline.statistics.adversarial_validation import compare_images, weight_scores

SIDE = 64  # pixels
TRUTH = 16_000  # images
THRESHOLD = 14.0  # grey levels above the background
SOFTNESS = 5.0  # grey levels of a step of 1 in the log-odds


class Kind(NamedTuple):
    """What an image is drawn from."""

    noise: float  # standard deviation, grey levels
    radius: float  # of the discs, pixels
    contrast: float  # of the discs, grey levels
    empty: bool


def between(low: float, high: float, share: float) -> float:
    """A value between two positive ends; equal steps of `share` are equal ratios."""
    return low * (high / low) ** share


def draw_kind(
    rng: np.random.Generator, *, noise: float = 1, radius: float = 1, contrast: float = 1, empty: float = 0.3
):
    """Exponents below 1 skew noise, radius and contrast towards their upper ends, those above 1 to the lower."""
    return Kind(
        between(2, 30, rng.random() ** noise),
        between(2, 10, rng.random() ** radius),
        between(15, 70, rng.random() ** contrast),
        rng.random() < empty,
    )


SHIFTS: dict[str, dict[str, float]] = {
    "none": {},
    "noise": {"noise": 0.35},
    "scale": {"radius": 3.0},
    "brightness": {"contrast": 3.0},
    "share of empties": {"empty": 0.65},
}


def draw_image(rng: np.random.Generator, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """An image (SIDE, SIDE) uint8 and its mask."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(0 if kind.empty else rng.integers(2, 6)):
        centre = tuple(int(each) for each in rng.integers(4, SIDE - 4, 2))
        cv2.circle(mask, centre, round(kind.radius), 1, cv2.FILLED)
    texture = cv2.resize(rng.normal(0, 6, (5, 5)), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    values = 90 + texture + kind.contrast * mask + rng.normal(0, kind.noise, (SIDE, SIDE))
    return values.clip(0, 255).astype(np.uint8), mask


def predict(image: np.ndarray) -> np.ndarray:
    """Probabilities of the fixed segmentation, as they are stored: (1, SIDE, SIDE) uint8."""
    smooth = cv2.GaussianBlur(image.astype(np.float32), (0, 0), 1.2)
    log_odds = (smooth - np.median(smooth) - THRESHOLD) / SOFTNESS
    return np.rint(255 / (1 + np.exp(-log_odds))).astype(np.uint8)[None]


def dice(values: np.ndarray, mask: np.ndarray) -> float:
    predicted = values[0] >= 128
    total = predicted.sum() + mask.sum()
    return 2.0 * (predicted & (mask == 1)).sum() / total if total else 1.0


def draw_set(rng: np.random.Generator, count: int, shift: dict[str, float]) -> tuple[pd.DataFrame, np.ndarray]:
    """The statistics of some images and of their predictions, a row each, and the scores (count,)."""
    rows, scores = [], []
    for _ in range(count):
        image, mask = draw_image(rng, draw_kind(rng, **shift))
        values = predict(image)
        rows.append(compute_statistics(image[..., None]) | summarize_prediction(values))
        scores.append(dice(values, mask))
    return pd.DataFrame(rows), np.array(scores)


def true_score(shift: dict[str, float]) -> float:
    rng = np.random.default_rng(10_000)
    pairs = (draw_image(rng, draw_kind(rng, **shift)) for _ in range(TRUTH))
    return float(np.mean([dice(predict(image), mask) for image, mask in pairs]))


def run(shift: dict[str, float], images: int, test: int, seed: int) -> dict[str, float]:
    """One run: plain and weighted score, whether there is an alarm, and the effective number of images."""
    rng = np.random.default_rng(seed)
    train, scores = draw_set(rng, images, {})
    tested, _ = draw_set(rng, test, shift)
    found = compare_images(train, tested, range(images), range(images, images + test))
    weighted = weight_scores(Scores.from_values(scores), found.weights).mean()
    return {
        "plain": scores.mean(),
        "weighted": weighted,
        "auc": found.auc.mean,
        "low": found.auc.low,
        "alarm": found.differ,
        "effective": found.effective,
    }


SIZES = ((60, 30), (300, 30), (300, 150), (650, 65))  # training and test images without a shift


def print_alarms(console: Console, runs: int) -> None:
    """Print how often images without a shift are said to differ."""
    table = Table(
        "train", "test", "AUC", "95 % below", "interval above .5", "alarms", title=f"no shift, {runs} runs each"
    )
    for images, test in SIZES:
        found = pd.DataFrame([run({}, images, test, 9000 + seed) for seed in range(runs)])
        table.add_row(
            str(images),
            str(test),
            f"{found['auc'].mean():.3f} ± {found['auc'].std():.3f}",
            f"{found['auc'].quantile(0.95):.3f}",
            f"{(found['low'] > 0.5).mean():.0%}",
            f"{found['alarm'].mean():.0%}",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 runs of each shift, 10 without")
    parser.add_argument("--runs", type=int, default=15, help="of each shift")
    parser.add_argument("--null-runs", type=int, default=100, help="of each size without a shift")
    parser.add_argument("--images", type=int, default=300, help="training images of a run")
    parser.add_argument("--test", type=int, default=150, help="test images of a run")
    args = parser.parse_args()
    runs = 8 if args.quick else args.runs
    columns = ["shift", "truth", "plain", "weighted", "error", "weighted error", "closer", "AUC", "alarms", "effective"]
    table = Table(*columns, title=f"{runs} runs of {args.images} training and {args.test} test images")
    console = Console(width=120)
    with threadpool_limits(1):
        for number, (name, shift) in enumerate(SHIFTS.items()):
            truth = true_score(shift)
            seeds = range(1000 * number, 1000 * number + runs)
            found = pd.DataFrame([run(shift, args.images, args.test, seed) for seed in seeds])
            error, weighted = (found["plain"] - truth).abs(), (found["weighted"] - truth).abs()
            table.add_row(
                name,
                f"{truth:.4f}",
                f"{found['plain'].mean():.4f} ± {found['plain'].std():.4f}",
                f"{found['weighted'].mean():.4f} ± {found['weighted'].std():.4f}",
                f"{error.mean():.4f}",
                f"{weighted.mean():.4f}",
                f"{(weighted < error).mean():.0%}",
                f"{found['auc'].mean():.2f}",
                f"{found['alarm'].mean():.0%}",
                f"{found['effective'].mean():.0f}",
            )
            if name == "none":
                console.print(f"weighted − plain: {(found['weighted'] - found['plain']).abs().mean():.4f} on average")
        console.print(table)
        print_alarms(console, 10 if args.quick else args.null_runs)


if __name__ == "__main__":
    main()
