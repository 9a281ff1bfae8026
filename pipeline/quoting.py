"""Short quotations for messages, of any value."""

from collections.abc import Iterable

MAX_QUOTE = 100  # characters of a quotation
MAX_MESSAGE = 300  # characters of a message


def shortened(text: object, limit: int = MAX_QUOTE) -> str:
    """The text in one line, shortened to its beginning and end if it has more than `limit` characters.

    >>> shortened("0123456789", 7), shortened("a\\nb")
    ('012…789', 'a b')
    """
    text = " ".join(str(text).splitlines())
    if len(text) <= limit:
        return text
    head, tail = limit // 2, limit - limit // 2 - 1
    return f"{text[:head]}…{text[len(text) - tail :]}"


def first_line(text: object, limit: int = MAX_QUOTE) -> str:
    """The first line of a library's message, shortened to `limit` characters.

    >>> first_line(" no such tensor \\n  in line 1")
    'no such tensor'
    """
    return shortened(str(text).strip().partition("\n")[0].strip(), limit)


def quoted(value: object) -> str:
    """The repr of a value, shortened to MAX_QUOTE characters.

    >>> quoted("a"), quoted(1.5)
    ("'a'", '1.5')
    """
    if isinstance(value, str | bytes) and len(value) > MAX_QUOTE:
        value = value[:MAX_QUOTE] + value[-MAX_QUOTE:]  # avoids the repr of a very long text
    return shortened(repr(value))


def listed(names: Iterable[object], limit: int = MAX_QUOTE) -> str:
    """Names joined by commas, as many as fit into `limit` characters, with their total number if some are left out.

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
    complete = text[: limit - len(rest) + 2].rpartition(", ")[0]  # without a name that does not fit completely
    return complete + rest
