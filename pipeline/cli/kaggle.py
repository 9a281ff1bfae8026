"""The commands that talk to Kaggle."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import stages
from pipeline.cli.terminal import app, expand_home, out, print_table
from pipeline.kaggle.submission_history import Row

Name = Annotated[str, typer.Argument(help="name of a config, or of an ensemble such as x+y")]
Slug = Annotated[str, typer.Argument(help="the competition's name in its address on Kaggle")]
DIST = Path("dist/kaggle")


@app.command()
def download(
    competition: Slug,
    data: Annotated[
        Path | None,
        typer.Option("--data", envvar="DATA", help="target folder; default: data/<competition>", callback=expand_home),
    ] = None,
) -> None:
    """Download and unpack a competition's files; an interrupted download resumes."""
    result = stages.download(competition, data or Path("data") / competition)
    before = "" if result.is_new else ", all downloaded before"
    out.print(f"data        {result.folder}  {result.files} files{before}")


@app.command()
def upload(
    name: Name, message: Annotated[str, typer.Option(help="version note: what changed")] = "from make upload"
) -> None:
    """Create a bundle's two datasets on Kaggle, or new versions of them."""
    for reference, is_new in stages.upload(DIST / name, message).items():
        out.print(f"{'created' if is_new else 'updated':11} {reference}")


@app.command()
def push(
    name: Name, train: Annotated[bool, typer.Option("--train", help="push the training notebook instead")] = False
) -> None:
    """Push a bundle's submission notebook to Kaggle, and wait until Kaggle has run it."""
    kernel = stages.push(_notebook(name, train=train))
    out.print(f"notebook    {kernel.id}  version {kernel.version} ran, {kernel.url}")


def _notebook(name: str, *, train: bool = False) -> Path:
    return DIST / name / ("train" if train else "notebook")


@app.command()
def submit(
    name: Name,
    message: Annotated[str, typer.Option(help="a note that Kaggle shows with the score")],
    kernel: Annotated[
        bool, typer.Option("--kernel", help="submit the output of the pushed notebook instead of the CSV")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option("--data", envvar="DATA", help="folder of the competition's files", callback=expand_home),
    ] = None,
) -> None:
    """Submit submissions/<name>.csv to Kaggle; waits, then prints score and rank."""
    result = stages.submit(name, message, data, _notebook(name) if kernel else None)
    out.print(f"public      {_score(result.entry.public)}  {result.metric}")
    if result.entry.private is not None:
        out.print(f"private     {_score(result.entry.private)}")
    out.print(f"OOF         {_score(result.oof_score)}")
    if result.rank:
        out.print(f"rank        {result.rank} of {result.teams} teams on the public leaderboard")
    out.print(f"record      {result.record}: commit it")


@app.command()
def leaderboard(competition: Slug) -> None:
    """List your submissions with OOF, public and private score, and the rank correlations of these scores."""
    result = stages.leaderboard(competition)
    print_table([_submission_row(row) for row in result.rows], {})
    for each in result.correlations:
        out.print(f"{each.of}: rank correlation {each.value:+.2f} of {each.count} submissions")
    if not result.correlations:
        out.print("a rank correlation needs at least three submissions with different scores")


def _submission_row(row: Row) -> dict[str, object]:
    scores = {"OOF": row.oof, "public": row.public, "private": row.private}
    return {"name": row.name, "submission": row.ref} | {name: _score(value) for name, value in scores.items()}


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"
