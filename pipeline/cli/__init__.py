"""The command line: one command per stage; the only place that prints and exits."""

import logging
import sys
from collections.abc import Sequence

import typer

from pipeline.cli import bundles, kaggle, stages  # noqa: F401 - their commands
from pipeline.cli.terminal import app
from pipeline.progress import console, is_main_process
from pipeline.quoting import MAX_MESSAGE, shortened

INTERRUPTED = 130  # typer's status after Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 2 after one line about a mistake."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    _set_up_logging(debug)
    command = typer.main.get_command(app)
    try:
        status = command([arg for arg in args if arg != "--debug"], prog_name="pipeline", standalone_mode=False) or 0
        if status == INTERRUPTED:
            return _complain(args, "stopped. The same command goes on where it was", status)
        return status
    except Exception as error:
        if debug or not _is_mistake(error):
            raise
        return _complain(args, _one_line(error), status=2)


def run() -> None:
    """The console script."""
    sys.exit(main())


def _complain(args: Sequence[str], message: str, status: int) -> int:
    name = f"pipeline {args[0]}" if args and not args[0].startswith("-") else "pipeline"
    print(shortened(f"{name}: {message}", MAX_MESSAGE), file=sys.stderr)
    return status


def _is_mistake(error: Exception) -> bool:
    """Whether one line says all: bad input, a full disk or too large a batch, and not a fault of this program."""
    known = isinstance(error, ValueError | OSError | FloatingPointError)
    return known or hasattr(error, "format_message") or _lacks_memory(error) or _is_out_of_gpu_memory(error)


def _lacks_memory(error: Exception) -> bool:
    """Of Python and numpy, or of torch on the CPU, which raises RuntimeError."""
    return isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error)


def _is_out_of_gpu_memory(error: Exception) -> bool:
    return type(error).__name__ == "OutOfMemoryError"


def _one_line(error: Exception) -> str:
    text = (error.format_message() if hasattr(error, "format_message") else str(error)).rstrip()
    if _is_out_of_gpu_memory(error):
        return "the GPU's memory is full: lower train.batch_size and raise train.accumulate, or lower the phase's crop"
    if _lacks_memory(error):
        said = f" ({shortened(' '.join(text.split()))})" if text else ""
        return f"memory is full{said}: lower the batch size, train.workers or the phase's crop"
    if "Original Traceback" in text:  # of a data-loading worker: its last line is "SomeError: message"
        text = text.splitlines()[-1].partition(": ")[2]
    return " ".join(text.split()) or "give a command, see --help"


class _ConsoleHandler(logging.Handler):
    """Lines of the log, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(self.format(record), highlight=False, soft_wrap=True)


def _set_up_logging(debug: bool) -> None:
    quiet = logging.WARNING if not is_main_process() else logging.DEBUG if debug else logging.INFO
    log = logging.getLogger("pipeline")
    log.setLevel(quiet)
    log.handlers = [_ConsoleHandler()]
    log.propagate = False
