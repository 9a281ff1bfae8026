"""Search of the best post-processing rules on OOF predictions, by the competition's metric.

Every candidate is scored on every image, one image at a time. A search keeps the sums of the metric's numerator and
denominator per fold and candidate, and no image: its memory does not grow with their number. The best rules without a
fold, and their score on that fold, are then read from these sums.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipeline.inference.prediction_store import MAX_VALUE
from pipeline.metrics import VOID, Counts, Metric, Term
from pipeline.postprocess.pool_sums import PoolSums, terms_at_shares
from pipeline.postprocess.rules import Rules
from pipeline.postprocess.shares import SHARES, Histograms, Place, Pool, histogram_of
from pipeline.postprocess.threshold_counts import THRESHOLDS, count_levels, is_best, level

# Lowest stored values of the image head that open a gate; 0: no gate. They are denser near 0 and 1, where the
# probabilities of a trained head lie.
GATE_LEVELS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 240, 248, 252, 254, 255])
GATES = np.array([0.0, *THRESHOLDS[GATE_LEVELS[1:] - 1]])
# 0: the presence is decided at `threshold`; the others are every eighth level, .029 to .971.
PRESENCE_THRESHOLDS = np.array([0.0, *THRESHOLDS[7:-1:8]])

GROUP = "group"  # the name of the rule set with a threshold for each group


def area_grid(pixels: float) -> np.ndarray:
    """Areas to try: 0, and the powers of √2 from one pixel to 5% of an image of that many pixels, rounded.

    The grid of a smaller image is the start of that of a larger one.

    >>> area_grid(20 * 20).tolist()
    [0, 1, 2, 3, 4, 6, 8, 11, 16]
    """
    steps = int(np.log2(max(1.0, 0.05 * pixels)) * 2 + 1e-9)
    return np.unique([0, *np.rint(2 ** (np.arange(steps + 1) / 2))]).astype(np.int64)


AREAS = area_grid(2048 * 2048)  # 36 areas: cheap, and they depend on no image


@dataclass(frozen=True, eq=False)
class CandidateScores:
    """The metric of every candidate of a search, as sums over the images of each fold."""

    folds: np.ndarray  # (K,) numbers of the folds, ascending
    numerator: np.ndarray  # (K, ...), the axes of the candidates last
    denominator: np.ndarray  # as the numerator; of a mean over images (K, 1, ...), their number
    images: np.ndarray  # (K,) number of images of each fold

    def is_defined(self, folds: Iterable[int]) -> bool:
        """Whether any candidate has a score on the images of some folds."""
        return bool((self.denominator[self._rows(folds)] > 0).any())

    def means(self, folds: Iterable[int] | None = None) -> np.ndarray:
        """The score of every candidate on the images of some folds, or of all; 0 for one whose denominator is 0.

        Raises:
            ValueError: for no fold, one without images, or images of which none counts for the metric.
        """
        rows = self._rows(folds)
        numerator, denominator = self.numerator[rows].sum(axis=0), self.denominator[rows].sum(axis=0)
        if (denominator <= 0).all():
            raise ValueError(
                f"the metric is not defined on folds {self.folds[rows].tolist()}: of {self.images[rows].sum()} images "
                f"none counts for it. Make folds that spread the images with a mask, or fewer of them"
            )
        return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator > 0)

    def score(self, rules: Rules, folds: Iterable[int] | None = None) -> float:
        """The score of rules on the images of some folds, or of all.

        Raises:
            ValueError: for rules that are not among the candidates, and as `means`.
        """
        return float(self.means(folds)[self._position(rules)])

    def terms(self, rules: Rules, folds: Iterable[int] | None = None) -> tuple[float, float]:
        """The numerator and the denominator of rules on the images of some folds, or of all; raises as `score`."""
        rows, position = self._rows(folds), self._position(rules)
        denominator = np.broadcast_to(self.denominator, self.numerator.shape)
        return float(self.numerator[rows].sum(axis=0)[position]), float(denominator[rows].sum(axis=0)[position])

    def _rows(self, folds: Iterable[int] | None) -> np.ndarray:
        """Which of all folds, (K,) bool, are among some of them; None for all."""
        wanted = set(self.folds.tolist() if folds is None else folds)
        rows = np.isin(self.folds, list(wanted))
        if not wanted or rows.sum() < len(wanted):
            raise ValueError(f"folds {sorted(wanted)}: expected some of {self.folds.tolist()}, which have images")
        return rows

    def _position(self, rules: Rules) -> tuple[int, ...]:
        """The position of rules among the candidates."""
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class ScoreGrid(CandidateScores):
    """The scores of one rule set: (A, 255) candidates; triplet (A, 255, P), gate (A, 255, G), share (Q, 255)."""

    rule_set: str  # in RULE_SETS
    axes: dict[str, np.ndarray]  # field of Rules: values tried; in the order of the axes of the candidates
    fixed: dict[str, str] = field(default_factory=dict)  # fields of Rules that are the same in all candidates

    @property
    def areas(self) -> np.ndarray:
        """The values of the first axis: areas in pixels, ascending; or shares, descending."""
        return next(iter(self.axes.values()))

    def area(self, rules: Rules) -> float:
        """The value of the rules on the first axis."""
        return getattr(rules, next(iter(self.axes)))

    def plane(self, rules: Rules) -> np.ndarray:
        """The score of every value of the first axis and threshold, (A, 255); other fields as in `rules`.

        Raises:
            ValueError: as `score`.
        """
        return self.means()[(..., *self._position(rules)[2:])]

    def best(self, folds: Iterable[int] | None = None) -> tuple[Rules, float]:
        """The best rules on the images of some folds, or of all, and their score there.

        Of equal scores the smallest area or the largest share wins, then the threshold nearest to .5, then the lowest
        presence_threshold or gate.

        Raises:
            ValueError: as `means`.
        """
        means = self.means(folds)
        nearest = np.argsort(np.abs(THRESHOLDS - 0.5), kind="stable")
        position = list(np.unravel_index(is_best(means)[:, nearest].argmax(), means.shape))
        position[1] = nearest[position[1]]
        return self._rules(position), float(means[tuple(position)])

    def _rules(self, position: Sequence[int]) -> Rules:
        fields = {name: tried[at].item() for (name, tried), at in zip(self.axes.items(), position, strict=True)}
        return Rules(**{"min_area": 0, **fields, "gate": fields.get("gate") or None, **self.fixed})

    def _position(self, rules: Rules) -> tuple[int, ...]:
        wanted = rules._asdict()
        position = tuple(int(np.abs(tried - (wanted[name] or 0)).argmin()) for name, tried in self.axes.items())
        if self._rules(position) != rules:
            raise ValueError(f"{rules} was not tried, the nearest was {self._rules(position)}: use `apply` to score it")
        return position


@dataclass(frozen=True, eq=False)
class GroupGrid(ScoreGrid):
    """The scores of `total` with a threshold for each group: rules with `by_group`; the area is common to all groups.

    Args:
        groups: of each group that may have a threshold of its own: the scores of `total` on its images alone.
    """

    groups: dict[str, ScoreGrid] = field(default_factory=dict)

    def best(self, folds: Iterable[int] | None = None) -> tuple[Rules, float]:
        """The best area and common threshold on the images of some folds, or of all, with each group's best threshold.

        A group's threshold is the one on its images that raises the score of all images the most: for a mean over
        images, the one with the highest mean over the group's. Of equals, the nearest to the common threshold; a group
        whose best one is the common threshold is not listed.

        Raises:
            ValueError: as `means`.
        """
        common, score = super().best(folds)
        found = {name: self._threshold(grid, common, score, folds) for name, grid in self.groups.items()}
        rules = common._replace(by_group=tuple((name, t) for name, t in found.items() if t != common.threshold))
        return rules, self.score(rules, folds)

    def score(self, rules: Rules, folds: Iterable[int] | None = None) -> float:
        """As `ScoreGrid.score`, each group at its threshold."""
        numerator, denominator = self.terms(rules, folds)
        return numerator / denominator if denominator > 0 else 0.0

    def terms(self, rules: Rules, folds: Iterable[int] | None = None) -> tuple[float, float]:
        """As `ScoreGrid.terms`, each group at its threshold."""
        common = rules._replace(by_group=())
        total = np.array(super().terms(common, folds))
        for name, threshold in rules.by_group:
            grid = self.groups[name]
            if own := _shared_folds(grid, folds):
                # A difference of the group's own sums: exactly 0 if its masks are the same at both thresholds.
                total += np.subtract(grid.terms(common._replace(threshold=threshold), own), grid.terms(common, own))
        return float(total[0]), float(total[1])

    def _threshold(self, grid: ScoreGrid, common: Rules, score: float, folds: Iterable[int] | None) -> float:
        own = _shared_folds(grid, folds)
        if not own:
            return common.threshold
        area, _ = grid._position(common)
        numerator, denominator = (term[grid._rows(own)].sum(axis=0) for term in (grid.numerator, grid.denominator))
        # Σ numerator − score · Σ denominator rises with the score of all images.
        gains = (numerator - score * denominator)[area]
        return float(min(THRESHOLDS[is_best(gains)], key=lambda threshold: abs(threshold - common.threshold)))

    def _position(self, rules: Rules) -> tuple[int, ...]:
        return super()._position(rules._replace(by_group=()))


def _shared_folds(scores: CandidateScores, folds: Iterable[int] | None) -> list[int]:
    """The folds of some scores that are among others; None for all."""
    own = scores.folds.tolist()
    return own if folds is None else [fold for fold in own if fold in set(folds)]


class FoldSums:
    """Sums of a metric's terms over the images of each fold, for sets of candidates by name; no image is kept."""

    def __init__(self, metric: Metric):
        self.terms = [term for term in metric if term]
        self._sums: dict[tuple[str, int], list[np.ndarray]] = {}
        self._images_of: Counter[int] = Counter()

    def add(self, fold: int, terms_of: dict[str, list[np.ndarray]]) -> None:
        """Add one image: its terms for each set of candidates."""
        self._images_of[int(fold)] += 1
        for name, terms in terms_of.items():
            sums = self._sums.setdefault((name, int(fold)), terms)
            if sums is not terms:
                for total, added in zip(sums, terms, strict=True):
                    total += added

    def put(self, name: str, terms_by_fold: dict[int, list[np.ndarray]]) -> None:
        """Set the sums of one set of candidates, which are known after the last image."""
        self._sums |= {(name, fold): terms for fold, terms in terms_by_fold.items()}

    def stack(self, name: str) -> dict[str, np.ndarray]:
        """The fields of `CandidateScores` of one set of candidates.

        Raises:
            ValueError: if no image was added.
        """
        if not self._images_of:
            raise ValueError("no image to search on: expected at least one (values, target, place)")
        folds = sorted(self._images_of)
        images = np.array([self._images_of[fold] for fold in folds])
        numerator, *denominator = (np.stack(term) for term in zip(*(self._sums[name, k] for k in folds), strict=True))
        number = images.reshape(-1, *[1] * (numerator.ndim - 1))
        denominator = denominator[0] if denominator else number
        return {"folds": np.array(folds), "numerator": numerator, "denominator": denominator, "images": images}


class _Image:
    """The counts of one image that the rule sets share."""

    def __init__(self, values: np.ndarray, target: np.ndarray, image_value: int | None = None):
        self.values, self.target = values, target  # (H, W) uint8, and 0, 1 or void
        self.image_value = image_value  # of the image head, 0 to 255; None without one
        self.counts = count_levels(values, target)  # (255,) at each threshold
        self.areas = self.counts.predicted  # of the masks, void pixels included: areas are measured before scoring
        if (target == VOID).any():
            self.areas = count_levels(values, np.zeros_like(target)).predicted
        self._components: Counts | None = None

    def terms(self, term: Term) -> tuple[np.ndarray, np.ndarray]:
        """A term of the metric for the mask at each threshold, (255,), and for an empty mask."""
        masks, empty = (
            np.asarray(term(counts), dtype=np.float64)
            for counts in (self.counts, Counts(np.int64(0), np.int64(0), self.counts.target[0]))
        )
        if not (np.isfinite(masks).all() and np.isfinite(empty)):
            raise ValueError(
                f"the metric is not finite on an image of {self.values.shape} with {self.counts.target[0]} true "
                f"pixels: leave such images out, or define what it is there"
            )
        return masks, empty

    def components(self, areas: np.ndarray) -> Counts:
        """Counts without the components smaller than each area, (A, 255)."""
        if self._components is None:
            from pipeline.postprocess.component_tree import component_counts

            self._components = component_counts(self.values, self.target, areas)
        return self._components


def _total_terms(image: _Image, term: Term, areas: np.ndarray) -> np.ndarray:
    masks, empty = image.terms(term)
    return np.where(image.areas >= areas[:, None], masks, empty)


def _component_terms(image: _Image, term: Term, areas: np.ndarray) -> np.ndarray:
    image.terms(term)  # refuses a metric that is not finite
    return np.asarray(term(image.components(areas)), dtype=np.float64)


# (255, P) position of the threshold that decides the presence: the higher of the two.
_PRESENCE = np.maximum(np.arange(MAX_VALUE)[:, None], [level(threshold) - 1 for threshold in PRESENCE_THRESHOLDS])


def _triplet_terms(image: _Image, term: Term, areas: np.ndarray) -> np.ndarray:
    masks, empty = image.terms(term)
    present = image.areas[_PRESENCE] >= areas[:, None, None]
    return np.where(present, masks[:, None], empty)


def _gate_terms(image: _Image, term: Term, areas: np.ndarray) -> np.ndarray:
    _, empty = image.terms(term)
    return np.where(image.image_value >= GATE_LEVELS, _total_terms(image, term, areas)[..., None], empty)


def _level_terms(image: _Image, term: Term) -> np.ndarray:
    """A term of the metric at the levels 1 … 256, (256,): the last is an empty mask."""
    masks, empty = image.terms(term)
    return np.append(masks, empty)


class RuleSet(NamedTuple):
    """Rules that are searched together on one grid."""

    fields: tuple[str, ...]  # of Rules: an area or a share, the threshold, and a third field if there is one
    terms: Callable[[_Image, Term, np.ndarray], np.ndarray] | None = None  # of one image, at every candidate
    fixed: dict[str, str] = {}  # noqa: RUF012 - fields of Rules that are the same in all candidates

    @property
    def pool(self) -> Pool | None:
        """Whose share of pixels sets the threshold; None without a share."""
        return self.fixed.get("share_in")

    @property
    def needs_image_head(self) -> bool:
        """Whether it has a gate, by an image head."""
        return "gate" in self.fields


def _share_sets() -> dict[str, RuleSet]:
    """Thresholds by share: `image share` and `image expected`, then those of volumes and of the test set."""
    names = {"pixels": "share", "expected": "expected"}
    return {
        f"{pool.split()[0]} {name}": RuleSet(("share", "threshold"), None, {"share_of": share_of, "share_in": pool})
        for pool in ("image", "volume", "test set")
        for share_of, name in names.items()
    }


# Of equal scores the first wins, so the simplest comes first, and what depends on most images last.
RULE_SETS = {
    "total": RuleSet(("min_area", "threshold"), _total_terms),
    "components": RuleSet(("min_component", "threshold"), _component_terms),
    "triplet": RuleSet(("presence_area", "threshold", "presence_threshold"), _triplet_terms),
    "gate": RuleSet(("min_area", "threshold", "gate"), _gate_terms),
    GROUP: RuleSet(("min_area", "threshold")),  # its scores are sums of those of `total`
    **_share_sets(),
}


def rule_sets_of(pools: Collection[Pool]) -> list[str]:
    """The names of the rule sets without a share, and of those whose share is of one of the pools."""
    return [name for name, rule_set in RULE_SETS.items() if rule_set.pool in (None, *pools)]


class RuleSearch:
    """The score of every candidate of some rule sets, summed up one image at a time; no image is kept.

        total        255 thresholds × minimum total area
        components   255 thresholds × minimum component
        triplet      255 thresholds × 32 presence thresholds × presence area; all of `total` is among them
        gate         255 thresholds × 23 gates × minimum total area; all of `total` is among them
        group        255 thresholds for each group × minimum total area; see `GroupGrid`
        image share, image expected, volume …, test …
                     255 lowest thresholds × share, of the pixels or of the expected foreground of each pool

    Exact: a candidate's sum is that of the metric over the masks that `apply` gives. Shares of volumes and of the test
    set are in `pool_sums`.

    Args:
        metric: of `metrics.METRICS`.
        areas: (A,) pixels, ascending. AREAS depends on no image, so it cannot leak from one fold into the choice for
            another.
        rule_sets: names in RULE_SETS; `group` needs `total`.
        groups: that may have a threshold of their own, values of `Place.group`.

    Raises:
        ValueError: for areas that do not ascend from 0 or more.
    """

    def __init__(
        self,
        metric: Metric,
        areas: np.ndarray = AREAS,
        *,
        rule_sets: Iterable[str] = tuple(RULE_SETS),
        groups: Iterable[str] = (),
    ):
        self._areas = np.asarray(areas, dtype=np.int64)
        if self._areas.ndim != 1 or not len(areas) or areas[0] < 0 or (np.diff(self._areas) <= 0).any():
            raise ValueError(f"areas {self._areas.tolist()}: expected pixels that ascend from 0 or more, each once")
        self._names, self._sums = list(rule_sets), FoldSums(metric)
        self._pools = PoolSums()
        self._groups = {group: FoldSums(metric) for group in groups}
        self._images, self._with_head = 0, 0

    @property
    def histograms(self) -> Histograms:
        """The histograms of the pools of the images."""
        return self._pools.histograms

    def add(self, values: np.ndarray, target: np.ndarray, place: Place, image_value: int | None = None) -> None:
        """Add one image.

        Args:
            place: with the image's fold.
            image_value: of the image head, see `Place.image_value`; None without one.

        Shapes:
            values: (H, W) uint8; target: (H, W), 0 or 1; 255 for void, which areas include and scores do not.

        Raises:
            ValueError: for values and target of two shapes, or a score that is not finite.
        """
        image, terms = _Image(values, target, image_value), self._sums.terms
        self._images += 1
        self._with_head += image_value is not None
        names = [k for k in self._sets_of(None) if image_value is not None or not RULE_SETS[k].needs_image_head]
        found = {k: [RULE_SETS[k].terms(image, term, self._areas) for term in terms] for k in names if k != GROUP}
        if place.group in self._groups:
            copies = [each.copy() for each in found["total"]]  # the sums grow in place
            self._groups[place.group].add(place.fold, {"total": copies})
        if any(RULE_SETS[name].pool for name in self._names):
            level_terms, histogram = [_level_terms(image, term) for term in terms], histogram_of(values)
            self._pools.add(level_terms, histogram, place)
            for name in self._sets_of("image"):
                share_of = RULE_SETS[name].fixed["share_of"]
                found[name] = [terms_at_shares(each, histogram, share_of) for each in level_terms]
        self._sums.add(place.fold, found)

    def _sets_of(self, pool: Pool | None) -> list[str]:
        return [name for name in self._names if RULE_SETS[name].pool == pool]

    def grids(self) -> dict[str, ScoreGrid]:
        """The scores of each rule set; of volumes only if every image is in one, of gates if each has an image head.

        Of groups only if there are some.

        Raises:
            ValueError: if no image was added.
        """
        missing = {name for name in self._names if RULE_SETS[name].needs_image_head and self._with_head < self._images}
        if not self._groups:
            missing.add(GROUP)
        for pool in ("volume", "test set"):
            for name in self._sets_of(pool):
                self._sums.put(name, self._pools.terms_by_fold(pool, RULE_SETS[name].fixed["share_of"]))
                missing |= set() if self._pools.has_all_images(pool) else {name}
        return {name: self._grid(name) for name in self._names if name not in missing}

    def _grid(self, name: str) -> ScoreGrid:
        if name == GROUP:
            groups = {group: self._make_grid("total", sums) for group, sums in self._groups.items()}
            total = self._make_grid("total", self._sums)
            return GroupGrid(**{**vars(total), "rule_set": GROUP, "groups": groups})
        return self._make_grid(name, self._sums)

    def _make_grid(self, name: str, sums: FoldSums) -> ScoreGrid:
        rule_set = RULE_SETS[name]
        tried = {"threshold": THRESHOLDS, "presence_threshold": PRESENCE_THRESHOLDS, "gate": GATES}
        if rule_set.pool:
            tried["share"] = SHARES[rule_set.fixed["share_of"]]
        axes = {each: tried.get(each, self._areas) for each in rule_set.fields}
        return ScoreGrid(**sums.stack(name), rule_set=name, axes=axes, fixed=rule_set.fixed)
