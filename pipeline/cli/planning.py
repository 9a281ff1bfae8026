"""Commands that plan: a config drafted from the data; and from a folder to a submission within a time budget."""

from typing import Annotated

import typer

from pipeline import stages
from pipeline.cli.terminal import CardName, DataRoot, Metric, SkipBad, TrainingTable, app, out, print_table
from pipeline.planning.config_text import option_line
from pipeline.planning.fingerprint_table import fingerprint_rows
from pipeline.progress import clock, seconds_of_process
from pipeline.serving.budget_plan import parse_duration


@app.command("config")
def draft_config(
    name: Annotated[str, typer.Argument(help="of the config, configs/NAME.toml")] = "",
    card: Annotated[
        str, typer.Option(help="name or path of a card; default: cards/NAME.toml, or the included card NAME")
    ] = "",
    data: DataRoot = None,
    skip_bad: SkipBad = False,
) -> None:
    """Measure images and masks, and draft a config, each option with its reason; an existing config is kept."""
    if not name:
        raise ValueError("no name: make config NAME=mine DATA=folder writes configs/mine.toml from cards/mine.toml")
    done = stages.draft_config(name, card, data, skip_bad=skip_bad)
    print_table(fingerprint_rows(done.fingerprint), {})
    out.print()
    for phase, options in enumerate([done.draft.options, *done.draft.phases]):
        for option in options:
            where = f"phase {phase}  " if phase else ""
            out.print(f"{where}{option_line(option)}" + (f"  # {option.reason}" if option.reason else ""))
    if done.written:
        out.print(f"\nconfig      {done.path}\nnext        make ensemble CONFIG={name}")
    else:
        out.print(f"\nconfig      {done.path} exists and was kept: remove it, or give another NAME, for a new draft")


@app.command()
def auto(
    data: DataRoot = None,
    budget: Annotated[str, typer.Option(help="wall-clock time, such as 30m, 2h or 1h30m")] = "",
    name: CardName = "",
    metric: Metric = "",
    table: TrainingTable = "",
    card: Annotated[str, typer.Option(help="name or path of a card, in place of a drafted one")] = "",
    skip_bad: SkipBad = False,
) -> None:
    """Go from a folder of files to a checked submission within a time budget: card, config, plan, training, report."""
    if data is None or not budget:
        raise ValueError("give the folder and the time: make auto DATA=/path/to/what/kaggle/unzipped BUDGET=2h")
    done = stages.auto(
        data, parse_duration(budget), name, metric, card, table=table, skip_bad=skip_bad, spent=seconds_of_process()
    )
    if done.submission is None:
        out.print("finished by an earlier run: no time is left for more folds, or all are trained")
    for line in done.state.results:
        out.print(line)
    out.print(f"plan: {done.plan_page}")
    out.print(f"time: {clock(done.state.seconds)} of {clock(done.budget)}")
