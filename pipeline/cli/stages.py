"""One command per stage, from the competition's files to the submission and its evaluation."""

import logging
from collections import Counter
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
    Configs,
    DataRoot,
    GivenWeights,
    Overrides,
    PartOfFolds,
    SkipBad,
    app,
    files_name,
    given_root,
    load_config,
    load_configs,
    out,
    print_table,
)
from pipeline.config import Config
from pipeline.data.transform_list import to_toml, to_value
from pipeline.ensemble.combine import Weighting
from pipeline.ensemble.renderer import Renderer
from pipeline.metrics import DetectionRates, epoch_metric, selection_metric
from pipeline.postprocess.instances import InstanceRules
from pipeline.postprocess.rules import Rules, format_groups
from pipeline.rle import Dialect
from pipeline.statistics.adversarial_validation import MIN_EFFECTIVE
from pipeline.statistics.symmetry_probe import advise, symmetry_rows
from pipeline.training.checkpoint import FULL, Fold

log = logging.getLogger(__name__)
CHECKED = Path("reports/encoders_checked.csv")


@app.command()
def data(path: ConfigPath = DEMO, set_: Overrides = None, data: DataRoot = None, skip_bad: SkipBad = False) -> None:
    """Read every image once and list unreadable ones; for a demo config, generate its data first."""
    stages.data(load_config(path, set_, data, skip_bad))


@app.command()
def folds(path: ConfigPath = DEMO, set_: Overrides = None, data: DataRoot = None, skip_bad: SkipBad = False) -> None:
    """Write folds/<name>.csv if it is missing, and show how balanced the folds are."""
    cfg = load_config(path, set_, data, skip_bad)
    described, worst = stages.describe_folds(cfg)
    class_columns = [name for name in described if name.startswith(tuple(CLASS_COLUMNS)) and "=" not in name]
    shares = {name: "{:.1%}" for name in described if name == "empty" or "=" in name}
    areas = {name: "{:.4f}" for name in described if name.startswith(("coverage", "q"))}
    print_table(described.drop(columns=class_columns).reset_index().to_dict("records"), shares | areas)
    _print_classes(described[class_columns])
    out.print(f"worst deviation from the mean of the folds: {worst:.1%}")


CLASS_COLUMNS = {
    "with_": ("images with", "{:.1%}"),
    "coverage_": ("mean coverage", "{:.4f}"),
}  # by prefix of the column


def _print_classes(described: pd.DataFrame) -> None:
    """Print a row per class and a column per fold: there may be many classes."""
    for prefix, (what, form) in CLASS_COLUMNS.items():
        table = described.filter(regex=f"^{prefix}").rename(columns=lambda name: name.split("_", 1)[1])
        rows = [
            {what: name, **{f"fold {fold}": value for fold, value in folds.items()}} for name, folds in table.items()
        ]
        if rows:
            print_table(rows, {f"fold {fold}": form for fold in table.index})


@app.command()
def competitions() -> None:
    """List the included competition cards; "unverified" counts their values that are not verified."""
    rows = []
    for name in competition.known_cards():
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
                "unverified": len(card.unverified),
            }
        )
    print_table(rows, {})
    out.print('\nTo use your own card, give its path: competition = "cards/mine.toml"; docs/card.toml is a template.')


def _runs_of(dialect: Dialect) -> str:
    return dialect.form if dialect.form != "pairs" else "relative" if dialect.relative else "absolute"


@app.command()
def doctor(path: ConfigPath = DEMO, set_: Overrides = None, data: DataRoot = None, skip_bad: SkipBad = False) -> None:
    """Check sample submission, masks, RLE dialect and images against the card; exit status 2 if one is wrong."""
    done = stages.doctor(load_config(path, set_, data, skip_bad))
    widest = max(len(finding.check) for finding in done.findings)
    for finding in done.findings:  # not truncated: they name the values to set
        out.print(f"{finding.level:4}  {finding.check:{widest}}  {finding.message}")
    if done.sheet:
        out.print(f"pictures    {done.sheet}")
    if done.bad:
        raise ValueError(
            f"{len(done.bad)} of {len(done.findings)} findings would spoil a submission, see the lines marked bad above"
        )


@app.command()
def augment(path: ConfigPath = DEMO, set_: Overrides = None, data: DataRoot = None, skip_bad: SkipBad = False) -> None:
    """Print the augmentation of each phase as a list for a config, and draw images as the network sees them."""
    done = stages.augment(load_config(path, set_, data, skip_bad))
    for name, recipe in done.recipes.items():
        keys = {"crop": recipe.crop, "scale": recipe.scale, "scale_p": recipe.scale_p if recipe.scale else None}
        given = [f"{key} = {to_value(value)}" for key, value in keys.items() if value is not None]
        listed = to_toml(recipe.transforms, "train.phases.augment") or "augment = []"
        out.print("\n".join([f"# {name}", *given, "", listed, ""]), markup=False, highlight=False, soft_wrap=True)
    if done.symmetries:
        print_table(symmetry_rows(done.symmetries), {"accuracy": "{:.0%}"})
        out.print(advise(done.symmetries), soft_wrap=True)
    out.print(f"pictures    {done.sheet}")


@app.command()
def audit(
    path: ConfigPath = DEMO,
    inflation: Annotated[
        bool, typer.Option(help="also train on a random split: how much does its leak inflate the CV score?")
    ] = False,
    set_: Overrides = None,
    data: DataRoot = None,
    skip_bad: SkipBad = False,
) -> None:
    """Find near-duplicates (copies, crops, neighbours of one scene) within train, with test, and of extra sets."""
    cfg = load_config(path, set_, data, skip_bad)
    found = stages.audit(cfg)
    if len(found.pairs):
        print_table(found.pairs.to_dict("records"), {})
    out.print(f"{found.images} training images in {found.groups} groups, the largest of {found.largest}")
    if found.extra:
        print_table(found.extra, {})
    if found.split_pairs:
        pairs = "a pair" if found.split_pairs == 1 else f"{found.split_pairs} pairs"
        out.print(
            f"{found.folds} separates {pairs}: its scores are too high, and training on it is refused. "
            f'Set folds.name = "{found.folds.stem}2" in the config: new folds keep pairs together, earlier runs stay'
        )
    out.print(f"pairs       {found.table}" + (f"\npictures    {found.sheet}" if found.sheet else ""))
    _print_shift(found.shift)
    if found.extremes:
        out.print(f"pictures    {found.extremes}")
    if inflation:
        _print_inflation(stages.measure_inflation(cfg))


def _print_shift(shift: stages.TrainTestShift) -> None:
    """Print whether test images differ from training images, and in what."""
    out.print(f"test        {shift}", soft_wrap=True)
    if shift.found and shift.found.differ:
        print_table([each._asdict() for each in shift.found.differences[:MAX_DIFFERENCES]], DIFFERENCE_FORMATS)


MAX_DIFFERENCES = 8  # rows of the table
DIFFERENCE_FORMATS = {"train": "{:.4g}", "test": "{:.4g}", "distance": "{:.2f}"}


def _print_inflation(inflation: stages.LeakInflation) -> None:
    gap = inflation.difference
    out.print(f"\nrandom split   {inflation.random:.4f}  out of fold, at threshold .5, {inflation.images} images")
    out.print(f"grouped split  {inflation.grouped:.4f}")
    out.print(f"CV inflation   {gap.mean:+.4f}  {gap}, over groups")


@app.command()
def train(
    path: ConfigPath = DEMO,
    fold: Annotated[str, typer.Option(help="number from 0; all; full: all images, no validation")] = "all",
    set_: Overrides = None,
    data: DataRoot = None,
    skip_bad: SkipBad = False,
) -> None:
    """Train one model per held-out fold, through all phases; an interrupted training resumes."""
    cfg = load_config(path, set_, data, skip_bad)
    for number in _folds(cfg, fold):
        trained = stages.train(cfg, number)
        score = "no OOF" if trained.oof is None else f"OOF {trained.oof:.4f} at threshold .5"
        out.print(f"fold {number}: {score}, {trained.weights}")


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
    configs: Configs = "",
    seeds: Annotated[str, typer.Option(metavar="SEEDS", help="such as '0 1 2' (default: as in the configs)")] = "",
    fold: Annotated[str, typer.Option(help="fold number from 0, or all")] = "all",
    jobs: Annotated[int, typer.Option(help="jobs at a time; 0: one, on Ray one per GPU or CPU", min=0)] = 0,
    executor: Annotated[
        str, typer.Option(help="local (subprocesses) or ray (a cluster that shares this folder)")
    ] = "local",
    retries: Annotated[int, typer.Option(help="restarts of a crashed job", min=0)] = 2,
    set_: Overrides = None,
    data: DataRoot = None,
    skip_bad: SkipBad = False,
) -> None:
    """Train folds × configs × seeds in parallel; restarts crashed jobs, skips finished ones."""
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
    invalid = [word for word in text.split() if not word.isdigit()]
    if invalid:
        raise ValueError(f"--seeds {invalid[0]}: expected integers from 0, such as '0 1 2'")
    if text and any(pair.partition("=")[0].strip() == "seed" for pair in overrides or []):
        raise ValueError("--set seed and --seeds both set the seed: leave out one of them")
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
    """Make out-of-fold predictions of all folds, and print their scores."""
    _print_oof(stages.oof(load_config(path, set_, data, skip_bad)))


@app.command()
def predict(path: ConfigPath = DEMO, set_: Overrides = None, data: DataRoot = None, skip_bad: SkipBad = False) -> None:
    """Predict the test set with the models of all folds."""
    stages.predict(load_config(path, set_, data, skip_bad))


@app.command()
def ensemble(
    path: ConfigPath = DEMO,
    configs: Configs = "",
    folds: PartOfFolds = "",
    weights: GivenWeights = "",
    set_: Overrides = None,
    data: DataRoot = None,
    skip_bad: SkipBad = False,
) -> None:
    """Write a validated submission: averages models, tunes post-processing on OOF; runs missing stages first."""
    cfgs = load_configs(path, configs, set_, data, skip_bad, folds, weights)
    # `make ensemble CONFIG=x` passes x twice; that is no mistake.
    if len(configs.split()) == 1 and configs.split() != [path.stem]:
        log.warning("an ensemble of one config (%s): no weights to tune; give two or more in CONFIGS", cfgs[0].name)
    done = stages.ensemble(cfgs, files_name(cfgs, folds))
    for cfg in (each for each in cfgs if each.imported is None or each.imported.oof):
        out.print(f"\n{cfg.name}, out of fold, {epoch_metric(done.metric)} at threshold .5:")
        _print_oof(stages.oof_table(cfg))
    _print_score(done)
    out.print(f"submission  {done.csv}  {done.summary.rows} rows, {done.summary.empty} of them empty")
    out.print(f"manifest    {done.manifest}")
    out.print(f"pictures    {done.sheet}")
    if done.empties_differ:
        out.print(
            f"warning     {done.summary.empty} of {done.summary.masks} "
            f"{'images' if done.selection.renderer.kind == 'instances' else 'rows'} are empty; "
            f"{done.train_empty:.0%} of the training masks are"
        )


BY_LOG_LOSS = "weight of the least log loss"


def _print_score(done: stages.Ensembled) -> None:
    interval, multiclass = done.interval, done.selection.renderer.kind == "multiclass"
    differ = f"; {done.shift}" if done.shift.found and done.shift.found.differ else ""
    metric = selection_metric(done.metric)
    out.print(f"\nOOF score   {interval.mean:.4f}  {metric}, cross-fitted, {interval}{differ}", soft_wrap=True)
    out.print(_format_like_test(done), soft_wrap=True)
    out.print(f"            {done.selection.in_sample:.4f}  in-sample: optimism {done.optimism:+.4f}")
    if not multiclass:
        tuned = ", only the weights tuned" if len(done.member_scores) > 1 else ""
        out.print(f"            {done.selection.at_half:.4f}  at threshold .5{tuned}")
    out.print(f"            {done.selection.baseline:.4f}  {BASELINE[multiclass]}")
    if done.official is not None:
        out.print(f"            {done.official:.4f}  {done.metric}, cross-fitted; the above is {metric}")
    out.print("detection   " + ", ".join(_format_detection(done.found)) + ", out of fold, cross-fitted")
    for name, value in done.selection.alternatives.items():
        out.print(f"            {value:.4f}  {name}, cross-fitted")
    if done.gain:
        gain, best = done.gain, max(done.member_scores, key=lambda each: each.score).name
        rows = [
            {"member": each.name, "weight": each.weight, BY_LOG_LOSS: each.by_log_loss, "score alone": each.score}
            for each in done.member_scores
        ]
        print_table(rows, {"weight": "{:.3f}", BY_LOG_LOSS: "{:.3f}", "score alone": "{:.4f}"})
        out.print(
            f"gain        {gain.mean:+.4f}  over {best}, the best alone, {gain}"
            + ("" if isnan(gain.p_better) else f", better in {gain.p_better:.0%} of draws")
        )
        if gain.mean < 0:
            out.print(f"            {_command_of_one(best, done.csv, [each.name for each in done.member_scores])}")
    _print_rules(done.selection.renderer, done.classes, several=len(done.member_scores) > 1)
    for note in done.notes:
        out.print(f"note        {note}")


def _command_of_one(best: str, csv: Path, members: list[str]) -> str:
    """What makes the submission of the member that scores higher alone, from the folds of the ensemble `csv`."""
    part = csv.stem.removeprefix("+".join(members))  # -fold0-fold1
    folds = f' FOLDS="{" ".join(part.split("-fold")[1:])}"' if part else ""
    return f"{best} scores higher: make ensemble CONFIGS={best}{folds}, submissions/{best}{part}.csv"


def _format_like_test(done: stages.Ensembled) -> str:
    """The score weighted by likeness to the test images if they differ, or why there is none."""
    found = done.shift.found
    if found is None or done.like_test is None:
        return f"            not weighted by likeness to the test images: {done.shift.missing}"
    if not found.differ:
        return f"            {done.shift}"
    few = ", too few to rely on" if found.effective < MIN_EFFECTIVE else ""
    return (
        f"            {done.like_test.mean:.4f}  weighted by likeness to the test images, {done.like_test}, "
        f"{found.effective:.0f} effective of {len(found.train)} images{few}"
    )


def _format_detection(found: DetectionRates) -> list[str]:
    """Format the detection rates that are defined."""
    return [
        *([] if found.dice is None else [f"Dice {found.dice:.4f} over all pixels"]),
        *([] if found.found is None else [f"{found.found:.0%} of the masks with objects have a true positive pixel"]),
        *([] if found.left_empty is None else [f"{found.left_empty:.0%} of the empty ones stay empty"]),
    ]


BASELINE = {False: "baseline: nothing predicted", True: "baseline: the most frequent class everywhere"}


def _describe_weighting(weighting: Weighting) -> str:
    if weighting.stack:
        return "stacking, a logistic regression; the weights are its coefficients' shares"
    calibrated = f", each member calibrated first by {weighting.calibrated_by or 'a table'}"
    return weighting.combination + calibrated * bool(weighting.calibration)


def _print_rules(renderer: Renderer, classes: Sequence[str], *, several: bool) -> None:
    """Print the post-processing: one line, or one per class."""
    if renderer.kind == "multiclass":
        by = f", combined by {renderer.parts[0].combination}" * several
        out.print(f"rules       the most probable of {len(classes)} classes" + by)
        return
    if renderer.kind == "instances":
        out.print(f"rules       {_format_rules(renderer.parts[0].rules)}")
        return
    for name, part in zip(classes, renderer.parts, strict=True):
        of_class = f"{name}: " if len(classes) > 1 else ""
        if several:
            out.print(f"combined    {of_class}by {_describe_weighting(part.weighting)}")
        out.print(f"rules       {of_class}{_format_rules(part.rules)}")


def _format_rules(rules: Rules | InstanceRules) -> str:
    """The fields that are set, with their values."""
    set_ = {name: value for name, value in rules._asdict().items() if value and not isinstance(value, str | tuple)}
    text = ", ".join(f"{name} {value:.4g}" for name, value in set_.items())
    if isinstance(rules, Rules) and rules.by_group:
        text += f", by_group {{ {format_groups(rules)} }}"
    if "share" not in set_:
        return text
    return f"{text} of the {'pixels' if rules.share_of == 'pixels' else 'expected foreground'} of the {rules.share_in}"


@app.command()
def report(
    path: ConfigPath = DEMO,
    configs: Configs = "",
    folds: PartOfFolds = "",
    weights: GivenWeights = "",
    set_: Overrides = None,
    data: DataRoot = None,
    skip_bad: SkipBad = False,
) -> None:
    """Write an HTML report: training curves, worst images, suspected label errors, content of the submission."""
    cfgs = load_configs(path, configs, set_, data, skip_bad, folds, weights)
    out.print(f"report      {stages.report(cfgs, files_name(cfgs, folds))}")


@app.command()
def pseudo(path: ConfigPath = DEMO, set_: Overrides = None, data: DataRoot = None, skip_bad: SkipBad = False) -> None:
    """Train with pseudo-labels of test images, made without the held-out fold, and report the change in score."""
    done = stages.pseudo(load_config(path, set_, data, skip_bad))
    with_, without = done.scores
    gap = done.difference
    print_table(done.folds.to_dict("records"), {"with": "{:.4f}", "without": "{:.4f}"})
    out.print(f"with        {with_:.4f}  out of fold at threshold .5, {done.name}")
    out.print(f"without     {without:.4f}  {done.source}")
    out.print(f"difference  {gap.mean:+.4f}  {gap}, over groups")


@app.command()
def compare(
    a: Annotated[str, typer.Argument(help="name of a config, or of an ensemble such as x+y")] = "",
    b: Annotated[str, typer.Argument(help="name to compare it with")] = "",
) -> None:
    """Test whether A is better than B, by a paired bootstrap of their cross-fitted OOF scores."""
    if not (a and b):
        raise ValueError("give two names of configs or ensembles, as in: make compare A=nuclei B=nuclei_fpn")
    done = stages.compare(a, b)
    gap = done.difference
    out.print(f"{a}  {done.a:.4f}")
    out.print(f"{b}  {done.b:.4f}")
    out.print(f"difference  {gap.mean:+.4f}  {gap}")
    better = "" if isnan(gap.p_better) else f"{a} is better in {gap.p_better:.1%} of draws "
    out.print(f"{better}({done.images} images in {done.groups} groups)")
    out.print(f"not in the interval: {done.trainings}", soft_wrap=True)
    if not done.trainings.seeds:
        out.print('to measure it: make sweep CONFIGS=<name> SEEDS="0 1 2", and make ensemble for each seed')
    if not done.same_folds:
        out.print("their folds differ: the difference includes the effect of the split")
    if done.machines:
        one, other = done.machines
        out.print(f"{a} was trained on {one}, {b} on {other}: the difference includes the effect of other rounding")


@app.command()
def final(
    names: Annotated[list[str] | None, typer.Argument(help="names of configs or ensembles, such as x x+y")] = None,
    competition: Annotated[str, typer.Option(help="name or path of a card")] = "demo",
    data: DataRoot = None,
) -> None:
    """Select two final submissions: simulates public and private splits from the OOF scores."""
    if not names:
        raise ValueError(
            'give the names of the submissions, as in: make final SUBMISSIONS="nuclei nuclei_fpn" COMPETITION=nuclei'
        )
    done = stages.final(names, competition, given_root(competition, data))
    boards = done.boards
    rows = [
        {"name": name, "OOF": score, "best in private": best}
        for name, score, best in zip(done.names, done.scores, boards.best, strict=True)
    ]
    out.print(f"{done.test_images} test images, {done.public_share:.0%} of them public, simulated from OOF scores:")
    print_table(rows, {"OOF": "{:.4f}", "best in private": "{:.0%}"})
    first, second = boards.pair
    out.print(f"select {done.names[first]} and {done.names[second]}")
    out.print(
        f"the best public submission is not the best private one in {boards.wrong:.0%} of simulations; selecting it "
        f"costs {boards.loss:.4f} on average"
    )
    if boards.left_out:
        out.print(f"left out: {boards.left_out} simulated test sets, in whose public or private part no image counts")


@app.command()
def score(
    competition: Annotated[str, typer.Argument(help="name or path of a card")] = "",
    submission: Annotated[Path | None, typer.Argument(help="the CSV to score")] = None,
    solution: Annotated[Path | None, typer.Argument(help="the CSV with the ground truth")] = None,
) -> None:
    """Compute the official metric of a submission against the ground truth."""
    if {submission, solution} & {None, Path()}:  # make passes an empty path
        raise ValueError(
            "give a submission and the true masks, as in: make score COMPETITION=demo SUBMISSION=x.csv SOLUTION=y.csv"
        )
    metric, value, images = stages.score(competition, submission, solution)
    out.print(f"{metric} {value:.4f}  ({images} images, {submission} against {solution})")


@app.command()
def encoders(
    pattern: Annotated[str, typer.Argument(help="part of a name, or a pattern such as '*resne?t50*'")] = "",
    refresh: Annotated[
        bool, typer.Option(help="build these timm models again (all of them: most of an hour), and rewrite the list")
    ] = False,
    check: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="train and predict with N random encoders; exit status 1 if any fails"),
    ] = 0,
    seed: Annotated[int, typer.Option(min=0, help="of the draw of --check")] = 0,
    memory: Annotated[float, typer.Option(min=0, help="GiB: networks that need more are listed as not checked")] = 4.0,
    results: Annotated[Path, typer.Option(help="where --check keeps its results; pairs in it are done")] = CHECKED,
) -> None:
    """List encoders: parameters (millions), the architectures that support them, output strides and image sizes.

    image_size is any; crop, which is one size that the training crop sets; or native, only the native size. For the
    complete name of one, also the tags of its weights, with the size and the mean of their images.
    """
    from pipeline.models import encoder, encoder_name, encoder_table

    if refresh:
        encoder_table.refresh(pattern)
    asked = encoder_name.parse(pattern.removeprefix(encoder.HUB))
    pattern = asked.untagged
    complete = [each for each in (pattern, encoder_name.PREFIX + pattern) if each in encoder.known()]
    if complete and not encoder.is_pattern(asked.tag):
        encoder_name.check_tag(asked)
    names = encoder.matching(encoder.known(), pattern)
    if not names:
        raise ValueError(f"no encoder matches '{pattern}'. Try a family: resnet, seresnext, efficientnet, convnext")
    if check:
        _print_checked(stages.check_encoders(names, check, seed=seed, path=results, memory=memory))
        return
    print_table([encoder.known()[name]._asdict() for name in names], {"parameters": "{:.2f}"})
    for name in complete:
        _print_tags(name)


def _print_tags(name: str) -> None:
    """Print the sets of weights of an encoder."""
    from pipeline.models.encoder_name import parse, tags

    rows = [
        {
            "encoder": f"{name}.{tag}",
            "image size": weights.input_size[-1],
            "mean": "{:.2f} {:.2f} {:.2f}".format(*weights.mean),
            "licence": weights.license or "not stated",
        }
        for tag, weights in tags(parse(name).model).items()
    ]
    if rows:
        out.print('\nits weights = "imagenet", the default first:')
        print_table(rows, {})


def _print_checked(found: Sequence[stages.Checked]) -> None:
    """Print a row per encoder, and the reason of each failure; exit status 1 if there is one."""
    rows: dict[str, dict[str, Any]] = {}
    for each in found:
        row = rows.setdefault(each.encoder, {"encoder": each.encoder, "parameters": each.parameters})
        row[each.result] = " ".join([*row.get(each.result, "").split(), each.arch])
    columns = list(dict.fromkeys(key for row in rows.values() for key in row))
    print_table([{key: row.get(key, "") for key in columns} for row in rows.values()], {"parameters": "{:.2f}"})
    failed = [each for each in found if each.result == "failed"]
    for each in failed:
        out.print(f"failed      {each.encoder} in {each.arch}: {each.reason}")
    counts = Counter(each.result for each in found)
    out.print(f"{len(rows)} encoders: " + ", ".join(f"{number} {result}" for result, number in counts.items()))
    if failed:
        raise typer.Exit(1)


def _print_oof(rows: list[dict[str, Any]]) -> None:
    scores = dict.fromkeys((key for key in rows[0] if key.startswith("phase") or key == "oof"), "{:.4f}")
    thresholds = dict.fromkeys((key for key in rows[0] if key.startswith("threshold")), "{:.2f}")
    found = {"dice": "{:.4f}", "found": "{:.0%}", "left empty": "{:.0%}"}
    print_table([*rows, stages.mean_row(rows)], scores | thresholds | found)
