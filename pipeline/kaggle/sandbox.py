"""Runs a command as Kaggle runs a notebook: without a network, and with its input read-only.

    python sandbox.py REPORT INPUT COMMAND...

It uses Linux namespaces, by `unshare` of util-linux, where the system permits them. Elsewhere Python's sockets refuse
to connect, and the input is not protected. REPORT gets one line that names the kind of isolation. The file is run by
itself, by an interpreter without packages: it imports the standard library only.
"""

import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

UNSHARE = ["unshare", "--user", "--map-root-user", "--net", "--mount"]
INSIDE = "--inside"  # the first argument when this file runs in the new namespaces
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1  # linux/sockios.h, linux/if.h
UNREACHABLE = ("192.0.2.1", 9)  # reserved for documentation, RFC 5737

REFUSE_CONNECTIONS = """
import socket

_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex

def _is_local(address):
    return not isinstance(address, tuple) or str(address[0]).startswith("127.") or address[0] in ("localhost", "::1")

def _refusing(connect):
    def refuse(self, address):
        if not _is_local(address):
            raise OSError(101, f"no network in a rehearsal: {address[0]}")
        return connect(self, address)
    return refuse

socket.socket.connect, socket.socket.connect_ex = _refusing(_connect), _refusing(_connect_ex)
"""


def main(report: Path, inputs: Path, command: list[str]) -> None:
    """Isolate this process, and replace it by the command."""
    inside = [*UNSHARE, sys.executable, __file__, INSIDE]
    if _succeeds(*inside, os.devnull, str(inputs), "true"):  # a trial first: a process cannot leave its namespaces
        os.execvp(inside[0], [*inside, str(report), str(inputs), *command])
    folder = report.parent / "refusing"
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(REFUSE_CONNECTIONS)
    os.environ["PYTHONPATH"] = str(folder)
    report.write_text("no network (Python's sockets refuse; namespaces are not permitted here), input not protected\n")
    os.execvp(command[0], command)


def run_inside(report: Path, inputs: Path, command: list[str]) -> None:
    """Finish the isolation in new namespaces, and replace this process by the command.

    Raises:
        OSError: if the loopback interface cannot be enabled.
    """
    enable_loopback()
    network = "no network (a namespace of its own)" if is_offline() else "NETWORK REACHABLE"
    path = str(inputs)
    is_read_only = _succeeds("mount", "--bind", path, path) and _succeeds("mount", "-o", "remount,bind,ro", path)
    report.write_text(f"{network}, {'input mounted read-only' if is_read_only else 'input not protected'}\n")
    os.execvp(command[0], command)


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:  # there is no such program
        return False


def enable_loopback() -> None:
    """Switch on the interface lo, by which a notebook talks to its kernel.

    Raises:
        OSError: if that is not permitted.
    """
    import fcntl  # not on Windows

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, GET_FLAGS, struct.pack("16sH14x", b"lo", 0))
        flags = struct.unpack("16sH14x", answer)[1] | UP
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sH14x", b"lo", flags))


def is_offline() -> bool:
    """Whether no route leads out; nothing is sent to find out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            any_socket.connect(UNREACHABLE)
        except OSError:
            return True
    return False


if __name__ == "__main__":
    is_inside = sys.argv[1] == INSIDE
    report_, inputs_, *command_ = sys.argv[1 + is_inside :]
    (run_inside if is_inside else main)(Path(report_), Path(inputs_), command_)
