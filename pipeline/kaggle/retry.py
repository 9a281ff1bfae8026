"""Calls to Kaggle: made again where that helps, and each refusal in plain words."""

import errno
import json
import logging
import math
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple, TypeVar

from pipeline import competition
from pipeline.kaggle.secrets import keep_header_secret, without_secrets
from pipeline.progress import clock
from pipeline.schema import did_you_mean

log = logging.getLogger(__name__)

SITE = "https://www.kaggle.com"
TOKENS = f"{SITE}/settings/api"
TRIES = 5
FIRST_DELAY = 2.0  # seconds before the second try; doubled before each further one
LONGEST_DELAY = 600.0  # seconds; who is asked to wait for longer had better come back
FIRST_POLL, LAST_POLL = 10.0, 60.0  # seconds between two looks at what takes its time: a tenth of the time it took
BETWEEN_LINES = 60.0  # seconds
T = TypeVar("T")


class KaggleError(ValueError):
    """Kaggle refused, or could not be reached; the message says what to do, and shows no secret."""

    def __init__(self, message: str):
        super().__init__(without_secrets(message))


class UnknownError(KaggleError):
    """There is no such thing, or it is somebody else's: of datasets and notebooks, Kaggle does not say which."""


class EndedError(KaggleError):
    """What Kaggle ran ended, and not well."""


class Refusal(NamedTuple):
    """Why a call failed."""

    status: int  # of HTTP; 0: no answer came
    words: str  # Kaggle's own
    after: float | None = None  # seconds that Kaggle asks to wait for


class Caller:
    """Makes calls, and waits.

    Args:
        sleep: waits so many seconds.
    """

    def __init__(self, sleep: Callable[[float], None]):
        self.sleep = sleep

    def call(self, what: str, call: Callable[..., T], *arguments: Any, counts: bool = False) -> T:
        """A call, again where Kaggle or the network may just be busy.

        Args:
            what: the call is about, for messages, as in "competition tgs-salt".
            counts: made twice, it would be two; so it is made again only if Kaggle surely did not take it.

        Raises:
            KaggleError: with what to do.
            OSError: if the disk is full.
        """
        for attempt in range(1, TRIES + 1):
            try:
                return call(*arguments)
            except (ValueError, OSError) as error:
                refusal = refusal_of(error)
                if refusal is None:
                    raise in_words(what, error) from None
                if counts and (refusal.status == 0 or refusal.status >= 500):
                    raise KaggleError(_may_be_taken(what)) from None
                if attempt == TRIES or not _passes(refusal):
                    raise explained(what, refusal) from None
                self._delay(attempt, refusal)
        raise AssertionError("the last try returns or raises")

    def _delay(self, attempt: int, refusal: Refusal) -> None:
        seconds = FIRST_DELAY * 2 ** (attempt - 1) if refusal.after is None else refusal.after
        reason = f"Kaggle answers {refusal.status}" if refusal.status else "Kaggle cannot be reached"
        log.warning("%s: try %d of %d in %.0f s", reason, attempt + 1, TRIES, seconds)
        self.sleep(seconds)

    def wait(self, what: str, look: Callable[[], T | None], most: float = math.inf) -> T:
        """What a look finds at last; says from time to time how long it has been.

        Args:
            most: seconds.

        Raises:
            KaggleError: if there is nothing after so long.
        """
        waited = spoke = 0.0
        while (found := look()) is None:
            if waited >= most:
                raise KaggleError(f"{what}: nothing after {clock(waited)}: look at it on {SITE}")
            pause = min(LAST_POLL, max(FIRST_POLL, waited / 10))
            self.sleep(pause)
            waited += pause
            if waited - spoke >= BETWEEN_LINES:
                log.info("waiting for %s: %s", what, clock(waited))
                spoke = waited
        return found


def refusal_of(error: Exception) -> Refusal | None:
    """What an error of the client says of Kaggle or the network; None where it is about something else."""
    from requests import exceptions

    # Of notebooks, the client puts 401 and 403 into words of its own, which guess at one cause.
    origin = error.__context__ if isinstance(error, ValueError) else error
    request = getattr(origin, "request", None)
    keep_header_secret(getattr(request, "headers", {}).get("Authorization"))
    if isinstance(origin, exceptions.HTTPError) and origin.response is not None:
        response = origin.response
        return Refusal(response.status_code, _words(response), seconds_asked(response.headers.get("Retry-After")))
    lost = exceptions.ConnectionError | exceptions.Timeout | exceptions.ChunkedEncodingError
    return Refusal(0, "") if isinstance(error, lost) else None


def _words(response: Any) -> str:
    try:
        said = response.json()
    except ValueError:
        return ""
    return str(said.get("message") or "") if isinstance(said, dict) else ""


def seconds_asked(text: str | None) -> float | None:
    """How long Retry-After asks to wait; None where it does not, or cannot be read.

    >>> seconds_asked("7"), seconds_asked("Wed, 21 Oct 2015 07:28:00 GMT"), seconds_asked("soon")
    (7.0, 0.0, None)
    """
    if text is None or text.strip().isdigit():
        return None if text is None else float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _passes(refusal: Refusal) -> bool:
    """Whether it is worth waiting."""
    busy = refusal.status in (0, 429) or refusal.status >= 500
    return busy and (refusal.after or 0.0) <= LONGEST_DELAY


def _may_be_taken(what: str) -> str:
    return f"{what}: no answer came, but it may have been taken: look at {SITE} before you run the command again"


def in_words(what: str, error: Exception) -> Exception:
    """An error that is not Kaggle's refusal, in words where its own are few."""
    if isinstance(error, json.JSONDecodeError):
        return KaggleError(f"{what}: what came is no answer of Kaggle's: is a login page between here and {SITE}?")
    if getattr(error, "errno", None) == errno.ENOSPC:
        return OSError(errno.ENOSPC, f"{what}: the disk is full: make room, and run the command again")
    if without_secrets(str(error)) != str(error):
        return KaggleError(f"{what}: {error}")
    return error


def explained(what: str, refusal: Refusal) -> KaggleError:
    """A refusal in one line, with what to do."""
    kind, _, name = what.partition(" ")
    status, of_competition = refusal.status, kind == "competition"
    answer = f"({status}{': ' if refusal.words else ''}{refusal.words})"
    if status == 0:
        return KaggleError(f"{what}: Kaggle cannot be reached: is there a network?")
    if status == 401:
        return KaggleError(f"Kaggle does not take the token that is set up here {answer}: make one at {TOKENS}")
    if status == 403 and of_competition:
        return KaggleError(f"{what}: accept its rules first, at {SITE}/competitions/{name}/rules {answer}")
    if status == 404 and of_competition:
        return UnknownError(f"Kaggle knows no {what} {answer}. {did_you_mean(name, competition.known())}")
    if status in (403, 404):
        return UnknownError(f"{what}: unknown to Kaggle, or not yours {answer}")
    if status == 429:
        pause = "some minutes" if refusal.after is None else clock(refusal.after)
        return KaggleError(f"{what}: Kaggle is asked too often {answer}: wait {pause}")
    if status >= 500:
        return KaggleError(f"{what}: Kaggle has trouble of its own {answer}, after {TRIES} tries: try again later")
    return KaggleError(f"{what}: Kaggle refuses {answer}")
