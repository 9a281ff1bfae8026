"""TOML and JSON files read into typed models. An error names its place and the closest known name."""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, get_args

import pydantic

from pipeline.quoting import MAX_QUOTE, listed, quoted, shortened


class Table(pydantic.BaseModel):
    """One table of a TOML file: immutable, without unknown keys."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class JsonRecord(pydantic.BaseModel):
    """The required fields of a JSON object that this pipeline wrote; further fields are allowed."""

    model_config = pydantic.ConfigDict(extra="allow")


T = TypeVar("T", bound=Table)
UNKNOWN_KEY = {"extra_forbidden", "unexpected_keyword_argument"}  # pydantic's error types, of a model and a dataclass


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A sentence with the closest known name, or with all of them if none is close.

    >>> did_you_mean("batchsize", ["batch_size", "epochs"])
    "Did you mean 'batch_size'?"
    >>> did_you_mean("zzz", ["dice", "bce"])
    'Known: bce, dice.'
    """
    known = sorted(known)
    close = close_match(name, known)
    return f"Did you mean '{shortened(close)}'?" if close else f"Known: {listed(known, MAX_QUOTE * 4 // 3)}."


def close_match(name: str, known: Iterable[str]) -> str | None:
    """The known name that is closest to a name, in upper or lower case; None if none is close.

    >>> close_match("AdamW", ["adam", "adamw"])
    'adamw'
    """
    by_lower = {each.lower(): each for each in sorted(known, reverse=True)}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else None


def read_toml(path: Path) -> dict[str, Any]:
    """Read the tables of a TOML file.

    Raises:
        FileNotFoundError: if there is no such file, with the names of existing ones.
        ValueError: if it is not valid TOML, with line and column.
    """
    if not path.is_file():
        found = sorted(file.stem for file in path.parent.glob("*.toml"))
        hint = (
            did_you_mean(path.stem, found)
            if found
            else f"{path.parent}/ contains no config: run the command in the project's folder"
        )
        raise FileNotFoundError(f"{path}: no such file. {hint}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))  # skips the byte order mark of Windows editors
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not valid TOML: {error}: save it as UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not valid TOML: {shortened(error)}") from None


def read_json(path: Path, remedy: str, shape: Any = Any) -> Any:
    """Read a JSON file that this pipeline wrote, as plain values, after a check of its structure.

    Args:
        remedy: how to restore the file, for the message: what to remove, and which command writes it.
        shape: a pydantic model, or a type such as list[Entry].

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not as expected: one line with the file, the error, and the remedy.
    """
    return _validate_json(path.read_bytes(), shape, str(path), remedy)


def read_json_lines(path: Path, remedy: str, shape: Any = Any) -> list[Any]:
    """Read the lines of a JSONL file that this pipeline wrote.

    Args:
        remedy, shape: as in `read_json`; `shape` is that of each line.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is empty or a line is not as expected, with the line's number.
    """
    lines = path.read_bytes().splitlines()
    if not lines:
        raise ValueError(f"{path}: empty: {remedy}")
    return [_validate_json(line, shape, f"{path}: line {number}", remedy) for number, line in enumerate(lines, start=1)]


def _validate_json(text: bytes, shape: Any, where: str, remedy: str) -> Any:
    try:
        values = json.loads(text)
        pydantic.TypeAdapter(shape).validate_python(values)
    except pydantic.ValidationError as error:
        raise ValueError(f"{where}: {_describe(error.errors()[0])}: {remedy}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({shortened(error)}): {remedy}") from None
    return values


PAIR_SEPARATOR = re.compile(r"\s+(?=[\w.-]+\s*=)")  # between two pairs


def split_pairs(text: str) -> list[str]:
    """The `key=value` pairs of a text, separated by blanks. Blanks in quotes or brackets belong to a value.

    >>> split_pairs("predict.views=['identity', 'transpose'] seed=1")
    ["predict.views=['identity', 'transpose']", 'seed=1']
    >>> split_pairs("train.pseudo={from='a b=c', weight = 0.5} name=two words")
    ["train.pseudo={from='a b=c', weight = 0.5}", 'name=two words']
    """
    pairs, start = [], 0
    for found in PAIR_SEPARATOR.finditer(text):
        if _is_closed(text[start : found.start()]):
            pairs.append(text[start : found.start()])
            start = found.end()
    return [pair for pair in [*pairs, text[start:]] if pair.strip()]


def _is_closed(text: str) -> bool:
    """Whether all quotes and brackets in a text are closed."""
    bare = re.sub(r"""'[^']*'|"(?:[^"\\]|\\.)*\"""", "", text)
    return not set(bare) & {"'", '"'} and sum(map(bare.count, "[{")) <= sum(map(bare.count, "]}"))


def override(tables: dict[str, Any], pairs: Iterable[str]) -> dict[str, Any]:
    """Replace values of `tables` by `dotted.key=value` pairs; a number selects an entry of a list.

    A text may hold several pairs. A value is parsed as TOML; if that fails, it is used as a string.

    Raises:
        ValueError: if a text is not a pair, or its key leads into a single value or past the end of a list.

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
        _descend(node, last, pair, _value_of(text.strip()))
    return tables


def _descend(node: Any, name: str, pair: str, value: Any = None) -> Any:
    """The entry `name` of a table or list, which is set to `value` if one is given."""
    if isinstance(node, list):
        if not name.isdigit() or int(name) >= len(node):
            raise ValueError(f"--set {pair}: '{name}' is not an entry of a list of {len(node)} (from 0)")
        name = int(name)
    elif not isinstance(node, dict):
        raise ValueError(f"--set {pair}: '{name}' is inside a single value, not inside a table")
    if value is not None:
        node[name] = value
    elif isinstance(node, dict):
        node.setdefault(name, {})
    return node[name]


def _value_of(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def toml_value(value: Any) -> str:
    r"""A value as TOML; keys of a table without a value (None) are left out.

    >>> toml_value({"a b": [1, True], "c": None}), toml_value(r"(\d+)\.png")
    ('{ "a b" = [1, true] }', "'(\\d+)\\.png'")
    """
    if isinstance(value, dict):
        given = {name: each for name, each in value.items() if each is not None}
        return "{ " + ", ".join(f"{_to_key(name)} = {toml_value(each)}" for name, each in given.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, str) and "\\" in value and "'" not in value and value.isprintable():
        return f"'{value}'"  # regular expressions without escapes
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def toml_tables(tables: Mapping[str, Any], parent: str = "") -> str:
    """Tables as the lines of a TOML file, without what has no value (None).

    >>> print(toml_tables({"seed": 1, "train": {"workers": 2, "phases": [{"lr": 0.1}]}}), end="")
    seed = 1
    <BLANKLINE>
    [train]
    workers = 2
    <BLANKLINE>
    [[train.phases]]
    lr = 0.1

    Args:
        parent: of the tables, such as "train".
    """
    inner = {name: each for name, each in tables.items() if _is_table(each) and (not parent or isinstance(each, list))}
    text = "".join(
        f"{_to_key(name)} = {toml_value(each)}\n"
        for name, each in tables.items()
        if name not in inner and each is not None
    )
    for name, each in inner.items():
        path = f"{parent}.{_to_key(name)}" if parent else _to_key(name)
        many, (before, after) = (each, ("[[", "]]")) if isinstance(each, list) else ([each], "[]")
        text += "".join(f"\n{before}{path}{after}\n{toml_tables(entry, path)}" for entry in many)
    return text


def _is_table(value: Any) -> bool:
    """Whether a value is a table, or a list of tables alone."""
    return bool(value) and all(isinstance(each, dict) for each in (value if isinstance(value, list) else [value]))


def _to_key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name, ensure_ascii=False)


def parse(model: type[T], tables: Mapping[str, Any], where: str) -> T:
    """Validate `tables` as a `model`.

    Raises:
        ValueError: if they are not valid: one line with the file, the key, the value and what was expected.
    """
    try:
        return model.model_validate(tables)
    except pydantic.ValidationError as error:
        # A misspelt key causes a second error, a missing key: report the misspelling first.
        first = min(error.errors(), key=lambda each: each["type"] not in UNKNOWN_KEY)
        raise ValueError(f"{where}: {_explain(model, _in_best_branch(error.errors(), first))}") from None


# What pydantic adds to the path of a key whose value may be of several types: the type that it tried.
BRANCH = re.compile(
    r"(literal|tuple|list|dict|function|constrained|lax|is-instance)\b.*[\[-].*|int|float|str|bool|callable"
)
NOT_IN_FILES = {"callable_type", "is_instance_of"}  # errors of types that no value of a file has


def _in_best_branch(errors: Iterable[Mapping[str, Any]], first: Mapping[str, Any]) -> dict[str, Any]:
    """The error of the type that a value fits best, if several were tried: the one that was found deepest inside.

    Returns:
        the error, with a path of keys and numbers only, and as "alternatives" those of other types that the value could
        have had.
    """
    parts = [isinstance(part, str) and bool(BRANCH.fullmatch(part)) for part in first["loc"]]
    if any(parts):
        start = first["loc"][: parts.index(True)]
        tried = [each for each in errors if each["loc"][: len(start)] == start]
        tried = [each for each in tried if each["type"] not in NOT_IN_FILES] or tried
        depth = max(len(each["loc"]) for each in tried)
        first, *others = (each for each in tried if len(each["loc"]) == depth)
        if not depth > len(start) + 1:  # the value itself fits none
            first = {**first, "alternatives": others}
    keys = tuple(part for part in first["loc"] if not (isinstance(part, str) and BRANCH.fullmatch(part)))
    return {**first, "loc": keys}


def _explain(model: type[Table], error: Mapping[str, Any]) -> str:
    *parents, last = error["loc"] or ("",)
    if error["type"] in UNKNOWN_KEY:
        table = _model_at(model, parents)
        place = f" in [{shortened('.'.join(map(str, parents)))}]" if parents else ""
        return f"unknown key '{shortened(last)}'{place}. {_suggest(model, table, str(last))}"
    value = error.get("input")
    return _describe(error, "" if isinstance(value, dict | list | Table) else f"{quoted(value)}: ")


EXPECTED_VALUES = {  # by pydantic's error type
    "bool_parsing": "expected true or false",
    "bool_type": "expected true or false",
    "callable_type": "expected a function, which a file cannot have: leave it out",
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
    "is_instance_of": "expected a {class}, which a file cannot have: leave it out",
    "less_than": "expected less than {lt}",
    "less_than_equal": "expected {le} at most",
    "list_type": "expected a list",
    "literal_error": "expected {expected}",
    "model_type": "expected a table",
    "model_attributes_type": "expected a table",
    "none_required": "expected null",
    "string_type": "expected text",
    "too_long": "expected a list of {max_length} or fewer",
    "too_short": "expected a list of {min_length} or more",
    "tuple_type": "expected a list",
}


def _describe(error: Mapping[str, Any], came: str = "") -> str:
    """The key of an error, what came, and what was expected."""
    key = shortened(".".join(map(str, error["loc"])))
    if error["type"] == "missing":
        return f"'{key}' is missing"
    return f"{key}: {came}{_describe_expected(error)}" if key else _describe_expected(error)


def _describe_expected(error: Mapping[str, Any]) -> str:
    """What was expected: a text of EXPECTED_VALUES, or the message of the table's own validator."""
    words = EXPECTED_VALUES.get(error["type"])
    found = {key: f"{value:.12g}" if isinstance(value, float) else value for key, value in error.get("ctx", {}).items()}
    text = words.format(**found) if words else error["msg"].removeprefix("Value error, ")
    others = [_describe_expected(each).removeprefix("expected ") for each in error.get("alternatives", ())]
    return ", or ".join(dict.fromkeys([text, *others]))


def _fields(table: Any) -> list[str]:
    if fields := getattr(table, "model_fields", None):
        return [field.alias or name for name, field in fields.items()]
    return list(getattr(table, "__dataclass_fields__", {}))


def _model_at(model: Any, parents: Iterable[str | int]) -> Any:
    """The model of the table that a path of keys leads to; list indices are skipped."""
    for part in parents:
        if isinstance(part, int):
            continue
        fields = getattr(model, "model_fields", {})
        if part not in fields:
            return model
        model = _table_in(fields[part].annotation)
    return model


def _suggest(model: type[Table], table: Any, key: str) -> str:
    """What to write instead of a key that a table lacks: the place that has exactly this key, or else a key like it."""
    tables = chain([("", model)], _tables(model, {model}))
    places = [f"[{name}]" if name else "the top level" for name, each in tables if key in _fields(each)]
    if not places:
        return did_you_mean(key, _fields(table))
    known = listed(sorted(_fields(table)), MAX_QUOTE)
    return f"It is a key of {listed(places, MAX_QUOTE)}. Known here: {known}."


def _tables(model: Any, seen: set[Any]) -> Iterator[tuple[str, Any]]:
    """The tables inside a model by their dotted names, those of a level before the tables inside them."""
    inner = {
        name: table
        for name, field in getattr(model, "model_fields", {}).items()
        if (table := _table_in(field.annotation)) is not None and table not in seen
    }
    yield from inner.items()
    for name, table in inner.items():
        seen.add(table)
        yield from ((f"{name}.{deeper}", each) for deeper, each in _tables(table, seen))


def _table_in(annotation: Any) -> Any:
    """The first model inside an annotation such as `tuple[Phase, ...]` or `Files | None`."""
    if hasattr(annotation, "model_fields") or hasattr(annotation, "__dataclass_fields__"):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _table_in(arg)) is not None), None)
