"""Commands of the pipeline in processes that count their own file operations, and can be stopped at one of them.

A file operation changes a file below the current folder: open for writing, flush to disk, rename or remove. A process
that is stopped while it flushes a file leaves half of that file.

`python -m tests.interrupted` imports the pipeline once, reads requests from its input and forks for each, so a command
starts in milliseconds and several commands can start at the same time.
"""

import functools
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from pipeline.cli import main
from pipeline.demos.salt import make_salt_demo
from pipeline.stages import preparing

ROOT = Path(__file__).parents[1]
ENV = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Ended(NamedTuple):
    """A process that ended."""

    status: int  # of its exit, or -N if signal N ended it
    stderr: str
    operations: int | None  # None if a signal ended it


class Runner:
    """Runs commands in forks of one process.

    Args:
        before: words of a command that starts that process, such as ("unshare", "-m").
    """

    def __init__(self, before: tuple[str, ...] = ()):
        self._process = subprocess.Popen(
            [*before, sys.executable, "-m", "tests.interrupted"],
            env={name: value for name, value in ENV.items() if name != "DATA"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Runner":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()

    def run(self, folder: Path, *command: str, **options: Any) -> Ended:
        """Run one command; see `_run_command` for the options."""
        return self.race(folder, *command, processes=1, **options)[0]

    def race(self, folder: Path, *command: str, processes: int, **options: Any) -> list[Ended]:
        """Run a command in several processes at once."""
        return [Ended(*each) for each in self._ask(folder=str(folder), command=command, processes=processes, **options)]

    def shell(self, command: str) -> None:
        """Run a shell command in the process that forks."""
        self._ask(shell=command)

    def _ask(self, **request: Any) -> list[Any]:
        print(json.dumps(request), file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        assert answer, "the process that forks has ended"
        return json.loads(answer)


class Interruption:
    """Counts this process's file operations, and sends it a signal at one of them.

    Args:
        at: number of the operation, from 1; 0: no signal.
        number: of the signal.
        pause: seconds to wait before each operation, so that other processes can overtake.
    """

    def __init__(self, at: int, number: signal.Signals, pause: float):
        self.at, self.number, self.pause = at, number, pause
        self.count, self._home, self._fsync = 0, f"{Path.cwd()}{os.sep}", os.fsync
        os.fsync = self.fsync
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple) -> None:
        """The audit hook, which Python calls before an operation."""
        changes = event in ("os.rename", "os.remove") or (event == "open" and args[2] & WRITING)
        if (
            changes
            and not isinstance(args[0], int)
            and str(Path(os.fsdecode(args[0])).absolute()).startswith(self._home)
        ):
            self._step()

    def fsync(self, file: int) -> None:
        """Replaces `os.fsync`, which raises no audit event."""
        self._step(half=file)
        self._fsync(file)

    def _step(self, half: int | None = None) -> None:
        self.count += 1
        time.sleep(self.pause)
        if self.count == self.at:
            if half is not None:
                os.ftruncate(half, os.fstat(half).st_size // 2)
            os.kill(os.getpid(), self.number)


def _run_command(
    folder: str,
    command: list[str],
    *,
    at: int = 0,
    by: str = "SIGKILL",
    pause: float = 0,
    file_size: int = resource.RLIM_INFINITY,
) -> int:
    """Run a command in this process, and print the number of its file operations.

    Args:
        folder: the current one.
        at, by, pause: as `Interruption`.
        file_size: bytes, the most that a file may have.
    """
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, resource.RLIM_INFINITY))
    preparing.GENERATORS["demo"] = functools.partial(make_salt_demo, train=12, test=4)
    counted = Interruption(at, signal.Signals[by], pause)
    try:
        return main(command)
    finally:
        print(counted.count)


def _fork(output: Path, **request: Any) -> int:
    """Run a command in a fork, its output written to `output`.1 and `output`.2; returns the id of the process."""
    child = os.fork()
    if not child:
        status = 1
        try:
            for number in (1, 2):
                os.dup2(os.open(f"{output}.{number}", os.O_WRONLY | os.O_CREAT), number)
            status = _run_command(**request)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return child


def serve(folder: Path) -> None:
    """Answer requests, one line of JSON each, until the input ends.

    Args:
        folder: for the output of the processes.
    """
    for number, line in enumerate(sys.stdin):
        request = json.loads(line)
        if "shell" in request:
            subprocess.run(request["shell"], shell=True, check=True)
            print("[]", flush=True)
            continue
        names = [folder / f"{number}-{place}" for place in range(request.pop("processes"))]
        children = [_fork(name, **request) for name in names]
        statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        printed = [[Path(f"{name}.{which}").read_text() for which in (1, 2)] for name in names]
        ended = [
            Ended(status, err, int(out.split()[-1]) if status >= 0 else None)
            for status, (out, err) in zip(statuses, printed, strict=True)
        ]
        print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        serve(Path(temporary))
