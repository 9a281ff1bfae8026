"""The command line: one command per stage. Only this package prints and sets the exit status."""

import logging
import sys
from collections.abc import Sequence

import typer

from pipeline.cli import bundles, drafting, kaggle, members, planning, stages  # noqa: F401 - their commands
from pipeline.cli.terminal import app
from pipeline.progress import console, is_main_process
from pipeline.quoting import MAX_MESSAGE, first_line, shortened

INTERRUPTED = 130  # typer's status after Ctrl-C


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 after a user error, 130 after Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    _set_up_logging(debug)
    command = typer.main.get_command(app)
    try:
        status = command([arg for arg in args if arg != "--debug"], prog_name="pipeline", standalone_mode=False) or 0
        if status == INTERRUPTED:
            return _print_error(args, "interrupted: run the same command again to resume", status)
        _leave_processes()
        return status
    except Exception as error:
        message = _describe(error)
        if debug or message is None:
            raise
        return _print_error(args, message, status=2)


def _leave_processes() -> None:
    """At the end of a command that torchrun started; without torchrun, torch is not imported for it."""
    if "torch" in sys.modules:
        from pipeline.training.distributed import destroy

        destroy()


def run() -> None:
    """The console script."""
    sys.exit(main())


def _print_error(args: Sequence[str], message: str, status: int) -> int:
    name = f"pipeline {args[0]}" if args and not args[0].startswith("-") else "pipeline"
    print(shortened(f"{name}: {message}", MAX_MESSAGE), file=sys.stderr)
    return status


def _describe(error: Exception) -> str | None:
    """One line on bad input, a full disk or not enough memory; None for an error that needs its traceback."""
    text = (error.format_message() if hasattr(error, "format_message") else str(error)).rstrip()
    if type(error).__name__ == "OutOfMemoryError":
        return "the GPU's memory is full: lower predict.batch_size, or set predict.tiles"
    if type(error).__name__ == "AcceleratorError":
        return f"the GPU failed ({first_line(error)}): check nvidia-smi, and run the same command again to resume"
    if isinstance(error, MemoryError) or "DefaultCPUAllocator" in text:  # of Python or numpy, or of torch
        details = f" ({shortened(' '.join(text.split()))})" if text else ""
        return f"memory is full{details}: lower the batch size, train.workers or the phase's crop"
    if not isinstance(error, ValueError | OSError | FloatingPointError) and not hasattr(error, "format_message"):
        return None
    if "Original Traceback" in text:  # from a data-loading worker: its last line is "SomeError: message"
        text = text.splitlines()[-1].partition(": ")[2]
    if type(error).__name__ == "MissingParameter":
        text = f"{text} {error.ctx.get_usage()}"
    return " ".join(text.split()) or "give a command, see --help"


class _ConsoleHandler(logging.Handler):
    """Prints log lines above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(self.format(record), highlight=False, soft_wrap=True)


def _set_up_logging(debug: bool) -> None:
    quiet = logging.WARNING if not is_main_process() else logging.DEBUG if debug else logging.INFO
    log = logging.getLogger("pipeline")
    log.setLevel(quiet)
    log.handlers = [_ConsoleHandler()]
    log.propagate = False
