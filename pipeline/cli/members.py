"""The commands for predictions and submissions of other tools."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from pipeline import stages
from pipeline.cli.terminal import DEMO, ConfigPath, DataRoot, Overrides, SkipBad, app, given_root, load_config, out


@app.command(name="import")
def import_(
    path: ConfigPath = DEMO,
    name: Annotated[str, typer.Option(help="of the member: configs/<name>.toml, runs/<name>/")] = "",
    oof: Annotated[
        Path | None, typer.Option(help="folder or CSV of the out-of-fold predictions (default: none)")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="folder or CSV of the predictions of the test set")] = None,
    scale: Annotated[
        float | None, typer.Option(help="value of probability 1, such as 255 (default: 1; of images, white)", min=1e-6)
    ] = None,
    set_: Overrides = None,
    data: DataRoot = None,
    skip_bad: SkipBad = False,
) -> None:
    """Make an ensemble member of another tool's predictions, on the data and folds of a config."""
    if not (name and (oof or test)):
        raise ValueError(
            "give the member's name and its predictions, as in: make import NAME=yolo CONFIG=nuclei OOF=folder "
            "TEST=folder"
        )
    done = stages.import_member(load_config(path, set_, data, skip_bad), name, oof=oof, test=test, scale=scale)
    images = ", ".join(f"fold {fold}: {count}" for fold, count in done.oof.items())
    out.print(f"oof         {images or 'none: an ensemble needs WEIGHTS=' + name + '=<share>'}")
    folds = f"of folds {', '.join(map(str, done.test_folds))}" if done.test_folds else "of all folds together"
    out.print(f"test        {done.test} images, {folds}")
    out.print(
        "values      " + ", ".join(f"{dtype}, {scale:g} is probability 1" for dtype, scale in done.scales.items())
    )
    for note in done.notes:
        out.print(f"note        {note}")
    out.print(f"config      {done.config}: commit it\nrun         {done.run}")


@app.command()
def phase(
    path: ConfigPath = DEMO,
    phase: Annotated[int, typer.Option(help="number of the last phase that the new config has, from 1")] = 1,
    set_: Overrides = None,
    data: DataRoot = None,
    skip_bad: SkipBad = False,
) -> None:
    """Make an ensemble member of an earlier phase's networks of a trained config."""
    done = stages.phase_member(load_config(path, set_, data, skip_bad), phase)
    out.print(f"config      {done.config}\nrun         {done.run}, folds {', '.join(map(str, done.folds))}")
    out.print(f'next        make ensemble CONFIGS="{path.stem} {done.config.stem}"')


@app.command()
def blend(
    path: ConfigPath = DEMO,
    csvs: Annotated[str, typer.Option(help="the submissions, such as 'a.csv b.csv'")] = "",
    weights: Annotated[str, typer.Option(help="of each, such as '2 1' (default: equal)")] = "",
    name: Annotated[str, typer.Option(help="of the result: submissions/<name>.csv (default: blend-a-b)")] = "",
    competition: Annotated[str, typer.Option(help="name or path of a card (default: the config's)")] = "",
    set_: Overrides = None,
    data: DataRoot = None,
    skip_bad: SkipBad = False,
) -> None:
    """Blend submissions of any origin: a weighted vote of masks, or of objects matched by their IoU."""
    if competition:
        card, root = competition, given_root(competition, data)
    else:
        cfg = load_config(path, set_, data, skip_bad)
        card, root = cfg.competition, cfg.data.root
    done = stages.blend([Path(each) for each in shlex.split(csvs)], _numbers(weights), card, root, name)
    out.print(f"submission  {done.csv}  {done.summary.rows} rows, {done.summary.empty} of them empty")
    out.print(f"agreed      {done.agreed} of {done.summary.masks}: all CSVs have the same text, which is kept")
    ties = (
        "pixels with equal weights of several classes: the first class on the card"
        if done.exclusive
        else "pixels or objects with exactly half of the weight: not masked"
    )
    out.print(f"ties        {done.ties} {ties}")
    out.print(f"manifest    {done.csv.with_suffix('.json')}")
    out.print("note        a blend has no OOF score: only the leaderboard tells how good it is")


def _numbers(text: str) -> list[float]:
    try:
        return [float(word) for word in text.split()]
    except ValueError:
        raise ValueError(f"--weights {text}: expected numbers, such as '2 1'") from None
