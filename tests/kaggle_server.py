"""A mock of Kaggle on the loopback: answers the calls of kagglesdk 0.1.37, and fails on demand."""

import io
import json
import threading
import zipfile
from collections import defaultdict, deque
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

TOKEN = "KGAT_never-to-be-seen"
USER = "ada"
ETAG = '"1"'


class Fault(NamedTuple):
    """A response that replaces the correct one."""

    status: int = 200
    message: str = ""
    headers: Mapping[str, str] = {}
    body: bytes | None = None  # instead of JSON with the message
    kept: float = 1.0  # share of the body that is sent before the connection breaks


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Pack files into one zip."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return data.getvalue()


class Kaggle:
    """The state of the mock Kaggle, and the calls that it received.

    Each call is recorded in `calls`. `faults[call]` are returned first, one per call; so are "download", "put" (of
    uploaded bytes) and "output" (of a notebook).
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.ranges: list[str | None] = []  # of downloads
        self.files: dict[str, dict[str, bytes]] = {}  # of competitions
        self.listed: dict[str, dict[str, int]] = {}  # listed sizes that differ from those of the files
        self.submissions: list[dict[str, Any]] = []  # newest first
        self.scores: deque[dict[str, Any]] = deque()  # the state of a submission at each poll
        self.teams: list[tuple[str, str]] = []  # name and score, best first
        self.page = 2  # rows of a list
        self.uploads: dict[str, tuple[str, bytes]] = {}  # token: name and content
        self.datasets: dict[str, dict[str, Any]] = {}
        self.states: deque[str] = deque()  # of a dataset at each poll; then "ready"
        self.statuses: deque[dict[str, str]] = deque()  # of a notebook at each poll; then "complete"
        self.output: dict[str, bytes] = {}  # of a notebook
        self.log = ""
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Kaggle":
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, call: str, *faults: Fault) -> None:
        """Make the next calls of a name fail."""
        self.faults[call].extend(faults)

    def asked(self, call: str) -> list[dict[str, Any]]:
        """The bodies of all calls of a name."""
        return [body for name, body in self.calls if name == call]

    # --------------------------------------------------------------------------------------------- calls

    def introspect_token(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"active": True, "username": USER} if body["token"] == TOKEN else {"active": False}

    def list_data_files(self, body: dict[str, Any]) -> dict[str, Any]:
        slug = body["competitionName"]
        if slug not in self.files:
            raise LookupError(slug)
        sizes = {name: len(content) for name, content in self.files[slug].items()} | self.listed.get(slug, {})
        rows, token = self._paged([{"name": name, "totalBytes": size} for name, size in sizes.items()], body)
        return {"files": rows, "nextPageToken": token}

    def start_submission_upload(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._start(body["fileName"])

    def start_blob_upload(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._start(body["name"])

    def create_submission(self, body: dict[str, Any]) -> dict[str, Any]:
        name, _ = self.uploads[body["blobFileTokens"]]
        return self._submit(name, body)

    def create_code_submission(self, body: dict[str, Any]) -> dict[str, Any]:
        return self._submit(body["fileName"], body)

    def list_submissions(self, _: dict[str, Any]) -> dict[str, Any]:
        if self.scores:
            self.submissions[0] |= self.scores.popleft()
        return {"submissions": self.submissions, "nextPageToken": ""}

    def get_leaderboard(self, body: dict[str, Any]) -> dict[str, Any]:
        rows, token = self._paged([{"teamName": name, "score": score} for name, score in self.teams], body)
        return {"submissions": rows, "nextPageToken": token}

    def get_dataset_status(self, body: dict[str, Any]) -> dict[str, Any]:
        self._dataset(body)
        return {"status": self.states.popleft() if self.states else "ready"}

    def get_dataset(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"currentVersionNumber": self._dataset(body)["version"]}

    def list_dataset_files(self, body: dict[str, Any]) -> dict[str, Any]:
        rows, token = self._paged([{"name": name} for name in self._dataset(body)["files"]], body)
        return {"datasetFiles": rows, "nextPageToken": token}

    def create_dataset(self, body: dict[str, Any]) -> dict[str, Any]:
        made = {"version": 1, "files": self._taken(body["files"]), "asked": body}
        self.datasets[f"{body['ownerSlug']}/{body['slug']}"] = made
        return {"status": "ok"}

    def create_dataset_version(self, body: dict[str, Any]) -> dict[str, Any]:
        dataset = self._dataset(body)
        dataset |= {"version": dataset["version"] + 1, "files": self._taken(body["body"]["files"]), "asked": body}
        return {"status": "ok"}

    def save_kernel(self, body: dict[str, Any]) -> dict[str, Any]:
        unknown = [each for each in body.get("datasetDataSources", []) if each not in self.datasets]
        url = f"https://www.kaggle.com/code/{body['slug']}"
        return {"url": url, "versionNumber": 3, "invalidDatasetSources": unknown}

    def get_kernel_session_status(self, _: dict[str, Any]) -> dict[str, Any]:
        return self.statuses.popleft() if self.statuses else {"status": "complete"}

    def list_kernel_session_output(self, _: dict[str, Any]) -> dict[str, Any]:
        files = [{"fileName": name, "url": f"{self.url}/output/{name}"} for name in self.output]
        return {"files": files, "log": self.log}

    def _dataset(self, body: dict[str, Any]) -> dict[str, Any]:
        return self.datasets[f"{body['ownerSlug']}/{body['datasetSlug']}"]

    def _start(self, name: str) -> dict[str, Any]:
        token = f"token-{len(self.uploads)}"
        self.uploads[token] = (name, b"")
        return {"token": token, "createUrl": f"{self.url}/put/{token}"}

    def _taken(self, files: list[dict[str, Any]]) -> dict[str, bytes]:
        return dict(self.uploads[file["token"]] for file in files)

    def _submit(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        ref = 100 + len(self.submissions)
        made = {"ref": ref, "fileName": name, "description": body["submissionDescription"], "status": "pending"}
        self.submissions.insert(0, made | {"teamName": USER, "date": "2026-01-02T03:04:05.678Z"})
        return {"message": "Successfully submitted", "ref": ref}

    def _paged(self, rows: list[Any], body: dict[str, Any]) -> tuple[list[Any], str]:
        start = int(body.get("pageToken") or 0)
        end = start + self.page
        return rows[start:end], str(end) if end < len(rows) else ""


CALLS = {
    name: getattr(Kaggle, "".join("_" + each.lower() if each.isupper() else each for each in name).lstrip("_"))
    for name in (
        "IntrospectToken",
        "ListDataFiles",
        "StartSubmissionUpload",
        "CreateSubmission",
        "CreateCodeSubmission",
        "ListSubmissions",
        "GetLeaderboard",
        "StartBlobUpload",
        "GetDatasetStatus",
        "GetDataset",
        "ListDatasetFiles",
        "CreateDataset",
        "CreateDatasetVersion",
        "SaveKernel",
        "GetKernelSessionStatus",
        "ListKernelSessionOutput",
    )
}


def _handler(kaggle: Kaggle) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            name = self.path.rpartition("/")[2]
            body = json.loads(self._body() or b"{}")
            kaggle.calls.append((name, body))
            if kaggle.faults[name]:
                self._fault(kaggle.faults[name].popleft())
            elif name != "IntrospectToken" and self.headers["Authorization"] != f"Bearer {TOKEN}":
                self._fault(Fault(401, "Unauthenticated"))
            elif name == "DownloadDataFiles":  # redirected, as by Kaggle
                where = f"{kaggle.url}/data/{body['competitionName']}/archive.zip?signature=1"
                self._send(302, b"", {"Location": where})
            else:
                self._call(name, body)

        def _call(self, name: str, body: dict[str, Any]) -> None:
            try:
                answer = CALLS[name](kaggle, body)
            except LookupError:
                self._fault(Fault(404, "Not found"))
            else:
                self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

        def do_GET(self) -> None:
            _, kind, *parts = self.path.partition("?")[0].split("/")
            if kind == "output":
                return self._serve("output", kaggle.output[parts[0]])
            kaggle.ranges.append(self.headers["Range"])
            return self._serve("download", zipped(kaggle.files[parts[0]]))

        def _serve(self, what: str, content: bytes) -> None:
            headers = {"ETag": ETAG, "Accept-Ranges": "bytes", "Last-Modified": "Fri, 02 Jan 2026 03:04:05 GMT"}
            fault = kaggle.faults[what].popleft() if kaggle.faults[what] else Fault()
            if fault.status >= 400:
                return self._fault(fault)
            if fault.body is not None:
                content = fault.body
            start = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").partition("-")[0])
            return self._send(206 if start else 200, content[start:], headers, fault.kept)

        def do_PUT(self) -> None:
            content, token = self._body(), self.path.rpartition("/")[2]
            fault = kaggle.faults["put"].popleft() if kaggle.faults["put"] else Fault()
            if fault.status == 200:
                kaggle.uploads[token] = (kaggle.uploads[token][0], content)
            self._send(fault.status, b"", fault.headers)

        def _body(self) -> bytes:
            return self.rfile.read(int(self.headers["Content-Length"] or 0))

        def _fault(self, fault: Fault) -> None:
            said = json.dumps({"code": fault.status, "message": fault.message}).encode()
            headers = {"Content-Type": "application/json"} if fault.body is None else {}
            self._send(fault.status, said if fault.body is None else fault.body, headers | dict(fault.headers))

        def _send(self, status: int, content: bytes, headers: Mapping[str, str], kept: float = 1.0) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: int(len(content) * kept)])
            self.close_connection = kept < 1

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler
