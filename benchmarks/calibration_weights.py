"""Searched against equal weights of an ensemble: the difference in Dice on fresh images, by simulation.

    python benchmarks/calibration_weights.py [--runs 100] [--only SCENARIO]

Members see the truth through noise: a smooth field whose high part is the object, noise that all members share, and
noise of their own. Each run draws training images, chooses a weighting and a threshold on them, and scores fresh
images with these and with equal weights:

    cross-validated   as the pipeline chooses (`ensemble.candidate_weights`)
    in sample         greedy weights of the combination that scores best on the images that they were searched on
"""

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter

from pipeline.ensemble.candidate_weights import TRIED_COMBINATIONS, equal_weighting, make_chooser
from pipeline.ensemble.combine import Weighting
from pipeline.ensemble.weights import Subsample, fit_threshold, greedy_weights, score_images
from pipeline.metrics import pixel_metric

DICE = pixel_metric("mean_dice")
SIDE = 24  # pixels of an image
FOLDS = 5
FRESH = 600  # images that score a choice
SHARED = 0.6  # standard deviation of the noise that all members have in common; the truth has 1
NOISE_ONLY = float("inf")
SHARPNESS = 2.0


class Scenario(NamedTuple):
    """An ensemble and the images that its weights are chosen on."""

    noises: tuple[float, ...]  # standard deviation of each member's own noise
    images: int
    sharpness: tuple[float, ...] | None = None  # of each member, the factor of its log-odds; None: SHARPNESS for all


SCENARIOS = {
    "8 equal, 30 images": Scenario((0.6,) * 8, 30),
    "4 equal, 60 images": Scenario((0.6,) * 4, 60),
    "3 equal, 100 images": Scenario((0.6,) * 3, 100),
    "2 unequal, 30 images": Scenario((0.4, 0.9), 30),
    "4 unequal, 30 images": Scenario((0.4, 0.5, 0.8, 1.2), 30),
    "5 unequal, 100 images": Scenario((0.3, 0.5, 0.7, 1.0, 1.4), 100),
    "10 of 12 noise": Scenario((0.6,) * 2 + (NOISE_ONLY,) * 10, 60),
    "one of 3 overconfident": Scenario((0.6,) * 3, 60, (1.0, 2.0, 8.0)),
}


def make_images(scenario: Scenario, count: int, seed: Sequence[int]) -> list[Subsample]:
    """Images with the stored values of each member."""
    rng = np.random.default_rng(seed)

    def smooth(sigma: float) -> np.ndarray:
        field = gaussian_filter(rng.standard_normal((count, SIDE, SIDE)), (0, sigma, sigma))
        return field / field.std()

    truth = smooth(3) + 0.3 * rng.standard_normal((count, 1, 1)) - 1  # above 0 in about a sixth of the pixels
    shared = SHARED * smooth(2)
    fields = [smooth(2) if noise == NOISE_ONLY else truth + shared + noise * smooth(1.5) for noise in scenario.noises]
    factors = scenario.sharpness or (SHARPNESS,) * len(fields)
    probs = [1 / (1 + np.exp(-factor * field)) for factor, field in zip(factors, fields, strict=True)]
    values = np.rint(255 * np.stack(probs, axis=1)).astype(np.uint8)
    targets = (truth > 0).astype(np.uint8)
    return [
        Subsample(of_image.reshape(len(fields), -1), target.ravel())
        for of_image, target in zip(values, targets, strict=True)
    ]


def choose_cross_validated(images: Sequence[Subsample]) -> Weighting:
    """The pipeline's choice."""
    fold_of = np.arange(len(images)) % FOLDS
    return make_chooser(images, fold_of, DICE, len(images[0].values)).choose(tuple(range(FOLDS)))


def choose_in_sample(images: Sequence[Subsample]) -> Weighting:
    """Equal weights, or greedy weights of each combination: the best on the images themselves."""
    found = [
        Weighting(name, tuple(greedy_weights(images, DICE, combination=name).tolist()))
        for name in (*TRIED_COMBINATIONS, "vote")
    ]
    return max([equal_weighting(len(images[0].values)), *found], key=lambda each: score(each, images, images))


def score(weighting: Weighting, fitted_on: Sequence[Subsample], images: Sequence[Subsample]) -> float:
    """The mean Dice of images at the threshold that is best on those of `fitted_on`."""
    return score_images(images, fit_threshold(fitted_on, weighting, DICE), DICE).mean()


CHOICES: dict[str, Callable[[Sequence[Subsample]], Weighting]] = {
    "cross-validated": choose_cross_validated,
    "in sample": choose_in_sample,
}


def gain(scenario: Scenario, choice: str, run: int) -> float:
    """Mean Dice of a choice on fresh images, less that of equal weights."""
    images = make_images(scenario, scenario.images, [run, 0])
    fresh = make_images(scenario, FRESH, [run, 1])
    equal = equal_weighting(len(scenario.noises))
    return score(CHOICES[choice](images), images, fresh) - score(equal, images, fresh)


def main(args: argparse.Namespace) -> None:
    """Print a row for each scenario."""
    table = Table("scenario", *CHOICES, title=f"Dice on fresh images, less that of equal weights; {args.runs} runs")
    for name, scenario in SCENARIOS.items():
        if args.only in (None, name):
            gains = {choice: [gain(scenario, choice, run) for run in range(args.runs)] for choice in CHOICES}
            table.add_row(name, *(_mean_and_error(np.array(each)) for each in gains.values()))
    Console().print(table)


def _mean_and_error(values: np.ndarray) -> str:
    return f"{values.mean():+.4f} ± {values.std(ddof=1) / len(values) ** 0.5:.4f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--only", choices=SCENARIOS)
    main(parser.parse_args())
