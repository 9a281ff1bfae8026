"""What all commands share: the app, common options and printing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from pipeline import config, stages
from pipeline.config import Config, Imported
from pipeline.progress import is_main_process

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A pipeline for Kaggle segmentation competitions, from the files to a validated submission. "
    "Each stage runs the missing stages before it. Add --debug to any command to see the traceback of an error.",
)

ConfigPath = Annotated[Path, typer.Argument(help="path of a config file", metavar="[CONFIG]")]
Configs = Annotated[
    str,
    typer.Option(metavar="NAMES", help="several configs by name, in the folder of CONFIG, e.g. 'unet fpn'"),
]
PartOfFolds = Annotated[
    str,
    typer.Option("--folds", metavar="NUMBERS", help="use only these folds, e.g. '0 1' (default: all)"),
]
GivenWeights = Annotated[
    str,
    typer.Option(
        "--weights", metavar="NAME=WEIGHT", help="of imported members without OOF predictions, e.g. 'yolo=0.3'"
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="override values of the config, e.g. 'train.batch_size=8 seed=1'"),
]


def expand_home(path: Path | None) -> Path | None:
    """The path with "~" replaced, which shells leave as it is in DATA=~/x."""
    return path and path.expanduser()


DataRoot = Annotated[
    Path | None,
    typer.Option("--data", envvar="DATA", help="folder of the competition's files", callback=expand_home),
]
CardName = Annotated[
    str,
    typer.Option("--name", help="of the card, cards/NAME.toml, and what is made from it (default: the folder's)"),
]
Metric = Annotated[
    str,
    typer.Option(help="of the competition's evaluation page, such as mean_f_beta(beta=2) (default: mean_dice)"),
]
TrainingTable = Annotated[str, typer.Option("--table", help="the training table, if several could be it")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="list unreadable images, and leave them out")]

DEMO = Path("configs/demo.toml")
# Wide, so that no table loses a column in a pipe or a small window. No markup: a class may be named [/x].
out = Console(width=200, highlight=False, markup=False, emoji=False, soft_wrap=True, quiet=not is_main_process())


def load_config(path: Path, overrides: Sequence[str] | None, data: Path | None, skip_bad: bool) -> Config:
    """Load a config and apply the options of the command line."""
    cfg = config.load(path, overrides or [])
    chosen = {"root": given_root(cfg.competition, data) or cfg.data.root, "skip_bad": skip_bad or cfg.data.skip_bad}
    return cfg.model_copy(update={"data": cfg.data.model_copy(update=chosen)})


def given_root(card: str, data: Path | None) -> Path | None:
    """The folder of a card's files for what `--data` names; None without it."""
    return None if data is None else stages.files_of(card, data)


def load_configs(
    path: Path,
    names: str,
    overrides: Sequence[str] | None,
    data: Path | None,
    skip_bad: bool,
    folds: str = "",
    weights: str = "",
) -> list[Config]:
    """Load the configs of these names in the folder of `path`; without names, the config at `path`.

    Args:
        folds: numbers of the folds to use, such as "0 1"; empty: all.
        weights: of members without OOF predictions, such as "yolo=0.3".
    """
    paths = [path.with_name(f"{name}.toml") for name in names.split()] or [path]
    options = [*(overrides or []), *_part_of_folds(folds)]
    cfgs = [load_config(each, options, data, skip_bad) for each in paths]
    return _with_weights(cfgs, weights) if weights.split() else cfgs


def files_name(cfgs: Sequence[Config], folds: str) -> str:
    """The name of what a command makes of configs; "" for the default, which names the folds of the option --folds.

    A part of the folds that a config itself has (`folds.only`) is not named.
    """
    return "" if folds.split() else "+".join(cfg.name for cfg in cfgs)


def _with_weights(cfgs: Sequence[Config], text: str) -> list[Config]:
    """The configs, with the weights of imported members."""
    names = {cfg.name: cfg for cfg in cfgs}
    for word in text.split():
        name, _, number = word.partition("=")
        cfg = names.get(name)
        if cfg is None or cfg.imported is None or cfg.imported.oof:
            why = "is none of CONFIGS" if cfg is None else "has OOF predictions, by which its weight is chosen"
            raise ValueError(f"--weights {word}: {name} {why}: give weights of imported members without them only")
        try:
            imported = Imported.model_validate({**cfg.imported.model_dump(), "weight": number})
        except ValueError:
            raise ValueError(f"--weights {word}: expected a share between 0 and 1, such as {name}=0.5") from None
        names[name] = cfg.model_copy(update={"imported": imported})
    return list(names.values())


def _part_of_folds(text: str) -> list[str]:
    invalid = [word for word in text.split() if not word.isdecimal()]
    if invalid:
        raise ValueError(f"--folds {invalid[0]}: expected numbers from 0, such as '0 1'")
    return [f"folds.only=[{','.join(str(int(word)) for word in text.split())}]"] if text.split() else []


def print_table(rows: list[dict[str, Any]], formats: dict[str, str]) -> None:
    """Print rows as a table, whose columns are the keys of the first row.

    Args:
        formats: by column, such as "{:.4f}".
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right", no_wrap=True)
    for row in rows:
        table.add_row(*("–" if value is None else formats.get(name, "{}").format(value) for name, value in row.items()))
    out.print(table)
