"""The stages, and the files between them: the only place that knows paths and their order.

    data, doctor ─▶ audit ─▶ folds ─▶ train ─▶ oof ─▶ predict ─▶ ensemble ─▶ report, compare, final, bundle ─▶ rehearse

A stage calls the ones before it. Each looks at what is on disk, does what is missing and no more, so any of them can be
the first command on a fresh clone, and any can be run again after a kill.
"""

from pipeline.stages.audit import AuditReport, LeakInflation, audit, measure_inflation
from pipeline.stages.bundling import NOBODY, Bundled, bundle, run_bundle
from pipeline.stages.comparing import Compared, Final, PseudoGain, compare, final, pseudo
from pipeline.stages.doctor import DoctorReport, doctor
from pipeline.stages.ensembling import Ensembled, ensemble, score
from pipeline.stages.predicting import PredictedMany, predict_many
from pipeline.stages.preparing import Context, check, data, describe_folds, make_context
from pipeline.stages.rehearsing import Act, rehearse
from pipeline.stages.reporting import gather, report
from pipeline.stages.submitting import (
    Board,
    Downloaded,
    Submitted,
    download,
    leaderboard,
    push,
    submit,
    upload,
)
from pipeline.stages.sweeping import Swept, failed, seed_configs, sweep
from pipeline.stages.training import Trained, mean_row, oof, oof_table, predict, settings, train

__all__ = [
    "NOBODY",
    "Act",
    "AuditReport",
    "Board",
    "Bundled",
    "Compared",
    "Context",
    "DoctorReport",
    "Downloaded",
    "Ensembled",
    "Final",
    "LeakInflation",
    "PredictedMany",
    "PseudoGain",
    "Submitted",
    "Swept",
    "Trained",
    "audit",
    "bundle",
    "check",
    "compare",
    "data",
    "describe_folds",
    "doctor",
    "download",
    "ensemble",
    "failed",
    "final",
    "gather",
    "leaderboard",
    "make_context",
    "mean_row",
    "measure_inflation",
    "oof",
    "oof_table",
    "predict",
    "predict_many",
    "pseudo",
    "push",
    "rehearse",
    "report",
    "run_bundle",
    "score",
    "seed_configs",
    "settings",
    "submit",
    "sweep",
    "train",
    "upload",
]
