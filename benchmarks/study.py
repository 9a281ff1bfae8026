"""The harness of the studies: trains every variant with every seed, and reports which differences are clear.

A study is a table of variants (`study_losses.py`, `study_models.py`, `study_augment.py`). A run is one variant with one
seed on one dataset:

- It trains on the training images of a fold, the first unless the dataset names another, of the committed folds, with
  STEPS updates of BATCH random crops, and validates on the held-out images: at most VALID of those with sides of at
  most `largest` pixels, whole, one view, averaged weights. No weights are selected by score: the last weights of the
  last phase are used.
- The score is the mean Dice over images (1 if mask and target are both empty), whatever the metric of the card is.
- Its result, `runs/study_<name>/<dataset>/<variant>-<seed>.json`, is written atomically at its end. A run with a
  result is not trained again: a killed study resumes and repeats only its unfinished runs.

Every run is a process with one thread, pinned to one CPU: runs that share CPUs slow each other down.

The scores of an image are averaged over the seeds; the baseline's are subtracted from the variant's. The interval is
the 95% bootstrap interval (RESAMPLES resamples) over images; images of one group (a patient) are resampled together.
It does not include the noise of the seeds, which is the standard deviation of the difference over pairs of runs with
equal seeds. A difference is called clear if the interval excludes 0 and it exceeds 2 standard errors over the seeds.
With 3 seeds, 18% of true zero differences pass the second test, and no test is corrected for the number of variants.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pandas as pd
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from vessels import make_vessels

from pipeline import competition, config, hardware
from pipeline.competition import Competition
from pipeline.data.image_files import write_image
from pipeline.data.index import read_index
from pipeline.data.labels import Labels
from pipeline.data.reader import Reader
from pipeline.data.sample import samples_of
from pipeline.demos.defects import make_defects_demo
from pipeline.demos.salt import make_salt_demo
from pipeline.files import write_text
from pipeline.folds import hold_out, read_folds
from pipeline.inference.predictor import Predictor, predict_images
from pipeline.losses import build_loss
from pipeline.manifest import collect_provenance
from pipeline.metrics import dice
from pipeline.models import build_model, check_model
from pipeline.postprocess.threshold_counts import HALF, THRESHOLDS, count_levels
from pipeline.progress import clock
from pipeline.training.checkpoint import load_checkpoint, refuse_other_settings
from pipeline.training.fold_data import FoldData
from pipeline.training.train_job import TrainJob
from pipeline.training.trainer import fit

ROOT = Path(__file__).resolve().parent.parent
STEPS = 150  # updates of a run, over all of its parts
BATCH = 8
VALID = 130  # images at most
RESAMPLES = 2000
ERRORS = 2  # standard errors over the seeds that a clear difference exceeds
THIRDS = 3  # a part lasts so many thirds of the steps


# ---------------------------------------------------------------------------------------------- definitions


@dataclass(frozen=True)
class Dataset:
    """The data set, and the crops taken from it."""

    card: str
    folds: str  # folds/<folds>.csv
    channels: int
    augment: str
    crop: int = 96  # pixels
    percentiles: tuple[float, float] | None = None
    balance: str | None = None  # a column whose values are sampled equally often
    fold: int = 0  # that is held out
    largest: int = 360  # pixels a side of validation images, so that validation takes seconds


DATASETS = {
    "nuclei": Dataset("nuclei", "nuclei", channels=3, augment="medium", percentiles=(1, 99.8)),
    "heart": Dataset("heart", "heart", channels=1, augment="medium", percentiles=(1, 99.8)),
    "heart_half": Dataset("heart", "heart", channels=1, augment="medium", percentiles=(1, 99.8)),
    "heart_wide": Dataset("heart", "heart", channels=1, augment="medium", percentiles=(1, 99.8)),
    "demo": Dataset("demo", "demo", channels=1, augment="light"),
    "vessels": Dataset("benchmarks/cards/vessels.toml", "vessels", channels=1, augment="light"),
    "defects": Dataset("defects_demo", "defects_demo", channels=1, augment="light", balance="empty"),
}
UNET = config.Model(encoder="tu-resnet18", weights="none", decoder_channels=(128, 64, 32, 16, 16))


@dataclass(frozen=True)
class Part:
    """A phase of a variant; the dataset adds crop and augmentation."""

    loss: dict[str, float | tuple[float, float]]
    thirds: int = THIRDS  # of the run's steps
    lr: float = 2e-3  # peak learning rate of a cosine schedule
    options: dict[str, Any] = field(default_factory=dict)  # loss options


@dataclass(frozen=True)
class Variant:
    """A model and its training. All variants train the same number of steps."""

    parts: tuple[Part, ...]
    model: config.Model = UNET
    phase: dict[str, Any] = field(default_factory=dict)  # further options of each phase, in place of the dataset's

    def __post_init__(self) -> None:
        if sum(part.thirds for part in self.parts) != THIRDS:
            raise ValueError(f"parts of {[part.thirds for part in self.parts]} thirds: expected {THIRDS} together")


class Comparison(NamedTuple):
    """A question: variants on datasets, each against the baseline."""

    title: str
    datasets: tuple[str, ...]
    variants: dict[str, Variant]
    baseline: str  # a name in variants
    pooled: bool = False  # also compare on the images of all datasets together


class Study(NamedTuple):
    """Comparisons that share runs: a variant's name means the same in each of them."""

    name: str
    comparisons: tuple[Comparison, ...]


@dataclass(frozen=True)
class Scale:
    """The size of the runs."""

    steps: int = STEPS
    valid: int = VALID


QUICK = Scale(steps=6, valid=4)  # a test that everything runs


@dataclass(frozen=True)
class Run:
    """One variant with one seed on one dataset."""

    study: str
    dataset: str
    name: str  # of the variant
    seed: int
    variant: Variant
    scale: Scale = Scale()

    @property
    def key(self) -> str:
        return f"{self.dataset}/{self.name}/{self.seed}"

    @property
    def path(self) -> Path:
        return Path("runs") / f"study_{self.study}" / self.dataset / f"{self.name}-{self.seed}.json"


def runs_of(study: Study, seeds: int, scale: Scale) -> list[Run]:
    """All runs without repetition, seed by seed, so that a study that is stopped early has complete seeds.

    Raises:
        ValueError: if one name stands for two variants.
    """
    runs: dict[str, Run] = {}
    for seed in range(seeds):
        for comparison in study.comparisons:
            for dataset in comparison.datasets:
                for name, variant in comparison.variants.items():
                    run = Run(study.name, dataset, name, seed, variant, scale)
                    if runs.setdefault(run.key, run) != run:
                        raise ValueError(f"study {study.name}: '{name}' stands for two variants on {dataset}")
    return list(runs.values())


def train_config(run: Run) -> config.Train:
    """The training options of a run."""
    dataset = DATASETS[run.dataset]
    phases = tuple(
        config.Phase(
            loss=part.loss,
            epochs=1,  # one validation, at the end
            repeats=part.thirds,
            lr=part.lr,
            **({"loss_options": part.options} if part.options else {}),
            **{"crop": dataset.crop, "augment": dataset.augment, **run.variant.phase},
        )
        for part in run.variant.parts
    )
    return config.Train(phases=phases, batch_size=BATCH, balance=dataset.balance)


def model_config(run: Run) -> config.Model:
    return run.variant.model.model_copy(update={"in_channels": DATASETS[run.dataset].channels})


def settings(run: Run) -> dict[str, Any]:
    """All settings that a run's result depends on, as plain JSON values."""
    dataset = asdict(DATASETS[run.dataset])
    chosen = {
        "seed": run.seed,
        "scale": asdict(run.scale),
        "largest": dataset.pop("largest"),
        "fold": dataset.pop("fold"),
        "dataset": dataset,
        "model": model_config(run).model_dump(mode="json"),
        "train": train_config(run).model_dump(mode="json"),
    }
    return json.loads(json.dumps(chosen))


# ---------------------------------------------------------------------------------------------- data


def make_folders(names: Iterable[str], given: dict[str, Path]) -> dict[str, Path]:
    """The folder of each dataset; those in GENERATED and DERIVED are made in data/ if missing.

    Raises:
        ValueError: for a dataset without a folder, with the option to add.
    """
    return {name: given[name] if name in given else make_folder(name, given) for name in names}


def make_folder(name: str, given: dict[str, Path]) -> Path:
    """A dataset's folder in data/, made if missing."""
    folder, (source, change) = Path("data") / name, DERIVED.get(name, (name, None))
    if source in given and not change:
        return given[source]
    if folder.is_dir():
        return folder
    if name in GENERATED:
        GENERATED[name](folder)
    elif change and source in given:
        derive(competition.load(DATASETS[name].card), given[source], folder, change)
    else:
        raise ValueError(f"no data for {name}: give its folder with --data {source}=FOLDER")
    return folder


def derive(card: Competition, source: Path, target: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Write a dataset with each grey training image and mask changed.

    A pixel of a changed mask is positive if at least half of it was. The folder is written atomically.

    Args:
        change: (H, W) to (H, W), of an image in uint8 and of a mask in float32.
    """
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    images = partial / card.files.train_images
    try:
        images.mkdir(parents=True)
        lines = [f"{card.columns.id},{card.columns.rle}"]
        for sample in samples_of(read_index(card, source)):
            write_image(images / sample.path.name, change(Reader(1).read(sample)[..., 0]))
            mask = (change(Labels.of(card).read(sample)[..., 0].astype(np.float32)) >= 0.5).astype(np.uint8)
            lines.append(f"{sample.image_id},{card.dialect.encode(mask)}")
        (partial / card.files.train_csv).write_text("\n".join(lines) + "\n", encoding="utf-8")
        if card.files.train_meta:
            shutil.copy(source / card.files.train_meta, partial / card.files.train_meta)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def halve(pixels: np.ndarray) -> np.ndarray:
    """(H, W) at half its size, averaged over areas."""
    height, width = pixels.shape
    return cv2.resize(pixels, (width // 2, height // 2), interpolation=cv2.INTER_AREA)


def widen(pixels: np.ndarray) -> np.ndarray:
    """(H, W) at half its size, padded with zeros to its old size: a quarter of the positives remain.

    Padding by reflection would show a second organ without a mask. Zeros add easy background.
    """
    height, width = pixels.shape
    wide, top, left = np.zeros_like(pixels), height // 4, width // 4
    wide[top : top + height // 2, left : left + width // 2] = halve(pixels)
    return wide


def halve_and_widen(pixels: np.ndarray) -> np.ndarray:
    return widen(halve(pixels))


GENERATED = {"demo": make_salt_demo, "defects": make_defects_demo, "vessels": make_vessels}
# From a dataset, by a change of its pixels; None: the same files, with other options.
DERIVED: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray] | None]] = {
    "heart_half": ("heart", halve),
    "heart_wide": ("heart", halve_and_widen),
}


def split(
    index: pd.DataFrame, folds: pd.DataFrame, dataset: Dataset, scale: Scale
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Training rows for a third of the steps, and validation images; the same in every run.

    The training images are repeated in a fixed random order, so that the number of steps is exact: the counts of two
    images differ by at most one.
    """
    if scale.steps % THIRDS:
        raise ValueError(f"{scale.steps} steps are not {THIRDS} equal parts")
    train_index, valid_index = hold_out(index, folds, dataset.fold)
    order = np.random.default_rng(0).permutation(len(train_index))
    rows = np.resize(order, scale.steps * BATCH // THIRDS)
    small = valid_index[valid_index[["height", "width"]].max(axis=1) <= dataset.largest]
    chosen = small.sample(min(scale.valid, len(small)), random_state=0).sort_values("image_id", ignore_index=True)
    return train_index.iloc[rows].reset_index(drop=True), chosen


# ---------------------------------------------------------------------------------------------- one run


def folds_of(name: str, index: pd.DataFrame) -> pd.DataFrame:
    """The committed folds of a dataset: `image_id` and `fold`."""
    # The masks of a derived dataset cover other shares than those that the folds were made from.
    return read_folds(Path("folds") / f"{DATASETS[name].folds}.csv", index, compare_masks=name not in DERIVED)


def train(run: Run, root: Path) -> dict[str, Any]:
    """Train and validate a run; returns its result.

    Args:
        root: the dataset's folder.
    """
    dataset, cfg = DATASETS[run.dataset], train_config(run)
    card = competition.load(dataset.card)
    index = read_index(card, root)
    folds = folds_of(run.dataset, index)
    train_index, valid_index = split(index, folds, dataset, run.scale)
    reader = Reader(dataset.channels, dataset.percentiles)
    torch.manual_seed(run.seed)
    options = model_config(run)
    model = build_model(options)
    # fit validates after each phase to select weights; none are selected here, so one image is enough.
    data = FoldData(dataset.fold, train_index, valid_index.head(1), Labels.of(card), "mean_dice", reader)
    seconds = train_phases(model, data, cfg, run.seed, options.encoder)
    scores = evaluate(model, valid_index, card, reader)
    return {
        "settings": settings(run),
        "images": _digest(train_index, valid_index),
        "train_images": train_index["image_id"].nunique(),
        "coverage": round(float(valid_index["coverage"].mean()), 5),
        "image_id": valid_index["image_id"].tolist(),
        "group": valid_index["group"].tolist(),
        "dice": scores[:, HALF].round(6).tolist(),
        "mean": round(float(scores[:, HALF].mean()), 6),
        "thresholds": scores.mean(axis=0).round(6).tolist(),  # mean Dice at each of the 255
        "seconds": round(seconds, 1),
        "images_per_second": round(run.scale.steps * BATCH / seconds, 1),
        "threads": torch.get_num_threads(),
        "precision": str(hardware.precision(cfg.precision, hardware.device())).removeprefix("torch."),
        **collect_provenance(),
    }


def train_phases(model: nn.Module, data: FoldData, cfg: config.Train, seed: int, encoder: str) -> float:
    """Train the model and load the averaged weights of the last phase; returns the seconds of training."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fit(TrainJob(model, data, cfg, folder, seed, encoder))
        load_checkpoint(folder / f"phase{len(cfg.phases)}.safetensors", model, data.fold)
        history = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line)["seconds"] for line in history)


def evaluate(model: nn.Module, index: pd.DataFrame, card: Competition, reader: Reader) -> np.ndarray:
    """Dice of each image of the index at each threshold, (N, 255)."""
    samples = {sample.image_id: sample for sample in samples_of(index)}
    predicted = predict_images(
        Predictor(model, ("identity",)), index, reader=reader, batch_size=BATCH, workers=0, what="validate"
    )
    found = {
        image_id: dice(count_levels(stored.values[0], Labels.of(card).read(samples[image_id])[..., 0]))
        for image_id, stored in predicted
    }
    return np.stack([found[image_id] for image_id in index["image_id"]])


def _digest(*indexes: pd.DataFrame) -> str:
    text = "".join(index[["image_id", "coverage"]].to_csv(index=False) for index in indexes)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_result(run: Run) -> dict[str, Any] | None:
    """The result of a run, or None if there is none yet.

    Raises:
        ValueError: if it was made with other settings, naming the first.
    """
    if not run.path.is_file():
        return None
    result = json.loads(run.path.read_text(encoding="utf-8"))
    refuse_other_settings(run.path, result["settings"], settings(run))
    return result


def work(run: Run, root: Path) -> None:
    """Train a run in this process and write its result."""
    begin = time.monotonic()
    result = train(run, root)
    result["took"] = round(time.monotonic() - begin, 1)
    write_text(run.path, json.dumps(result) + "\n")


# ---------------------------------------------------------------------------------------------- all runs


def execute(runs: Sequence[Run], jobs: int, command: Callable[[Run], list[str]]) -> list[str]:
    """Train the runs without a result, `jobs` in parallel, each on its own CPU; returns the keys that failed.

    A failed run does not stop the others; its output is kept next to its result, as .log.

    Args:
        command: gives the command that trains one run.
    """
    waiting = [run for run in runs if read_result(run) is None]
    total, begin, failed = len(waiting), time.monotonic(), []
    print(f"{len(runs)} runs, {len(runs) - total} done before", flush=True)
    cpus = available_cpus()
    free = [cpus[number % len(cpus)] for number in range(jobs)]
    running: dict[subprocess.Popen, tuple[Run, int | None]] = {}
    try:
        while waiting or running:
            while waiting and free:
                run, cpu = waiting.pop(0), free.pop()
                running[start(command(run), run.path.with_suffix(".log"), cpu)] = run, cpu
            time.sleep(0.1)
            for process in [process for process in running if process.poll() is not None]:
                run, cpu = running.pop(process)
                free.append(cpu)
                done = total - len(waiting) - len(running)
                left = (time.monotonic() - begin) / done * (total - done)
                print(f"{done:>3}/{total}  {finish(run, failed)}  {clock(left)} left", flush=True)
    finally:  # also after Ctrl-C
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
    return failed


def finish(run: Run, failed: list[str]) -> str:
    """A line about a finished run; adds its key to `failed` if it has no result."""
    result, log = read_result(run), run.path.with_suffix(".log")
    if result is None:
        failed.append(run.key)
        return f"{run.key}  FAILED: {last_line(log)} ({log})"
    log.unlink(missing_ok=True)
    return f"{run.key}  dice {result['mean']:.4f}  {clock(result['took'])}"


def start(command: list[str], log: Path, cpu: int | None, folder: Path | None = None) -> subprocess.Popen:
    """Start a process with one thread on one CPU; it inherits the affinity that this process has at the start.

    Args:
        folder: that it starts in; None: this process's.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    before = pin({cpu}) if cpu is not None else None
    try:
        with log.open("w", encoding="utf-8") as output:
            packages = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])  # this checkout's, in any folder
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": packages}
            return subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=folder)
    finally:
        if before:
            pin(before)


def available_cpus() -> list[int | None]:
    """CPUs that this process may use; [None] if the system does not support affinity."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [None]


def pin(cpus: set[int]) -> set[int]:
    """Pin this process to these CPUs; returns those that were allowed before."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    return before


def last_line(path: Path) -> str:
    return (path.read_text(encoding="utf-8", errors="replace").splitlines() or ["no output"])[-1]


# ---------------------------------------------------------------------------------------------- statistics


class Difference(NamedTuple):
    """A variant's mean Dice minus the baseline's."""

    mean: float
    low: float  # of the interval over images
    high: float
    noise: float  # standard deviation over paired seeds; nan for one seed
    seeds: int

    @property
    def clear(self) -> bool:
        """Whether it exceeds both kinds of noise; never with one seed, whose noise is unknown."""
        outside = self.low > 0 or self.high < 0
        return self.seeds > 1 and outside and abs(self.mean) > ERRORS * self.noise / self.seeds**0.5


def compare(variant: pd.DataFrame, baseline: pd.DataFrame, groups: pd.Series) -> Difference:
    """The difference over the common seeds.

    Shapes:
        variant, baseline: one row per image, one column per seed.
        groups: one value per image.

    Raises:
        ValueError: if the images differ, or no seed is common.
    """
    if not variant.index.equals(baseline.index) or not variant.index.equals(groups.index):
        raise ValueError(f"{len(variant)} and {len(baseline)} scores are not of the same images: nothing to pair")
    seeds = variant.columns.intersection(baseline.columns)
    if seeds.empty:
        raise ValueError("variant and baseline have no seed in common: nothing to pair")
    difference = variant[seeds] - baseline[seeds]
    low, high = interval(difference.mean(axis=1).to_numpy(), groups.to_numpy())
    noise = float(difference.mean().std(ddof=1)) if len(seeds) > 1 else float("nan")
    return Difference(float(difference.to_numpy().mean()), low, high, noise, len(seeds))


def interval(values: np.ndarray, groups: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """The 95% bootstrap interval of a mean (percentiles); values of one group are resampled together.

    Shapes:
        values, groups: (N,).

    Source:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13; for groups: Field and Welsh,
        Bootstrapping clustered data, https://doi.org/10.1111/j.1467-9868.2007.00593.x. It is too narrow for few groups.
    """
    _, group = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(group, values), np.bincount(group)
    weights = np.random.default_rng(seed).multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=resamples)
    low, high = np.percentile(weights @ sums / (weights @ sizes), [2.5, 97.5])
    return float(low), float(high)


# ---------------------------------------------------------------------------------------------- tables


def report(study: Study, runs: Sequence[Run], command: str) -> str:
    """Markdown of every comparison on every dataset, from the existing results."""
    results = {run.key: result for run in runs if (result := read_result(run))}
    if not results:
        return f"No results in runs/study_{study.name}/ yet.\n"
    seeds = sorted({run.seed for run in runs})
    sections = [preamble(list(results.values()), len(runs), command)]
    for comparison in study.comparisons:
        sections.append(f"### {comparison.title}\n")
        for dataset in comparison.datasets:
            found = {
                name: {seed: results[key] for seed in seeds if (key := f"{dataset}/{name}/{seed}") in results}
                for name in comparison.variants
            }
            if any(found.values()):
                sections += [caption(dataset, found), comparison_table(found, comparison.baseline)]
        if comparison.pooled:
            pooled = {name: pool_seeds(results, comparison.datasets, name, seeds) for name in comparison.variants}
            if any(pooled.values()):
                sections += [
                    f"**All of {', '.join(comparison.datasets)}**\n",
                    comparison_table(pooled, comparison.baseline),
                ]
    return "\n".join(sections)


def pool_seeds(
    results: dict[str, dict[str, Any]], datasets: Sequence[str], name: str, seeds: Sequence[int]
) -> dict[int, dict[str, Any]]:
    """The results of a variant on the images of all datasets, by seed; a seed that lacks a dataset is left out.

    Args:
        results: by the keys of the runs.
    """
    parts = {seed: [results.get(f"{dataset}/{name}/{seed}") for dataset in datasets] for seed in seeds}
    return {seed: pool(some) for seed, some in parts.items() if all(some)}


def pool(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The scores of results on different images as one result; each image weighs the same."""
    joined = {key: [value for part in parts for value in part[key]] for key in ("image_id", "group", "dice")}
    return {
        **joined,
        "images": "+".join(part["images"] for part in parts),
        "mean": float(np.mean(joined["dice"])),
        "thresholds": np.average(
            [part["thresholds"] for part in parts], axis=0, weights=[len(part["dice"]) for part in parts]
        ).tolist(),
        "images_per_second": float(np.mean([part["images_per_second"] for part in parts])),
    }


def preamble(results: list[dict[str, Any]], planned: int, command: str) -> str:
    """How the results were made: command, commits, machine, time."""
    commits = sorted({str(result["commit"])[:7] for result in results})
    threads = sorted({result["threads"] for result in results})
    return (
        f"`{command}` at commit {', '.join(commits)}: {len(results)} of {planned} runs, each in "
        f"{'/'.join(map(str, threads))} thread ({os.cpu_count()} CPUs, {results[0]['precision']}), "
        f"{clock(sum(result['took'] for result in results))} of training and validation in all.\n\n"
        f"Dice: mean over images and seeds ± standard deviation over seeds, threshold .5, one view. Difference: [95% "
        f"bootstrap interval over images, or over groups], then the standard deviation over paired seeds. Clear: the "
        f"interval excludes 0 and the difference exceeds {ERRORS} standard errors over seeds; not corrected for the "
        f"number of variants. Best threshold: found on the same images, so its Dice is slightly optimistic; median "
        f"(and range) over seeds.\n"
    )


def caption(dataset: str, found: dict[str, dict[int, dict[str, Any]]]) -> str:
    """Training and validation data, in a line above the table."""
    result = next(result for by_seed in found.values() for result in by_seed.values())
    chosen, scale = result["settings"], result["settings"]["scale"]
    phase = chosen["train"]["phases"][0]
    images, groups = len(result["image_id"]), len(set(result["group"]))
    grouped = f" of {groups} groups" if groups < images else ""
    warning = ", too few for a trustworthy interval" if groups < 20 else ""
    return (
        f"**{dataset}**: fold {chosen['fold']}, {result['train_images']} training images, {scale['steps']} steps of "
        f"{BATCH} crops of {phase['crop']}×{phase['crop']} (augment {chosen['dataset']['augment']}); validated on "
        f"{images} whole images{grouped}{warning}, of at most {chosen['largest']} pixels a side, "
        f"{result['coverage']:.2%} positive.\n"
    )


def comparison_table(found: dict[str, dict[int, dict[str, Any]]], baseline: str) -> str:
    """One row per variant that has results.

    Args:
        found: variant to seed to result.
    """
    refuse_other_images(found)
    lines = [
        f"| variant | seeds | Dice | against {baseline} | clear? | best threshold | Dice there | images/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, results in found.items():
        if results:
            cells = [name, str(len(results)), *scores(results), *against(results, found[baseline], name == baseline)]
            cells += [*thresholds(results), f"{np.median([r['images_per_second'] for r in results.values()]):.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def refuse_other_images(found: dict[str, dict[int, dict[str, Any]]]) -> None:
    """Refuse to compare scores of different images."""
    digests = {result["images"]: f"{name}-{seed}" for name, runs in found.items() for seed, result in runs.items()}
    if len(digests) > 1:
        raise ValueError(f"runs {' and '.join(digests.values())} saw different images: remove the older ones' results")


def scores(results: dict[int, dict[str, Any]]) -> list[str]:
    means = [result["mean"] for result in results.values()]
    noise = f" ± {decimal(np.std(means, ddof=1))}" if len(means) > 1 else ""
    return [f"{decimal(np.mean(means))}{noise}"]


def against(results: dict[int, dict[str, Any]], baseline: dict[int, dict[str, Any]], same: bool) -> list[str]:
    """The difference to the baseline, and whether it is clear."""
    if same or not results.keys() & baseline.keys():
        return ["", ""]
    any_result = next(iter(results.values()))
    groups = pd.Series(any_result["group"], index=any_result["image_id"])
    difference = compare(image_scores(results), image_scores(baseline), groups)
    noise = f" seeds ±{decimal(difference.noise)}" if difference.seeds > 1 else ""
    text = f"{decimal(difference.mean, '+')} [{decimal(difference.low, '+')}, {decimal(difference.high, '+')}]{noise}"
    return [text, "yes" if difference.clear else "no"]


def image_scores(results: dict[int, dict[str, Any]]) -> pd.DataFrame:
    """One row per image, one column per seed."""
    return pd.DataFrame({seed: pd.Series(r["dice"], index=r["image_id"]) for seed, r in results.items()})


def thresholds(results: dict[int, dict[str, Any]]) -> list[str]:
    """The threshold with the best mean Dice of each seed, and the mean of these scores."""
    curves = np.array([result["thresholds"] for result in results.values()])
    best = THRESHOLDS[curves.argmax(axis=1)]
    spread = f" ({best.min():.2f} to {best.max():.2f})" if len(best) > 1 else ""
    return [f"{np.median(best):.2f}{spread}", decimal(curves.max(axis=1).mean())]


def decimal(value: float, sign: str = "") -> str:
    """Four places, without the zero in front.

    >>> decimal(0.81234), decimal(-0.0123, "+"), decimal(1.0)
    ('.8123', '-.0123', '1.0000')
    """
    return f"{value:{sign}.4f}".replace("0.", ".", 1) if abs(value) < 0.99995 else f"{value:{sign}.4f}"


# ---------------------------------------------------------------------------------------------- command line


def make_parser(study: Study) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=f"The study of {study.name}.")
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FOLDER", help="folder of a dataset")
    parser.add_argument("--jobs", type=int, default=1, help="runs in parallel, each on its own CPU")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", metavar="DATASET[/VARIANT[/SEED]]", help="run only these, without a table")
    parser.add_argument("--quick", action="store_true", help="one seed, few steps, a separate results folder")
    parser.add_argument(
        "--table", action="store_true", help="print the tables of the existing results without training"
    )
    return parser


def main(study: Study, options: argparse.Namespace) -> int:
    """Train the missing runs and print the tables; returns the exit status."""
    # An exception, so that workers are stopped and temporary folders removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        return _main(study, options)
    except (ValueError, OSError) as error:
        print(f"study {study.name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: run the same command again to resume", file=sys.stderr)
        return 130


def _main(study: Study, options: argparse.Namespace) -> int:
    scale, seeds = (QUICK, 1) if options.quick else (Scale(), options.seeds)
    study = study._replace(name=f"{study.name}_quick") if options.quick else study
    runs = runs_of(study, seeds, scale)
    failed: list[str] = []
    if not options.table:
        chosen = select(runs, options.only)
        for run in chosen:  # before any training
            check_model(model_config(run))
            check_losses(train_config(run))
        folders = make_folders(sorted({run.dataset for run in chosen}), read_pairs(options.data))
        if options.only and [run.key for run in chosen] == [options.only]:
            work(chosen[0], folders[chosen[0].dataset])
            return 0
        failed = execute(chosen, options.jobs, lambda run: worker_command(run, folders, options))
    if options.only is None:
        print("\n" + report(study, runs, shown_command(options)))
    if failed:
        print(f"{len(failed)} runs failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


def check_losses(cfg: config.Train) -> None:
    """Refuse a loss that cannot be built."""
    for phase in cfg.phases:
        options = getattr(phase, "loss_options", None)
        build_loss(phase.loss, options) if options else build_loss(phase.loss)


def select(runs: Sequence[Run], only: str | None) -> list[Run]:
    """The runs whose key is `only` or starts with it.

    Raises:
        ValueError: if there is none.
    """
    chosen = [run for run in runs if only is None or f"{run.key}/".startswith(f"{only}/")]
    if not chosen:
        raise ValueError(f"--only {only}: no such run. Known: {', '.join(sorted({run.key for run in runs}))}")
    return chosen


def read_pairs(pairs: Iterable[str]) -> dict[str, Path]:
    """NAME=FOLDER options as a dict.

    Raises:
        ValueError: for an unknown dataset or a missing folder.
    """
    folders = {}
    for pair in pairs:
        name, _, folder = pair.partition("=")
        if name not in DATASETS:
            raise ValueError(f"--data {pair}: unknown dataset '{name}'. Known: {', '.join(DATASETS)}")
        if not Path(folder).is_dir():
            raise ValueError(f"--data {pair}: no folder '{folder}'")
        folders[name] = Path(folder)
    return folders


def worker_command(run: Run, folders: dict[str, Path], options: argparse.Namespace) -> list[str]:
    """The command of this script for one run."""
    quick = ["--quick"] if options.quick else ["--seeds", str(options.seeds)]
    data = f"{run.dataset}={folders[run.dataset]}"
    return [sys.executable, sys.argv[0], "--only", run.key, "--data", data, *quick]


def shown_command(options: argparse.Namespace) -> str:
    """The command for the report, without the folders of this machine."""
    data = "".join(f" --data {pair.partition('=')[0]}=FOLDER" for pair in options.data)
    length = " --quick" if options.quick else f" --seeds {options.seeds}"
    return f"python benchmarks/{Path(sys.argv[0]).name}{data} --jobs {options.jobs}{length}"
