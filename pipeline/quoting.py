"""How a message quotes what it found: in few characters, whatever a file holds."""

from collections.abc import Iterable

MAX_QUOTE = 100  # characters of a quotation
MAX_MESSAGE = 300  # characters of a whole message


def shortened(text: object, limit: int = MAX_QUOTE) -> str:
    """Text of at most `limit` characters: of a longer one its beginning and its end.

    >>> shortened("0123456789", 7)
    '012…789'
    """
    text = str(text)
    if len(text) <= limit:
        return text
    head, tail = limit // 2, limit - limit // 2 - 1
    return f"{text[:head]}…{text[len(text) - tail :]}"


def first_line(text: object, limit: int = MAX_QUOTE) -> str:
    """The first line of what a library says, of at most `limit` characters.

    >>> first_line(" no such tensor \\n  in line 1")
    'no such tensor'
    """
    return shortened(str(text).strip().partition("\n")[0].strip(), limit)


def quoted(value: object) -> str:
    """A value as Python writes it, of at most LIMIT characters.

    >>> quoted("a"), quoted(1.5)
    ("'a'", '1.5')
    """
    if isinstance(value, str | bytes) and len(value) > MAX_QUOTE:
        value = value[:MAX_QUOTE] + value[-MAX_QUOTE:]  # what is left out anyway need not be escaped first
    return shortened(repr(value))


def listed(names: Iterable[object], limit: int = MAX_QUOTE) -> str:
    """Names in a row, as many as `limit` characters hold, and how many there are if those are not all.

    >>> listed(["a", "b"])
    'a, b'
    >>> listed(["dice", "bce", "focal", "tversky"], limit=20)
    'dice, bce, … (4)'
    """
    names = [shortened(name, limit // 2) for name in names]
    text = ", ".join(names)
    if len(text) <= limit:
        return text
    rest = f", … ({len(names)})"
    whole = text[: limit - len(rest) + 2].rpartition(", ")[0]  # names that are there to their last letter
    return whole + rest
