"""Requests to Kaggle, made by its own client.

The client reads its token from ~/.kaggle or the environment. This module neither keeps nor prints the token; it reads
it only to hide it in messages of the server.
"""

import contextlib
import io
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from pipeline.kaggle.metadata import DATASET_FILE, DatasetMetadata, KernelMetadata
from pipeline.kaggle.retry import TOKENS, Caller, EndedError, KaggleError, UnknownError
from pipeline.kaggle.secrets import keep_secret, without_secrets
from pipeline.progress import console

log = logging.getLogger(__name__)

PAGE_SIZE = 200
LAST_LINES = 15  # of a notebook's log that are shown
UPLOAD_TIMEOUT = 3600.0  # seconds in which Kaggle should have processed the files of a dataset
RUNNING_STATES = ("QUEUED", "RUNNING", "NEW_SCRIPT", "CANCEL_REQUESTED")
SOURCE_KINDS = ("dataset", "competition", "kernel", "model")  # of attached inputs, as in the client's answers


class RemoteFile(NamedTuple):
    """A file of a competition or dataset."""

    name: str
    size: int  # bytes


class Submission(NamedTuple):
    """A submission on Kaggle."""

    ref: int
    made: str  # ISO 8601
    state: str  # pending, complete, error
    error: str
    public: float | None
    private: float | None
    team: str


class KernelVersion(NamedTuple):
    """A version of a notebook."""

    id: str  # owner/slug
    version: int
    url: str

    def __str__(self) -> str:
        return f"{self.id}, version {self.version}"


class Client:
    """The requests of this project to Kaggle; each refusal is a KaggleError that names the remedy.

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
        """List a competition's files."""
        pages = self._pages(_competition(slug), self.api.competition_list_files, slug)
        return [RemoteFile(file.name, file.total_bytes) for page in pages for file in page.files]

    def _pages(self, what: str, call: Callable[..., Any], name: str) -> Iterator[Any]:
        """Yield all pages of a list."""
        token = None
        while True:
            page = self.caller.call(what, call, name, token, PAGE_SIZE)
            yield page
            token = page.next_page_token
            if not token:
                return

    def download(self, slug: str, folder: Path) -> Path:
        """Download a competition's files as one zip, and return its path; an interrupted download resumes.

        Raises:
            KaggleError: for what Kaggle refuses.
            ValueError: if the number of bytes differs from what was announced.
            OSError: if the disk is full.
        """
        folder.mkdir(parents=True, exist_ok=True)
        quiet = not console.is_terminal
        self.caller.call(_competition(slug), self.api.competition_download_files, slug, str(folder), False, quiet)
        return folder / f"{slug}.zip"

    def submit(self, slug: str, csv: Path, description: str) -> int:
        """Submit a CSV; returns the number of the submission.

        Raises:
            KaggleError: if Kaggle does not accept it.
        """
        arguments = (str(csv), description, slug, not console.is_terminal)
        answer = self.caller.call(_competition(slug), self.api.competition_submit, *arguments, is_repeatable=False)
        if not answer.ref:  # the client does not raise an error if the upload fails
            raise KaggleError(f"{csv}: was not accepted ({answer.message}): run the command again")
        return answer.ref

    def submit_kernel(self, slug: str, kernel: KernelVersion, file: str, description: str) -> int:
        """Submit the output of a notebook's version; returns the number of the submission.

        Raises:
            KaggleError: if Kaggle does not accept it.
        """
        arguments = (file, description, slug, kernel.id, kernel.version, True)
        answer = self.caller.call(_competition(slug), self.api.competition_submit_code, *arguments, is_repeatable=False)
        if not answer.ref:
            raise KaggleError(f"{kernel}: was not accepted ({answer.message})")
        return answer.ref

    def submissions(self, slug: str) -> list[Submission]:
        """List the account's last submissions, newest first."""
        list_submissions = partial(self.api.competition_submissions, page_size=PAGE_SIZE)
        return [_submission(each) for each in self.caller.call(_competition(slug), list_submissions, slug) or []]

    def scored(self, slug: str, ref: int) -> Submission:
        """Wait until a submission has a score, or an error, and return it."""

        def poll() -> Submission | None:
            found = next((each for each in self.submissions(slug) if each.ref == ref), None)
            return found if found and found.state != "pending" else None

        return self.caller.wait(f"the score of submission {ref}", poll)

    def ranks(self, slug: str) -> Iterator[tuple[int, str, float]]:
        """Yield rank, team and score on the public leaderboard, best first."""
        pages = self._pages(_competition(slug), self._leaderboard, slug)
        for rank, row in enumerate((row for page in pages for row in page.rows), start=1):
            yield rank, row.team_name, float(row.score)

    def _leaderboard(self, slug: str, token: str | None, page_size: int) -> SimpleNamespace:
        printed = io.StringIO()  # the client returns a page, and prints the token of the next one
        with contextlib.redirect_stdout(printed):
            rows = self.api.competition_leaderboard_view(slug, page_size, token)
        return SimpleNamespace(rows=rows or [], next_page_token=printed.getvalue().partition("=")[2].strip())

    # ------------------------------------------------------------------------------------------ datasets

    def put_dataset(self, folder: Path, metadata: DatasetMetadata, note: str) -> bool:
        """Create a dataset, or a new version, and wait until its files are processed; returns whether it is new.

        Raises:
            KaggleError: if Kaggle refuses, or a file did not arrive, which the client ignores.
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
        self.caller.wait(what, lambda: self._is_ready(metadata.id, before or 0) or None, UPLOAD_TIMEOUT)
        self._check_arrived(metadata.id, set(files))
        return before is None

    def _status(self, reference: str) -> tuple[str, int | None]:
        """The state of a dataset and its version number."""
        text = self.caller.call(f"dataset {reference}", self.api.dataset_status, reference, "json")
        known = json.loads(text)
        return known["status"], known["current_version_number"]

    def _version(self, reference: str) -> int | None:
        """The version number of a dataset; None if there is no such dataset."""
        try:
            return self._status(reference)[1] or 0
        except UnknownError:
            return None

    def _is_ready(self, reference: str, before: int) -> bool:
        """Whether a version after `before` is ready; until it exists, Kaggle reports the earlier version."""
        try:
            state, version = self._status(reference)
        except UnknownError:  # created a moment ago
            return False
        if state == "failed":
            raise KaggleError(f"dataset {reference}: Kaggle could not process its files: upload it again")
        return state == "ready" and (version is None or version > before)

    def _check_arrived(self, reference: str, expected: set[str]) -> None:
        what = f"dataset {reference}"
        pages = self._pages(what, self.api.dataset_list_files, reference)
        missing = sorted(expected - {file.name for page in pages for file in page.dataset_files})
        if missing:
            raise KaggleError(f"{what}: {', '.join(missing)} did not arrive: upload it again")

    # ------------------------------------------------------------------------------------------ notebooks

    def push(self, folder: Path, metadata: KernelMetadata) -> KernelVersion:
        """Save a new version of a notebook, which Kaggle then runs.

        Raises:
            KaggleError: if Kaggle refuses, or does not find an attached input.
        """
        what = f"notebook {metadata.id}"
        answer = self.caller.call(what, self.api.kernels_push, str(folder), is_repeatable=False)
        missing = [name for kind in SOURCE_KINDS for name in getattr(answer, f"invalid_{kind}_sources") or []]
        if answer.error or missing:
            unknown = f"unknown to Kaggle: {', '.join(missing)}: run make upload, or join the competition"
            raise KaggleError(f"{what}: {answer.error or unknown}")
        return KernelVersion(metadata.id, answer.version_number, answer.url)

    def wait_for_run(self, kernel: KernelVersion) -> None:
        """Wait until Kaggle has run a notebook.

        Raises:
            EndedError: if it failed or was stopped; the last lines of its log are logged.
        """
        what = f"notebook {kernel.id}"

        def poll() -> Any:
            status = self.caller.call(what, self.api.kernels_status, kernel.id)
            return None if status.status.name in RUNNING_STATES else status

        ended = self.caller.wait(f"{what}, version {kernel.version}", poll)
        if ended.status.name != "COMPLETE":
            lines = log_lines(self.caller.call(what, self.api.kernels_logs, kernel.id))
            log.error("%s", without_secrets("\n".join(lines[-LAST_LINES:])))
            raise EndedError(f"{what} ended with: {ended.failure_message or ended.status.name.lower()}; {kernel.url}")

    def output(self, kernel: KernelVersion, file: str, folder: Path) -> Path:
        """Download an output file of a notebook's last version; returns its path.

        Raises:
            KaggleError: if there is no such file.
        """
        what = f"notebook {kernel.id}"
        found, _ = self.caller.call(what, self.api.kernels_output, kernel.id, str(folder), f"^{re.escape(file)}$", True)
        if str(folder / file) not in found:
            raise KaggleError(f"{what}, version {kernel.version}: has no output file {file}; {kernel.url}")
        return folder / file


def connect(sleep: Callable[[float], None] = time.sleep) -> Client:
    """Connect to Kaggle with the configured token.

    Raises:
        KaggleError: without the packages, without a token that Kaggle accepts, or without a network.
    """
    silence = contextlib.redirect_stdout(io.StringIO())  # the client prints long messages, which may show the token
    try:
        with silence:  # its import reads the token
            import tenacity  # noqa: F401 - used by the caller
            from kaggle.api.kaggle_api_extended import KaggleApi
    except ModuleNotFoundError as error:
        message = f"the package {error.name} is not installed: pip install -r requirements-kaggle.txt"
        raise KaggleError(message) from None
    # VERBOSE=1, which other programs use too, would print each call with the token.
    KaggleApi.args = [argument for argument in KaggleApi.args if argument != "--verbose"]
    keep_secret(os.environ.get("KAGGLE_KEY"), _configured_token())
    client = Client(KaggleApi(), Caller(sleep))
    try:
        with silence:
            client.caller.call("the account", client.api.authenticate)
    except SystemExit:
        raise KaggleError(_token_message()) from None
    keep_secret(client.api.config_values.get("key"), client.api.config_values.get("token"))
    return client


def _configured_token() -> str | None:
    """The configured access token, to hide it in messages; None if there is none."""
    from kagglesdk.kaggle_env import get_access_token_from_env

    return get_access_token_from_env()[0]


def _token_message() -> str:
    remedy = f"create a token at {TOKENS} and save it as ~/.kaggle/access_token, or set KAGGLE_API_TOKEN"
    problem = "no Kaggle token" if _configured_token() is None else "Kaggle does not accept the configured token"
    return f"{problem}: {remedy}"


def _competition(slug: str) -> str:
    return f"competition {slug}"


def flat_files(folder: Path) -> dict[str, int]:
    """Map the name of each file of a dataset to its size in bytes.

    Raises:
        ValueError: if there is a subfolder, which the client would ignore.
    """
    paths = [path for path in sorted(folder.iterdir()) if path.name != DATASET_FILE]
    inner = next((path for path in paths if path.is_dir()), None)
    if inner:
        raise ValueError(f"{folder}: has the subfolder {inner.name}/, which would not be uploaded: move its files up")
    return {path.name: path.stat().st_size for path in paths}


def log_lines(text: str) -> list[str]:
    """Return the lines of a notebook's log, which Kaggle stores as JSON.

    >>> log_lines('[{"stream_name":"stdout","time":1.5,"data":"one\\\\ntwo\\\\n"},{"time":2.0,"data":"three\\\\n"}]')
    ['one', 'two', 'three']
    """
    with contextlib.suppress(ValueError, KeyError, TypeError):  # plain text, if the run failed at its start
        text = "".join(each["data"] for each in json.loads(text))
    return text.splitlines()


def _submission(each: Any) -> Submission:
    return Submission(
        each.ref,
        each.date.isoformat(timespec="seconds") if each.date else "",
        each.status.name.lower(),
        each.error_description or "",
        _score(each.public_score),
        _score(each.private_score),
        each.team_name or "",
    )


def _score(text: str | None) -> float | None:
    return float(text) if text else None
