"""Messages quote only short parts of invalid input."""

import pytest

from pipeline.cli import main
from pipeline.quoting import MAX_MESSAGE, MAX_QUOTE, listed, quoted, shortened


@pytest.mark.parametrize("length", [0, 1, MAX_QUOTE, MAX_QUOTE + 1, 5000])
def test_shortened_text_has_a_maximum_length_and_keeps_both_ends(length):
    text = f"{'a' * (length // 2)}{'b' * (length - length // 2)}"
    assert len(shortened(text)) == min(length, MAX_QUOTE)
    assert shortened(text)[:1] == text[:1]
    assert shortened(text)[-1:] == text[-1:]


@pytest.mark.parametrize("value", ["x" * 10**6, "\n" * 500, b"\0" * 500, list(range(1000)), 10**90])
def test_a_value_is_quoted_on_one_line(value):
    assert len(quoted(value)) <= MAX_QUOTE
    assert "\n" not in quoted(value)


@pytest.mark.parametrize("names", [["x" * 1000] * 3, [f"class{k}" for k in range(1000)]])
def test_long_lists_of_names_are_shortened_with_their_count(names):
    assert len(listed(names)) <= MAX_QUOTE
    assert listed(names).endswith(f"({len(names)})")


def test_a_message_of_the_command_line_is_one_short_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["folds", f"{'x' * 5000}.toml"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("pipeline folds: ")
    assert said.endswith("xxx.toml'\n")
    assert len(said) <= MAX_MESSAGE + 1
