"""Calibration of intervals, comparison and final selection: what they claim against fresh images, by simulation.

    OMP_NUM_THREADS=1 nice -n 19 python benchmarks/calibration.py [--quick] [--only PART] [--runs 600]

Each run draws training images, computes a claim from them and checks it:

    covered     the 95 % interval holds the score of the final choice on fresh images; wanted .93 to .97
    outside     `compare` of two members that are equal by construction is certain, p_better outside .025 to .975;
                wanted .04 to .07
    claimed     share of simulated test sets on which the candidate with the best OOF score is best in private;
                wanted within .04 of `happened`, the share of true private parts

"before" is the percentile bootstrap without the luck of the choice and without Student's factor, and test sets that are
drawn from the OOF images as they are. Each finished run is kept in a file, and a run that is kept is not repeated:
the same command resumes, and `--runs 0` prints the table of what there is. Without `--quick` it takes hours. A new
scenario is a line of SCENARIOS.
"""

import argparse
import hashlib
import json
import logging
import sys
from functools import cache
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.files import write_text
from pipeline.metrics import Scores, count, pixel_metric, stack
from pipeline.postprocess.rules import Rules, apply
from pipeline.postprocess.search import RuleSearch, ScoreGrid
from pipeline.postprocess.shares import Place
from pipeline.progress import track
from pipeline.statistics.bootstrap import draw_scores, interval, paired
from pipeline.statistics.crossfit import CrossFitted, cross_fit
from pipeline.statistics.shakeup import simulate

SIDE = 32  # pixels of an image
FOLDS = 5
DRAWS = 1000
BOARDS = 200  # simulated test sets of each run
FRESH, FRESH_QUICK = 20_000, 2_000  # images that give the true score of a choice
RUNS, RUNS_QUICK = 600, 30
OUT = Path("runs/calibration")

Result = dict[str, tuple[float, float]]  # a measure, before and after


class Scenario(Protocol):
    """Something that is simulated; its fields are its settings."""

    def run(self, seed: int, fresh: int) -> Result:
        """Draw one training set and compare claim and truth, which has a number of fresh images."""
        ...


# ---------------------------------------------------------------------------------------------- rules chosen on images


class ChosenRules(NamedTuple):
    """Two equal members, each with rules chosen on the same images."""

    images: int
    per_group: int = 1
    rule_set: str = "total"
    metric: str = "mean_dice"

    def run(self, seed: int, fresh: int) -> Result:
        rng = np.random.default_rng([seed, 1])
        groups = np.arange(self.images) // self.per_group
        members, target = draw_images(rng, groups, members=2)
        fold_of = rng.permutation(np.arange(groups.max() + 1) % FOLDS)[groups]
        grid = true_grid(self, fresh)
        fitted = [self._fit(values, target, fold_of) for values in members]
        truth = [grid.score(each.final) for each in fitted]
        result = {"covered": _covered(fitted[0].scores, groups, fitted[0].in_sample, truth[0], seed)}
        return result | {"outside": _outside(fitted, groups, seed)}

    def _fit(self, values: np.ndarray, target: np.ndarray, fold_of: np.ndarray) -> CrossFitted[Rules]:
        metric, grid = pixel_metric(self.metric), search_rules(self, values, target, fold_of)

        def score(rules: Rules, rows: np.ndarray) -> Scores:
            pairs = zip(values[rows], target[rows], strict=True)
            scores = metric.scores(stack([count(apply(each, rules), true) for each, true in pairs]))
            return Scores(*(np.reshape(term, (-1, 1)) for term in (scores.numerator, scores.denominator)))

        return cross_fit(fold_of, lambda rows: grid.best(np.unique(fold_of[rows]).tolist())[0], score)


def draw_images(rng: np.random.Generator, groups: np.ndarray, *, members: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Stored values of each member and targets of images; most of what is difficult is shared by a group's images.

    Shapes:
        returns: (N, SIDE, SIDE) uint8 of each member, and the same of the targets.
    """
    size = len(groups)

    def smooth(sigma: float) -> np.ndarray:
        field = gaussian_filter(rng.normal(size=(size, SIDE, SIDE)), (0, sigma, sigma), mode="wrap")
        return field / field.std()

    def of_images() -> np.ndarray:
        by_group, own = rng.normal(size=groups.max() + 1)[groups], rng.normal(size=size)
        return (np.sqrt(0.8) * by_group + np.sqrt(0.2) * own)[:, None, None]

    field = smooth(4) - 0.6 + 0.8 * rng.normal(size=(size, 1, 1))  # a twelfth of the images is empty
    difficulty, bias, noise = 0.5 * np.exp(0.6 * of_images()), of_images(), smooth(2)
    values = []
    for _ in range(members):
        own_bias = 0.35 * np.sqrt(0.5) * (bias + rng.normal(size=(size, 1, 1)))
        logits = 3 * (field + difficulty * np.sqrt(0.5) * (noise + smooth(2)) + own_bias)
        values.append(np.rint(255 / (1 + np.exp(-logits))).astype(np.uint8))
    return values, (field > 0).astype(np.uint8)


def search_rules(scenario: ChosenRules, values: np.ndarray, target: np.ndarray, fold_of: np.ndarray) -> ScoreGrid:
    """The score of each candidate."""
    search = RuleSearch(pixel_metric(scenario.metric), rule_sets=[scenario.rule_set])
    for *image, fold in zip(values, target, fold_of.tolist(), strict=True):
        search.add(*image, Place(fold))
    return search.grids()[scenario.rule_set]


@cache
def true_grid(scenario: ChosenRules, fresh: int) -> ScoreGrid:
    """The score of each candidate on fresh images, in groups of the same size."""
    groups = np.arange(fresh) // scenario.per_group
    (values,), target = draw_images(np.random.default_rng(0), groups, members=1)
    return search_rules(scenario, values, target, np.zeros(fresh, dtype=int))


def _covered(scores: Scores, groups: np.ndarray, in_sample: float, truth: float, seed: int) -> tuple[float, float]:
    sums, mean = scores.per_group(groups), scores.mean()
    before = np.percentile(draw_scores([sums], len(sums), np.random.default_rng(seed), DRAWS), [2.5, 97.5])
    after = interval(scores, groups, optimism=in_sample - mean, seed=seed, draws=DRAWS)
    return float(before[0] <= truth <= before[1]), float(after.low <= truth <= after.high)


def _outside(fitted: list[CrossFitted[Rules]], groups: np.ndarray, seed: int) -> tuple[float, float]:
    sums = [each.scores.per_group(groups) for each in fitted]
    drawn = draw_scores(sums, len(sums[0]), np.random.default_rng(seed), DRAWS)
    optimism = tuple(each.in_sample - each.score for each in fitted)
    found = paired(fitted[0].scores, fitted[1].scores, groups, optimism=optimism, seed=seed, draws=DRAWS)
    before = np.mean(drawn[:, 0] > drawn[:, 1])
    return tuple(float(not 0.025 <= share <= 0.975) for share in (before, found.p_better))


# ---------------------------------------------------------------------------------------------- a fixed rule


class FixedRule(NamedTuple):
    """The scores of a fixed rule: images differ within a group and between groups, whose sizes may differ."""

    groups: int
    spread: float = 0.0  # standard deviation of the logarithm of a group's size

    def run(self, seed: int, fresh: int) -> Result:
        rng = np.random.default_rng([seed, 2])
        sizes = np.maximum(1, np.rint(10 * np.exp(self.spread * rng.normal(size=self.groups)))).astype(int)
        groups = np.repeat(np.arange(self.groups), sizes)
        scores = 0.7 + 0.07 * rng.normal(size=self.groups)[groups] + 0.1 * rng.normal(size=len(groups))
        return {"covered": _covered(Scores.from_values(scores), groups, scores.mean(), 0.7, seed)}


# ---------------------------------------------------------------------------------------------- final selection


class Favourite(NamedTuple):
    """Candidates whose true scores differ a little, and the private part of a test set."""

    images: int
    test_images: int
    per_group: int = 1
    candidates: int = 3
    differ: float = 0.008  # standard deviation of the true scores; that of an image's score is .1

    def run(self, seed: int, fresh: int) -> Result:
        rng = np.random.default_rng([seed, 3])
        truth = 0.8 + self.differ * rng.normal(size=self.candidates)[:, None]

        def draw(images: int) -> np.ndarray:
            """(candidates, images); four fifths of the variance are shared by a group's images."""
            groups, size = np.arange(images) // self.per_group, (self.candidates, images)
            by_group = rng.normal(size=size)[:, groups] if self.per_group > 1 else rng.normal(size=size)
            return truth + 0.1 * (np.sqrt(0.8) * by_group + np.sqrt(0.2) * rng.normal(size=size))

        oof, private = draw(self.images), draw(round(0.7 * self.test_images)).mean(axis=1)
        groups = np.arange(self.images) // self.per_group
        sums = [Scores.from_values(each).per_group(groups) for each in oof]
        drawn = draw_scores(sums, round(0.7 * self.test_images / self.per_group), rng, BOARDS)
        before = np.bincount(drawn.argmax(axis=1), minlength=self.candidates) / BOARDS
        boards = simulate(list(oof), groups, public_share=0.3, test_images=self.test_images, seed=seed, draws=BOARDS)
        best = int(oof.mean(axis=1).argmax())
        happened = float(private.argmax() == best)
        return {"claimed": (before[best], boards.best[best]), "happened": (happened, happened)}


SCENARIOS: dict[str, Scenario] = {
    "30 images": ChosenRules(30),
    "60 images": ChosenRules(60),
    "200 images": ChosenRules(200),
    "60 images, triplet": ChosenRules(60, rule_set="triplet"),
    "20 groups of 5": ChosenRules(100, 5),
    "40 groups of 5": ChosenRules(200, 5),
    "20 groups of 5, Dice over all pixels": ChosenRules(100, 5, metric="global_dice"),
    "fixed rule, 4 groups": FixedRule(4),
    "fixed rule, 5 groups": FixedRule(5),
    "fixed rule, 20 groups": FixedRule(20),
    "fixed rule, 10 unequal groups": FixedRule(10, 0.7),
    "fixed rule, 20 unequal groups": FixedRule(20, 0.7),
    "final, 400 images, test set of 18,000": Favourite(400, 18_000),
    "final, 400 images, test set of 4,000": Favourite(400, 4_000),
    "final, 400 images, test set of 500": Favourite(400, 500),
    "final, 400 images, two candidates": Favourite(400, 4_000, candidates=2),
    "final, 400 images, five candidates": Favourite(400, 4_000, candidates=5),
    "final, 20 groups of 20, test set of 4,000": Favourite(400, 4_000, 20, differ=0.03),
    "final, 10 groups of 20, test set of 4,000": Favourite(200, 4_000, 20, differ=0.03),
}


# ---------------------------------------------------------------------------------------------- runs


def path_of(name: str, fresh: int) -> Path:
    """The file of a scenario's finished runs; other settings have another one."""
    digest = hashlib.sha256(f"{name} {SCENARIOS[name]!r} {fresh}".encode()).hexdigest()[:8]
    return OUT / f"{'_'.join(name.replace(',', '').split())}-{digest}.json"


def read_runs(path: Path) -> dict[str, Result]:
    """The finished runs, by seed."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def summarise(runs: list[Result]) -> list[tuple[str, str, str]]:
    """Each measure with mean and standard error before and after."""
    rows = []
    for measure in runs[0] if len(runs) > 1 else ():
        values = np.array([each[measure] for each in runs])
        error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
        pairs = zip(values.mean(axis=0), error, strict=True)
        rows.append((measure, *(f"{mean:.3f} ± {each:.3f}" for mean, each in pairs)))
    return rows


def main(args: argparse.Namespace) -> None:
    """Run what is missing, and print the table."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    runs, fresh = (RUNS_QUICK, FRESH_QUICK) if args.quick else (args.runs, FRESH)
    names = [name for name in SCENARIOS if args.only in name]
    done = {name: read_runs(path_of(name, fresh)) for name in names}
    missing = [(name, seed) for name in names for seed in range(runs) if str(seed) not in done[name]]
    for name, seed in track(missing, "simulate"):
        done[name][str(seed)] = SCENARIOS[name].run(seed, fresh)
        write_text(path_of(name, fresh), json.dumps(done[name]))
    table = Table("scenario", "measure", "before", "after", "runs", title="mean ± standard error")
    for name in names:
        for row in summarise(list(done[name].values())):
            table.add_row(name, *row, str(len(done[name])))
    Console(width=120).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few runs and fewer fresh images: minutes")
    parser.add_argument("--only", default="", metavar="PART", help="scenarios whose name has this part")
    parser.add_argument("--runs", type=int, default=RUNS, help="of each scenario")
    main(parser.parse_args())
