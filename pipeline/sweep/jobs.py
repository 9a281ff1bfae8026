"""What is to be trained, and the list of it: a Makefile that anyone can read, and run by hand."""

import os
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pipeline
from pipeline.files import write_text

PLAIN = re.compile(r"[\w.+-]+")  # what a Makefile takes as it is


class Job(NamedTuple):
    """One fold of one config."""

    name: str  # of the run
    fold: int
    folder: Path  # of the fold
    weights: Path
    command: tuple[str, ...]  # of the pipeline

    @property
    def log(self) -> Path:
        return self.folder / "train.log"


# The shell starts a training again that died: the training goes on from its last epoch. A mistake (status 2) would be
# the same mistake again, and who pressed Ctrl-C (130) wants an end.
LIST = r"""# Written by make sweep: one target for each fold of each config. By hand, from the project's folder:
#
#   make -k -j {jobs} -f {path}
#
# Each training has {threads} of this machine's threads: written for {jobs} at a time.
export PYTHONPATH := {package}$(if $(PYTHONPATH),:$(PYTHONPATH))
export OMP_NUM_THREADS := {threads}
.PHONY: all again
.PRECIOUS: {targets}
all: {targets}

{targets}:
	@mkdir -p $(@D); try=0; while :; do \
    {python} -m pipeline $(command) >> $(@D)/train.log 2>&1; status=$$?; \
    case $$status in 0|2|130) break;; esac; \
    [ $$try -lt {retries} ] || break; \
    try=$$((try + 1)); echo "$(@D): died with status $$status, goes on from its last epoch ($$try of {retries})"; \
  done; \
  said=$$(tail -n 1 $(@D)/train.log); \
  case $$status in \
    0) printf '%s\n' "$(@D): done, $$said"; exit 0;; \
    2|130) why=;; \
    *) why="died with status $$status after $$try retries, ";; \
  esac; \
  printf '%s\n' "$(@D): {failed} $$why$$said (see $(@D)/train.log)"; exit 2
"""
FAILED = "FAILED:"


def write_list(path: Path, jobs: Sequence[Job], unfinished: Sequence[Job], *, at_once: int, retries: int) -> None:
    """Write the Makefile: a job's target is its weights; those that lack some of their OOF are made again.

    Args:
        unfinished: the jobs that are not done.
        at_once: jobs, among which this machine's threads are shared out.

    Raises:
        ValueError: if a run's name means something else to make or the shell.
    """
    for job in jobs:
        if not PLAIN.fullmatch(job.name):
            raise ValueError(f"run '{job.name}': expected letters, digits and _ . + - in the name of what is swept")
    text = LIST.format(
        path=path,
        jobs=at_once,
        threads=threads(at_once),
        package=_escaped(str(Path(pipeline.__file__).parents[1])),
        python=_escaped(shlex.quote(sys.executable)),
        targets=" ".join(str(job.weights) for job in jobs),
        retries=retries,
        failed=FAILED,
    )
    write_text(path, text + "".join(_target(job, unfinished) for job in jobs))


def _target(job: Job, unfinished: Sequence[Job]) -> str:
    again = f"{job.weights}: again\n" if job in unfinished and job.weights.exists() else ""
    return f"\n{job.weights}: command := {_escaped(shlex.join(job.command))}\n{again}"


def _escaped(text: str) -> str:
    """Text as make hands it to the shell."""
    return text.replace("$", "$$").replace("#", r"\#")


def threads(at_once: int) -> int:
    """Threads for each of several jobs on this machine: two that fight over its cores are 14 times slower."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = max(1, cores // at_once)
    wished = os.environ.get("OMP_NUM_THREADS", "")
    return min(share, int(wished)) if wished.isdigit() and int(wished) else share
