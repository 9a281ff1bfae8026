"""A command for each stage, from the files to the submission and what is learnt of it."""

import fnmatch
import logging
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer

from pipeline import competition, stages
from pipeline.cli.terminal import (
    DEMO,
    ConfigPath,
    DataRoot,
    Overrides,
    SkipBad,
    app,
    load_config,
    load_configs,
    out,
    print_table,
)
from pipeline.config import Config
from pipeline.ensemble import Drawer, Exclusive, Objects
from pipeline.metrics import DetectionRates, epoch_metric, selection_metric
from pipeline.rle import Dialect
from pipeline.training.checkpoint import FULL, Fold

log = logging.getLogger(__name__)


@app.command()
def data(path: ConfigPath = DEMO, set_: Overrides = None, data: DataRoot = None, skip_bad: SkipBad = False) -> None:
    """Make the demo's data if it is asked for; read every image once and list the bad ones."""
    stages.data(load_config(path, set_, data, skip_bad))


@app.command()
def folds(path: ConfigPath = DEMO, set_: Overrides = None, data: DataRoot = None, skip_bad: SkipBad = False) -> None:
    """Assign folds/<name>.csv if it is missing, and show how even the folds are."""
    cfg = load_config(path, set_, data, skip_bad)
    described, worst = stages.describe_folds(cfg)
    of_classes = [name for name in described if name.startswith(tuple(OF_CLASSES)) and "=" not in name]
    shares = {name: "{:.1%}" for name in described if name == "empty" or "=" in name}
    areas = {name: "{:.4f}" for name in described if name.startswith(("coverage", "q"))}
    print_table(described.drop(columns=of_classes).reset_index().to_dict("records"), shares | areas)
    _print_classes(described[of_classes])
    out.print(f"worst deviation from the mean of the folds: {worst:.1%}")


OF_CLASSES = {"with_": ("images with", "{:.1%}"), "coverage_": ("mean coverage", "{:.4f}")}  # by their column's prefix


def _print_classes(described: pd.DataFrame) -> None:
    """A row for each class: there may be many, and a fold is a column."""
    for prefix, (what, form) in OF_CLASSES.items():
        table = described.filter(regex=f"^{prefix}").rename(columns=lambda name: name.split("_", 1)[1])
        rows = [
            {what: name, **{f"fold {fold}": value for fold, value in folds.items()}} for name, folds in table.items()
        ]
        if rows:
            print_table(rows, {f"fold {fold}": form for fold in table.index})


@app.command()
def competitions() -> None:
    """The cards that ship: what each competition wants, and how much of its card nobody here could check."""
    rows = []
    for name in competition.known():
        card = competition.load(name)
        rows.append(
            {
                "card": name,
                "rows": "object" if card.instances else "image, class" if len(card.classes) > 1 else "image",
                "classes": len(card.classes),
                "pixels by": card.dialect.order,
                "runs": _runs_of(card.dialect),
                "empty": repr(card.dialect.empty),
                "metric": card.metric,
                "from memory": len(card.unverified),
            }
        )
    print_table(rows, {})
    out.print('\nA card of your own goes by its path: competition = "cards/mine.toml"; begin with docs/card.toml.')


def _runs_of(dialect: Dialect) -> str:
    return dialect.form if dialect.form != "pairs" else "relative" if dialect.relative else "absolute"


@app.command()
def doctor(path: ConfigPath = DEMO, set_: Overrides = None, data: DataRoot = None, skip_bad: SkipBad = False) -> None:
    """Are the files what the card says? Sample submission, masks, dialect, images; exits 2 on what would spoil it."""
    done = stages.doctor(load_config(path, set_, data, skip_bad))
    widest = max(len(finding.check) for finding in done.findings)
    for finding in done.findings:  # whole lines, however long: they say what to write
        out.print(f"{finding.level:4}  {finding.check:{widest}}  {finding.message}")
    if done.sheet:
        out.print(f"pictures    {done.sheet}")
    if done.bad:
        raise ValueError(f"{len(done.bad)} of {len(done.findings)} findings would spoil a submission, see above")


@app.command()
def audit(
    path: ConfigPath = DEMO,
    inflation: Annotated[
        bool, typer.Option(help="train on a random split too, and say what its leaks pretend (twice the hours)")
    ] = False,
    set_: Overrides = None,
    data: DataRoot = None,
    skip_bad: SkipBad = False,
) -> None:
    """Find images of one scene (copies, crops, neighbours) within train, and between train and test."""
    cfg = load_config(path, set_, data, skip_bad)
    found = stages.audit(cfg)
    if len(found.pairs):
        print_table(found.pairs.to_dict("records"), {})
    out.print(f"{found.images} training images in {found.groups} groups, the largest of {found.largest}")
    if found.split_pairs:
        pairs = "a pair" if found.split_pairs == 1 else f"{found.split_pairs} pairs"
        out.print(
            f"{found.folds} parts {pairs}: scores read on it are too good, and training on it is refused from now on. "
            f'Set folds.name = "{found.folds.stem}2" in the config: new folds keep them together, runs on these stay'
        )
    out.print(f"pairs       {found.table}" + (f"\npictures    {found.sheet}" if found.sheet else ""))
    if inflation:
        _print_inflation(stages.measure_inflation(cfg))


def _print_inflation(worth: stages.LeakInflation) -> None:
    gap = worth.difference
    out.print(f"\nrandom split   {worth.random:.4f}  out of fold, at threshold .5, {worth.images} images")
    out.print(f"groups whole   {worth.grouped:.4f}")
    out.print(f"CV inflation   {gap.mean:+.4f}  {gap}, over groups")


@app.command()
def train(
    path: ConfigPath = DEMO,
    fold: Annotated[str, typer.Option(help="a fold from 0, all, or full: every image and no validation")] = "all",
    set_: Overrides = None,
    data: DataRoot = None,
    skip_bad: SkipBad = False,
) -> None:
    """Train the model that leaves a fold out, through all phases; goes on after a kill."""
    cfg = load_config(path, set_, data, skip_bad)
    for number in _folds(cfg, fold):
        trained = stages.train(cfg, number)
        worth = "no OOF" if trained.oof is None else f"OOF {trained.oof:.4f} at threshold .5"
        out.print(f"fold {number}: {worth}, {trained.weights}")


def _folds(cfg: Config, text: str) -> list[Fold]:
    if text == "all":
        return list(stages.make_context(cfg).fold_numbers())
    if text == FULL:
        return [FULL]
    if not text.isdigit():
        raise ValueError(f"--fold {text}: expected a number from 0, all, or full")
    return [int(text)]


@app.command()
def sweep(
    path: ConfigPath = DEMO,
    configs: Annotated[str, typer.Option(help="names of the configs, beside the given one's file")] = "",
    seeds: Annotated[str, typer.Option(help="such as '0 1 2'; empty: each config's own")] = "",
    fold: Annotated[str, typer.Option(help="a fold from 0, or all")] = "all",
    jobs: Annotated[int, typer.Option(help="at a time; 0: one; on Ray as many as it has GPUs or CPUs", min=0)] = 0,
    executor: Annotated[
        str, typer.Option(help="local: by make, or ray: on a cluster that shares this folder")
    ] = "local",
    retries: Annotated[int, typer.Option(help="of each job that was killed", min=0)] = 2,
    set_: Overrides = None,
    data: DataRoot = None,
    skip_bad: SkipBad = False,
) -> None:
    """Train folds × configs × seeds side by side; none twice, and those that die again."""
    if fold != "all" and not fold.isdigit():
        raise ValueError(f"--fold {fold}: expected a number from 0, or all")
    given = [path.with_name(f"{name}.toml") for name in configs.split()] or [path]
    paths = stages.seed_configs(given, _seeds(seeds, set_))
    options = [word for pair in set_ or [] for word in ("--set", pair)]
    options += (["--data", str(data)] if data else []) + (["--skip-bad"] if skip_bad else [])
    done = stages.sweep(
        {each: load_config(each, set_, data, skip_bad) for each in paths},
        options,
        fold=None if fold == "all" else int(fold),
        jobs=jobs,
        executor=executor,
        retries=retries,
    )
    _print_sweep(done)


def _seeds(text: str, overrides: Sequence[str] | None) -> list[int]:
    strangers = [word for word in text.split() if not word.isdigit()]
    if strangers:
        raise ValueError(f"--seeds {strangers[0]}: expected whole numbers from 0, such as '0 1 2'")
    if text and any(pair.partition("=")[0].strip() == "seed" for pair in overrides or []):
        raise ValueError("--set seed and --seeds both say what the seed is: leave out one of them")
    return [int(word) for word in text.split()]


def _print_sweep(sweep: stages.Sweep) -> None:
    out.print(f"jobs        {sweep.jobs}, {sweep.done_before} of them done before")
    failed = []
    for result in sweep.results:
        out.print(str(result))
        failed += [result] if result.failed else []
    if failed:
        raise ValueError(f"{len(failed)} of {sweep.jobs} jobs failed, see above: {failed[0]}")


@app.command()
def oof(path: ConfigPath = DEMO, set_: Overrides = None, data: DataRoot = None, skip_bad: SkipBad = False) -> None:
    """Out-of-fold predictions of every fold, and their scores."""
    _print_oof(stages.oof(load_config(path, set_, data, skip_bad)))


@app.command()
def predict(path: ConfigPath = DEMO, set_: Overrides = None, data: DataRoot = None, skip_bad: SkipBad = False) -> None:
    """Test-set probabilities of every fold."""
    stages.predict(load_config(path, set_, data, skip_bad))


@app.command()
def ensemble(
    path: ConfigPath = DEMO,
    configs: Annotated[str, typer.Option(help="names of the configs to average, beside the given one's file")] = "",
    set_: Overrides = None,
    data: DataRoot = None,
    skip_bad: SkipBad = False,
) -> None:
    """Do all that is missing, average, search the cut on OOF, write and check the submission."""
    cfgs = load_configs(path, configs, set_, data, skip_bad)
    # `make ensemble CONFIG=x` names x twice: the usual way to a submission, and not worth a word.
    if len(configs.split()) == 1 and configs.split() != [path.stem]:
        log.warning("an ensemble of one (%s): there is nothing to weigh; name two or more in CONFIGS", cfgs[0].name)
    done = stages.ensemble(cfgs)
    for cfg in cfgs:
        out.print(f"\n{cfg.name}, out of fold, {epoch_metric(done.metric)} at threshold .5:")
        _print_oof(stages.oof_table(cfg))
    _print_worth(done)
    out.print(f"submission  {done.csv}  {done.summary.rows} rows, {done.summary.empty} of them empty")
    out.print(f"manifest    {done.manifest}")
    out.print(f"pictures    {done.sheet}")
    if done.empties_differ:
        out.print(
            f"warning     {done.summary.empty} of {done.summary.masks} "
            f"{'images' if isinstance(done.decision.shipped, Objects) else 'rows'} are empty, of the training masks "
            f"{done.train_empty:.0%} are"
        )


def _print_worth(done: stages.Ensembled) -> None:
    honest = done.honest
    out.print(f"\nOOF score   {honest.mean:.4f}  cross-fitted, {honest}")
    out.print(f"            {done.decision.in_sample:.4f}  in-sample: optimism {done.optimism:+.4f}")
    if not isinstance(done.decision.shipped, Exclusive):
        out.print(f"            {done.decision.at_half:.4f}  at threshold .5, nothing chosen but the weights")
    out.print(f"            {done.decision.trivial:.4f}  {TRIVIAL[isinstance(done.decision.shipped, Exclusive)]}")
    if done.official is not None:
        out.print(
            f"            {done.official:.4f}  {done.metric}, cross-fitted; "
            f"the above is {selection_metric(done.metric)}"
        )
    out.print("found       " + ", ".join(_said_of(done.found)) + ", out of fold, cross-fitted")
    for name, value in done.decision.others.items():
        out.print(f"            {value:.4f}  {name}, cross-fitted")
    if done.gain:
        gain, best = done.gain, max(done.singles, key=lambda single: single.score).name
        print_table(
            [single._asdict() for single in done.singles],
            {"weight": "{:.3f}", "by_log_loss": "{:.3f}", "score": "{:.4f}"},
        )
        out.print(
            f"gain        {gain.mean:+.4f}  over {best}, the best alone, {gain}"
            + ("" if isnan(gain.p_better) else f", better in {gain.p_better:.0%} of draws")
        )
        if gain.mean < 0:
            out.print(
                f"            better alone: hand in submissions/{best}.csv (make ensemble CONFIGS={best} writes it)"
            )
    _print_drawn(done.decision.shipped, done.classes, several=len(done.singles) > 1)


def _said_of(found: DetectionRates) -> list[str]:
    """What is found, in words; what is not defined is left out."""
    return [
        *([] if found.dice is None else [f"Dice {found.dice:.4f} over all pixels"]),
        *([] if found.found is None else [f"{found.found:.0%} of the masks with objects get some of them"]),
        *([] if found.left_empty is None else [f"{found.left_empty:.0%} of the empty ones stay empty"]),
    ]


TRIVIAL = {False: "if nothing were predicted", True: "if the most frequent class were predicted everywhere"}


def _print_drawn(drawer: Drawer, classes: Sequence[str], *, several: bool) -> None:
    """How masks are drawn: a line for all classes alike, or one for each."""
    if isinstance(drawer, Exclusive):
        out.print(f"drawn       the most probable of {len(classes)} classes" + (f", by {drawer.how}" * several))
        return
    if isinstance(drawer, Objects):
        rules = {rule: value for rule, value in drawer.cut._asdict().items() if value}
        out.print("objects     " + ", ".join(f"{rule} {value:.4g}" for rule, value in rules.items()))
        return
    for name, choice in zip(classes, drawer.choices, strict=True):
        of_class = f"{name}: " if len(classes) > 1 else ""
        if several:
            out.print(f"combined    {of_class}by {choice.how}")
        rules = {rule: value for rule, value in choice.cut._asdict().items() if value}
        out.print(f"cut         {of_class}" + ", ".join(f"{rule} {value:.4g}" for rule, value in rules.items()))


@app.command()
def report(
    path: ConfigPath = DEMO,
    configs: Annotated[str, typer.Option(help="names of the configs of an ensemble, beside the given one's file")] = "",
    set_: Overrides = None,
    data: DataRoot = None,
    skip_bad: SkipBad = False,
) -> None:
    """One HTML page to look at: curves, worst images, suspected label errors, what the submission holds."""
    out.print(f"report      {stages.report(load_configs(path, configs, set_, data, skip_bad))}")


@app.command()
def pseudo(path: ConfigPath = DEMO, set_: Overrides = None, data: DataRoot = None, skip_bad: SkipBad = False) -> None:
    """Train on test images labelled by models that never saw the fold, and say what that changed."""
    done = stages.pseudo(load_config(path, set_, data, skip_bad))
    with_, without = done.scores
    gap = done.difference
    print_table(done.folds.to_dict("records"), {"with": "{:.4f}", "without": "{:.4f}"})
    out.print(f"with        {with_:.4f}  out of fold at threshold .5, {done.name}")
    out.print(f"without     {without:.4f}  {done.source}")
    out.print(f"difference  {gap.mean:+.4f}  {gap}, over groups")


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="a config's name, or an ensemble's, as in x+y")],
    b: Annotated[str, typer.Argument(help="what it is compared with")],
) -> None:
    """Whether A beats B: a paired bootstrap of their cross-fitted OOF scores."""
    done = stages.compare(a, b)
    gap = done.difference
    out.print(f"{a}  {done.a:.4f}")
    out.print(f"{b}  {done.b:.4f}")
    out.print(f"difference  {gap.mean:+.4f}  {gap}")
    better = "" if isnan(gap.p_better) else f"{a} is better in {gap.p_better:.1%} of draws "
    out.print(f"{better}({done.images} images in {done.groups} groups)")
    if not done.same_folds:
        out.print("their folds differ: what differs between the splits is in the difference too")
    if done.machines:
        one, other = done.machines
        out.print(
            f"{a} was trained on {one}, {b} on {other}: sums are rounded otherwise, which is in the difference too"
        )


@app.command()
def final(
    names: Annotated[list[str], typer.Argument(help="names of configs or ensembles, as in x x+y")],
    competition: Annotated[str, typer.Option(help="a card's name")] = "demo",
    data: DataRoot = None,
) -> None:
    """Which two submissions to choose, from simulated public and private boards."""
    done = stages.final(names, competition, data)
    boards = done.boards
    rows = [
        {"name": name, "OOF": score, "best in private": best}
        for name, score, best in zip(done.names, done.scores, boards.best, strict=True)
    ]
    out.print(f"{done.test_images} test images, {done.public_share:.0%} of them public, drawn from OOF:")
    print_table(rows, {"OOF": "{:.4f}", "best in private": "{:.0%}"})
    first, second = boards.pair
    out.print(f"choose {done.names[first]} and {done.names[second]}")
    out.print(
        f"the public board's first is not the best in private in {boards.wrong:.0%} of boards; following it costs "
        f"{boards.loss:.4f} on average"
    )


@app.command()
def score(
    competition: Annotated[str, typer.Argument(help="a card's name")],
    submission: Annotated[Path, typer.Argument(help="the CSV to score")],
    solution: Annotated[Path, typer.Argument(help="the CSV with the truth")],
) -> None:
    """The official metric of a submission against the truth."""
    metric, value, images = stages.score(competition, submission, solution)
    out.print(f"{metric} {value:.4f}  ({images} images, {submission} against {solution})")


@app.command()
def encoders(
    pattern: Annotated[str, typer.Argument(help="part of a name, or a pattern such as '*resne?t50*'")] = "",
    refresh: Annotated[
        bool, typer.Option(help="build each of timm's models anew (most of an hour), and rewrite the list")
    ] = False,
) -> None:
    """List the encoders that work: parameters (millions), the architectures they serve, output strides, native size."""
    from pipeline.models import encoder, encoder_table

    if refresh:
        encoder_table.refresh()
        encoder.known.cache_clear()
    wanted = pattern.removeprefix(encoder.PREFIX) if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    rows = [
        row._asdict()
        for row in encoder.known().values()
        if fnmatch.fnmatch(row.name, wanted) or fnmatch.fnmatch(row.name.removeprefix(encoder.PREFIX), wanted)
    ]
    if not rows:
        raise ValueError(f"no encoder matches '{pattern}'. Try a family: resnet, seresnext, efficientnet, convnext")
    print_table(rows, {"parameters": "{:.2f}"})


def _print_oof(rows: list[dict[str, Any]]) -> None:
    scores = dict.fromkeys((key for key in rows[0] if key.startswith("phase") or key == "oof"), "{:.4f}")
    thresholds = dict.fromkeys((key for key in rows[0] if key.startswith("threshold")), "{:.2f}")
    found = {"dice": "{:.4f}", "found": "{:.0%}", "left empty": "{:.0%}"}
    print_table([*rows, stages.mean_row(rows)], scores | thresholds | found)
