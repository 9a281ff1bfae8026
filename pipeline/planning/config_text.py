"""A drafted config as a TOML file, with the reason of each option as a comment."""

import textwrap
from collections.abc import Sequence

from pipeline.config import Transform
from pipeline.data.transform_list import to_toml, to_value
from pipeline.planning.config_options import ConfigDraft, Option

WIDTH = 120  # characters of a line
TABLES = "data", "folds", "model", "train"  # before the phases; other tables follow these


def to_text(draft: ConfigDraft, head: Sequence[str] = ()) -> str:
    """The config, which `config.load` reads.

    Args:
        head: lines of the comment that it begins with.
    """
    by_table: dict[str, list[Option]] = {}
    for option in draft.options:
        table, _, name = option.key.rpartition(".")
        by_table.setdefault(table, []).append(option._replace(key=name))
    blocks = [_lines(by_table.pop("", []))]
    blocks += [[f"[{table}]", *_lines(by_table.pop(table))] for table in TABLES if table in by_table]
    for number, phase in enumerate(draft.phases, start=1):
        lists = [each for each in phase if _is_transforms(each)]
        plain = [each for each in phase if not _is_transforms(each)]
        blocks.append([f"[[train.phases]]  # phase {number}", *_lines(plain)])
        blocks += [[*_comment(each.reason), to_toml(each.value, f"train.phases.{each.key}")] for each in lists]
    blocks += [[f"[{table}]", *_lines(options)] for table, options in by_table.items()]
    comment = [line for text in head for line in _comment(text)]
    return "\n".join([*comment, *"\n\n".join("\n".join(block) for block in blocks if block).split("\n"), ""])


def option_line(option: Option) -> str:
    """An option without its reason, as `key = value`."""
    return f"{option.key} = {to_value(option.value)}"


def _is_transforms(option: Option) -> bool:
    return isinstance(option.value, list) and any(isinstance(each, Transform) for each in option.value)


def _lines(options: Sequence[Option]) -> list[str]:
    return [line for option in options for line in _option_lines(option)]


def _option_lines(option: Option) -> list[str]:
    """An option with its reason, behind it or, if the line would be too long, above it."""
    line = option_line(option)
    if not option.reason:
        return [line]
    both = f"{line}  # {_printable(option.reason)}"
    return [both] if len(both) <= WIDTH else [*_comment(option.reason), line]


def _comment(text: str) -> list[str]:
    return textwrap.wrap(_printable(text), WIDTH, initial_indent="# ", subsequent_indent="# ") or ["#"]


def _printable(text: str) -> str:
    """The text without control characters, which TOML allows in no comment."""
    return "".join(each if each.isprintable() else " " for each in text)
