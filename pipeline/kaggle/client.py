"""Kaggle over the network, by its own client: every call tried again where that helps, every refusal in plain words.

The client reads its token itself, from ~/.kaggle or the environment. Nothing here looks at it, keeps it or prints it.
"""

import contextlib
import io
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pipeline import competition
from pipeline.kaggle.metadata import DatasetMetadata, KernelMetadata
from pipeline.progress import clock
from pipeline.schema import did_you_mean

log = logging.getLogger(__name__)

SITE = "https://www.kaggle.com"
TRIES = 5
FIRST_DELAY = 2.0  # seconds before the second try; doubled before each further one
POLL = 10.0  # seconds between two looks at what takes its time
PAGE = 200
LAST_LINES = 15  # of a notebook's log
T = TypeVar("T")


class KaggleError(ValueError):
    """Kaggle refused, or could not be reached; the message says what to do."""


class RemoteFile(NamedTuple):
    """A file of a competition or dataset."""

    name: str
    size: int  # bytes


class Submission(NamedTuple):
    """A submission as Kaggle knows it."""

    ref: int
    made: str  # ISO 8601
    description: str
    state: str  # pending, complete, error
    error: str
    public: float | None
    private: float | None
    team: str


class Kernel(NamedTuple):
    """A version of a notebook."""

    id: str  # owner/slug
    version: int
    url: str


class Client:
    """What this project asks of Kaggle.

    Args:
        api: the client's KaggleApi, authenticated.
        sleep: waits so many seconds.
    """

    def __init__(self, api: Any, sleep: Callable[[float], None] = time.sleep):
        self.api, self.sleep = api, sleep

    @property
    def user(self) -> str:
        """The account's name."""
        return self.api.config_values["username"]

    # ------------------------------------------------------------------------------------------ competitions

    def files(self, slug: str) -> list[RemoteFile]:
        """A competition's files."""
        found, token = [], None
        while True:
            page = self._call(_competition(slug), self.api.competition_list_files, slug, token, PAGE)
            found += [RemoteFile(file.name, file.total_bytes) for file in page.files]
            token = page.next_page_token
            if not token:
                return found

    def download(self, slug: str, folder: Path) -> Path:
        """All of a competition's files as one zip; a download that was broken off goes on."""
        folder.mkdir(parents=True, exist_ok=True)
        self._call(_competition(slug), self.api.competition_download_files, slug, str(folder), False, not _is_watched())
        return folder / f"{slug}.zip"

    def submit(self, slug: str, csv: Path, description: str) -> int:
        """Hand in a CSV; returns the submission's number."""
        answer = self._call(_competition(slug), self.api.competition_submit, str(csv), description, slug, True)
        if not answer.ref:
            raise KaggleError(f"{csv}: the upload failed ({answer.message}): run the command again")
        return answer.ref

    def submit_kernel(self, slug: str, kernel: Kernel, file: str, description: str) -> int:
        """Hand in the output of a notebook's version; returns the submission's number."""
        arguments = (file, description, slug, kernel.id, kernel.version, True)
        answer = self._call(_competition(slug), self.api.competition_submit_code, *arguments)
        if not answer.ref:
            raise KaggleError(f"{kernel.id}, version {kernel.version}: not taken ({answer.message})")
        return answer.ref

    def submissions(self, slug: str) -> list[Submission]:
        """The account's submissions, newest first."""
        found = self._call(_competition(slug), lambda: self.api.competition_submissions(slug, page_size=PAGE))
        return [_submission(each) for each in found or []]

    def scored(self, slug: str, ref: int) -> Submission:
        """A submission once it has its score.

        Raises:
            KaggleError: if Kaggle could not score it, with the reason.
        """

        def look() -> Submission | None:
            found = next((each for each in self.submissions(slug) if each.ref == ref), None)
            return found if found and found.state != "pending" else None

        done = self._wait(f"the score of submission {ref}", look)
        if done.state == "error":
            raise KaggleError(f"submission {ref} was not scored: {done.error or 'no reason given'}")
        return done

    def ranks(self, slug: str) -> Iterator[tuple[int, str, float]]:
        """Place, team and score on the public leaderboard, best first."""
        token, place = None, 0
        while True:
            page, token = self._call(_competition(slug), self._leaderboard, slug, token)
            for place, row in enumerate(page, start=place + 1):  # noqa: B020 - counts on over pages
                yield place, row.team_name, float(row.score)
            if not token:
                return

    def _leaderboard(self, slug: str, token: str | None) -> tuple[list[Any], str]:
        said = io.StringIO()  # the client gives the page and prints the token of the next
        with contextlib.redirect_stdout(said):
            page = self.api.competition_leaderboard_view(slug, PAGE, token)
        return page or [], said.getvalue().partition("=")[2].strip()

    # ------------------------------------------------------------------------------------------ datasets

    def put_dataset(self, folder: Path, metadata: DatasetMetadata, note: str) -> bool:
        """Create a dataset, or a new version of it, and wait until its files are there; returns whether it is new.

        Raises:
            KaggleError: if Kaggle refuses, or a file did not arrive: the client goes on without those.
        """
        folders = [path.name for path in folder.iterdir() if path.is_dir()]
        if folders:
            raise ValueError(f"{folder}: holds the folder {folders[0]}/, which would not be uploaded: keep it flat")
        new, quiet = not self._exists(metadata.id), not _is_watched()
        if new:
            answer = self._call(metadata.id, lambda: self.api.dataset_create_new(str(folder), quiet=quiet))
        else:
            answer = self._call(metadata.id, lambda: self.api.dataset_create_version(str(folder), note, quiet=quiet))
        if answer.error:
            raise KaggleError(f"dataset {metadata.id}: {answer.error}")
        self._wait(f"dataset {metadata.id}", lambda: self._is_ready(metadata.id) or None)
        self._check_arrived(folder, metadata.id)
        return new

    def _exists(self, reference: str) -> bool:
        try:
            self._call(f"dataset {reference}", self.api.dataset_status, reference)
        except UnknownError:
            return False
        return True

    def _is_ready(self, reference: str) -> bool:
        state = self._call(f"dataset {reference}", self.api.dataset_status, reference)
        if state == "failed":
            raise KaggleError(f"dataset {reference}: Kaggle could not take its files: upload it again")
        return state == "ready"

    def _check_arrived(self, folder: Path, reference: str) -> None:
        expected = {path.name for path in folder.iterdir() if path.name != "dataset-metadata.json"}
        listed = self._call(f"dataset {reference}", lambda: self.api.dataset_list_files(reference, page_size=PAGE))
        missing = sorted(expected - {file.name for file in listed.files})
        if missing:
            raise KaggleError(f"dataset {reference}: {', '.join(missing)} did not arrive: upload it again")

    # ------------------------------------------------------------------------------------------ notebooks

    def push(self, folder: Path, metadata: KernelMetadata) -> Kernel:
        """Save a notebook's new version, which Kaggle then runs.

        Raises:
            KaggleError: if Kaggle refuses, or does not know what should be attached.
        """
        answer = self._call(f"notebook {metadata.id}", lambda: self.api.kernels_push(str(folder)))
        lost = [*(answer.invalid_dataset_sources or []), *(answer.invalid_competition_sources or [])]
        if answer.error or lost:
            reason = answer.error or f"unknown to Kaggle: {', '.join(lost)}; make upload, or join the competition"
            raise KaggleError(f"notebook {metadata.id}: {reason}")
        return Kernel(metadata.id, answer.version_number, answer.url)

    def run_through(self, kernel: Kernel) -> None:
        """Wait until Kaggle has run a notebook.

        Raises:
            KaggleError: if it ended with an error, with the last lines of its log.
        """

        def look() -> Any:
            status = self._call(f"notebook {kernel.id}", self.api.kernels_status, kernel.id)
            return None if status.status.name in ("QUEUED", "RUNNING", "NEW_SCRIPT") else status

        ended = self._wait(f"notebook {kernel.id}, version {kernel.version}", look)
        if ended.status.name != "COMPLETE":
            lines = self._call(f"notebook {kernel.id}", self.api.kernels_logs, kernel.id).splitlines()[-LAST_LINES:]
            reason = ended.failure_message or ended.status.name.lower()
            log.error("%s", "\n".join(lines))
            raise KaggleError(f"notebook {kernel.id} ended with: {reason}; {kernel.url}")

    # ------------------------------------------------------------------------------------------ calls

    def _call(self, what: str, call: Callable[..., T], *arguments: Any) -> T:
        """A call, again where Kaggle or the network may just be busy.

        Args:
            what: the call is about, for messages.
        """
        from requests import exceptions

        for attempt in range(TRIES):
            last = attempt == TRIES - 1
            try:
                return call(*arguments)
            except exceptions.HTTPError as error:
                status = error.response.status_code if error.response is not None else 0
                if last or not (status == 429 or status >= 500):
                    raise _explained(what, status) from None
                self._delay(attempt, error.response.headers.get("Retry-After"), f"Kaggle answers {status}")
            except (exceptions.ConnectionError, exceptions.Timeout):
                if last:
                    raise KaggleError(f"{what}: Kaggle cannot be reached: is there a network?") from None
                self._delay(attempt, None, "Kaggle cannot be reached")
        raise AssertionError("the last try returns or raises")

    def _delay(self, attempt: int, asked: str | None, reason: str) -> None:
        seconds = float(asked) if asked and asked.isdigit() else FIRST_DELAY * 2**attempt
        log.warning("%s: try %d of %d in %.0f s", reason, attempt + 2, TRIES, seconds)
        self.sleep(seconds)

    def _wait(self, what: str, look: Callable[[], T | None]) -> T:
        """What a look finds at last; says from time to time how long it has been."""
        waited, spoke = 0.0, 0.0
        while (found := look()) is None:
            self.sleep(POLL)
            waited += POLL
            if waited - spoke >= 60:
                log.info("waiting for %s: %s", what, clock(waited))
                spoke = waited
        return found


class UnknownError(KaggleError):
    """There is no such thing, or it is somebody else's: Kaggle tells 403 and 404 apart for competitions only."""


def connect(sleep: Callable[[float], None] = time.sleep) -> Client:
    """A client with the account of the token that is set up here.

    Raises:
        ModuleNotFoundError: without the package, in words.
        KaggleError: without a token, with one that Kaggle does not take, or without a network.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # it looks for a token as soon as it is imported
            from kaggle.api.kaggle_api_extended import KaggleApi
    except ModuleNotFoundError:
        raise KaggleError("the package kaggle is not installed: pip install -r requirements-kaggle.txt") from None
    client = Client(KaggleApi(), sleep)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            client._call("the account", client.api.authenticate)
    except SystemExit:
        raise KaggleError(_no_token()) from None
    return client


def _no_token() -> str:
    from kagglesdk.kaggle_env import get_access_token_from_env

    way = f"make a token at {SITE}/settings/api and save it as ~/.kaggle/access_token, or set KAGGLE_API_TOKEN"
    given = get_access_token_from_env()[0] is not None
    return f"Kaggle does not take the token that is set up here: {way}" if given else f"no Kaggle token: {way}"


def _competition(slug: str) -> str:
    return f"competition {slug}"


def _explained(what: str, status: int) -> KaggleError:
    kind, _, name = what.partition(" ")
    if status == 401:
        return KaggleError(f"Kaggle does not take the token that is set up here (401): make one at {SITE}/settings/api")
    if status == 403 and kind == "competition":
        return KaggleError(f"{what}: accept its rules first, at {SITE}/competitions/{name}/rules (403)")
    if status == 404 and kind == "competition":
        return UnknownError(f"Kaggle knows no {what} (404). {did_you_mean(name, competition.known())}")
    if status in (403, 404):
        return UnknownError(f"{what}: unknown to Kaggle, or not yours ({status})")
    if status == 429:
        return KaggleError(f"{what}: Kaggle is asked too often (429), after {TRIES} tries: wait some minutes")
    if status >= 500:
        return KaggleError(f"{what}: Kaggle has trouble of its own ({status}), after {TRIES} tries: try again later")
    return KaggleError(f"{what}: Kaggle refuses ({status})")


def _submission(each: Any) -> Submission:
    return Submission(
        each.ref,
        each.date.isoformat(timespec="seconds") if each.date else "",
        each.description or "",
        each.status.name.lower(),
        each.error_description or "",
        _score(each.public_score),
        _score(each.private_score),
        each.team_name or "",
    )


def _score(text: str | None) -> float | None:
    return float(text) if text else None


def _is_watched() -> bool:
    """Whether somebody looks at a terminal, for the client's own bars."""
    from pipeline.progress import console

    return console.is_terminal
