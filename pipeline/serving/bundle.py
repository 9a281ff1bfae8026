"""The bundle: one folder with everything needed to predict a hidden test set as `make ensemble` predicts the known one.

    bundle.json          configs, post-processing selected on OOF, its score, fallbacks when time is short, provenance
    card.toml            the competition
    <config>-fold0.safetensors, …

The folder is flat, because some ways to upload a Kaggle dataset drop its subfolders. Nothing in it is unpickled.
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
from pipeline.data.channels import with_input_channels
from pipeline.data.labels import Labels
from pipeline.ensemble.renderer import Renderer
from pipeline.ensemble.serialization import from_record
from pipeline.files import write_text
from pipeline.inference.predictor import Predictor
from pipeline.inference.tta import check_views
from pipeline.models import build_model, check_model, for_prediction
from pipeline.models.encoder import image_side
from pipeline.models.image_size import with_image_size
from pipeline.quoting import quoted
from pipeline.schema import Table, parse, read_json
from pipeline.serving.budget_plan import Fallback, Member, Plan, apply_fallback
from pipeline.training.checkpoint import Fold, load_checkpoint, load_weights, read_record, save_checkpoint

RECORD_FILE, CARD_FILE = "bundle.json", "card.toml"
REBUILD = "run make bundle again"
BUILT_IN = ("fuse_conv_bn", "eager")  # backends that need no compiler and no package


class Evaluation(Table):
    """The ensemble's out-of-fold score."""

    metric: str
    score: float  # cross-fitted
    interval: tuple[float, float] | None  # from a bootstrap; None if it is not defined


class Provenance(Table):
    """When, from which commit and with which packages the models were trained and selected."""

    made: str
    commit: str | None = None  # with "+" if files differed from it
    versions: dict[str, str]


FoldName = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]*|full)$")]
FileName = Annotated[str, StringConstraints(pattern=r"^[^/\\\x00]+\.safetensors$")]


class BundleRecord(Table):
    """The content of bundle.json."""

    format: Literal[1] = 1
    name: str
    configs: dict[str, dict[str, Any]]  # name -> tables of the config file
    weights: dict[str, dict[FoldName, FileName]]  # config -> fold -> file
    half: bool = False  # matrices and kernels are stored as bfloat16
    chosen: dict[str, Any]  # as `serialization.to_record` writes it
    fallbacks: tuple[Fallback, ...] = ()
    evaluation: Evaluation
    provenance: Provenance


class Bundle(NamedTuple):
    """A bundle that was read, and whose parts were checked against each other."""

    folder: Path
    record: BundleRecord
    card: Competition
    cfgs: tuple[Config, ...]
    renderer: Renderer

    @property
    def plan(self) -> Plan:
        """All folds and views of all members."""
        folds = {name: tuple(map(_parse_fold, files)) for name, files in self.record.weights.items()}
        return tuple(Member(cfg.name, folds[cfg.name], cfg.predict.views) for cfg in self.cfgs)

    def weights(self, member: str, fold: Fold) -> Path:
        """The path of one model's weights."""
        return path_inside(self.folder, self.record.weights[member][str(fold)])

    def predictor(self, cfg: Config, fold: Fold) -> Predictor:
        """Load one model.

        Raises:
            ValueError: if its weights held out another fold, or do not fit the config.
        """
        model = build_model(for_prediction(cfg))
        load_checkpoint(self.weights(cfg.name, fold), model, fold)
        if cfg.predict.backend not in BUILT_IN:  # another backend may not run on Kaggle
            cfg = cfg.model_copy(update={"predict": cfg.predict.model_copy(update={"backend": BUILT_IN[0]})})
        return Predictor.from_config(model, cfg, exclusive=self.card.exclusive)


def _parse_fold(text: str) -> Fold:
    return int(text) if text.isdigit() else text


def read_bundle(folder: Path) -> Bundle:
    """Read and check the bundle in a folder.

    Raises:
        FileNotFoundError: if the folder has no bundle.json, or a weight file is missing.
        ValueError: if the parts do not fit together.
    """
    path = path_inside(folder, RECORD_FILE)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file. make bundle writes it: give the folder dist/kaggle/<name>/weights"
        )
    record = parse(BundleRecord, read_json(path, REBUILD), str(path))
    card = competition.load(str(path_inside(folder, CARD_FILE)))
    _check_card(folder / CARD_FILE, card)
    cfgs = tuple(parse(Config, {**tables, "name": name}, f"{path}: {name}") for name, tables in record.configs.items())
    try:
        cfgs = tuple(with_image_size(with_input_channels(cfg, card)) for cfg in cfgs)
        bundle = Bundle(folder, record, card, cfgs, from_record(record.chosen, list(record.configs), card.classes))
        _check_models(bundle)
        _check_fallbacks(bundle)
    except ValueError as error:
        raise ValueError(f"{path}: {error}: {REBUILD}") from None
    _check_weights(bundle)
    return bundle


def path_inside(folder: Path, name: str) -> Path:
    """Return the path of a file in a flat folder.

    Raises:
        ValueError: for a name or a symbolic link that points outside the folder.
    """
    plain = name not in ("", ".", "..") and not set(name) & {"/", "\\", "\0"}
    if not plain or not (folder / name).resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{folder}: file {quoted(name)} is outside this folder: {REBUILD}")
    return folder / name


def _check_card(path: Path, card: Competition) -> None:
    """Raise ValueError if a path on the card leads out of the competition's folder."""
    for key, where in card.files.model_dump().items():
        is_path = key.startswith(("train_", "test_", "sample_"))
        if is_path and where and (where.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", where) or ":" in where):
            raise ValueError(f"{path}: files.{key} = {quoted(where)} leads out of the data folder: {REBUILD}")


def _check_models(bundle: Bundle) -> None:
    """Raise ValueError for a model that cannot be built, other classes, unknown views or unfit post-processing."""
    card, kind = bundle.card, bundle.renderer.kind
    expected = "instances" if card.instances else "multiclass" if card.exclusive else "multilabel"
    if kind != expected:
        raise ValueError(f"the post-processing is {kind}, {CARD_FILE} asks for {expected}")
    for cfg in bundle.cfgs:
        channels = Labels.of(card, cfg.data.boundary).channels
        if cfg.model.classes != channels:
            raise ValueError(f"{cfg.name}: model.classes is {cfg.model.classes}, {CARD_FILE} asks for {channels}")
        with place(cfg, "predict.output_stride"):
            model = for_prediction(cfg)
        check_model(model)
        with place(cfg, "predict.views"):
            check_views(cfg.predict.views, image_side(cfg.model))
    weights = zip(bundle.cfgs, bundle.renderer.weights, strict=True)
    if bundle.renderer.has_gate and not any(weight and cfg.model.image_head for cfg, weight in weights):
        raise ValueError("the post-processing has a gate, but no config with a weight has model.image_head")
    if bundle.renderer.grouped and not (bundle.cfgs[0].ensemble.group and card.files.test_meta):
        raise ValueError(
            f"the post-processing has thresholds by group, but {bundle.cfgs[0].name} has no ensemble.group or "
            f"{CARD_FILE} no files.test_meta"
        )
    boundary = kind == "instances" and bundle.renderer.parts[0].rules.boundary is not None
    if boundary and not all(cfg.data.boundary for cfg in bundle.cfgs):
        raise ValueError("the post-processing uses the boundary channel, but a config has no data.boundary")


def _check_fallbacks(bundle: Bundle) -> None:
    """Raise ValueError for a fallback that drops a missing view or fold, or the last one of a member."""
    if set(bundle.record.weights) != set(bundle.record.configs) or not all(bundle.record.weights.values()):
        raise ValueError("configs and weights have different names")
    plan = bundle.plan
    for fallback in bundle.record.fallbacks:
        before, plan = plan, apply_fallback(plan, fallback)
        if plan == before:
            raise ValueError(
                f"fallbacks: there is no {fallback.drop} {quoted(fallback.name)} of {quoted(fallback.member)} to drop"
            )


def _check_weights(bundle: Bundle) -> None:
    """Raise an error for a weight file that is missing or held out another fold, before anything is predicted."""
    for member in bundle.plan:
        for fold in member.folds:
            path = bundle.weights(member.name, fold)
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file, but {RECORD_FILE} lists it: upload the folder again")
            held_out = read_record(path).get("fold")
            if held_out != fold:
                raise ValueError(
                    f"{path} held out fold {quoted(held_out)}, expected fold {fold} as in {RECORD_FILE}: {REBUILD}"
                )


def write_bundle(folder: Path, record: BundleRecord, card: Path, weights: Mapping[tuple[str, Fold], Path]) -> None:
    """Write a bundle's files; bundle.json is written last, so a folder that has it is complete.

    Args:
        record: if `record.half`, matrices and kernels are stored as bfloat16, vectors as they are.
        card: path of the card.
        weights: by config and fold.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in [folder / RECORD_FILE, *folder.glob("*.safetensors")]:  # the old bundle may have more folds
        old.unlink(missing_ok=True)
    for (member, fold), path in weights.items():
        tensors = load_weights(path)
        if record.half:
            tensors = {name: _to_half(tensor) for name, tensor in tensors.items()}
        save_checkpoint(folder / record.weights[member][str(fold)], tensors, read_record(path))
    write_text(folder / CARD_FILE, card.read_text(encoding="utf-8"))
    write_text(folder / RECORD_FILE, json.dumps(record.model_dump(mode="json"), indent=1) + "\n")


def _to_half(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16() if tensor.is_floating_point() and tensor.ndim > 1 else tensor


def weights_name(member: str, fold: Fold) -> str:
    """The file name of a model in a bundle."""
    return f"{member}-{fold}.safetensors" if isinstance(fold, str) else f"{member}-fold{fold}.safetensors"
