"""The commands around the bundle, which predicts on Kaggle without a network: make it, run it, rehearse it."""

import sys
from math import nan
from pathlib import Path
from typing import Annotated

import typer

from pipeline import stages
from pipeline.cli.terminal import (
    DEMO,
    ConfigPath,
    Configs,
    DataRoot,
    Overrides,
    PartOfFolds,
    SkipBad,
    app,
    files_name,
    load_configs,
    out,
    print_table,
)
from pipeline.progress import clock
from pipeline.serving.budget_plan import Fallback
from pipeline.statistics.bootstrap import Interval

Weights = Annotated[Path, typer.Argument(help="the bundle's weights, dist/kaggle/<name>/weights")]


@app.command()
def bundle(
    path: ConfigPath = DEMO,
    configs: Configs = "",
    folds: PartOfFolds = "",
    owner: Annotated[
        str | None,
        typer.Option(envvar="KAGGLE_USERNAME", help="your Kaggle user name (default: as before)"),
    ] = None,
    half: Annotated[
        bool | None,
        typer.Option("--half/--full", help="store weights as bfloat16, half the size (default: as before)"),
    ] = None,
    set_: Overrides = None,
    data: DataRoot = None,
    skip_bad: SkipBad = False,
) -> None:
    """Pack wheels, weights and notebooks for offline prediction on Kaggle into dist/kaggle/<name>/."""
    cfgs = load_configs(path, configs, set_, data, skip_bad, folds)
    result = stages.bundle(cfgs, owner, half=half, name=files_name(cfgs, folds))
    _print_bundle(result)
    if result.owner == stages.PLACEHOLDER_OWNER:
        out.print(f"owner       {result.owner}: set OWNER=<your Kaggle user name> before you upload")


def _print_bundle(result: stages.BundleResult) -> None:
    record = result.bundle.record
    for name, size in result.megabytes.items():
        out.print(f"{name:11} {result.folder / name}  {size:.1f} MB")
    out.print(f"notebooks   {result.folder / 'notebook'}, {result.folder / 'train'}")
    score = Interval(record.evaluation.score, *(record.evaluation.interval or (nan, nan)))
    out.print(f"OOF score   {score.mean:.4f}  {record.evaluation.metric}, {score}")
    if record.fallbacks:
        out.print("dropped when time is short, in this order; the change is of the score of some training images:")
        print_table([_fallback_row(fallback) for fallback in record.fallbacks], {})


def _fallback_row(fallback: Fallback) -> dict[str, str]:
    change = "not measured" if fallback.loss is None else f"{-fallback.loss:+.4f}"
    return {"drop": fallback.drop, "name": str(fallback.name), "of": fallback.member, "change": change}


@app.command(name="run-bundle")
def run_bundle(
    weights: Weights,
    data: Annotated[Path, typer.Option("--data", envvar="DATA", help="folder of the competition's files")],
    csv: Annotated[Path, typer.Option(help="the submission to write")] = Path("submission.csv"),
    budget: Annotated[str, typer.Option(help="time limit, such as 8h30m (default: none)", show_default=False)] = "",
    workers: Annotated[int, typer.Option(help="processes that read images ahead")] = 0,
) -> None:
    """Predict a test set with a bundle, reading each image once, and write the submission."""
    result = stages.run_bundle(weights, data, csv, budget=budget, workers=workers)
    out.print(f"submission  {result.csv}  {result.summary.rows} rows, {result.summary.empty} of them empty")
    out.print(f"time        {clock(result.seconds)} for {result.images} images, {result.seconds_per_image:.2f} s each")
    if result.problems:
        out.print(f"no mask     {len(result.problems)} images: see {result.csv.with_suffix('.json')} for the reasons")


@app.command(name="batch-predict")
def batch_predict(
    weights: Weights,
    input_: Annotated[str, typer.Option("--input", help="a glob pattern or a .parquet with a column path, or a URL")],
    output: Annotated[str, typer.Option(help="a folder for the Parquet files, or a URL")],
    executor: Annotated[str, typer.Option(help="local (this process) or ray (a cluster)")] = "local",
    workers: Annotated[int, typer.Option(help="processes that read images ahead; on Ray, actors", min=0)] = 0,
    rows: Annotated[int, typer.Option(help="images per Parquet file", min=1)] = 1000,
) -> None:
    """Predict any number of images with a bundle to Parquet files; resumes with the missing files."""
    result = stages.batch_predict(weights, input_, output, executor=executor, workers=workers, rows=rows)
    out.print(f"rows        {result.output}  {result.images} images in {result.partitions} partitions")
    if result.done_before:
        out.print(f"before      {result.done_before} partitions were complete")
    if result.predicted:
        speed = result.predicted / result.seconds
        out.print(f"time        {clock(result.seconds)} for {result.predicted} images, {speed:.1f} images per second")
    if result.problems:
        out.print(f"no mask     {result.problems} images: see the column problem for the reasons")


@app.command()
def rehearse(
    path: ConfigPath = DEMO,
    configs: Configs = "",
    folds: PartOfFolds = "",
    base: Annotated[
        Path,
        typer.Option(help="interpreter with the packages of Kaggle's image (default: this one)", show_default=False),
    ] = Path(sys.executable),
    images: Annotated[int, typer.Option(help="number of hidden test images to estimate the hours for")] = 1000,
    set_: Overrides = None,
    data: DataRoot = None,
    skip_bad: SkipBad = False,
) -> None:
    """Run the submission notebook as Kaggle does: no network, a fresh environment, a hidden test set."""
    cfgs = load_configs(path, configs, set_, data, skip_bad, folds)
    runs = stages.rehearse(cfgs, base, files_name(cfgs, folds))
    print_table([_run_row(run, images) for run in runs], {})
    for run in runs:
        _print_run(run)
    failed = [run.name for run in runs if not run.passed]
    if failed:
        raise ValueError(f"the notebook failed on the {' and the '.join(failed)} test set, see above")


def _run_row(run: stages.RehearsalRun, images: int) -> dict[str, object]:
    return {
        "test set": run.name,
        "images": run.images,
        "CSV": "valid" if run.passed else "NOT VALID",
        "no mask": len(run.without_mask),
        "s per image": f"{run.seconds_per_image:.3f}",
        f"hours for {images}": f"{run.seconds_per_image * images / 3600:.2f}",
        "run": clock(run.notebook.seconds),
        "peak memory": f"{run.notebook.peak_memory / 2**20:.0f} MiB",
        "working": f"{run.notebook.working_size / 1e6:.2f} MB",
    }


def _print_run(run: stages.RehearsalRun) -> None:
    notebook = run.notebook
    out.print(f"{run.name:11} {notebook.isolation}" + (", BUT THE INPUT CHANGED" if notebook.input_changed else ""))
    if run.difference:
        out.print(f"{'':11} {run.difference}")
    for image_id, problem in run.without_mask.items():
        out.print(f"{'':11} no mask for '{image_id}': {problem}")
    if run.problem:
        out.print(f"{'':11} {run.problem}")
    if notebook.status:
        out.print(f"{'':11} the notebook ended with status {notebook.status}:\n{notebook.output}")
