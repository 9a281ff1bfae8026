"""A short run of the fuzzer, and a check that it detects errors."""

import pytest

from tests import fuzzing

CASES = 200  # of each target


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzzing.TARGETS)
def test_mutated_files_are_read_correctly_or_refused_in_one_line(tmp_path, name):
    outcomes = set()
    for number in range(CASES):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcomes.add(fuzzing.run_case(name, number, folder))
    assert outcomes == {"read", "refused"}  # a useful target has both outcomes


def raises(error):
    def target(rng, folder):
        raise error

    return target


@pytest.mark.parametrize(
    "error",
    [
        ValueError("x" * 301),
        ValueError("two\nlines"),
        ValueError(""),
        KeyError("a traceback"),
        AssertionError("a wrong read"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "Python's own words"),
    ],
)
def test_the_fuzzer_fails_for_a_message_that_is_not_one_short_line(tmp_path, monkeypatch, error):
    monkeypatch.setitem(fuzzing.TARGETS, "toml", raises(error))
    with pytest.raises(Exception):  # noqa: B017, PT011 - each of these
        fuzzing.run_case("toml", 0, tmp_path)


def test_a_failure_is_counted_and_names_its_case(monkeypatch):
    monkeypatch.setattr(fuzzing, "TARGETS", {"toml": raises(KeyError("x"))})
    outcomes, failures = fuzzing.fuzz(seconds=0.5, seed=3)
    assert set(outcomes) == {("toml", "failed")}
    assert failures[0][:2] == ("toml", 3_000_000)


def test_a_case_is_reproducible(tmp_path):
    files = []
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        fuzzing.run_case("tables", 5, tmp_path / name)
        files.append((tmp_path / name / "train.csv").read_bytes())
    assert files[0] == files[1]
