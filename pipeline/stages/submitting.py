"""The stages that talk to Kaggle: `download`, `upload`, `push`, `submit` and `leaderboard`."""

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from pipeline import competition
from pipeline.competition import Competition
from pipeline.data.index import test_search
from pipeline.data.reader import ImageError, read_size
from pipeline.files import write_text
from pipeline.kaggle.archive import unpack
from pipeline.kaggle.client import Client, Kernel, RemoteFile, Submission, connect, flat_files
from pipeline.kaggle.metadata import KERNEL_FILE, DatasetMetadata, KernelMetadata, competition_slugs, read_metadata
from pipeline.kaggle.retry import SITE, EndedError, KaggleError
from pipeline.kaggle.submission_history import Correlation, Entry, Row, correlations, read_entries, write_entries
from pipeline.manifest import read_submission_manifest
from pipeline.schema import Table, read_json
from pipeline.submission import check_submission

log = logging.getLogger(__name__)

LISTED = ".kaggle.json"  # in a competition's folder: the files that were downloaded, once all are there
PUSHED = "pushed.json"  # in a notebook's folder: the version that Kaggle runs, or ran
OUTPUT = "submission.csv"  # what a notebook for a code competition leaves


class Pushed(Table):
    """pushed.json."""

    id: str  # owner/slug
    version: int
    url: str
    digest: str  # of the notebook and its metadata
    ran: bool = False

    @property
    def kernel(self) -> Kernel:
        """The version."""
        return Kernel(self.id, self.version, self.url)


class Downloaded(NamedTuple):
    """What the stage `download` found or fetched."""

    folder: Path
    files: int
    fresh: bool


class Submitted(NamedTuple):
    """What the stage `submit` came to."""

    entry: Entry
    record: Path
    cv: float
    metric: str
    place: int | None  # on the public leaderboard; None where the team is not on it
    teams: int


class Board(NamedTuple):
    """What the stage `leaderboard` read."""

    rows: list[Row]
    correlations: list[Correlation]


def download(slug: str, folder: Path) -> Downloaded:
    """Fetch and unpack a competition's files; goes on where it was broken off, and does nothing if all are there.

    Writes: folder, and in it .kaggle.json, the list of its files

    Raises:
        KaggleError: for what Kaggle refuses; ValueError, OSError: for a file of another size, a full disk.
    """
    client = connect()
    files = client.files(slug)
    listing = [list(file) for file in files]
    marker = folder / LISTED
    remedy = "remove it, and the same command looks what is missing"
    if marker.is_file() and read_json(marker, remedy, list) == listing:
        return Downloaded(folder, len(files), fresh=False)
    size = sum(file.size for file in files)
    _refuse_full_disk(folder, size)
    log.info("download %s: %d files, %d MiB", slug, len(files), size >> 20)
    unpack(client.download(slug, folder / ".download"), folder)
    _check_sizes(folder, files)
    shutil.rmtree(folder / ".download")
    write_text(marker, json.dumps(listing) + "\n")
    return Downloaded(folder, len(files), fresh=True)


def _refuse_full_disk(folder: Path, size: int) -> None:
    """The zip and what is in it are there together for a while; of what came before, there is less to come."""
    folder.mkdir(parents=True, exist_ok=True)
    needed = 2 * size - sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(f"{folder}: {needed >> 20} MiB are needed for a while, {free >> 20} MiB are left: make room")


def _check_sizes(folder: Path, files: list[RemoteFile]) -> None:
    for file in files:
        path = folder / file.name
        if path.suffix == ".zip":  # taken apart, after each of its members was checked
            continue
        size = path.stat().st_size if path.is_file() else None
        if size != file.size:
            came = "is not there" if size is None else f"has {size} bytes"
            raise ValueError(f"{path} {came}, Kaggle lists {file.size}: remove {folder} and run the command again")


def upload(folder: Path, note: str) -> dict[str, bool]:
    """Create or renew the datasets of a bundle; returns the reference of each, and whether it is new.

    Args:
        folder: of the bundle.
        note: on what changed.

    Raises:
        KaggleError: for what Kaggle refuses, or did not get; ValueError: for a bundle of another account, or one with
            folders in it, before anything is sent.
    """
    described = {place: _own(folder / place, DatasetMetadata) for place in ("code", "weights")}
    for place in described:
        flat_files(folder / place)
    client = connect()
    for place, metadata in described.items():
        _refuse_other_owner(folder / place, metadata.id, client)
    for pushed in folder.glob(f"*/{PUSHED}"):
        pushed.unlink()  # it ran, or runs, with the datasets as they were
    return {metadata.id: client.put_dataset(folder / place, metadata, note) for place, metadata in described.items()}


def push(folder: Path) -> Kernel:
    """Save a bundle's notebook as a new version on Kaggle, and wait until Kaggle has run it.

    Cut off while it waits, it waits on for the version that runs.

    Writes: pushed.json in the notebook's folder: the version, which `submit` hands in

    Raises:
        KaggleError: for what Kaggle refuses, and a notebook that fails there; ValueError: for one of another account.
    """
    metadata = _own(folder, KernelMetadata)
    client = connect()
    _refuse_other_owner(folder, metadata.id, client)
    digest = _digest(folder / KERNEL_FILE, folder / metadata.code_file)
    pushed = _pushed(folder)
    if pushed is None or pushed.ran or pushed.digest != digest:
        kernel = client.push(folder, metadata)
        pushed = Pushed(**kernel._asdict(), digest=digest)
        _write_pushed(folder, pushed)
    log.info("version %d of %s runs: %s", pushed.version, pushed.id, pushed.url)
    try:
        client.run_through(pushed.kernel)
    except EndedError:
        (folder / PUSHED).unlink()
        raise
    _write_pushed(folder, pushed.model_copy(update={"ran": True}))
    return pushed.kernel


def _digest(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def _pushed(folder: Path) -> Pushed | None:
    path = folder / PUSHED
    remedy = "remove it, and make push saves a new version"
    return Pushed(**read_json(path, remedy, Pushed)) if path.is_file() else None


def _write_pushed(folder: Path, pushed: Pushed) -> None:
    write_text(folder / PUSHED, json.dumps(pushed.model_dump(), indent=1) + "\n")


def _own(folder: Path, kind: type) -> Any:
    metadata = read_metadata(folder)
    if not isinstance(metadata, kind):
        raise ValueError(f"{folder}: holds a {type(metadata).__name__}, expected a {kind.__name__}: make bundle again")
    return metadata


def _refuse_other_owner(folder: Path, reference: str, client: Client) -> None:
    owner = reference.partition("/")[0]
    if owner != client.user:
        raise ValueError(
            f"{folder}: belongs to '{owner}', the token to '{client.user}': make bundle OWNER={client.user}"
        )


def submit(name: str, message: str, root: Path | None, notebook: Path | None = None) -> Submitted:
    """Hand in a submission, wait for its score, and keep both.

    Writes: submissions/<name>.kaggle.json

    Args:
        root: where the competition's files lie; None: data/<competition>.
        notebook: hand in the output of this notebook's version on Kaggle in place of the CSV; a folder after `push`.

    Raises:
        ValueError: for a CSV that Kaggle would refuse, before it is sent, or no message.
        KaggleError: for what Kaggle refuses.
    """
    if not message.strip():
        raise ValueError('no message: say what is new in it, as MESSAGE="longer training"; it stands beside the score')
    manifest = read_manifest(name)
    card = competition.load(next(iter(manifest["configs"].values()))["competition"])
    slug, root = slug_of(card), root or Path("data") / card.name
    kernel = _ran(notebook) if notebook else None
    client = connect()
    csv = client.output(kernel, OUTPUT, notebook / "output") if kernel else Path("submissions") / f"{name}.csv"
    check_csv(csv, card, root)
    entry = Entry(message=message, sha256=hashlib.sha256(csv.read_bytes()).hexdigest(), kernel=kernel and str(kernel))
    waiting = next((each for each in read_entries(name) if each == entry.model_copy(update={"ref": each.ref})), None)
    if waiting is None:
        description = f"{name} {_short(manifest['commit'])}: {message}"
        entry = entry.model_copy(update={"ref": _hand_in(client, slug, csv, kernel, description)})
        write_entries(name, [entry])  # before the wait: cut off, the same command waits on
    done = client.scored(slug, (waiting or entry).ref)
    entry = _with_scores(waiting or entry, done)
    record = write_entries(name, [entry])
    if done.state == "error":
        raise KaggleError(f"submission {done.ref} was not scored: {done.error or 'no reason given'}")
    places = list(client.ranks(slug))
    place = next((place for place, team, _ in places if team == done.team), None)
    return Submitted(entry, record, manifest["oof_score"], manifest["metric"], place, len(places))


def _hand_in(client: Client, slug: str, csv: Path, kernel: Kernel | None, description: str) -> int:
    if kernel is None:
        return client.submit(slug, csv, description)
    return client.submit_kernel(slug, kernel, OUTPUT, description)


def _short(commit: str | None) -> str:
    """A commit's first seven digits, and "+" where files differed from it."""
    return commit[:7] + "+" * commit.endswith("+") if commit else "uncommitted"


def read_manifest(name: str) -> dict[str, Any]:
    """How a submission was made.

    Raises:
        FileNotFoundError: with what makes it.
    """
    path = Path("submissions") / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: make ensemble CONFIG={name} writes it, beside the CSV")
    return read_submission_manifest(path)


def slug_of(card: Competition) -> str:
    """The competition's name in Kaggle's addresses.

    Raises:
        ValueError: for a card of none of Kaggle's competitions.
    """
    slugs = competition_slugs(card)
    if not slugs:
        raise ValueError(f'card {card.name}: no competition of Kaggle\'s: set url = "{SITE}/competitions/<slug>" on it')
    return slugs[0]


def check_csv(csv: Path, card: Competition, root: Path) -> None:
    """Refuse a CSV that Kaggle would; texts are read at the size of the images that are here.

    Raises:
        FileNotFoundError, ValueError: as `submission.check_submission`.
    """
    files = test_search(card, root).find(hidden=True)

    def size_of(image_id: str) -> tuple[int, int] | None:
        try:
            return read_size(files[image_id]) if image_id in files else None
        except ImageError:
            return None

    check_submission(csv, card, root / card.files.sample_submission, size_of)


def _ran(folder: Path) -> Kernel:
    pushed = _pushed(folder)
    if pushed is None or not pushed.ran:
        raise FileNotFoundError(f"{folder / PUSHED}: names no version that ran: make push first, and wait for it")
    return pushed.kernel


def leaderboard(slug: str) -> Board:
    """Every submission to a competition with its own, public and private score.

    Writes: submissions/<name>.kaggle.json, with scores that came since
    """
    manifests = {name: read_manifest(name) for name in _submission_names()}
    kept = {name: read_entries(name) for name, manifest in manifests.items() if _slug_of_manifest(manifest) == slug}
    if not any(kept.values()):
        raise KaggleError(f"nothing was submitted to {slug} from here: make submit CONFIG=<name> MESSAGE=…")
    known = {each.ref: each for each in connect().submissions(slug)}
    rows = []
    for name, entries in kept.items():
        current = [_with_scores(entry, known.get(entry.ref)) for entry in entries]
        if current != entries:
            write_entries(name, current)
        rows += [Row(name, each.ref, manifests[name]["oof_score"], each.public, each.private) for each in current]
    rows.sort(key=lambda row: -row.cv)
    return Board(rows, correlations(rows))


def _submission_names() -> list[str]:
    paths = Path("submissions").glob("*.json")
    return sorted(path.stem for path in paths if not path.name.endswith(".kaggle.json"))


def _slug_of_manifest(manifest: dict[str, Any]) -> str | None:
    card = competition.load(next(iter(manifest["configs"].values()))["competition"])
    return next(iter(competition_slugs(card)), None)


def _with_scores(entry: Entry, known: Submission | None) -> Entry:
    if known is None:
        return entry
    return entry.model_copy(update={"made": known.made, "public": known.public, "private": known.private})
