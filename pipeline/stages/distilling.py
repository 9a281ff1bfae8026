"""Teachers: configs whose models' probabilities are part of the targets of another config (`train.teacher`).

Fold-safe: the student of fold k learns from the teachers' models of fold k, which were trained without the masks of
fold k, as the student is. A teacher's out-of-fold predictions would leak them: the prediction of an image of fold j is
by a model that was trained on the masks of fold k. The price is that a teacher's model was trained on the images that
it teaches, so its probabilities are nearer to their labels.

Source:
    Hinton, Vinyals and Dean, Distilling the knowledge in a neural network, https://arxiv.org/abs/1503.02531.
"""

from typing import Any

from pipeline.config import Config
from pipeline.stages.labelling import load_beside


def teachers_of(cfg: Config) -> list[Config]:
    """The configs that a config learns from, on the same data; none without `train.teacher`."""
    return [load_beside(cfg, name) for name in cfg.train.teacher.from_] if cfg.train.teacher else []


def refuse_other_channels(cfg: Config, teacher: Config) -> None:
    """Refuse a teacher whose probabilities are of other channels than the student's targets.

    Raises:
        ValueError: for another number of classes, or another boundary.
    """
    for key, ours, theirs in (
        ("model.classes", cfg.model.classes, teacher.model.classes),
        ("data.boundary", cfg.data.boundary, teacher.data.boundary),
    ):
        if ours != theirs:
            raise ValueError(f"{teacher.name} has {key} = {theirs}, expected {ours} as in {cfg.name}")


def settings_of_teachers(cfg: Config, exclude: dict[str, set[str]], users: tuple[str, ...] = ()) -> dict[str, Any]:
    """What the teachers' probabilities depend on beside labels and folds, which are the student's own; and those that
    their own teachers do.

    Args:
        exclude: options by table that do not change weights or probabilities.
        users: names of the configs that learn from this one.

    Raises:
        ValueError: if a config would be its own teacher.
    """
    users = (*users, cfg.name)
    settings = {}
    for teacher in teachers_of(cfg):
        if teacher.name in users:
            raise ValueError(
                f"{cfg.file}: train.teacher.from: {' from '.join([*users, teacher.name])}: a config cannot learn from "
                f"itself"
            )
        settings[teacher.name] = {
            **teacher.model_dump(mode="json", include={"seed", "data", "model", "train", "predict"}, exclude=exclude),
            **({"teacher": settings_of_teachers(teacher, exclude, users)} if teacher.train.teacher else {}),
        }
    return settings
