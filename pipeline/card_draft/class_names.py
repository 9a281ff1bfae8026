"""Files that name the values or colours of mask images: tables, texts with a class on each line, and JSON.

Names without a value or colour, in a file that is named as a list of classes, are those of 0, 1, ….
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.card_draft.listing import Listing
from pipeline.card_draft.tables import Table, known_texts
from pipeline.competition import Value

MAX_FILES = 40  # of texts and JSON that are read
MAX_BYTES = 1 << 18  # a larger file is no list of classes
MAX_VALUE, MAX_DIGITS = 65_535, 5
MAX_NAMES = 1000
COLOUR_COLUMNS = (("r", "g", "b"), ("red", "green", "blue"))
LIST_NAME = re.compile(r"(?<![a-z])(class|label|categor|codes|names)", re.IGNORECASE)
IGNORED = re.compile(r"_*ignored?_*", re.IGNORECASE)  # in front of a list of names: that of the value -1
NAME_KEY = re.compile(r"(class|label|category)?[ _-]?(name|title)s?|class(es)?|label(_list)?|category", re.IGNORECASE)
VALUE_KEY = re.compile(
    r"((pixel|class|label|category|png|gr[ae]y)[ _-]?)?(value|id|index|code|number|idx)", re.IGNORECASE
)
COLOUR_KEY = re.compile(r"colou?r|rgb", re.IGNORECASE)
LABELS_KEY = re.compile(r"labels|classes|categories|names|id2label|label2id|palette", re.IGNORECASE)
HEX = re.compile(r"#([0-9A-Fa-f]{6})([0-9A-Fa-f]{2})?")


class ClassNames(NamedTuple):
    """The classes that a file names.

    Args:
        file: its path below the data folder.
        by_value: the name of each grey value, or colour.
        is_sure: the file has the values; else they are the places of names, from 0.
    """

    file: str
    by_value: Mapping[Value, str]
    is_sure: bool = True

    def cover(self, values: Iterable[Value]) -> bool:
        """Whether each of some values has a name."""
        return set(values) <= set(self.by_value)


def find_class_names(listing: Listing, tables: Sequence[Table]) -> list[ClassNames]:
    """All files with names of values or colours: tables of colours first, then other tables, texts and JSON; last those
    with names alone.
    """
    texts = [path for path in listing.others if path.lower().endswith(".txt")]
    pairs = [(table.name, _colours_of(table)) for table in tables]
    pairs += [(table.name, _values_of(table)) for table in tables]
    lists = []
    for path in [*texts[:MAX_FILES], *listing.jsons[:MAX_FILES]]:
        text = _text_of(listing.root / path)
        found = _of_text(path, text)
        pairs += [(path, each) for each in found]
        if not any(found) and LIST_NAME.search(path.rpartition("/")[2]):
            lists.append((path, _of_names(path, text)))
    known = known_texts(listing.images)
    return [
        ClassNames(file, named, is_sure)
        for is_sure, each in ((True, pairs), (False, lists))
        for file, of_file in each
        if (named := _by_value(of_file)) and known.isdisjoint(named.values())
    ]


def _by_value(pairs: Iterable[tuple[Value, str]]) -> dict[Value, str]:
    """The names by value; none if there are fewer than two, or many, or if values or names repeat."""
    pairs = [(value, name.strip()) for value, name in pairs]
    names = {name for _, name in pairs}
    are_names = all(re.search(r"[^\W\d_]", name) for name in names)
    is_list = len(dict(pairs)) == len(names) == len(pairs) and 1 < len(pairs) <= MAX_NAMES
    return dict(pairs) if is_list and are_names else {}


def _colours_of(table: Table) -> list[tuple[Value, str]]:
    """The names of colours, in a column for each of red, green and blue, or in one column."""
    columns = {column.lower(): column for column in table.columns}
    name = next((column for column in table.columns if NAME_KEY.fullmatch(column)), None)
    parts = next((keys for keys in COLOUR_COLUMNS if set(keys) <= set(columns)), None)
    colour = next((column for column in table.columns if COLOUR_KEY.fullmatch(column)), None)
    if name is None or (parts is None and colour is None):
        return []
    columns_of_colour = [table.values(columns[key]) for key in parts] if parts else [table.values(colour)]
    codes = [_code(_numbers(" ".join(cells))) for cells in zip(*columns_of_colour, strict=True)]
    return [(code, text) for code, text in zip(codes, table.values(name), strict=True) if isinstance(code, tuple)]


def _is_number(text: str) -> bool:
    """Whether a text may be the number of a class; a file of digits alone is none."""
    return text.isdecimal() and len(text) <= MAX_DIGITS


def _numbers(text: str) -> Any:
    """The numbers in a text such as "[128, 64, 0]" or "(128 64 0)"; the text itself if it has other parts."""
    words = re.split(r"[\s,;]+", text.strip("[]() "))
    return [int(word) for word in words] if all(map(_is_number, words)) else text.strip()


def _values_of(table: Table) -> list[tuple[Value, str]]:
    value = next((column for column in table.columns if VALUE_KEY.fullmatch(column)), None)
    name = next((column for column in table.columns if NAME_KEY.fullmatch(column) and column != value), None)
    if value is None or name is None or not all(map(_is_number, table.values(value))):
        return []
    return list(zip(map(int, table.values(value)), table.values(name), strict=True))


def _text_of(path: Path) -> str:
    """The text of a file; "" if it is large, or no text."""
    try:
        return path.read_text(encoding="utf-8-sig") if path.stat().st_size <= MAX_BYTES else ""
    except (ValueError, OSError):
        return ""


def _of_text(path: str, text: str) -> list[list[tuple[Value, str]]]:
    """The names of values, and of colours, of a text or a JSON."""
    if path.lower().endswith(".txt"):
        return _of_lines(text.splitlines())
    try:
        return _of_json(json.loads(text))
    except (ValueError, RecursionError):
        return []


def _of_names(path: str, text: str) -> list[tuple[Value, str]]:
    """The names of a text with one on each line, or of a JSON that is a list of them, by their places."""
    try:
        names = text.splitlines() if path.lower().endswith(".txt") else json.loads(text)
    except (ValueError, RecursionError):
        return []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return []
    names = [name.strip() for name in names if name.strip()]
    start = 1 if names and IGNORED.fullmatch(names[0]) else 0
    return list(enumerate(names[start:]))


def _of_lines(lines: Sequence[str]) -> list[list[tuple[Value, str]]]:
    """Names with a value, a colour, or both, on each line: "3 road 128 64 128", "3: road" or "road:128,64,128::"."""
    values: list[tuple[Value, str]] = []
    colours: list[tuple[Value, str]] = []
    for line in lines:
        if not line.strip() or line.lstrip().startswith(("#", "//")):
            continue
        words = [word for word in re.split(r"[\s,:;=]+", line.strip()) if word]
        is_number = [_is_number(word) and int(word) <= MAX_VALUE for word in words]
        first = next((n for n, each in enumerate(is_number) if not each), len(words))
        last = next((n for n, each in enumerate(is_number[::-1]) if not each), len(words))
        name = " ".join(words[first : len(words) - last])
        before, after = list(map(int, words[:first])), list(map(int, words[len(words) - last :]))
        numbers = before + after
        if not name or len(numbers) not in (1, 3, 4):
            return []
        if len(numbers) != 3:
            values.append((numbers[0], name))
        if len(numbers) != 1:
            r, g, b = numbers[-3:]
            colours.append(((r, g, b), name))
    return [values, colours]


def _of_json(content: Any) -> list[list[tuple[Value, str]]]:
    """Names by value or colour, or the other way round; or a list of classes; both also below a key."""
    if isinstance(content, list):
        return list(_of_entries(content))
    if not isinstance(content, dict):
        return []
    parts = [
        content,
        *(value for key, value in content.items() if isinstance(value, dict) and LABELS_KEY.fullmatch(key)),
    ]
    lists = [value for value in content.values() if isinstance(value, list)]
    return [pairs for part in parts if (pairs := _of_pairs(part))] + [
        each for part in lists for each in _of_entries(part)
    ]


def _of_pairs(content: Mapping[str, Any]) -> list[tuple[Value, str]]:
    """Names by value or colour, or the other way round; [] if one of the pairs is neither."""
    pairs = [_pair(key, value) for key, value in content.items()]
    return [pair for pair in pairs if pair] if None not in pairs else []


def _pair(key: str, value: Any) -> tuple[Value, str] | None:
    if isinstance(value, str) and (code := _code(key)) is not None:
        return code, value
    return (code, key) if (code := _code(value)) is not None else None


def _of_entries(entries: Sequence[Any]) -> Iterator[list[tuple[Value, str]]]:
    """Names by value, and by colour, of a list of objects with a key for each."""
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        return
    keys = list(entries[0])
    name = next((key for key in keys if NAME_KEY.fullmatch(key) and isinstance(entries[0][key], str)), None)
    for form in (VALUE_KEY, COLOUR_KEY):
        key = next((key for key in keys if form.fullmatch(key)), None)
        if name and key:
            pairs = [(_code(entry.get(key)), str(entry.get(name, ""))) for entry in entries]
            yield [(code, text) for code, text in pairs if code is not None]


def _code(value: Any) -> Value | None:
    """A whole number, or a colour as a list of three or a text such as #ff0000; None for anything else."""
    if isinstance(value, str) and (found := HEX.fullmatch(value)):
        number = int(found[1], 16)
        return number >> 16, number >> 8 & 255, number & 255
    if isinstance(value, str) and _is_number(value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_VALUE:
        return value
    if isinstance(value, list) and len(value) == 3 and all(isinstance(each, int) for each in value):
        return value[0], value[1], value[2]
    return None
