"""The commands around the bundle that runs on Kaggle: make it, run it, rehearse it."""

import sys
from math import nan
from pathlib import Path
from typing import Annotated

import typer

from pipeline import stages
from pipeline.cli.terminal import DEMO, ConfigPath, DataRoot, Overrides, app, load_configs, out, print_table
from pipeline.progress import clock
from pipeline.serving.budget_plan import Step
from pipeline.statistics.bootstrap import Interval

Configs = Annotated[str, typer.Option(help="names of the configs of an ensemble, beside the given one's file")]


@app.command()
def bundle(
    path: ConfigPath = DEMO,
    configs: Configs = "",
    owner: Annotated[
        str | None,
        typer.Option(envvar="KAGGLE_USERNAME", help="the name of your Kaggle account; kept for the next time"),
    ] = None,
    half: Annotated[
        bool | None, typer.Option("--half/--full", help="weights in bfloat16, half the bytes; kept for the next time")
    ] = None,
    set_: Overrides = None,
    data: DataRoot = None,
) -> None:
    """Write dist/kaggle/<name>/: wheels, weights and notebooks that predict on Kaggle without the internet."""
    done = stages.bundle(load_configs(path, configs, set_, data), owner, half=half)
    _print_bundle(done)
    if done.owner == stages.NOBODY:
        out.print(f"owner       {done.owner}: give OWNER=<the name of your Kaggle account> before you upload")


def _print_bundle(done: stages.Bundled) -> None:
    record = done.bundle.record
    for name, size in done.megabytes.items():
        out.print(f"{name:11} {done.folder / name}  {size:.1f} MB")
    out.print(f"notebooks   {done.folder / 'notebook'}, {done.folder / 'train'}")
    worth = Interval(record.worth.score, *(record.worth.interval or (nan, nan)))
    out.print(f"OOF score   {worth.mean:.4f}  {record.worth.metric}, {worth}")
    if record.steps:
        out.print("when time is short, it drops")
        print_table([_step_row(step) for step in record.steps], {})


def _step_row(step: Step) -> dict[str, str]:
    return {"what": step.drop, "which": str(step.name), "of": step.member, "OOF": _score(step)}


def _score(step: Step) -> str:
    return "not to be measured" if step.score is None else f"{step.score:.4f} without it"


@app.command(name="run-bundle")
def run_bundle(
    weights: Annotated[Path, typer.Argument(help="the bundle's folder of weights")],
    data: Annotated[Path, typer.Option("--data", envvar="DATA", help="where the competition's files lie")],
    csv: Annotated[Path, typer.Option(help="the submission to write")] = Path("submission.csv"),
    budget: Annotated[str, typer.Option(help="such as 8h30m; empty: as long as it takes")] = "",
    workers: Annotated[int, typer.Option(help="processes that read ahead")] = 0,
) -> None:
    """Predict a test set with a bundle, in one pass, and write the submission."""
    done = stages.run_bundle(weights, data, csv, budget=budget, workers=workers)
    out.print(f"submission  {done.csv}  {done.summary.rows} rows, {done.summary.empty} of them empty")
    out.print(f"time        {clock(done.seconds)} for {done.images} images, {done.per_image:.2f} s each")
    if done.problems:
        out.print(f"no mask     {len(done.problems)} images: {done.csv.with_suffix('.json')} says why")


@app.command(name="predict-many")
def predict_many(
    weights: Annotated[Path, typer.Argument(help="the bundle's folder of weights")],
    input_: Annotated[str, typer.Option("--input", help="a glob pattern, or a .parquet with a column path; or a URL")],
    output: Annotated[str, typer.Option(help="a folder for Parquet partitions, or a URL")],
    executor: Annotated[str, typer.Option(help="local, or ray: on a cluster")] = "local",
    workers: Annotated[int, typer.Option(help="processes that read ahead; on Ray, actors", min=0)] = 0,
    rows: Annotated[int, typer.Option(help="images per partition", min=1)] = 1000,
) -> None:
    """Predict any number of images with a bundle; goes on with the partitions that are missing."""
    done = stages.predict_many(weights, input_, output, executor=executor, workers=workers, rows=rows)
    out.print(f"rows        {done.output}  {done.images} images in {done.partitions} partitions")
    if done.done_before:
        out.print(f"before      {done.done_before} partitions were there already")
    if done.predicted:
        speed = done.predicted / done.seconds
        out.print(f"time        {clock(done.seconds)} for {done.predicted} images, {speed:.1f} images per second")
    if done.problems:
        out.print(f"no mask     {done.problems} images: the column problem says why")


@app.command()
def rehearse(
    path: ConfigPath = DEMO,
    configs: Configs = "",
    base: Annotated[Path, typer.Option(help="an interpreter that has what Kaggle's image has")] = Path(sys.executable),
    images: Annotated[int, typer.Option(help="in the hidden test set, to foresee the hours")] = 1000,
    set_: Overrides = None,
    data: DataRoot = None,
) -> None:
    """Run the notebook that submits as Kaggle will: no network, a fresh environment, a test set nobody has seen."""
    acts = stages.rehearse(load_configs(path, configs, set_, data), base)
    print_table([_act_row(act, images) for act in acts], {})
    for act in acts:
        _print_act(act)
    failed = [act.name for act in acts if not act.passed]
    if failed:
        raise ValueError(f"on the {' and the '.join(failed)} test set this would have been no submission, see above")


def _act_row(act: stages.Act, images: int) -> dict[str, object]:
    return {
        "test set": act.name,
        "images": act.images,
        "CSV": "valid" if act.passed else "NOT VALID",
        "no mask": len(act.without),
        "s per image": f"{act.per_image:.3f}",
        f"hours for {images}": f"{act.per_image * images / 3600:.2f}",
        "run": clock(act.ran.seconds),
        "peak memory": f"{act.ran.peak / 2**20:.0f} MiB",
        "working": f"{act.ran.working / 1e6:.2f} MB",
    }


def _print_act(act: stages.Act) -> None:
    out.print(f"{act.name:11} {act.ran.isolation}" + (", BUT THE INPUT CHANGED" if act.ran.input_changed else ""))
    if act.differs:
        out.print(f"{'':11} {act.differs}")
    for image_id, problem in act.without.items():
        out.print(f"{'':11} no mask for '{image_id}': {problem}")
    if act.problem:
        out.print(f"{'':11} {act.problem}")
    if act.ran.status:
        out.print(f"{'':11} the notebook ended with status {act.ran.status}:\n{act.ran.output}")
