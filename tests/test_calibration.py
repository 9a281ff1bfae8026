"""The calibration benchmark: finished runs are kept, and the summary is right."""

import argparse
import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parent.parent / "benchmarks" / "calibration.py"
NAME = "fixed rule, 5 groups"


@pytest.fixture
def calibration(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("calibration", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "OUT", tmp_path)
    return module


def run(calibration, runs):
    calibration.main(argparse.Namespace(quick=False, only=NAME, runs=runs))


def test_finished_runs_are_kept_and_not_repeated(calibration, monkeypatch, capsys):
    run(calibration, 3)
    path = calibration.path_of(NAME, calibration.FRESH)
    before = calibration.read_runs(path)
    seeds, simulate = [], calibration.FixedRule.run

    def spy(scenario, seed, fresh):
        seeds.append(seed)
        return simulate(scenario, seed, fresh)

    monkeypatch.setattr(calibration.FixedRule, "run", spy)
    run(calibration, 5)
    assert seeds == [3, 4]
    assert {seed: calibration.read_runs(path)[seed] for seed in before} == before
    assert f"{NAME} " in capsys.readouterr().out


def test_runs_of_other_settings_have_another_file(calibration, monkeypatch):
    path = calibration.path_of(NAME, 100)
    monkeypatch.setitem(calibration.SCENARIOS, NAME, calibration.FixedRule(5, 0.1))
    assert calibration.path_of(NAME, 100) != path


def test_summary_by_hand(calibration):
    # 1, 0, 1, 0: mean .5, standard deviation .577, over the root of 4 runs .289.
    runs = [{"covered": (value, 1.0)} for value in (1.0, 0.0, 1.0, 0.0)]
    assert calibration.summarise(runs) == [("covered", "0.500 ± 0.289", "1.000 ± 0.000")]
