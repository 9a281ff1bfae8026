"""Kaggle over the network, by its own client.

The client reads its token itself, from ~/.kaggle or the environment. Nothing here keeps or prints it; it is looked at
only so that it can be hidden in what a server says.
"""

import contextlib
import io
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.kaggle.metadata import DATASET_FILE, DatasetMetadata, KernelMetadata
from pipeline.kaggle.retry import TOKENS, Caller, EndedError, KaggleError, UnknownError
from pipeline.kaggle.secrets import keep_secret, without_secrets
from pipeline.progress import console

log = logging.getLogger(__name__)

PAGE = 200
LAST_LINES = 15  # of a notebook's log
ARRIVAL = 3600.0  # seconds in which Kaggle should have taken in a dataset's files
RUNNING = ("QUEUED", "RUNNING", "NEW_SCRIPT", "CANCEL_REQUESTED")
LOST = ("dataset", "competition", "kernel", "model")  # what may not be attached, as the client's answers call it


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

    def __str__(self) -> str:
        return f"{self.id}, version {self.version}"


class Client:
    """What this project asks of Kaggle. Each refusal is a KaggleError that says what to do.

    Args:
        api: the client's KaggleApi, authenticated.
        caller: makes its calls.
    """

    def __init__(self, api: Any, caller: Caller):
        self.api, self.caller = api, caller

    @property
    def user(self) -> str:
        """The account's name."""
        return self.api.config_values["username"]

    # ------------------------------------------------------------------------------------------ competitions

    def files(self, slug: str) -> list[RemoteFile]:
        """A competition's files."""
        found, token = [], None
        while True:
            page = self.caller.call(_competition(slug), self.api.competition_list_files, slug, token, PAGE)
            found += [RemoteFile(file.name, file.total_bytes) for file in page.files]
            token = page.next_page_token
            if not token:
                return found

    def download(self, slug: str, folder: Path) -> Path:
        """All of a competition's files as one zip; a download that was broken off goes on.

        Raises:
            KaggleError: for what Kaggle refuses; ValueError: if other bytes came than were announced.
            OSError: if the disk is full.
        """
        folder.mkdir(parents=True, exist_ok=True)
        quiet = not console.is_terminal
        self.caller.call(_competition(slug), self.api.competition_download_files, slug, str(folder), False, quiet)
        return folder / f"{slug}.zip"

    def submit(self, slug: str, csv: Path, description: str) -> int:
        """Hand in a CSV; returns the submission's number."""
        arguments = (str(csv), description, slug, not console.is_terminal)
        answer = self.caller.call(_competition(slug), self.api.competition_submit, *arguments, counts=True)
        if not answer.ref:  # the client says nothing of the upload's failure
            raise KaggleError(f"{csv}: was not taken ({answer.message}): run the command again")
        return answer.ref

    def submit_kernel(self, slug: str, kernel: Kernel, file: str, description: str) -> int:
        """Hand in the output of a notebook's version; returns the submission's number."""
        arguments = (file, description, slug, kernel.id, kernel.version, True)
        answer = self.caller.call(_competition(slug), self.api.competition_submit_code, *arguments, counts=True)
        if not answer.ref:
            raise KaggleError(f"{kernel}: was not taken ({answer.message})")
        return answer.ref

    def submissions(self, slug: str) -> list[Submission]:
        """The account's last submissions, newest first."""
        found = self.caller.call(_competition(slug), lambda: self.api.competition_submissions(slug, page_size=PAGE))
        return [_submission(each) for each in found or []]

    def scored(self, slug: str, ref: int) -> Submission:
        """A submission once it has its score, or an error in place of it."""

        def look() -> Submission | None:
            found = next((each for each in self.submissions(slug) if each.ref == ref), None)
            return found if found and found.state != "pending" else None

        return self.caller.wait(f"the score of submission {ref}", look)

    def ranks(self, slug: str) -> Iterator[tuple[int, str, float]]:
        """Place, team and score on the public leaderboard, best first."""
        token, place = None, 0
        while True:
            page, token = self.caller.call(_competition(slug), self._leaderboard, slug, token)
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
            ValueError: as `flat_files`.
        """
        files = flat_files(folder)
        log.info("upload %s: %d files, %d MiB", metadata.id, len(files), sum(files.values()) >> 20)
        what, quiet = f"dataset {metadata.id}", not console.is_terminal
        before = self._version(metadata.id)
        if before is None:
            public = not metadata.isPrivate
            answer = self.caller.call(what, self.api.dataset_create_new, str(folder), public, quiet)
        else:
            answer = self.caller.call(what, self.api.dataset_create_version, str(folder), note, quiet)
        if answer.error:
            raise KaggleError(f"{what}: {answer.error}")
        self.caller.wait(what, lambda: self._is_ready(metadata.id, before or 0) or None, ARRIVAL)
        self._check_arrived(metadata.id, set(files))
        return before is None

    def _status(self, reference: str) -> tuple[str, int | None]:
        """A dataset's state and the number of its version."""
        text = self.caller.call(f"dataset {reference}", self.api.dataset_status, reference, "json")
        known = json.loads(text)
        return known["status"], known["current_version_number"]

    def _version(self, reference: str) -> int | None:
        """The number of a dataset's version; None if there is no such dataset."""
        try:
            return self._status(reference)[1] or 0
        except UnknownError:
            return None

    def _is_ready(self, reference: str, before: int) -> bool:
        """Whether a version after `before` is there: until then, the state is the earlier version's."""
        try:
            state, version = self._status(reference)
        except UnknownError:  # created a moment ago
            return False
        if state == "failed":
            raise KaggleError(f"dataset {reference}: Kaggle could not take its files: upload it again")
        return state == "ready" and (version is None or version > before)

    def _check_arrived(self, reference: str, expected: set[str]) -> None:
        arrived, token, what = set(), None, f"dataset {reference}"
        while True:
            page = self.caller.call(what, self.api.dataset_list_files, reference, token, PAGE)
            arrived |= {file.name for file in page.dataset_files}
            token = page.next_page_token
            if not token:
                break
        missing = sorted(expected - arrived)
        if missing:
            raise KaggleError(f"{what}: {', '.join(missing)} did not arrive: upload it again")

    # ------------------------------------------------------------------------------------------ notebooks

    def push(self, folder: Path, metadata: KernelMetadata) -> Kernel:
        """Save a notebook's new version, which Kaggle then runs.

        Raises:
            KaggleError: if Kaggle refuses, or does not know what should be attached.
        """
        what = f"notebook {metadata.id}"
        answer = self.caller.call(what, self.api.kernels_push, str(folder), counts=True)
        lost = [name for kind in LOST for name in getattr(answer, f"invalid_{kind}_sources") or []]
        if answer.error or lost:
            reason = answer.error or f"unknown to Kaggle: {', '.join(lost)}: make upload, or join the competition"
            raise KaggleError(f"{what}: {reason}")
        return Kernel(metadata.id, answer.version_number, answer.url)

    def run_through(self, kernel: Kernel) -> None:
        """Wait until Kaggle has run a notebook.

        Raises:
            EndedError: if it ended with an error, or was stopped; the last lines of its log are logged.
        """
        what = f"notebook {kernel.id}"

        def look() -> Any:
            status = self.caller.call(what, self.api.kernels_status, kernel.id)
            return None if status.status.name in RUNNING else status

        ended = self.caller.wait(f"{what}, version {kernel.version}", look)
        if ended.status.name != "COMPLETE":
            lines = log_lines(self.caller.call(what, self.api.kernels_logs, kernel.id))
            log.error("%s", without_secrets("\n".join(lines[-LAST_LINES:])))
            raise EndedError(f"{what} ended with: {ended.failure_message or ended.status.name.lower()}; {kernel.url}")

    def output(self, kernel: Kernel, file: str, folder: Path) -> Path:
        """Fetch a file that a notebook's last version left.

        Raises:
            KaggleError: if it left no such file.
        """
        what = f"notebook {kernel.id}"
        found, _ = self.caller.call(what, self.api.kernels_output, kernel.id, str(folder), f"^{re.escape(file)}$", True)
        if str(folder / file) not in found:
            raise KaggleError(f"{what}, version {kernel.version}: left no {file}; {kernel.url}")
        return folder / file


def connect(sleep: Callable[[float], None] = time.sleep) -> Client:
    """A client with the account of the token that is set up here.

    Raises:
        KaggleError: without the package, without a token, with one that Kaggle does not take, or without a network.
    """
    silence = contextlib.redirect_stdout(io.StringIO())  # it tells at length, and shows a token it was told to show
    try:
        with silence:  # it looks for a token as soon as it is imported
            from kaggle.api.kaggle_api_extended import KaggleApi
    except ModuleNotFoundError:
        raise KaggleError("the package kaggle is not installed: pip install -r requirements-kaggle.txt") from None
    # With VERBOSE=1, which is there for other programs too, it would print each call with the token.
    KaggleApi.args = [argument for argument in KaggleApi.args if argument != "--verbose"]
    keep_secret(os.environ.get("KAGGLE_KEY"), _given_token())
    client = Client(KaggleApi(), Caller(sleep))
    try:
        with silence:
            client.caller.call("the account", client.api.authenticate)
    except SystemExit:
        raise KaggleError(_no_token()) from None
    keep_secret(client.api.config_values.get("key"), client.api.config_values.get("token"))
    return client


def _given_token() -> str | None:
    """The access token that is set up here, if there is one: only to be hidden."""
    from kagglesdk.kaggle_env import get_access_token_from_env

    return get_access_token_from_env()[0]


def _no_token() -> str:
    way = f"make a token at {TOKENS} and save it as ~/.kaggle/access_token, or set KAGGLE_API_TOKEN"
    given = _given_token() is not None
    return f"Kaggle does not take the token that is set up here: {way}" if given else f"no Kaggle token: {way}"


def _competition(slug: str) -> str:
    return f"competition {slug}"


def flat_files(folder: Path) -> dict[str, int]:
    """Name and size in bytes of the files of a dataset.

    Raises:
        ValueError: for a folder in it, which the client would leave out.
    """
    paths = [path for path in sorted(folder.iterdir()) if path.name != DATASET_FILE]
    inner = next((path for path in paths if path.is_dir()), None)
    if inner:
        raise ValueError(f"{folder}: holds the folder {inner.name}/, which would not be uploaded: keep it flat")
    return {path.name: path.stat().st_size for path in paths}


def log_lines(text: str) -> list[str]:
    """The lines of a notebook's log, which Kaggle keeps as JSON.

    >>> log_lines('[{"stream_name":"stdout","time":1.5,"data":"one\\\\ntwo\\\\n"},{"time":2.0,"data":"three\\\\n"}]')
    ['one', 'two', 'three']
    """
    with contextlib.suppress(ValueError, KeyError, TypeError):  # plain text, of a run that hardly began
        text = "".join(each["data"] for each in json.loads(text))
    return text.splitlines()


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
