"""Batches read by worker processes, and copied to the device; no other module creates a torch DataLoader."""

import logging
import pickle
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from time import sleep
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from pipeline import hardware
from pipeline.prefetch import prefetch
from pipeline.quoting import shortened

log = logging.getLogger(__name__)

SHARED = Path("/dev/shm")
ENOUGH = 2 << 30  # bytes free there; Docker gives 64 MiB


class Loader(DataLoader):
    """torch's DataLoader for images; workers do not change the batches.

    Batches are in channels-last format, in which half-precision convolutions are fastest. With a GPU they are in pinned
    memory, from which they are copied without making the host wait.

    If shared memory is small, as in many containers, batches are sent through pipes: slower, but without a crash. If a
    worker dies, the error is one line with the settings to lower.

    Raises:
        ChildProcessError: while batches are read, if a worker dies.
    """

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **{"collate_fn": collate, **options})
        self.collate_here = None
        if self.num_workers and not _shares_memory():
            # torch puts tensors that are sent between processes into shared memory, but not bytes.
            self.collate_here, self.collate_fn = self.collate_fn, pickle.dumps
        self.pin_memory = hardware.device().type == "cuda" and not self.collate_here

    def __iter__(self) -> Iterator[Any]:
        with report_dead_worker(self.num_workers):
            for batch in super().__iter__():
                yield self.collate_here(pickle.loads(batch)) if self.collate_here else batch


def collate(items: Sequence[Tensor] | Sequence[tuple[Tensor, ...]]) -> Tensor | tuple[Tensor, ...]:
    """A batch of images, or of images with masks and maps of these; torch would make images contiguous first.

    Shapes:
        items: images (C, H, W), or tuples of image, mask and maps.
        returns: images (N, C, H, W) in channels-last format; masks and maps (N, C, H, W), contiguous.
    """
    if isinstance(items[0], tuple):
        images, *others = zip(*items, strict=True)
        return collate(images), *map(torch.stack, others)
    return torch.stack([image.permute(1, 2, 0) for image in items]).permute(0, 3, 1, 2)


def on_device(batches: Iterable[tuple[Tensor, ...]], device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    """Batches on a device; a thread reads the next and queues its copy while the network computes on the last."""
    return prefetch((tuple(copy_to(each, device) for each in batch) for batch in batches), buffer_size=1)


def copy_to(batch: Tensor, device: torch.device) -> Tensor:
    """A batch on a device; the host does not wait for the copy if it is from pinned memory to an NVIDIA GPU."""
    return batch.to(device, non_blocking=device.type == "cuda")  # unsafe on Apple's GPUs


@contextmanager
def report_dead_worker(workers: int) -> Iterator[None]:
    """Turn the error of a worker that died into one line.

    torch raises it where batches are read, and once more, by a signal, in the main thread.

    Args:
        workers: their number; 0: no error is changed.

    Raises:
        ChildProcessError: if a worker died.
    """
    try:
        yield
    except ChildProcessError:
        raise
    except (RuntimeError, MemoryError, EOFError, ConnectionError) as error:
        text = f"{error} {error.__cause__ or ''}".strip()
        is_broken_pipe = isinstance(error, EOFError | ConnectionError)
        if is_broken_pipe:
            with suppress(RuntimeError):
                sleep(1)  # the signal may come later
        elif not isinstance(error, MemoryError) and not any(sign in text for sign in SIGNS):
            raise
        if not workers:
            raise
        reason = "exited unexpectedly" if is_broken_pipe else _reason(text)
        raise ChildProcessError(
            f"a process that reads images died ({reason}): memory is short, or shared memory ({SHARED}). Lower "
            f"train.workers, now {workers} (0 needs no such process), or the batch size, or give the container more, "
            f"such as docker run --shm-size=8g"
        ) from error


# Parts of torch's messages when a worker died, or could not send a batch.
SIGNS = ("DataLoader worker (pid", "shared memory", "unable to write to", "unable to resize", "unable to mmap")


def _reason(text: str) -> str:
    """The signal, or the last line of the worker's message."""
    if "by signal: " in text:
        return text.partition("by signal: ")[2].partition(".")[0]
    last = text.strip().splitlines()[-1]
    return "exited unexpectedly" if last.startswith("DataLoader worker") else shortened(last, 80)


@cache
def _shares_memory() -> bool:
    """Whether there is enough shared memory for batches; logs a warning once if not."""
    free = shutil.disk_usage(SHARED).free if SHARED.is_dir() else ENOUGH
    if free < ENOUGH:
        log.warning(
            "%s has %d MiB free: batches of workers come through pipes, slower (docker run --shm-size=8g gives more)",
            SHARED,
            free >> 20,
        )
    return free >= ENOUGH
