"""Runs a command as Kaggle runs a notebook: without a network, and with its input read-only.

    python isolate.py REPORT INPUT COMMAND...

In namespaces of its own where the system permits that; else Python's sockets refuse to connect. REPORT gets one line
that says which. It is run as a file, by an interpreter that has nothing installed: Python's own library only.
"""

import contextlib
import ctypes
import os
import socket
import struct
import sys
from pathlib import Path

NEW_MOUNTS, NEW_USER, NEW_NETWORK = 0x00020000, 0x10000000, 0x40000000  # linux/sched.h
BIND, REMOUNT, READ_ONLY, RECURSIVE, PRIVATE = 4096, 32, 1, 16384, 1 << 18  # linux/mount.h
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 1  # linux/sockios.h, linux/if.h
NOWHERE = ("192.0.2.1", 9)  # reserved for documentation, RFC 5737

REFUSING = """
import socket

_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex

def _is_near(address):
    return not isinstance(address, tuple) or str(address[0]).startswith("127.") or address[0] in ("localhost", "::1")

def _refusing(connect):
    def refuse(self, address):
        if not _is_near(address):
            raise OSError(101, f"no network in a rehearsal: {address[0]}")
        return connect(self, address)
    return refuse

socket.socket.connect, socket.socket.connect_ex = _refusing(_connect), _refusing(_connect_ex)
"""


def main(report: Path, inputs: Path, command: list[str]) -> None:
    """Isolate this process, and become the command."""
    words = []
    if is_permitted() and enter_namespaces():
        words.append("no network (a namespace of its own)" if is_cut_off() else "NETWORK REACHABLE")
        words.append("input mounted read-only" if mount_read_only(inputs) else "input not protected")
    else:
        folder = report.parent / "refusing"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(REFUSING)
        os.environ["PYTHONPATH"] = str(folder)
        words.append("no network (Python's sockets refuse; namespaces are not permitted here), input not protected")
    report.write_text(", ".join(words) + "\n")
    os.execvp(command[0], command)


def is_permitted() -> bool:
    """Whether this process could leave; tried by a child, since half the way there is no way back."""
    if not sys.platform.startswith("linux"):
        return False
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            os._exit(0 if enter_namespaces() else 1)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def enter_namespaces() -> bool:
    """Leave the machine's network and mounts; False where that is not permitted.

    Raises:
        OSError: where it is permitted in part.
    """
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_USER | NEW_NETWORK | NEW_MOUNTS):
        return False
    with contextlib.suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    bring_up("lo")  # a notebook and its kernel talk over the loopback
    return True


def bring_up(interface: str) -> None:
    """Switch a network interface on."""
    import fcntl  # Linux alone gets here

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        name = interface.encode()
        answer = fcntl.ioctl(any_socket, GET_FLAGS, struct.pack("16sH14x", name, 0))
        flags = struct.unpack("16sH14x", answer)[1] | UP
        fcntl.ioctl(any_socket, SET_FLAGS, struct.pack("16sH14x", name, flags))


def is_cut_off() -> bool:
    """Whether there is no way out; nothing is sent to find out."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            any_socket.connect(NOWHERE)
        except OSError:
            return True
    return False


def mount_read_only(folder: Path) -> bool:
    """Make a folder read-only for this process and its children."""
    libc, place = ctypes.CDLL(None, use_errno=True), str(folder).encode()
    mounts = [
        (b"none", b"/", None, RECURSIVE | PRIVATE, None),
        (place, place, None, BIND, None),
        (place, place, None, BIND | REMOUNT | READ_ONLY, None),
    ]
    return not any(libc.mount(*mount) for mount in mounts)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
