"""The bundle: all that predicts a hidden test set as `make ensemble` predicts the known one, as files in one folder.

    bundle.json          configs, what was chosen on OOF, its score, what may go when time is short, origin
    card.toml            the competition
    <config>-fold0.safetensors, …

Flat, since a dataset's folders do not survive every way of uploading. Nothing in it is unpickled.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import StringConstraints

from pipeline import competition
from pipeline.competition import Competition
from pipeline.config import Config, place
from pipeline.data.labels import Labels
from pipeline.ensemble import Drawer, Exclusive, Objects, drawer_of
from pipeline.files import write_text
from pipeline.inference.predictor import Predictor
from pipeline.inference.tta import check_views
from pipeline.models import build_model, check_model, for_prediction
from pipeline.quoting import quoted
from pipeline.schema import Table, parse, read_json
from pipeline.serving.budget_plan import Member, Plan, Step, after
from pipeline.training.checkpoint import Fold, load_checkpoint, load_weights, read_record, save_checkpoint

RECORD, CARD = "bundle.json", "card.toml"
AGAIN = "make the bundle again"
BUILT_IN = ("fuse_conv_bn", "eager")  # backends that need no compiler and no package


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


FoldName = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]*|full)$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[^/\\\x00]+\.safetensors$")]


class Record(Table):
    """bundle.json."""

    format: Literal[1] = 1
    name: str
    configs: dict[str, dict[str, Any]]  # each as a config file's tables
    weights: dict[str, dict[FoldName, FileName]]  # of each config, the file of each fold
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
        return inside(self.folder, self.record.weights[member][str(fold)])

    def predictor(self, cfg: Config, fold: Fold) -> Predictor:
        """One model, ready to predict.

        Raises:
            ValueError: if its weights held out another fold, or do not fit the config.
        """
        model = build_model(for_prediction(cfg))
        load_checkpoint(self.weights(cfg.name, fold), model, fold)
        if cfg.predict.backend not in BUILT_IN:  # what Kaggle may not have, no notebook of a night should end on
            cfg = cfg.model_copy(update={"predict": cfg.predict.model_copy(update={"backend": BUILT_IN[0]})})
        return Predictor.of(model, cfg, exclusive=self.card.exclusive)


def _fold(text: str) -> Fold:
    return int(text) if text.isdigit() else text


def read_bundle(folder: Path) -> Bundle:
    """The bundle in a folder.

    Raises:
        FileNotFoundError, ValueError: for a folder without one, a weight that is missing, or parts that do not belong
            together; in one line, with what to do.
    """
    path = inside(folder, RECORD)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. make bundle writes it: is this the folder of the weights?")
    record = parse(Record, read_json(path, AGAIN), str(path))
    card = competition.load(str(inside(folder, CARD)))
    _check_card(folder / CARD, card)
    cfgs = tuple(parse(Config, {**tables, "name": name}, f"{path}: {name}") for name, tables in record.configs.items())
    try:
        bundle = Bundle(folder, record, card, cfgs, drawer_of(record.chosen, list(record.configs), card.classes))
        _check_models(bundle)
        _check_steps(bundle)
    except ValueError as error:
        raise ValueError(f"{path}: {error}: {AGAIN}") from None
    _check_weights(bundle)
    return bundle


def inside(folder: Path, name: str) -> Path:
    """The path of a file in a flat folder.

    Raises:
        ValueError: for a name that leads out of the folder, itself or by a link.
    """
    plain = name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}
    if not plain or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder}: file {quoted(name)} lies outside of this folder: {AGAIN}")
    return folder / name


def _check_card(path: Path, card: Competition) -> None:
    """Refuse a card whose files lie outside of the competition's folder."""
    for key, where in card.files.model_dump().items():
        is_path = key.startswith(("train_", "test_", "sample_"))
        if is_path and where and (where.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", where) or ":" in where):
            raise ValueError(f"{path}: files.{key} = {quoted(where)} leads out of the data folder: {AGAIN}")


def _check_models(bundle: Bundle) -> None:
    """Refuse models that nothing builds or that give other classes, unknown views, and a choice of another kind."""
    card, kinds = bundle.card, {Objects: bundle.card.instances, Exclusive: bundle.card.exclusive}
    if any(isinstance(bundle.drawer, kind) != asked for kind, asked in kinds.items()):
        raise ValueError(f"what was chosen is for {type(bundle.drawer).__name__}, and {CARD} asks for another kind")
    for cfg in bundle.cfgs:
        channels = Labels.of(card, cfg.data.boundary).channels
        if cfg.model.classes != channels:
            raise ValueError(f"{cfg.name}: model.classes is {cfg.model.classes}, {CARD} asks for {channels}")
        with place(cfg, "predict.output_stride"):
            model = for_prediction(cfg)
        check_model(model)
        with place(cfg, "predict.views"):
            check_views(cfg.predict.views)
    boundary = isinstance(bundle.drawer, Objects) and bundle.drawer.cut.boundary is not None
    if boundary and not all(cfg.data.boundary for cfg in bundle.cfgs):
        raise ValueError("border was chosen, and not every config has data.boundary")


def _check_steps(bundle: Bundle) -> None:
    """Refuse steps that drop what is not there, or all of it."""
    if set(bundle.record.weights) != set(bundle.record.configs) or not all(bundle.record.weights.values()):
        raise ValueError("configs and weights are not of the same names")
    plan = bundle.plan
    for step in bundle.record.steps:
        before, plan = plan, after(plan, step)
        if plan == before:
            raise ValueError(f"steps: there is no {step.drop} {quoted(step.name)} of {quoted(step.member)} to drop")


def _check_weights(bundle: Bundle) -> None:
    """Refuse what would fail, or predict nonsense, after an hour: before the first image."""
    for member in bundle.plan:
        for fold in member.folds:
            path = bundle.weights(member.name, fold)
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file, and {RECORD} names it: upload the folder again")
            held_out = read_record(path).get("fold")
            if held_out != fold:
                raise ValueError(
                    f"{path} held out fold {quoted(held_out)}, {RECORD} says {fold}: make the bundle again"
                )


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
