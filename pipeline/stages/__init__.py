"""The stages of the pipeline, and the files between them: only this package builds paths.

    data, doctor ─▶ audit ─▶ folds ─▶ train ─▶ oof ─▶ predict ─▶ ensemble ─▶ report, compare, final, bundle ─▶ rehearse

A stage runs the stages before it. Each checks which of its files exist and makes only the missing ones, so any stage
can be the first command on a fresh clone, and any can be run again after a crash.
"""

# ruff: noqa: F401 - the imports are the interface of this package
from pipeline.stages.audit import LeakInflation, audit, measure_inflation
from pipeline.stages.augmenting import AugmentResult, augment
from pipeline.stages.automating import AutoResult, auto
from pipeline.stages.blending import BlendResult, blend
from pipeline.stages.bundling import PLACEHOLDER_OWNER, BundleResult, bundle, run_bundle
from pipeline.stages.checking_encoders import Checked, check_encoders
from pipeline.stages.comparing import compare, final, pseudo
from pipeline.stages.doctor import doctor
from pipeline.stages.drafting_card import DraftedCard, draft_card, files_of
from pipeline.stages.drafting_config import DraftedConfig, draft_config
from pipeline.stages.ensembling import Ensembled, ensemble, score
from pipeline.stages.importing import ImportResult, import_member
from pipeline.stages.phase_member import PhaseMember, phase_member
from pipeline.stages.predicting import batch_predict
from pipeline.stages.preparing import check, data, describe_folds, make_context
from pipeline.stages.rehearsing import RehearsalRun, rehearse
from pipeline.stages.reporting import collect_report_data, report
from pipeline.stages.submitting import download, leaderboard, push, submit, upload
from pipeline.stages.sweeping import Sweep, seed_configs, sweep
from pipeline.stages.train_test_shift import TrainTestShift
from pipeline.stages.training import mean_row, oof, oof_table, predict, train
