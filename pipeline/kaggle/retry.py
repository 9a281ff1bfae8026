"""Calls Kaggle: repeats a call where that can help, and turns each refusal into one line that names the remedy."""

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
MAX_ATTEMPTS = 5
FIRST_DELAY = 2.0  # seconds before the second attempt; doubled before each further one
MAX_DELAY = 600.0  # seconds; if Kaggle asks to wait longer, the call fails
MIN_POLL, MAX_POLL = 10.0, 60.0  # seconds between two polls: a tenth of the time waited so far, within these limits
LOG_INTERVAL = 60.0  # seconds
T = TypeVar("T")


class KaggleError(ValueError):
    """Kaggle refused, or could not be reached; the message names the remedy, and shows no secret."""

    def __init__(self, message: str):
        super().__init__(without_secrets(message))


class UnknownError(KaggleError):
    """There is no such thing, or it belongs to another account; Kaggle does not tell which."""


class EndedError(KaggleError):
    """A notebook on Kaggle ended with an error."""


class Refusal(NamedTuple):
    """Why a call failed."""

    status: int  # of HTTP; 0: no answer came
    message: str  # from Kaggle
    retry_after: float | None = None  # seconds that Kaggle asks to wait

    @property
    def is_temporary(self) -> bool:
        """Whether the same call may succeed later: 429, 5xx and a lost network, if the wait is not too long."""
        busy = self.status in (0, 429) or self.status >= 500
        return busy and (self.retry_after or 0.0) <= MAX_DELAY


class Caller:
    """Makes calls, and waits between them.

    Args:
        sleep: waits for a number of seconds.
    """

    def __init__(self, sleep: Callable[[float], None]):
        self.sleep = sleep

    def call(self, what: str, call: Callable[..., T], *arguments: Any, is_repeatable: bool = True) -> T:
        """Make a call; repeat it if Kaggle is busy or the network is lost.

        Args:
            what: the subject of the call, for messages, as in "competition tgs-salt".
            is_repeatable: False for a submission or a push, which would be made twice: such a call is repeated only
                after 429, when Kaggle has certainly not accepted it.

        Raises:
            KaggleError: for what Kaggle refuses.
            OSError: if the disk is full.
        """
        import tenacity

        def should_retry(error: BaseException) -> bool:
            refusal = refusal_of(error)
            return refusal is not None and refusal.is_temporary and (is_repeatable or refusal.status == 429)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(should_retry),
            stop=tenacity.stop_after_attempt(MAX_ATTEMPTS),
            wait=_delay,
            before_sleep=_log_retry,
            sleep=self.sleep,
            reraise=True,
        )
        try:
            return retrying(call, *arguments)
        except (ValueError, OSError) as error:
            refusal = refusal_of(error)
            if refusal is None:
                raise _explain_error(what, error) from None
            # tenacity's frames refer to the error, and its traceback to them: without it, sockets close at once.
            error.__traceback__ = None
            if not is_repeatable and (refusal.status == 0 or refusal.status >= 500):
                raise KaggleError(
                    f"{what}: no answer came, but it may have been accepted: look at {SITE} before you run the "
                    f"command again"
                ) from None
            raise explain_refusal(what, refusal) from None

    def wait(self, what: str, poll: Callable[[], T | None], timeout: float = math.inf) -> T:
        """Poll until the result is not None, and return it; logs from time to time how long it has waited.

        Args:
            what: is waited for.
            timeout: seconds.

        Raises:
            KaggleError: if there is no result before the timeout.
        """
        waited = logged = 0.0
        while (found := poll()) is None:
            if waited >= timeout:
                raise KaggleError(f"{what}: no result after {clock(waited)}: look at {SITE}")
            pause = min(MAX_POLL, max(MIN_POLL, waited / 10))
            self.sleep(pause)
            waited += pause
            if waited - logged >= LOG_INTERVAL:
                log.info("waiting for %s: %s", what, clock(waited))
                logged = waited
        return found


def _delay(state: Any) -> float:
    """Seconds before the next attempt: as long as Kaggle asks, or twice as long as before."""
    asked = refusal_of(state.outcome.exception()).retry_after
    return FIRST_DELAY * 2 ** (state.attempt_number - 1) if asked is None else asked


def _log_retry(state: Any) -> None:
    status = refusal_of(state.outcome.exception()).status
    reason = f"Kaggle answers {status}" if status else "Kaggle cannot be reached"
    log.warning("%s: attempt %d of %d in %.0f s", reason, state.attempt_number + 1, MAX_ATTEMPTS, state.upcoming_sleep)


def refusal_of(error: BaseException) -> Refusal | None:
    """Why Kaggle or the network failed a call of the client; None if the error has another cause."""
    from requests import exceptions

    # For notebooks, the client replaces 401 and 403 by a message of its own that guesses one cause.
    cause = error.__context__ if isinstance(error, ValueError) else error
    request = getattr(cause, "request", None)
    keep_header_secret(getattr(request, "headers", {}).get("Authorization"))
    if isinstance(cause, exceptions.HTTPError) and cause.response is not None:
        response = cause.response
        return Refusal(response.status_code, _message(response), parse_retry_after(response.headers.get("Retry-After")))
    lost = exceptions.ConnectionError | exceptions.Timeout | exceptions.ChunkedEncodingError
    return Refusal(0, "") if isinstance(error, lost) else None


def _message(response: Any) -> str:
    try:
        answer = response.json()
    except ValueError:
        return ""
    return str(answer.get("message") or "") if isinstance(answer, dict) else ""


def parse_retry_after(text: str | None) -> float | None:
    """Seconds that the header Retry-After asks to wait; None if it is missing or cannot be parsed.

    >>> parse_retry_after("7"), parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), parse_retry_after("soon")
    (7.0, 0.0, None)
    """
    if text is None or text.strip().isdigit():
        return None if text is None else float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _explain_error(what: str, error: Exception) -> Exception:
    """Replace an error that is no refusal by one with a clearer message, where its own is unclear or has a secret."""
    if isinstance(error, json.JSONDecodeError):
        return KaggleError(f"{what}: the answer is not from Kaggle: is there a login page between here and {SITE}?")
    if getattr(error, "errno", None) == errno.ENOSPC:
        return OSError(errno.ENOSPC, f"{what}: the disk is full: free some space, and run the command again")
    if without_secrets(str(error)) != str(error):
        return KaggleError(f"{what}: {error}")
    return error


def explain_refusal(what: str, refusal: Refusal) -> KaggleError:
    """Turn a refusal into one line with its remedy."""
    kind, _, name = what.partition(" ")
    status, of_competition = refusal.status, kind == "competition"
    answer = f"({status}{': ' if refusal.message else ''}{refusal.message})"
    if status == 0:
        return KaggleError(f"{what}: Kaggle cannot be reached: check the network")
    if status == 401:
        return KaggleError(f"Kaggle does not accept the configured token {answer}: create one at {TOKENS}")
    if status == 403 and of_competition:
        return KaggleError(f"{what}: accept its rules first, at {SITE}/competitions/{name}/rules {answer}")
    if status == 404 and of_competition:
        return UnknownError(f"Kaggle has no {what} {answer}. {did_you_mean(name, competition.known_cards())}")
    if status in (403, 404):
        return UnknownError(f"{what}: unknown to Kaggle, or not yours {answer}")
    if status == 429:
        pause = "some minutes" if refusal.retry_after is None else clock(refusal.retry_after)
        return KaggleError(f"{what}: too many requests to Kaggle {answer}: wait {pause}")
    if status >= 500:
        return KaggleError(f"{what}: Kaggle has an internal error {answer}, after {MAX_ATTEMPTS} attempts: try later")
    return KaggleError(f"{what}: Kaggle refuses {answer}")
