"""The code and the docs use the field's words and not former private ones."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = [
    path
    for pattern in ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "docs/*.toml", "pipeline/**/*", "configs/*.toml")
    for path in sorted(ROOT.glob(pattern))
    if path.suffix in (".py", ".md", ".toml", ".html", ".css", ".js")
]
# Each with the word of the field.
INSTEAD = {
    "drawer": "renderer",
    "honest": "cross-fitted",
    "judge": "selection metric, or check",
    "onepass": "single pass",
    "parted": "separated, or grouped",
    "rival": "candidate rule",
    "rivals": "candidate rules",
    "rowless": "images without rows",
    "ruler": "cross-validation",
    "strangers": "unknown ids",
    "summit": "peak",
    "taste": "evaluate",
    "trivial": "baseline",
    "unlikeness": "Tversky loss",
    "worth": "evaluation, or score",
}


def words_of(text: str) -> set[str]:
    """Words of a text in lower case, those in snake_case and CamelCase names too."""
    return {part.lower() for part in re.findall(r"[A-Z]?[a-z]+", text)}


def test_words_inside_names_are_found():
    assert words_of("score_drawn OnePass `honest`") >= {"score", "drawn", "one", "pass", "honest"}


@pytest.mark.parametrize("word", INSTEAD)
def test_a_former_word_is_not_used(word):
    users = [str(path.relative_to(ROOT)) for path in FILES if word in words_of(path.read_text(encoding="utf-8"))]
    assert not users, f"'{word}': write '{INSTEAD[word]}'"
