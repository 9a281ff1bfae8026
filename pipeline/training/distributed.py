"""Training in one process, or in several that torchrun started, each with its share of every batch."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipeline import hardware

T = TypeVar("T")
CONTROL_TIMEOUT = timedelta(days=7)  # one process may prepare data for hours while the others wait
PROBE_SIDE = 64  # pixels


@dataclass(frozen=True)
class Processes:
    """This process and the others of one training.

    Tensors are exchanged by the default group, whose backend is the device's: NCCL on GPUs, which takes no CPU tensors.
    Objects and barriers use the group `control`, on CPUs.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    control: dist.ProcessGroup | None = None  # None: one process

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until every process is here.

        Raises:
            ConnectionError: if another process has ended.
        """
        if self.control:
            with lost_in_one_line():
                dist.barrier(self.control)

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """Run the block in the main process, then in the others.

        Raises:
            ConnectionError: as `wait`.
        """
        if not self.is_main:
            self.wait()
        yield
        if self.is_main:
            self.wait()

    def gather(self, value: T) -> list[T]:
        """The value of each process, ordered by rank; every process gets the list.

        Args:
            value: can be pickled.

        Raises:
            ConnectionError: as `wait`.
        """
        if self.control is None:
            return [value]
        values: list[T] = [value] * self.world
        with lost_in_one_line():
            dist.all_gather_object(values, value, self.control)
        return values

    def share(self, batch_size: int) -> int:
        """Images per process of a batch.

        Raises:
            ValueError: if the batch cannot be divided.
        """
        if batch_size % self.world:
            raise ValueError(
                f"train.batch_size = {batch_size} cannot be divided among {self.world} processes: set a multiple of "
                f"{self.world}, such as {-(-batch_size // self.world) * self.world}"
            )
        return batch_size // self.world

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model itself, or one that averages the gradients of all processes."""
        if self.world == 1:
            return model
        devices = [self.device] if self.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, find_unused_parameters=has_unused_weights(model))

    def no_sync(self, model: nn.Module) -> AbstractContextManager[None]:
        """A block in which a wrapped model's gradients are added up without being averaged."""
        return model.no_sync() if isinstance(model, DistributedDataParallel) else nullcontext()

    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy the main process's buffers, such as batch statistics, to all processes."""
        if self.world > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)


def processes() -> Processes:
    """The processes that torchrun started, which are joined at the first call; one without torchrun."""
    return _join() if int(os.environ.get("WORLD_SIZE", "1")) > 1 else Processes(hardware.device())


@cache
def _join() -> Processes:
    device = hardware.device()
    if device.type == "cuda":
        device = torch.device("cuda", _own_gpu(int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    control = dist.new_group(backend="gloo", timeout=CONTROL_TIMEOUT)
    return Processes(device, dist.get_rank(), dist.get_world_size(), control)


def _own_gpu(local_rank: int, gpus: int) -> int:
    if local_rank >= gpus:
        raise ValueError(f"{gpus} GPUs for more processes on this machine: start torchrun with --nproc-per-node {gpus}")
    return local_rank


def leave() -> None:
    """Leave the group of processes, if this process has joined one; at the end of a command."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def lost_in_one_line() -> Iterator[None]:
    """Turn the error of a lost connection into one line.

    Raises:
        ConnectionError: if another process has ended.
    """
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        raise ConnectionError("another process of this training has ended: its message says why") from error


def has_unused_weights(model: nn.Module) -> bool:
    """Whether weights get no gradient, such as scSE of a missing skip, or stages that a shallow decoder ignores.

    DistributedDataParallel has to search for them after every forward pass, which costs time.

    Args:
        model: a `Segmenter`. A copy without memory for its weights computes one batch.
    """
    with torch.inference_mode(mode=False), torch.enable_grad():
        probe = deepcopy(model).to("meta").train()
        images = torch.zeros(2, probe.mean.shape[1], PROBE_SIDE, PROBE_SIDE, device="meta")
        outputs = probe(images)
        sum(each.sum() for each in _tensors(outputs)).backward()
        return any(weight.grad is None for weight in probe.parameters() if weight.requires_grad)


def _tensors(outputs: Tensor | tuple) -> list[Tensor]:
    """All tensors of a model's outputs in training."""
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for each in outputs if each is not None for tensor in _tensors(each)]
