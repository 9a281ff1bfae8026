"""The bundle: all that predicts a hidden test set as `make ensemble` predicts the known one, as files in one folder.

    bundle.json          configs, what was chosen on OOF, its score, what may go when time is short, origin
    card.toml            the competition
    <config>-fold0.safetensors, …

Flat, since a dataset's folders do not survive every way of uploading. Nothing in it is unpickled.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from pipeline import competition
from pipeline.competition import Competition
from pipeline.config import Config
from pipeline.ensemble import Drawer, drawer_of
from pipeline.files import write_text
from pipeline.inference.predict import Predictor
from pipeline.kaggle.plan import Member, Plan, Step
from pipeline.models import build_model, for_prediction
from pipeline.schema import Table, parse
from pipeline.training.checkpoint import Fold, load_checkpoint, load_weights, read_record, save_checkpoint

RECORD, CARD = "bundle.json", "card.toml"
BUILT_IN = ("fold", "eager")  # engines that need no compiler and no package


class Worth(Table):
    """What the ensemble scores out of fold."""

    metric: str
    score: float  # cross-fitted
    interval: tuple[float, float] | None  # None where there is none


class Origin(Table):
    """What the bundle was made of."""

    made: str
    commit: str | None = None  # with "+" where files differed from it
    versions: dict[str, str]


class Record(Table):
    """bundle.json."""

    format: Literal[1] = 1
    name: str
    configs: dict[str, dict[str, Any]]  # each as a config file's tables
    weights: dict[str, dict[str, str]]  # of each config, the file of each fold
    half: bool = False  # whether matrices and kernels are bfloat16
    chosen: dict[str, Any]  # as `Drawer.record` writes it
    steps: tuple[Step, ...] = ()
    worth: Worth
    origin: Origin


class Bundle(NamedTuple):
    """A bundle that was read, its parts checked against each other."""

    folder: Path
    record: Record
    card: Competition
    cfgs: tuple[Config, ...]
    drawer: Drawer

    @property
    def plan(self) -> Plan:
        """Everything: all folds and views of all members."""
        folds = {name: tuple(map(_fold, files)) for name, files in self.record.weights.items()}
        return tuple(Member(cfg.name, folds[cfg.name], cfg.predict.views) for cfg in self.cfgs)

    def weights(self, member: str, fold: Fold) -> Path:
        """The file of one model."""
        return self.folder / self.record.weights[member][str(fold)]

    def predictor(self, cfg: Config, fold: Fold) -> Predictor:
        """One model, ready to predict.

        Raises:
            ValueError: if its weights held out another fold, or do not fit the config.
        """
        model = build_model(for_prediction(cfg))
        load_checkpoint(self.weights(cfg.name, fold), model, fold)
        if cfg.predict.engine not in BUILT_IN:  # what Kaggle may not have, no notebook of a night should end on
            cfg = cfg.model_copy(update={"predict": cfg.predict.model_copy(update={"engine": BUILT_IN[0]})})
        return Predictor.of(model, cfg, exclusive=self.card.exclusive)


def _fold(text: str) -> Fold:
    return int(text) if text.isdigit() else text


def read_bundle(folder: Path) -> Bundle:
    """The bundle in a folder.

    Raises:
        FileNotFoundError, ValueError: for a folder without one, a weight that is missing, or parts that do not belong
            together; in one line, with what to do.
    """
    path = folder / RECORD
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. make bundle writes it: is this the folder of the weights?")
    try:
        tables = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}): make the bundle again") from None
    record = parse(Record, tables, str(path))
    card = competition.load(str(folder / CARD))
    cfgs = tuple(parse(Config, {"name": name, **tables}, f"{path}: {name}") for name, tables in record.configs.items())
    bundle = Bundle(folder, record, card, cfgs, drawer_of(record.chosen, list(record.configs), card.classes))
    _check_weights(bundle)
    return bundle


def _check_weights(bundle: Bundle) -> None:
    """Refuse what would fail, or predict nonsense, after an hour: before the first image."""
    if set(bundle.record.weights) != set(bundle.record.configs) or not all(bundle.record.weights.values()):
        raise ValueError(f"{bundle.folder / RECORD}: configs and weights are not of the same names: make it again")
    for member in bundle.plan:
        for fold in member.folds:
            path = bundle.weights(member.name, fold)
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file, and {RECORD} names it: upload the folder again")
            held_out = read_record(path)["fold"]
            if held_out != fold:
                raise ValueError(f"{path} held out fold {held_out}, {RECORD} says {fold}: make the bundle again")


def write_bundle(folder: Path, record: Record, card: Path, weights: Mapping[tuple[str, Fold], Path]) -> None:
    """Write a bundle's files; its record comes last, so that a folder with one is whole.

    Args:
        record: with `half`, the files are half as large; vectors stay as they are.
        card: the card's file.
        weights: of each config's name and fold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in [folder / RECORD, *folder.glob("*.safetensors")]:  # of another number of folds, say
        old.unlink(missing_ok=True)
    for (member, fold), path in weights.items():
        tensors = load_weights(path)
        if record.half:
            tensors = {name: _halved(tensor) for name, tensor in tensors.items()}
        save_checkpoint(folder / record.weights[member][str(fold)], tensors, read_record(path))
    write_text(folder / CARD, card.read_text(encoding="utf-8"))
    write_text(folder / RECORD, json.dumps(record.model_dump(mode="json"), indent=1) + "\n")


def _halved(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16() if tensor.is_floating_point() and tensor.ndim > 1 else tensor


def weights_name(member: str, fold: Fold) -> str:
    """What a model's file is called in a bundle."""
    return f"{member}-{fold}.safetensors" if isinstance(fold, str) else f"{member}-fold{fold}.safetensors"
