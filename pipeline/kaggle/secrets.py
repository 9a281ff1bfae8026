"""Hides tokens in messages: a server may repeat in its answer what it was sent."""

import base64
import re

HIDDEN = "[hidden]"
MIN_LENGTH = 6  # characters; a shorter secret could be an ordinary word
# Strings that look like tokens: Kaggle's access tokens, and credentials in a header. After "basic", a word without a
# digit or "=" is plain English.
TOKEN_PATTERN = re.compile(
    r"KGAT_[\w-]+|\bBearer\s+[\w.~+/=-]{6,}|\bBasic\s+(?=[\w.~+/-]*[\d=])[\w.~+/=-]{6,}", re.IGNORECASE
)
_known: set[str] = set()


def keep_secret(*texts: str | None) -> None:
    """Hide these texts, and their base64 form in a header, in all later messages."""
    for text in texts:
        if text and len(text) >= MIN_LENGTH:
            _known.add(text)
            _known.add(base64.b64encode(text.encode()).decode())


def keep_header_secret(header: str | bytes | None) -> None:
    """Hide the credentials of a header Authorization in all later messages."""
    scheme, _, credential = (header.decode() if isinstance(header, bytes) else header or "").partition(" ")
    keep_secret(credential)
    if scheme.lower() == "basic":
        try:
            keep_secret(base64.b64decode(credential, validate=True).decode().partition(":")[2])
        except ValueError:
            return


def without_secrets(text: str) -> str:
    """Replace all known secrets, and everything that looks like a token, by [hidden].

    >>> without_secrets("you sent Bearer abcdefgh")
    'you sent [hidden]'
    >>> without_secrets("basic dXNlcjprZXk= is no basic network error")
    '[hidden] is no basic network error'
    """
    for secret in sorted(_known, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return TOKEN_PATTERN.sub(HIDDEN, text)
