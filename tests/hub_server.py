"""A mock of the Hugging Face hub on the loopback: answers the calls of huggingface_hub 2.4.0, and fails on demand.

As on the real one, a large file is a redirect to another host, and its ETag is its SHA-256.
"""

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = "model.safetensors"
PAGE = b"<html><body>Please log in to this network</body></html>"

# What can be wrong with a repository, and what the file is then.
DAMAGES = {
    "truncated": lambda content: content[: len(content) // 2],
    "a page instead of the file": lambda _: PAGE,
    "another file of this size": lambda content: content[:-1] + bytes([content[-1] ^ 1]),
}
FAULTS = (*DAMAGES, "a page instead of an answer", "no answer", "busy")


class Hub(NamedTuple):
    """A running mock."""

    url: str
    calls: list[str]  # method and path of each request


@contextmanager
def serve(repositories: Mapping[str, bytes], faults: Mapping[str, str] | None = None) -> Iterator[Hub]:
    """Serve the file of each repository ("<owner>/<name>") until the block ends.

    Args:
        faults: of repositories, of FAULTS.
    """
    calls: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(repositories, faults or {}, calls))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Hub(f"http://127.0.0.1:{server.server_port}", calls)
    finally:
        server.shutdown()
        server.server_close()


def _handler(
    repositories: Mapping[str, bytes], faults: Mapping[str, str], calls: list[str]
) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def log_message(self, *_: object) -> None:
            """Nothing on stderr."""

        def _answer(self) -> None:
            calls.append(f"{self.command} {self.path}")
            repository, _, name = self.path.strip("/").removeprefix("cdn/").partition("/resolve/main/")
            content, fault = repositories.get(repository), faults.get(repository)
            if content is None or name != FILE:
                self._send(404, b"", {"X-Error-Code": "RepoNotFound" if content is None else "EntryNotFound"})
            elif fault == "no answer":
                time.sleep(60)
            elif fault == "busy":
                self._send(503)
            elif fault == "a page instead of an answer":
                self._send(200, PAGE, {"Content-Type": "text/html"})
            elif self.path.startswith("/cdn/"):
                self._send(200, DAMAGES.get(fault, bytes)(content))
            else:
                self._send(302, headers=self._linked(content))

        def _linked(self, content: bytes) -> dict[str, str]:
            return {
                "Location": f"http://localhost:{self.server.server_port}/cdn{self.path}",
                "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
                "X-Repo-Commit": COMMIT,
            }

        def _send(self, status: int, content: bytes = b"", headers: Mapping[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET" and content:
                self.wfile.write(content)

    return Handler
