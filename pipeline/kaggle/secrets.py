"""What no message may show: a server may repeat in an answer what it was sent."""

import base64
import re

HIDDEN = "[hidden]"
SHORTEST = 6  # characters; a shorter word may be any word
# What is a token by its form, whether it is known here or not: Kaggle's own, and what stands in a header. After
# "basic", a word without a digit or "=" is plain English.
FORMS = re.compile(r"KGAT_[\w-]+|\bBearer\s+[\w.~+/=-]{6,}|\bBasic\s+(?=[\w.~+/-]*[\d=])[\w.~+/=-]{6,}", re.IGNORECASE)
_known: set[str] = set()


def keep_secret(*texts: str | None) -> None:
    """Hide these texts in all messages from now on, and what they look like in a header."""
    for text in texts:
        if text and len(text) >= SHORTEST:
            _known.add(text)
            _known.add(base64.b64encode(text.encode()).decode())


def keep_header_secret(header: str | bytes | None) -> None:
    """The same of what the header Authorization holds."""
    scheme, _, credential = (header.decode() if isinstance(header, bytes) else header or "").partition(" ")
    keep_secret(credential)
    if scheme.lower() == "basic":
        try:
            keep_secret(base64.b64decode(credential, validate=True).decode().partition(":")[2])
        except ValueError:
            return


def without_secrets(text: str) -> str:
    """A text in which nothing of that is left.

    >>> without_secrets("you sent Bearer abcdefgh")
    'you sent [hidden]'
    >>> without_secrets("basic dXNlcjprZXk= is no basic network error")
    '[hidden] is no basic network error'
    """
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return FORMS.sub(HIDDEN, text)
