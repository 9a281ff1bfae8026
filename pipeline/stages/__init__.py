"""The stages of the pipeline, and the files between them: only this package builds paths.

    data, doctor ─▶ audit ─▶ folds ─▶ train ─▶ oof ─▶ predict ─▶ ensemble ─▶ report, compare, final, bundle ─▶ rehearse

A stage runs the stages before it. Each checks which of its files exist and makes only the missing ones, so any stage
can be the first command on a fresh clone, and any can be run again after a crash.
"""

from pipeline.stages.audit import AuditReport, LeakInflation, audit, measure_inflation
from pipeline.stages.bundling import PLACEHOLDER_OWNER, BundleResult, bundle, run_bundle
from pipeline.stages.comparing import Compared, Final, PseudoGain, compare, final, pseudo
from pipeline.stages.doctor import DoctorReport, doctor
from pipeline.stages.ensembling import Ensembled, ensemble, score
from pipeline.stages.predicting import BatchResult, batch_predict
from pipeline.stages.preparing import Context, check, data, describe_folds, make_context
from pipeline.stages.rehearsing import RehearsalRun, rehearse
from pipeline.stages.reporting import collect_report_data, report
from pipeline.stages.submitting import (
    DownloadResult,
    Leaderboard,
    SubmitResult,
    download,
    leaderboard,
    push,
    submit,
    upload,
)
from pipeline.stages.sweeping import Sweep, seed_configs, sweep
from pipeline.stages.training import Trained, mean_row, oof, oof_table, predict, settings, train

__all__ = [
    "PLACEHOLDER_OWNER",
    "AuditReport",
    "BatchResult",
    "BundleResult",
    "Compared",
    "Context",
    "DoctorReport",
    "DownloadResult",
    "Ensembled",
    "Final",
    "Leaderboard",
    "LeakInflation",
    "PseudoGain",
    "RehearsalRun",
    "SubmitResult",
    "Sweep",
    "Trained",
    "audit",
    "batch_predict",
    "bundle",
    "check",
    "collect_report_data",
    "compare",
    "data",
    "describe_folds",
    "doctor",
    "download",
    "ensemble",
    "final",
    "leaderboard",
    "make_context",
    "mean_row",
    "measure_inflation",
    "oof",
    "oof_table",
    "predict",
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
