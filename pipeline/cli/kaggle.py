"""The commands that talk to Kaggle."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline import stages
from pipeline.cli.terminal import app, out, print_table
from pipeline.kaggle.submission_history import Row

Name = Annotated[str, typer.Argument(help="a config's name, or an ensemble's, as in x+y")]
DIST = Path("dist/kaggle")


@app.command()
def download(
    competition: Annotated[str, typer.Argument(help="the name in the competition's address")],
    data: Annotated[Path | None, typer.Option("--data", envvar="DATA", help="where to; default: data/<name>")] = None,
) -> None:
    """Fetch and unpack a competition's files; goes on where it was broken off."""
    done = stages.download(competition, data or Path("data") / competition)
    out.print(f"data        {done.folder}  {done.files} files" + ("" if done.fresh else ", all there already"))


@app.command()
def upload(
    name: Name, message: Annotated[str, typer.Option(help="a note on what changed")] = "from make upload"
) -> None:
    """Create the two datasets of a bundle on Kaggle, or new versions of them."""
    for reference, new in stages.upload(DIST / name, message).items():
        out.print(f"{'created' if new else 'renewed':11} {reference}")


@app.command()
def push(name: Name, train: Annotated[bool, typer.Option(help="the notebook that trains")] = False) -> None:
    """Push a bundle's notebook to Kaggle, and wait until it ran there."""
    kernel = stages.push(_notebook(name, train=train))
    out.print(f"notebook    {kernel.id}  version {kernel.version} ran, {kernel.url}")


def _notebook(name: str, *, train: bool = False) -> Path:
    return DIST / name / ("train" if train else "notebook")


@app.command()
def submit(
    name: Name,
    message: Annotated[str, typer.Option(help="a note that stands beside the score")],
    kernel: Annotated[bool, typer.Option(help="the output of the notebook that was pushed, not the CSV")] = False,
    data: Annotated[Path | None, typer.Option("--data", envvar="DATA", help="default: data/<competition>")] = None,
) -> None:
    """Hand in a submission, and show its score and place when they come."""
    done = stages.submit(name, message, data, _notebook(name) if kernel else None)
    out.print(f"public      {_score(done.entry.public)}  {done.metric}")
    if done.entry.private is not None:
        out.print(f"private     {_score(done.entry.private)}")
    out.print(f"OOF         {_score(done.cv)}")
    if done.place:
        out.print(f"place       {done.place} of {done.teams} teams on the public leaderboard")
    out.print(f"record      {done.record}: commit it")


@app.command()
def leaderboard(
    competition: Annotated[str, typer.Argument(help="the name in the competition's address")],
) -> None:
    """Every submission with its own, public and private score, and how well they rank alike."""
    board = stages.leaderboard(competition)
    print_table([_board_row(row) for row in board.rows], {})
    for each in board.correlations:
        out.print(f"{each.of}: rank correlation {each.value:+.2f} of {each.count} submissions")
    if not board.correlations:
        out.print("a rank correlation needs three scores that differ")


def _board_row(row: Row) -> dict[str, object]:
    scores = {"OOF": row.cv, "public": row.public, "private": row.private}
    return {"name": row.name, "submission": row.ref} | {name: _score(value) for name, value in scores.items()}


def _score(value: float | None) -> str:
    return "" if value is None else f"{value:.5f}"
