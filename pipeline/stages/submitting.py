"""The stages that talk to Kaggle: `download`, `upload`, `push`, `submit` and `leaderboard`."""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import competition
from pipeline.competition import Competition
from pipeline.data.index import test_search
from pipeline.data.reader import ImageError, size_reader
from pipeline.data.sample import Sample
from pipeline.files import write_text
from pipeline.kaggle.archive import unpack
from pipeline.kaggle.client import Client, KernelVersion, RemoteFile, Submission, connect, flat_files
from pipeline.kaggle.metadata import KERNEL_FILE, DatasetMetadata, KernelMetadata, competition_slugs, read_metadata
from pipeline.kaggle.retry import SITE, EndedError, KaggleError
from pipeline.kaggle.submission_history import Correlation, Entry, Row, correlations, read_entries, write_entries
from pipeline.manifest import read_submission_manifest
from pipeline.schema import Table, read_json
from pipeline.stages.drafting_card import files_of
from pipeline.submission import check_submission

log = logging.getLogger(__name__)

LISTING_FILE = ".kaggle.json"  # in a competition's folder: its files, written after the download
PUSHED_FILE = "pushed.json"  # in a notebook's folder: the version that Kaggle runs, or has run
OUTPUT_FILE = "submission.csv"  # of a notebook for a code competition


class Pushed(Table):
    """The content of pushed.json: a notebook version that was pushed."""

    id: str  # owner/slug
    version: int
    url: str
    digest: str  # of the notebook and its metadata
    ran: bool = False

    @property
    def kernel(self) -> KernelVersion:
        """The version on Kaggle."""
        return KernelVersion(self.id, self.version, self.url)


class DownloadResult(NamedTuple):
    """The outcome of the stage `download`."""

    folder: Path
    files: int
    is_new: bool  # False: it was downloaded before


class SubmitResult(NamedTuple):
    """The outcome of the stage `submit`."""

    entry: Entry
    record: Path
    oof_score: float | None  # cross-fitted; None of a blend
    metric: str
    rank: int | None  # on the public leaderboard; None if the team is not on it
    teams: int


class Leaderboard(NamedTuple):
    """All submissions to a competition, from the stage `leaderboard`."""

    rows: list[Row]
    correlations: list[Correlation]


def download(slug: str, folder: Path) -> DownloadResult:
    """Download and unpack a competition's files; an interrupted download resumes, and a finished one is not repeated.

    Writes: the folder, and in it .kaggle.json, the list of its files

    Raises:
        KaggleError: for what Kaggle refuses.
        ValueError: for a file of another size than on Kaggle.
        OSError: if the disk is full.
    """
    client = connect()
    files = client.files(slug)
    listing = [list(file) for file in files]
    marker = folder / LISTING_FILE
    remedy = "remove it, and run the command again"
    if marker.is_file() and read_json(marker, remedy, list) == listing:
        return DownloadResult(folder, len(files), is_new=False)
    size = sum(file.size for file in files)
    _check_free_space(folder, size)
    log.info("download %s: %d files, %d MiB", slug, len(files), size >> 20)
    unpack(client.download(slug, folder / ".download"), folder)
    _check_sizes(folder, files)
    shutil.rmtree(folder / ".download")
    write_text(marker, json.dumps(listing) + "\n")
    return DownloadResult(folder, len(files), is_new=True)


def _check_free_space(folder: Path, size: int) -> None:
    """Raise OSError if zip and unpacked files do not fit on the disk together; earlier downloads are counted."""
    folder.mkdir(parents=True, exist_ok=True)
    needed = 2 * size - sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{folder}: needs {needed >> 20} MiB during the download, {free >> 20} MiB are free: free some space"
        )


def _check_sizes(folder: Path, files: list[RemoteFile]) -> None:
    for file in files:
        path = folder / file.name
        if path.suffix == ".zip":  # unpacked and deleted; its members were checked
            continue
        size = path.stat().st_size if path.is_file() else None
        if size != file.size:
            found = "is missing" if size is None else f"has {size} bytes"
            raise ValueError(
                f"{path} {found}, expected {file.size} bytes as on Kaggle: remove {folder} and run the command again"
            )


def upload(folder: Path, note: str) -> dict[str, bool]:
    """Create the datasets of a bundle, or new versions of them; returns owner/slug of each, and whether it is new.

    Args:
        folder: of the bundle.
        note: on what changed.

    Raises:
        KaggleError: for what Kaggle refuses, or did not receive.
        ValueError: for a bundle of another account, or with subfolders; nothing is sent then.
    """
    datasets = {name: _metadata(folder / name, DatasetMetadata) for name in ("code", "weights")}
    for name in datasets:
        flat_files(folder / name)
    client = connect()
    for name, metadata in datasets.items():
        _check_owner(folder / name, metadata.id, client)
    for pushed in folder.glob(f"*/{PUSHED_FILE}"):
        pushed.unlink()  # that version uses the earlier datasets
    return {metadata.id: client.put_dataset(folder / name, metadata, note) for name, metadata in datasets.items()}


def push(folder: Path) -> KernelVersion:
    """Save a bundle's notebook as a new version on Kaggle, and wait until Kaggle has run it.

    If the wait is interrupted, the next call waits for the same version.

    Writes: pushed.json in the notebook's folder: the version, which `submit` uses

    Raises:
        KaggleError: for what Kaggle refuses, and if the notebook fails there.
        ValueError: for a notebook of another account.
    """
    metadata = _metadata(folder, KernelMetadata)
    client = connect()
    _check_owner(folder, metadata.id, client)
    digest = _hash_files(folder / KERNEL_FILE, folder / metadata.code_file)
    pushed = _read_pushed(folder)
    if pushed is None or pushed.ran or pushed.digest != digest:
        kernel = client.push(folder, metadata)
        pushed = Pushed(**kernel._asdict(), digest=digest)
        _write_pushed(folder, pushed)
    log.info("version %d of %s runs: %s", pushed.version, pushed.id, pushed.url)
    try:
        client.wait_for_run(pushed.kernel)
    except EndedError:
        (folder / PUSHED_FILE).unlink()
        raise
    _write_pushed(folder, pushed.model_copy(update={"ran": True}))
    return pushed.kernel


def _hash_files(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _read_pushed(folder: Path) -> Pushed | None:
    path = folder / PUSHED_FILE
    remedy = "remove it, and run make push, which saves a new version"
    return Pushed(**read_json(path, remedy, Pushed)) if path.is_file() else None


def _write_pushed(folder: Path, pushed: Pushed) -> None:
    write_text(folder / PUSHED_FILE, json.dumps(pushed.model_dump(), indent=1) + "\n")


def _metadata(folder: Path, kind: type) -> Any:
    metadata = read_metadata(folder)
    if not isinstance(metadata, kind):
        raise ValueError(f"{folder}: found {type(metadata).__name__}, expected {kind.__name__}: run make bundle again")
    return metadata


def _check_owner(folder: Path, reference: str, client: Client) -> None:
    owner = reference.partition("/")[0]
    if owner != client.user:
        raise ValueError(
            f"{folder}: belongs to '{owner}', but the token to '{client.user}': make bundle OWNER={client.user}"
        )


def submit(name: str, message: str, root: Path | None, notebook: Path | None = None) -> SubmitResult:
    """Submit a CSV or a notebook's output, wait for the score, and record both.

    Writes: submissions/<name>.kaggle.json

    Args:
        message: a note that Kaggle shows with the score.
        root: the folder of the competition's files, or a zip; None: that of the submission's config.
        notebook: the folder of a pushed notebook whose output is submitted instead of the CSV; None: the CSV.

    Raises:
        ValueError: for an empty message, and for a CSV that Kaggle would refuse; nothing is sent then.
        KaggleError: for what Kaggle refuses.
    """
    if not message.strip():
        raise ValueError(
            'no message: describe what changed, as in MESSAGE="longer training"; Kaggle shows it with the score'
        )
    manifest = read_manifest(name)
    card = _card_of(manifest)
    slug, root = slug_of(card), _root_of(manifest, card, root)
    kernel = _finished_version(notebook) if notebook else None
    client = connect()
    csv = client.output(kernel, OUTPUT_FILE, notebook / "output") if kernel else Path("submissions") / f"{name}.csv"
    check_csv(csv, card, root)
    entry = Entry(message=message, sha256=hashlib.sha256(csv.read_bytes()).hexdigest(), kernel=kernel and str(kernel))
    waiting = next((each for each in read_entries(name) if each == entry.model_copy(update={"ref": each.ref})), None)
    if waiting is None:
        description = f"{name} {_short_commit(manifest['commit'])}: {message}"
        if kernel:
            ref = client.submit_kernel(slug, kernel, OUTPUT_FILE, description)
        else:
            ref = client.submit(slug, csv, description)
        entry = entry.model_copy(update={"ref": ref})
        write_entries(name, [entry])  # before the wait: if interrupted, the same command waits for this submission
    done = client.scored(slug, (waiting or entry).ref)
    entry = _with_scores(waiting or entry, done)
    record = write_entries(name, [entry])
    if done.state == "error":
        raise KaggleError(f"submission {done.ref} was not scored: {done.error or 'no reason given'}")
    ranks = list(client.ranks(slug))
    rank = next((rank for rank, team, _ in ranks if team == done.team), None)
    return SubmitResult(entry, record, _oof_score(manifest), manifest["metric"], rank, len(ranks))


def _oof_score(manifest: Mapping[str, Any]) -> float | None:
    """The cross-fitted score by the official metric, where it is known."""
    return manifest.get("oof_official", manifest["oof_score"])


def _root_of(manifest: Mapping[str, Any], card: Competition, given: Path | None) -> Path:
    """The folder of the competition's files: the given one, or that of the submission's config, or data/<card>."""
    cfg = next(iter(manifest.get("configs", {}).values()), {})
    if given is not None:
        return files_of(cfg.get("competition", card.name), given)
    root = cfg.get("data", {}).get("root")
    return Path(root) if root else Path("data") / card.name


def _short_commit(commit: str | None) -> str:
    """A commit's first seven digits, and "+" if files differed from it."""
    return commit[:7] + "+" * commit.endswith("+") if commit else "uncommitted"


def read_manifest(name: str) -> dict[str, Any]:
    """Read how a submission was made.

    Raises:
        FileNotFoundError: if there is no such submission.
    """
    path = Path("submissions") / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file: run make ensemble CONFIG={name}, which writes it next to the CSV"
        )
    return read_submission_manifest(path)


def slug_of(card: Competition) -> str:
    """The slug of a card's competition, as in its address.

    Raises:
        ValueError: if the competition is not on Kaggle.
    """
    slugs = competition_slugs(card)
    if not slugs:
        raise ValueError(
            f'card {card.name}: not a Kaggle competition: set url = "{SITE}/competitions/<slug>" on the card'
        )
    return slugs[0]


def check_csv(csv: Path, card: Competition, root: Path) -> None:
    """Raise an error for a CSV that Kaggle would refuse; masks are decoded at the size of the local test images.

    Raises:
        FileNotFoundError, ValueError: as `submission.check_submission`.
    """
    files, reader = test_search(card, root).find_sources(hidden=True), size_reader(card)

    def size_of(image_id: str) -> tuple[int, int] | None:
        try:
            return reader.size(Sample(image_id, files[image_id])) if image_id in files else None
        except ImageError:
            return None

    check_submission(csv, card, root / card.files.sample_submission, size_of)


def _finished_version(folder: Path) -> KernelVersion:
    pushed = _read_pushed(folder)
    if pushed is None or not pushed.ran:
        raise FileNotFoundError(
            f"{folder / PUSHED_FILE}: has no version that ran: run make push first, and wait for it"
        )
    return pushed.kernel


def leaderboard(slug: str) -> Leaderboard:
    """List every submission to a competition with its OOF, public and private score.

    Writes: submissions/<name>.kaggle.json, with new scores

    Raises:
        KaggleError: if nothing was submitted, or Kaggle refuses.
    """
    paths = sorted(Path("submissions").glob("*.json"))
    manifests = {path.stem: read_manifest(path.stem) for path in paths if not path.name.endswith(".kaggle.json")}
    own = [name for name, manifest in manifests.items() if slug in _slugs_of(name, manifest)]
    recorded = {name: read_entries(name) for name in own}
    if not any(recorded.values()):
        raise KaggleError(f"no submission to {slug} in submissions/: run make submit CONFIG=<name> MESSAGE=…")
    known = {each.ref: each for each in connect().submissions(slug)}
    rows = []
    for name, entries in recorded.items():
        current = [_with_scores(entry, known.get(entry.ref)) for entry in entries]
        if current != entries:
            write_entries(name, current)
        rows += [Row(name, each.ref, _oof_score(manifests[name]), each.public, each.private) for each in current]
    rows.sort(key=lambda row: (row.oof is not None, row.oof or 0), reverse=True)
    return Leaderboard(rows, correlations(rows))


def _slugs_of(name: str, manifest: dict[str, Any]) -> tuple[str, ...]:
    """The competition's names on Kaggle; none if the submission's card is not there any more."""
    try:
        return competition_slugs(_card_of(manifest))
    except FileNotFoundError as error:
        log.warning("submissions/%s.json is left out: %s", name, error)
        return ()


def _card_of(manifest: dict[str, Any]) -> Competition:
    return competition.load(next(iter(manifest["configs"].values()))["competition"])


def _with_scores(entry: Entry, known: Submission | None) -> Entry:
    if known is None:
        return entry
    return entry.model_copy(update={"made": known.made, "public": known.public, "private": known.private})
