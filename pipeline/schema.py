"""TOML read into frozen, typed tables; a mistake is answered with its place and the nearest known name."""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, get_args

import pydantic

from pipeline.quoting import MAX_QUOTE, listed, quoted, shortened


class Table(pydantic.BaseModel):
    """One table of a TOML file: frozen, every key known."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class JsonRecord(pydantic.BaseModel):
    """What must be in a JSON object of ours; more may be."""

    model_config = pydantic.ConfigDict(extra="allow")


T = TypeVar("T", bound=Table)
UNKNOWN_KEY = {"extra_forbidden", "unexpected_keyword_argument"}  # in a model, in a dataclass


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence that names the closest known name, or all of them when none is close.

    >>> did_you_mean("batchsize", ["batch_size", "epochs"])
    "Did you mean 'batch_size'?"
    >>> did_you_mean("zzz", ["dice", "bce"])
    'Known: bce, dice.'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1)
    return f"Did you mean '{shortened(close[0])}'?" if close else f"Known: {listed(known, MAX_QUOTE * 3 // 2)}."


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        FileNotFoundError: with the files that do exist beside it.
        ValueError: if it is not TOML, with line and column.
    """
    if not path.is_file():
        found = sorted(file.stem for file in path.parent.glob("*.toml"))
        hint = (
            did_you_mean(path.stem, found)
            if found
            else f"{path.parent}/ holds no config: run from the project's folder"
        )
        raise FileNotFoundError(f"{path}: no such file. {hint}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows' editors begin a file with a mark
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not valid TOML: {error}: save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not valid TOML: {shortened(error)}") from None


def read_json(path: Path, remedy: str, shape: Any = Any) -> Any:
    """What a JSON file of ours holds, as plain values, after a check of its shape.

    Args:
        again: how to get the file anew, for the message: which command writes it, and what to remove before.
        shape: a pydantic model, or a type such as list[Entry].

    Raises:
        FileNotFoundError: if there is none.
        ValueError: one line with the file, what is wrong, and how to get it anew.
    """
    return _checked(path.read_bytes(), shape, str(path), remedy)


def read_json_lines(path: Path, remedy: str, shape: Any = Any) -> list[Any]:
    """The lines of a JSONL file of ours, one at least; else as `read_json`, with the line's number."""
    lines = path.read_bytes().splitlines()
    if not lines:
        raise ValueError(f"{path}: empty: {remedy}")
    return [_checked(line, shape, f"{path}: line {number}", remedy) for number, line in enumerate(lines, start=1)]


def _checked(text: bytes, shape: Any, where: str, remedy: str) -> Any:
    try:
        values = json.loads(text)
        pydantic.TypeAdapter(shape).validate_python(values)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = shortened(".".join(str(part) for part in first["loc"]))
        what = f"'{key}' is missing" if first["type"] == "missing" else f"{key}: {_expected(first)}" if key else ""
        raise ValueError(f"{where}: {what or _expected(first)}: {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({shortened(error)}): {remedy}") from None
    return values


PAIR = re.compile(r"\s+(?=[\w.-]+\s*=)")  # what stands between two pairs


def split_pairs(text: str) -> list[str]:
    """The `key=value` pairs of a text, which blanks separate; those in quotes and brackets belong to a value.

    >>> split_pairs("predict.views=['identity', 'transpose'] seed=1")
    ["predict.views=['identity', 'transpose']", 'seed=1']
    >>> split_pairs("train.pseudo={from='a b=c', weight = 0.5} name=two words")
    ["train.pseudo={from='a b=c', weight = 0.5}", 'name=two words']
    """
    pairs, start = [], 0
    for found in PAIR.finditer(text):
        if _is_closed(text[start : found.start()]):
            pairs.append(text[start : found.start()])
            start = found.end()
    return [pair for pair in [*pairs, text[start:]] if pair.strip()]


def _is_closed(text: str) -> bool:
    """Whether all quotes and brackets that a text opens are closed in it."""
    bare = re.sub(r"""'[^']*'|"(?:[^"\\]|\\.)*\"""", "", text)
    return not set(bare) & {"'", '"'} and sum(map(bare.count, "[{")) <= sum(map(bare.count, "]}"))


def override(tables: dict[str, Any], pairs: Iterable[str]) -> dict[str, Any]:
    """`tables` with values replaced by `dotted.key=value` pairs; a number picks a list's entry.

    A text may hold several pairs. A value is read as TOML and, where that fails, taken as text.

    >>> override({"train": {"batch_size": 16}}, ["train.batch_size=8", "model.encoder=tu-resnet18"])
    {'train': {'batch_size': 8}, 'model': {'encoder': 'tu-resnet18'}}
    """
    for pair in chain.from_iterable(map(split_pairs, pairs)):
        key, equals, text = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"--set {pair}: expected key=value, such as train.batch_size=8")
        *parents, last = key.strip().split(".")
        node: Any = tables
        for name in parents:
            node = _descend(node, name, pair)
        _descend(node, last, pair, _toml_value(text.strip()))
    return tables


def _descend(node: Any, name: str, pair: str, value: Any = None) -> Any:
    """The entry `name` of a table or list, after setting it to `value` if that is given."""
    if isinstance(node, list):
        if not name.isdigit() or int(name) >= len(node):
            raise ValueError(f"--set {pair}: '{name}' is not an entry of a list of {len(node)} (from 0)")
        name = int(name)
    elif not isinstance(node, dict):
        raise ValueError(f"--set {pair}: '{name}' lies inside a single value, not inside a table")
    if value is not None:
        node[name] = value
    elif isinstance(node, dict):
        node.setdefault(name, {})
    return node[name]


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def parse(model: type[T], tables: Mapping[str, Any], where: str) -> T:
    """`tables` as a `model`.

    Raises:
        ValueError: one line naming the file, the key, what came and what was expected.
    """
    try:
        return model.model_validate(tables)
    except pydantic.ValidationError as error:
        # A misspelt key is also a missing one: name the spelling first.
        first = min(error.errors(), key=lambda each: each["type"] not in UNKNOWN_KEY)
        raise ValueError(f"{where}: {_explain(model, first)}") from None


def _explain(model: type[Table], error: Mapping[str, Any]) -> str:
    *parents, last = error["loc"] or ("",)
    key = shortened(".".join(str(part) for part in error["loc"]))
    if error["type"] in UNKNOWN_KEY:
        table = _model_at(model, parents)
        place = f" in [{shortened('.'.join(map(str, parents)))}]" if parents else ""
        return f"unknown key '{shortened(last)}'{place}. {did_you_mean(str(last), _fields(table))}"
    if error["type"] == "missing":
        return f"'{key}' is missing"
    came = error.get("input")
    shown = "" if isinstance(came, dict | list | Table) else f"{quoted(came)}: "
    return f"{key}: {shown}{_expected(error)}" if key else _expected(error)


EXPECTED = {  # by pydantic's name of what is wrong
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "dict_type": "expected a table",
    "finite_number": "expected a finite number",
    "float_parsing": "expected a number",
    "float_type": "expected a number",
    "greater_than": "expected more than {gt}",
    "greater_than_equal": "expected {ge} or more",
    "int_from_float": "expected a whole number",
    "int_parsing": "expected a whole number",
    "int_parsing_size": "expected a whole number of fewer digits",
    "int_type": "expected a whole number",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected {le} at most",
    "list_type": "expected a list",
    "literal_error": "expected {expected}",
    "model_type": "expected a table",
    "model_attributes_type": "expected a table",
    "none_required": "expected null",
    "string_type": "expected text",
    "tuple_type": "expected a list",
}


def _expected(error: Mapping[str, Any]) -> str:
    """What should have come: in our words, or in those of the table's own check."""
    words = EXPECTED.get(error["type"])
    found = {key: f"{value:.12g}" if isinstance(value, float) else value for key, value in error.get("ctx", {}).items()}
    return words.format(**found) if words else error["msg"].removeprefix("Value error, ")


def _fields(table: Any) -> list[str]:
    return list(getattr(table, "model_fields", None) or getattr(table, "__dataclass_fields__", {}))


def _model_at(model: Any, parents: Iterable[str | int]) -> Any:
    """The table that a path of keys leads to; a list's index stays on the list's own table."""
    for part in parents:
        if isinstance(part, int):
            continue
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            return model
        model = _table_in(fields[part].annotation)
    return model


def _table_in(annotation: Any) -> Any:
    """The first table inside an annotation such as `tuple[Phase, ...]` or `Files | None`."""
    if hasattr(annotation, "model_fields") or hasattr(annotation, "__dataclass_fields__"):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _table_in(arg)) is not None), None)
