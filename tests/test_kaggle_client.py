"""Kaggle's client 2.2.4 against a mock server on the loopback: each command, and the message of each refusal."""

import base64
import hashlib
import json
import logging
import os
import random
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import types
from collections import deque
from functools import partial
from pathlib import Path

import kagglesdk.kaggle_env
import pytest

from pipeline.cli import main
from pipeline.kaggle import archive, client, retry, secrets
from pipeline.kaggle.metadata import DatasetMetadata, KernelMetadata, License, read_metadata, write_metadata
from pipeline.kaggle.retry import KaggleError
from pipeline.kaggle.submission_history import Entry, Row, correlations, read_entries, write_entries
from pipeline.stages import submitting
from tests import kaggle_server
from tests.kaggle_server import TOKEN, USER, Fault, Kaggle, zipped

ROOT = Path(__file__).parent.parent
SLUG = "tgs-salt-identification-challenge"
FILES = {"train.csv": b"id,rle\n", "train/1.png": b"one" * 500, "sample_submission.csv": b"id,rle\n1,\n"}


class Waits(list):
    """The seconds of each sleep; none of them is slept."""

    def append(self, seconds: float) -> None:
        assert len(self) < 1000, "waits for ever"
        super().append(seconds)


@pytest.fixture
def slept() -> list[float]:
    return Waits()


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A home folder without a token, no network but the loopback, and an empty current folder."""
    folder = tmp_path / "home"
    (folder / ".kaggle").mkdir(parents=True)
    for name in ("HOME", "TMPDIR"):
        monkeypatch.setenv(name, str(folder))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_CONFIG_DIR", "DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(socket, "getaddrinfo", partial(only_here, socket.getaddrinfo))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


def only_here(resolve, host, *arguments, **keywords):
    assert host == "127.0.0.1", f"a test reached for {host}"
    return resolve(host, *arguments, **keywords)


@pytest.fixture
def kaggle(home, monkeypatch, slept):
    """The mock Kaggle, with a token for it in the environment."""
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    with Kaggle() as server:
        endpoints = {kagglesdk.kaggle_env.KaggleEnv.LOCAL: server.url}  # the only endpoint
        monkeypatch.setattr(kagglesdk.kaggle_env, "_env_to_endpoint", endpoints)
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        from kaggle.api import kaggle_api_extended as extended

        server.calls.clear()  # the first import in a process asks whose token it is
        monkeypatch.setattr(extended.KaggleApi, "args", ["--local"])
        clock = types.SimpleNamespace(sleep=slept.append, time=time.time, mktime=time.mktime)
        monkeypatch.setattr(extended, "time", clock)
        monkeypatch.setattr(submitting, "connect", partial(client.connect, slept.append))
        server.files[SLUG] = dict(FILES)
        yield server


@pytest.fixture
def connected(kaggle, slept):
    return client.connect(slept.append)


# ----------------------------------------------------------------------------------------------- the token


def test_the_account_is_that_of_the_token(connected):
    assert connected.user == USER


def test_without_a_token_the_error_tells_where_to_save_one(kaggle, monkeypatch, capsys):
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    assert main(["download", SLUG]) == 2
    said = capsys.readouterr()
    assert said.err == (
        "pipeline download: no Kaggle token: create a token at https://www.kaggle.com/settings/api and save it as "
        "~/.kaggle/access_token, or set KAGGLE_API_TOKEN\n"
    )
    assert said.out == ""
    assert kaggle.calls == []


def test_a_token_in_the_home_is_found(kaggle, monkeypatch, home):
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    (home / ".kaggle/access_token").write_text(TOKEN)
    assert client.connect().user == USER


def test_a_wrong_token_is_reported(kaggle, monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "wrong")
    with pytest.raises(KaggleError, match="does not accept the configured token: create a token at https"):
        client.connect()


def test_an_expired_token_is_reported(connected, kaggle):
    kaggle.fail("ListDataFiles", Fault(401, "Unauthenticated"))
    with pytest.raises(
        KaggleError, match=r"does not accept the configured token \(401: Unauthenticated\): create one at https"
    ):
        connected.files(SLUG)


# ----------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("faults", "expected"),
    [
        (
            [Fault(403, "You must accept this competition's rules")],
            f"competition {SLUG}: accept its rules first, at https://www.kaggle.com/competitions/{SLUG}/rules "
            "(403: You must accept this competition's rules)",
        ),
        ([Fault(400, "Bad name")], f"competition {SLUG}: Kaggle refuses (400: Bad name)"),
        (
            [Fault(500, body=b"<html>")] * 5,
            f"competition {SLUG}: Kaggle has an internal error (500), after 5 attempts: try later",
        ),
        ([Fault(429)] * 5, f"competition {SLUG}: too many requests to Kaggle (429): wait some minutes"),
        (
            [Fault(429, headers={"Retry-After": "7200"})],
            f"competition {SLUG}: too many requests to Kaggle (429): wait 2:00:00",
        ),
        (
            [Fault(200, body=b"<html>Sign in</html>")],
            f"competition {SLUG}: the answer is not from Kaggle: is there a login page between here and "
            "https://www.kaggle.com?",
        ),
    ],
    ids=["rules", "400", "500", "429", "429 for long", "no JSON"],
)
def test_a_refusal_is_one_line_with_a_remedy(kaggle, capsys, faults, expected):
    kaggle.fail("ListDataFiles", *faults)
    assert main(["download", SLUG]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"pipeline download: {expected}"
    assert len(kaggle.asked("ListDataFiles")) == len(faults)


def test_an_unknown_competition_suggests_the_nearest_card(kaggle, capsys):
    assert main(["download", "tgs-salt-identification"]) == 2
    said = capsys.readouterr().err
    assert "Kaggle has no competition tgs-salt-identification (404: Not found)." in said
    assert "Did you mean 'tgs-salt-identification-challenge'?" in said


def test_a_missing_network_is_reported(kaggle, capsys):
    kaggle.__exit__()
    assert main(["download", SLUG]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == (
        "pipeline download: the account: Kaggle cannot be reached: check the network"
    )


def test_temporary_errors_are_retried_with_growing_delays(connected, kaggle, slept, caplog):
    kaggle.fail("ListDataFiles", Fault(500), Fault(503), Fault(429), Fault(502))
    with caplog.at_level(logging.WARNING, logger="pipeline"):
        assert len(connected.files(SLUG)) == 3
    assert slept == [2, 4, 8, 16]
    assert "Kaggle answers 503: attempt 3 of 5 in 4 s" in caplog.text


def test_retry_after_sets_the_delay(connected, kaggle, slept):
    past = {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}
    kaggle.fail("ListDataFiles", Fault(429, headers={"Retry-After": "7"}), Fault(503, headers=past))
    connected.files(SLUG)
    assert slept == [7, 0]
    kaggle.fail("ListDataFiles", Fault(429, headers={"Retry-After": "601"}))
    with pytest.raises(KaggleError, match="wait 10:01"):
        connected.files(SLUG)


# ----------------------------------------------------------------------------------------------- download


def fetched() -> dict[str, bytes]:
    root = Path("data") / SLUG
    paths = [path for path in root.rglob("*") if path.is_file() and path.name != ".kaggle.json"]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def test_a_competition_is_downloaded_once_and_unpacked(kaggle, capsys):
    assert main(["download", SLUG]) == 0
    assert capsys.readouterr().out == f"data        data/{SLUG}  3 files\n"
    assert fetched() == FILES
    assert main(["download", SLUG]) == 0
    assert "all downloaded before" in capsys.readouterr().out
    assert len(kaggle.asked("DownloadDataFiles")) == 1


def test_zips_inside_are_unpacked(kaggle):
    kaggle.files[SLUG] = {"train.zip": zipped({"1.png": b"one"}), "sample_submission.csv": b"id"}
    submitting.download(SLUG, Path("data") / SLUG)
    assert fetched() == {"train/1.png": b"one", "sample_submission.csv": b"id"}


@pytest.fixture
def large(kaggle) -> dict[str, bytes]:
    """Files of 3 MiB that cannot be compressed: the client writes 1 MiB at a time."""
    kaggle.files[SLUG]["noise"] = random.Random(0).randbytes(3 << 20)
    return kaggle.files[SLUG]


def test_a_broken_download_resumes(kaggle, large, slept):
    kaggle.fail("download", Fault(kept=0.7))
    submitting.download(SLUG, Path("data") / SLUG)
    assert fetched() == large
    assert kaggle.ranges == [None, f"bytes={2 << 20}-"]
    assert len(slept) == 1  # by the client


def test_a_failed_download_resumes_with_the_next_command(kaggle, large, capsys, monkeypatch):
    monkeypatch.setattr(retry, "MAX_ATTEMPTS", 2)
    kaggle.fail("download", Fault(kept=0.7), *[Fault(kept=0)] * 40)
    assert main(["download", SLUG]) == 2
    assert f"competition {SLUG}: Kaggle cannot be reached" in capsys.readouterr().err
    kaggle.faults["download"].clear()
    kaggle.ranges.clear()
    assert main(["download", SLUG]) == 0
    assert kaggle.ranges == [None, f"bytes={2 << 20}-"]  # the first request checks whether the file is the same
    assert fetched() == large


def interrupted(*_):
    raise KeyboardInterrupt  # not a signal: an earlier notebook in this process may have left a handler


def test_interrupted_unpacking_resumes_without_another_download(kaggle, monkeypatch):
    extract = archive._extract
    monkeypatch.setattr(archive, "_extract", interrupted)
    assert main(["download", SLUG]) == 130
    monkeypatch.setattr(archive, "_extract", extract)
    kaggle.fail("download", Fault(kept=0))  # reading it would fail
    assert main(["download", SLUG]) == 0
    assert fetched() == FILES
    assert kaggle.ranges == [None, None]


def test_a_full_disk_is_reported_and_the_download_kept(kaggle, capsys):
    part = Path("data") / SLUG / ".download" / f"{SLUG}.zip"
    part.parent.mkdir(parents=True)
    part.symlink_to("/dev/full")
    assert main(["download", SLUG]) == 2
    said = capsys.readouterr().err
    assert f"competition {SLUG}: the disk is full: free some space, and run the command again" in said


def test_a_disk_that_is_too_small_is_refused_before_the_download(kaggle, capsys):
    kaggle.listed[SLUG] = {"train/1.png": 1 << 60}
    assert main(["download", SLUG]) == 2
    assert "free some space" in capsys.readouterr().err
    assert kaggle.asked("DownloadDataFiles") == []


def test_a_file_of_another_size_than_listed_is_refused(kaggle, capsys):
    kaggle.listed[SLUG] = {"train/1.png": 1499}
    assert main(["download", SLUG]) == 2
    assert f"data/{SLUG}/train/1.png has 1500 bytes, expected 1499 bytes as on Kaggle" in capsys.readouterr().err
    kaggle.listed[SLUG] = {"train/2.png": 3}
    assert main(["download", SLUG]) == 2
    assert f"data/{SLUG}/train/2.png is missing, expected 3 bytes as on Kaggle" in capsys.readouterr().err


def test_a_download_that_is_no_zip_is_reported(kaggle, capsys):
    kaggle.fail("download", Fault(body=b"<html>Sign in</html>"))
    assert main(["download", SLUG]) == 2
    assert "damaged zip" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------- datasets


@pytest.fixture
def bundle() -> Path:
    """A bundle's folder as written by make bundle."""
    folder = Path("dist/kaggle/tiny")
    files = {"code": ("a.whl", "wheels.json"), "weights": ("f0.safetensors", "bundle.json", "c.toml")}
    for word, names in files.items():
        (folder / word).mkdir(parents=True)
        for name in names:
            (folder / word / name).write_text(f"{word}: {name}")
        metadata = DatasetMetadata(title=f"tiny-{word}", id=f"{USER}/tiny-{word}", licenses=(License(name="other"),))
        write_metadata(folder / word, metadata)
    (folder / "notebook").mkdir()
    (folder / "notebook/submit.ipynb").write_text(json.dumps({"cells": []}))
    notebook = KernelMetadata(
        id=f"{USER}/tiny-submit",
        title="tiny-submit",
        code_file="submit.ipynb",
        enable_internet=False,
        dataset_sources=(f"{USER}/tiny-code", f"{USER}/tiny-weights"),
        competition_sources=(SLUG,),
    )
    write_metadata(folder / "notebook", notebook)
    return folder


def held(kaggle: Kaggle) -> dict[str, dict[str, str]]:
    return {
        reference: {name: content.decode() for name, content in dataset["files"].items()}
        for reference, dataset in kaggle.datasets.items()
    }


def test_datasets_are_created_and_then_updated(kaggle, bundle, capsys):
    assert main(["upload", "tiny"]) == 0
    assert capsys.readouterr().out == f"created     {USER}/tiny-code\ncreated     {USER}/tiny-weights\n"
    there = {
        f"{USER}/tiny-code": {name: f"code: {name}" for name in ("a.whl", "wheels.json")},
        f"{USER}/tiny-weights": {name: f"weights: {name}" for name in ("f0.safetensors", "bundle.json", "c.toml")},
    }
    assert held(kaggle) == there
    (bundle / "weights/f0.safetensors").write_text("better")
    assert main(["upload", "tiny", "--message", "longer trained"]) == 0
    assert capsys.readouterr().out == f"updated     {USER}/tiny-code\nupdated     {USER}/tiny-weights\n"
    there[f"{USER}/tiny-weights"]["f0.safetensors"] = "better"
    assert held(kaggle) == there
    assert kaggle.asked("CreateDatasetVersion")[1]["body"]["versionNotes"] == "longer trained"


def test_privacy_of_datasets_follows_their_metadata(kaggle, bundle):
    code = read_metadata(bundle / "code")
    write_metadata(bundle / "code", code.model_copy(update={"isPrivate": False}))
    submitting.upload(bundle, "note")
    assert [each.get("isPrivate", False) for each in kaggle.asked("CreateDataset")] == [False, True]


def test_an_upload_waits_until_kaggle_has_processed_the_files(kaggle, bundle, slept):
    kaggle.states.extend(["not_yet_persisted", "blobs_received"])  # polled only after the dataset exists
    submitting.upload(bundle, "note")
    assert slept == [10, 10]


def test_an_upload_waits_for_its_own_version(kaggle, bundle, slept, monkeypatch):
    submitting.upload(bundle, "note")
    get, looks = Kaggle.get_dataset, []

    def behind(self, body):
        looks.append(body)
        return {"currentVersionNumber": 1} if len(looks) < 4 else get(self, body)

    monkeypatch.setitem(kaggle_server.CALLS, "GetDataset", behind)
    submitting.upload(bundle, "note")
    assert slept == [10, 10]


def test_an_upload_has_a_timeout(kaggle, bundle, slept, monkeypatch):
    monkeypatch.setattr(client, "UPLOAD_TIMEOUT", 60.0)
    kaggle.states.extend(["reprocessing"] * 100)
    with pytest.raises(KaggleError, match=rf"dataset {USER}/tiny-code: no result after 1:00: look at https"):
        submitting.upload(bundle, "note")
    assert sum(slept) == 60


def test_a_file_that_did_not_arrive_is_an_error(kaggle, bundle, capsys):
    kaggle.fail("put", Fault(400))  # the client ignores it, and ends with 0
    assert main(["upload", "tiny"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"pipeline upload: dataset {USER}/tiny-code: ")
    assert said.endswith(" did not arrive: upload it again")
    assert main(["upload", "tiny"]) == 0


def test_files_that_kaggle_cannot_process_are_an_error(kaggle, bundle):
    kaggle.states.extend(["blobs_received", "failed"])
    with pytest.raises(KaggleError, match="could not process its files: upload it again"):
        submitting.upload(bundle, "note")


def test_a_refused_dataset_is_an_error(kaggle, bundle, monkeypatch):
    monkeypatch.setitem(kaggle_server.CALLS, "CreateDataset", lambda *_: {"status": "error", "error": "Title taken"})
    with pytest.raises(KaggleError, match=f"dataset {USER}/tiny-code: Title taken"):
        submitting.upload(bundle, "note")


def test_a_subfolder_is_refused_before_the_upload(kaggle, bundle):
    (bundle / "weights/more").mkdir()
    with pytest.raises(ValueError, match="has the subfolder more/, which would not be uploaded: move its files up"):
        submitting.upload(bundle, "note")
    assert kaggle.asked("CreateDataset") == []


def test_a_bundle_of_another_account_is_refused(kaggle, bundle):
    metadata = read_metadata(bundle / "code")
    write_metadata(bundle / "code", metadata.model_copy(update={"id": "bob/tiny-code"}))
    with pytest.raises(ValueError, match=f"belongs to 'bob', but the token to '{USER}': make bundle OWNER={USER}"):
        submitting.upload(bundle, "note")
    assert kaggle.asked("StartBlobUpload") == []


# ----------------------------------------------------------------------------------------------- notebooks


def test_a_notebook_is_pushed_and_waited_for(kaggle, bundle, slept, capsys):
    submitting.upload(bundle, "note")
    kaggle.statuses.extend([{"status": "queued"}, {"status": "running"}, {"status": "running"}])
    assert main(["push", "tiny"]) == 0
    url = f"https://www.kaggle.com/code/{USER}/tiny-submit"
    assert capsys.readouterr().out == f"notebook    {USER}/tiny-submit  version 3 ran, {url}\n"
    assert slept == [10, 10, 10]
    (asked,) = kaggle.asked("SaveKernel")
    assert asked["enableInternet"] is False
    assert asked["competitionDataSources"] == [SLUG]


def test_a_notebook_that_fails_shows_the_end_of_its_log(kaggle, bundle, capsys):
    submitting.upload(bundle, "note")
    events = [{"stream_name": "stdout", "time": line, "data": f"line {line}\n"} for line in range(30)]
    kaggle.log = json.dumps(events)
    kaggle.statuses.append({"status": "error", "failureMessage": "CUDA out of memory"})
    assert main(["push", "tiny"]) == 2
    said = capsys.readouterr().err
    assert "line 15\n" in said
    assert "line 14\n" not in said
    assert said.splitlines()[-1].startswith(
        f"pipeline push: notebook {USER}/tiny-submit ended with: CUDA out of memory; https"
    )
    assert not (bundle / "notebook/pushed.json").exists()


def stop(_: float) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_push_waits_for_the_same_version(kaggle, bundle, monkeypatch, slept):
    submitting.upload(bundle, "note")
    kaggle.statuses.extend([{"status": "running"}] * 2)
    monkeypatch.setattr(submitting, "connect", partial(client.connect, stop))
    assert main(["push", "tiny"]) == 130
    monkeypatch.setattr(submitting, "connect", partial(client.connect, slept.append))
    assert main(["push", "tiny"]) == 0
    assert slept == [10]
    assert len(kaggle.asked("SaveKernel")) == 1
    submitting.push(bundle / "notebook")  # it has run: a new version is pushed
    assert len(kaggle.asked("SaveKernel")) == 2


@pytest.mark.parametrize("change", ["notebook", "datasets", "failure"])
def test_a_push_after_a_change_saves_a_new_version(kaggle, bundle, monkeypatch, slept, change):
    submitting.upload(bundle, "note")
    kaggle.statuses.append({"status": "error" if change == "failure" else "running"})
    monkeypatch.setattr(submitting, "connect", partial(client.connect, stop))
    assert main(["push", "tiny"]) != 0
    monkeypatch.setattr(submitting, "connect", partial(client.connect, slept.append))
    if change == "notebook":
        (bundle / "notebook/submit.ipynb").write_text(json.dumps({"cells": [], "metadata": {}}))
    elif change == "datasets":
        submitting.upload(bundle, "note")
    submitting.push(bundle / "notebook")
    assert len(kaggle.asked("SaveKernel")) == 2


def test_a_cancelled_notebook_is_an_error(kaggle, bundle):
    submitting.upload(bundle, "note")
    kaggle.statuses.append({"status": "cancel_acknowledged"})
    with pytest.raises(KaggleError, match="ended with: cancel_acknowledged"):
        submitting.push(bundle / "notebook")


def test_missing_datasets_of_a_notebook_are_named(kaggle, bundle):
    with pytest.raises(KaggleError, match=f"unknown to Kaggle: {USER}/tiny-code, {USER}/tiny-weights: run make upload"):
        submitting.push(bundle / "notebook")


def test_a_push_without_an_answer_is_not_repeated(kaggle, bundle):
    kaggle.fail("SaveKernel", Fault(500))
    with pytest.raises(KaggleError, match="no answer came, but it may have been accepted: look at https"):
        submitting.push(bundle / "notebook")
    assert len(kaggle.asked("SaveKernel")) == 1


def test_a_token_that_expires_while_a_notebook_runs_is_reported(kaggle, bundle):
    submitting.upload(bundle, "note")
    kaggle.fail("GetKernelSessionStatus", Fault(401, "Expired"))
    with pytest.raises(KaggleError, match=r"does not accept the configured token \(401: Expired\)"):
        submitting.push(bundle / "notebook")


# ----------------------------------------------------------------------------------------------- submissions


@pytest.fixture
def handed(kaggle, tiny, bundle, edit):
    """The tiny competition as a Kaggle competition, with a submission."""
    edit(
        "tiny.toml", 'metric = "mean_dice"', f'metric = "mean_dice"\nurl = "https://www.kaggle.com/competitions/{SLUG}"'
    )
    write_submission("tiny", 0.9)
    kaggle.teams = [("bob", "0.99"), ("eve", "0.95"), (USER, "0.91"), ("mal", "0.1")]
    kaggle.scores.extend([{}, {"status": "complete", "publicScore": "0.91"}])
    return tiny


def write_submission(name: str, score: float) -> None:
    Path("submissions").mkdir(exist_ok=True)
    shutil.copyfile("tiny/sample_submission.csv", f"submissions/{name}.csv")
    manifest = {
        "competition": "tiny",
        "configs": {name: {"competition": "tiny.toml"}},
        "metric": "mean_dice",
        "oof_score": score,
        "commit": "0123456789ab+",
        "made": "2026-01-01T00:00:00+00:00",
        "versions": {},
    }
    Path(f"submissions/{name}.json").write_text(json.dumps(manifest))


SUBMIT = ["submit", "tiny", "--message", "first try", "--data", "tiny"]


def test_submit_prints_and_records_score_and_rank(kaggle, handed, capsys, slept):
    assert main(SUBMIT) == 0
    said = capsys.readouterr().out
    assert [line.split() for line in said.splitlines()] == [
        ["public", "0.91000", "mean_dice"],
        ["OOF", "0.90000"],
        ["rank", "3", "of", "4", "teams", "on", "the", "public", "leaderboard"],
        ["record", "submissions/tiny.kaggle.json:", "commit", "it"],
    ]
    assert slept == [10]
    csv = Path("submissions/tiny.csv").read_bytes()
    assert kaggle.uploads == {"token-0": ("tiny.csv", csv)}
    assert kaggle.asked("CreateSubmission")[0]["submissionDescription"] == "tiny 0123456+: first try"
    assert json.loads(Path("submissions/tiny.kaggle.json").read_text()) == [
        {
            "ref": 100,
            "made": "2026-01-02T03:04:05",
            "message": "first try",
            "sha256": hashlib.sha256(csv).hexdigest(),
            "kernel": None,
            "public": 0.91,
            "private": None,
        }
    ]


def test_a_csv_that_kaggle_would_refuse_is_not_sent(kaggle, handed, capsys):
    csv = Path("submissions/tiny.csv")
    csv.write_text("".join(csv.read_text().splitlines(keepends=True)[:-1]))
    assert main(SUBMIT) == 2
    assert "submissions/tiny.csv: 4 rows, but the sample submission has 5" in capsys.readouterr().err
    assert kaggle.asked("StartSubmissionUpload") == []


def test_an_interrupted_wait_for_a_score_resumes_without_another_submission(kaggle, handed, monkeypatch, slept):
    monkeypatch.setattr(submitting, "connect", partial(client.connect, stop))
    assert main(SUBMIT) == 130
    monkeypatch.setattr(submitting, "connect", partial(client.connect, slept.append))
    assert main(SUBMIT) == 0
    assert len(kaggle.submissions) == 1
    assert [entry.public for entry in read_entries("tiny")] == [0.91]
    kaggle.scores.append({"status": "complete", "publicScore": "0.92"})
    assert main(SUBMIT) == 0  # it has a score: a new submission is made
    assert [(entry.ref, entry.public) for entry in read_entries("tiny")] == [(100, 0.91), (101, 0.92)]


def test_a_submission_without_a_message_is_not_sent(kaggle, handed, capsys):
    assert main(["submit", "tiny", "--message", " ", "--data", "tiny"]) == 2
    assert "no message: describe what changed" in capsys.readouterr().err
    assert kaggle.calls == []


def test_a_submission_that_cannot_be_scored_is_reported_and_recorded(kaggle, handed, capsys):
    kaggle.scores = deque([{"status": "error", "errorDescription": "Submission contains 3 null values"}])
    assert main(SUBMIT) == 2
    assert "submission 100 was not scored: Submission contains 3 null values" in capsys.readouterr().err
    assert json.loads(Path("submissions/tiny.kaggle.json").read_text())[0]["ref"] == 100


def test_a_submission_whose_upload_fails_is_an_error(kaggle, handed, capsys):
    kaggle.fail("put", Fault(400))  # the client prints it, and continues
    assert main(SUBMIT) == 2
    assert "submissions/tiny.csv: was not accepted" in capsys.readouterr().err
    assert kaggle.submissions == []
    assert not Path("submissions/tiny.kaggle.json").exists()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault(500), "it may have been accepted: look at https://www.kaggle.com before you run the command again"),
        (Fault(400, "Daily limit reached"), "Kaggle refuses (400: Daily limit reached)"),
    ],
)
def test_a_submission_that_may_be_accepted_is_not_repeated(kaggle, handed, capsys, fault, said):
    kaggle.fail("CreateSubmission", fault)
    assert main(SUBMIT) == 2
    assert said in capsys.readouterr().err
    assert len(kaggle.asked("CreateSubmission")) == 1


def test_a_submission_is_repeated_after_429(kaggle, handed):
    kaggle.fail("CreateSubmission", Fault(429))
    assert main(SUBMIT) == 0
    assert len(kaggle.submissions) == 1


def test_a_card_without_a_kaggle_competition_cannot_be_submitted(kaggle, tiny, bundle, capsys):
    write_submission("tiny", 0.9)
    assert main(SUBMIT) == 2
    assert 'set url = "https://www.kaggle.com/competitions/<slug>" on the card' in capsys.readouterr().err


def test_the_output_of_a_notebook_is_checked_and_submitted(kaggle, handed, capsys):
    Path("submissions/tiny.csv").unlink()  # only the notebook's output is submitted
    output = Path("tiny/sample_submission.csv").read_bytes()
    kaggle.output = {"submission.csv": output, "other.txt": b"-"}
    main(["upload", "tiny"])
    main(["push", "tiny"])
    assert main([*SUBMIT, "--kernel"]) == 0
    (asked,) = kaggle.asked("CreateCodeSubmission")
    assert (asked["kernelOwner"], asked["kernelSlug"], asked["kernelVersion"]) == (USER, "tiny-submit", 3)
    assert asked["fileName"] == "submission.csv"
    (entry,) = json.loads(Path("submissions/tiny.kaggle.json").read_text())
    assert entry["kernel"] == f"{USER}/tiny-submit, version 3"
    assert entry["sha256"] == hashlib.sha256(output).hexdigest()

    kaggle.output["submission.csv"] = b"id,rle_mask\n"
    assert main([*SUBMIT, "--kernel"]) == 2
    assert "0 rows, but the sample submission has 5" in capsys.readouterr().err
    del kaggle.output["submission.csv"]
    assert main([*SUBMIT, "--kernel"]) == 2
    assert "has no output file submission.csv" in capsys.readouterr().err
    assert len(kaggle.asked("CreateCodeSubmission")) == 1


def test_a_notebook_that_was_not_pushed_cannot_be_submitted(kaggle, handed, capsys):
    assert main([*SUBMIT, "--kernel"]) == 2
    assert (
        "dist/kaggle/tiny/notebook/pushed.json: has no version that ran: run make push first" in capsys.readouterr().err
    )


# ----------------------------------------------------------------------------------------------- leaderboard


def test_leaderboard_lists_every_submission_with_all_scores(kaggle, handed, capsys):
    kaggle.scores.clear()
    ours = {"a": (0.9, "0.7", "0.6"), "b": (0.8, "0.8", "0.5"), "c": (0.7, "0.6", "0.4"), "d": (0.6, None, None)}
    for ref, (name, (cv, public, private)) in enumerate(ours.items()):
        write_submission(name, cv)
        write_entries(name, [Entry(ref=ref, made="", message="", sha256="")])
        scores = {"publicScore": public, "privateScore": private, "status": "complete" if public else "pending"}
        kaggle.submissions.append({"ref": ref, "date": "2026-01-02T03:04:05Z"} | scores)
    assert main(["leaderboard", SLUG]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:5]] == [
        ["name", "submission", "OOF", "public", "private"],
        ["a", "0", "0.90000", "0.70000", "0.60000"],
        ["b", "1", "0.80000", "0.80000", "0.50000"],
        ["c", "2", "0.70000", "0.60000", "0.40000"],
        ["d", "3", "0.60000"],
    ]
    # Ranks by OOF 1 2 3, public 2 1 3: 1 - 6 * (1 + 1 + 0) / (3 * 8) = 0.5.
    assert lines[5:] == [
        "OOF and public: rank correlation +0.50 of 3 submissions",
        "OOF and private: rank correlation +1.00 of 3 submissions",
        "public and private: rank correlation +0.50 of 3 submissions",
    ]
    assert json.loads(Path("submissions/a.kaggle.json").read_text())[0]["private"] == 0.6


def test_two_or_equal_scores_have_no_rank_correlation():
    rows = [Row("a", 1, 0.9, 0.8, 0.7), Row("b", 2, 0.8, 0.7, 0.7), Row("c", 3, 0.7, None, 0.7)]
    assert correlations(rows) == []


def test_a_submission_whose_card_is_gone_is_left_out_of_the_leaderboard(kaggle, handed, capsys):
    kaggle.scores.clear()
    for ref, name in enumerate("ab"):
        write_submission(name, 0.9)
        write_entries(name, [Entry(ref=ref, made="", message="", sha256="")])
        kaggle.submissions.append(
            {"ref": ref, "date": "2026-01-02T03:04:05Z", "publicScore": "0.7", "status": "complete"}
        )
    path = Path("submissions/b.json")
    path.write_text(path.read_text().replace("tiny.toml", "gone.toml"))
    assert main(["leaderboard", SLUG]) == 0
    said = capsys.readouterr()
    assert "submissions/b.json is left out: gone.toml: no such file" in said.err
    assert said.out.splitlines()[1].split()[:2] == ["a", "0"]


def test_a_csv_is_checked_against_the_files_of_its_config(kaggle, handed, capsys):
    path = Path("submissions/tiny.json")
    manifest = json.loads(path.read_text())
    manifest["configs"]["tiny"]["data"] = {"root": "tiny"}
    path.write_text(json.dumps(manifest))
    assert main(SUBMIT[:4]) == 0


def test_a_leaderboard_without_submissions_is_an_error(kaggle, handed, capsys):
    assert main(["leaderboard", SLUG]) == 2
    assert f"no submission to {SLUG} in submissions/: run make submit" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------- secrets


def test_a_token_is_in_no_log_and_in_no_file(kaggle, handed, capfd, caplog, tmp_path):
    from kaggle.api.kaggle_api_extended import KaggleApi

    KaggleApi.args.append("--verbose")  # as with VERBOSE=1: the client prints each call with its headers
    kaggle.fail("ListDataFiles", Fault(500))
    kaggle.fail("GetKernelSessionStatus", Fault(401))
    kaggle.output = {"submission.csv": Path("tiny/sample_submission.csv").read_bytes()}
    with caplog.at_level(logging.DEBUG):
        for command in (["download", SLUG], ["upload", "tiny"], ["push", "tiny"], ["push", "tiny"], SUBMIT):
            main(["--debug", *command] if command[0] != "push" else command)
        kaggle.scores.append({"status": "complete", "publicScore": "0.91"})
        main([*SUBMIT, "--kernel"])
        main(["leaderboard", SLUG])
    said = capfd.readouterr()
    assert len(kaggle.submissions) == 2
    assert said.out.count("record ") == 2
    assert TOKEN not in said.out + said.err + caplog.text
    texts = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(texts) > 20
    assert not [text for text in texts if TOKEN.encode() in text]


ECHO = f"you sent Authorization: Bearer {TOKEN} and {TOKEN}"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500])
def test_a_token_repeated_by_an_error_response_is_hidden(connected, kaggle, caplog, status):
    caplog.set_level(logging.DEBUG)
    kaggle.fail("ListDataFiles", *[Fault(status, ECHO)] * 5)
    with pytest.raises(KaggleError) as refused:
        connected.files(SLUG)
    assert TOKEN not in str(refused.value) + caplog.text
    if status == 400:
        assert str(refused.value).endswith("(400: you sent Authorization: Bearer [hidden] and [hidden])")


def test_a_token_repeated_by_an_answer_is_hidden(connected, kaggle, caplog):
    connected.api.dataset_create_new = lambda *_: types.SimpleNamespace(error=ECHO)
    lost = {f"invalid_{kind}_sources": [] for kind in client.SOURCE_KINDS}
    connected.api.kernels_push = lambda *_: types.SimpleNamespace(error=ECHO, **lost)
    Path("x").mkdir()
    dataset = DatasetMetadata(title="a-title", id=f"{USER}/a-title", licenses=(License(name="other"),))
    kernel = KernelMetadata(title="a-title", id=f"{USER}/a-title", code_file="x.ipynb", enable_internet=False)
    for call in (lambda: connected.put_dataset(Path("x"), dataset, ""), lambda: connected.push(Path("x"), kernel)):
        with pytest.raises(KaggleError, match=r"you sent Authorization: Bearer \[hidden\] and \[hidden\]"):
            call()


def test_the_log_of_a_notebook_shows_no_token(connected, kaggle, caplog):
    kaggle.statuses.append({"status": "error", "failureMessage": ECHO})
    kaggle.log = ECHO
    with pytest.raises(retry.EndedError) as ended:
        connected.wait_for_run(client.KernelVersion(f"{USER}/a-title", 1, "https://x"))
    assert "[hidden]" in caplog.text
    assert TOKEN not in str(ended.value) + caplog.text


def test_an_error_of_the_client_itself_shows_no_token(connected):
    def fail():
        raise ValueError(ECHO)

    with pytest.raises(ValueError, match=r"\[hidden\]") as failed:
        connected.caller.call("the account", fail)
    assert TOKEN not in str(failed.value)


def test_name_and_key_of_a_basic_header_are_hidden():
    key = "0123456789abcdef"
    sent = base64.b64encode(f"ada:{key}".encode()).decode()
    secrets.keep_header_secret(f"Basic {sent}")
    assert secrets.without_secrets(f"key {key}, header {sent}") == "key [hidden], header [hidden]"


def test_a_missing_client_is_reported_with_the_install_command(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "kaggle"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kaggle", None)
    with pytest.raises(KaggleError, match=r"not installed: pip install -r requirements-kaggle.txt"):
        client.connect()


# ----------------------------------------------------------------------------------------------- make


def recipe(*arguments: str, **environment: str) -> str:
    """The last command that make would run."""
    command = ["make", "-n", "-C", str(ROOT), "--no-print-directory", "PYTHON=python", *arguments]
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME")}
    ran = subprocess.run(command, env=kept | environment, capture_output=True, text=True, check=True)
    return ran.stdout.splitlines()[-1].strip()


def test_make_data_downloads_a_competition_that_was_named():
    assert recipe("data") == "python -m pipeline data configs/demo.toml"
    assert recipe("data", f"COMPETITION={SLUG}") == f"python -m pipeline download {SLUG}"
    assert recipe("data", COMPETITION=SLUG) == f"python -m pipeline download {SLUG}"


def test_make_passes_names_and_messages_unchanged():
    message = "don't stop $HOME"
    assert recipe("upload", "CONFIGS=a b") == "python -m pipeline upload a+b"
    line = recipe("submit", "CONFIG=x", "KERNEL=1", "MESSAGE=" + message.replace("$", "$$"))
    assert shlex.split(line) == ["python", "-m", "pipeline", "submit", "x", f"--message={message}", "--kernel"]
    assert recipe("push", "CONFIG=x", "TRAIN=1") == "python -m pipeline push x --train"
