"""A drafted card as TOML, with the evidence of what is not sure as comments, and a list of it at the end."""

import re
from itertools import groupby

from pipeline.card_draft.draft import ARRAY, CardDraft, Key
from pipeline.schema import toml_value

NOT_SURE = "# not sure: "
UNSEEN = (
    "No file shows: the metric, the size of submitted masks if it is not the image's, the split of the leaderboard."
)
MAX_LINE = 120  # characters; a longer comment is above its line


def to_toml(draft: CardDraft, note: str) -> str:
    """The text of a card.

    Args:
        note: comment at the start.
    """
    lines = [f"# {note}"]
    for table, keys in groupby(draft.keys, key=lambda key: key.name.rpartition(".")[0]):
        if table:
            lines += ["", f"[[{table}]]" if table == ARRAY else f"[{table}]"]
        lines += [line for key in keys for line in _lines(key)]
    if draft.unsure:
        lines += ["", "# Check before you rely on this card:"]
        lines += [f"# - {key.name}: {one_line(key.reason)}" for key in draft.unsure]
    lines += ["", f"# {UNSEEN}"]
    return "\n".join(lines) + "\n"


def _lines(key: Key) -> list[str]:
    comment = NOT_SURE + one_line(key.reason)
    if key.value is None:
        return [comment]
    line = f"{key.name.rpartition('.')[2]} = {toml_value(key.value)}"
    if key.is_sure:
        return [line]
    return [f"{line}  {comment}"] if len(line) + len(comment) + 2 <= MAX_LINE else [comment, line]


def one_line(text: str) -> str:
    """A text without line breaks and characters that TOML does not allow in a comment."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", "?", " ".join(text.split()))
