"""What the hardware supports: device, precision, compilation, memory."""

import ctypes
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from itertools import chain
from pathlib import Path
from typing import TypeVar

import psutil
import torch

from pipeline.quoting import shortened

log = logging.getLogger(__name__)

Placed = TypeVar("Placed", bound=torch.nn.Module)

MAX_WORKERS = 8
MAX_KEPT_BYTES = 1 << 30  # blocks up to this size are kept when they are freed
MAX_OF_OLD_GLIBC = 32 << 20
# Numbers of glibc's options, https://man7.org/linux/man-pages/man3/mallopt.3.html
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def device() -> torch.device:
    """The NVIDIA GPU if there is one that torch can use, else Apple's GPU, else the CPU."""
    if _cuda_is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


def _cuda_is_available() -> bool:
    """Whether torch can use an NVIDIA GPU; its warnings, such as of an old driver, are logged once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        available = torch.cuda.is_available()
    for each in caught:
        _warn_once(f"GPU not used: {shortened(str(each.message), 200)}")
    return available


@cache
def _warn_once(text: str) -> None:
    log.warning("%s", text)


def place(model: Placed, on: torch.device) -> Placed:
    """Move a model to a device, with its weights in the channels-last format, in which convolutions are faster.

    `nn.Module.to` with that format refuses a model with a weight of five dimensions, such as timm's lambda layers.
    """
    model.to(on)
    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return model


@cache
def keep_freed_memory() -> None:
    """Make glibc keep the memory of freed tensors; without glibc, nothing changes.

    By default, large blocks are returned to the kernel and requested again in every step, and the kernel clears each of
    their pages (benchmarks/allocator.py). The peak of memory rises.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        limit = min(MAX_KEPT_BYTES, psutil.virtual_memory().total // 16)
        if not mallopt(M_MMAP_THRESHOLD, limit):
            mallopt(M_MMAP_THRESHOLD, min(limit, MAX_OF_OLD_GLIBC))
        mallopt(M_TRIM_THRESHOLD, limit)


@contextmanager
def limited_memory(on: torch.device, share: float) -> Iterator[None]:
    """Let torch use no more than a share of the GPU's memory inside the block; other devices have no limit.

    Raises:
        torch.OutOfMemoryError: inside the block, if more is needed.
    """
    if on.type != "cuda":
        yield
        return
    torch.cuda.set_per_process_memory_fraction(share, on)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, on)
        torch.cuda.empty_cache()  # of blocks whose sizes do not return


def num_workers(setting: int | None) -> int:
    """The number of processes that load data.

    Args:
        setting: `train.workers`; None: for a GPU this process's share of the cores but one, at most 8; otherwise 0.
    """
    if setting is not None:
        return setting
    if not _cuda_is_available():
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(MAX_WORKERS, cores // local_processes() - 1))


def local_processes() -> int:
    """The number of processes that torchrun started on this machine, which share its cores and memory; else 1."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def machine() -> dict[str, str | int]:
    """What a result depends on besides settings and versions: the type of device and torch's number of threads.

    The number of threads changes how sums are rounded, so weights differ in their last digits after a step, and visibly
    after an epoch.
    """
    return {"device": device().type, "threads": torch.get_num_threads()}


def precision(setting: str, on: torch.device) -> torch.dtype:
    """The dtype of the network's arithmetic; losses are always computed in float32.

    Args:
        setting: a name of a dtype; "tf32": float32, see `set_tf32`; or "auto": bfloat16 where the hardware supports it
            (CPUs with AVX512-BF16 or AMX, NVIDIA GPUs from Ampere on), float16 on older NVIDIA GPUs such as Kaggle's T4
            and P100, float32 elsewhere.
        on: the device.
    """
    if setting == "tf32":
        return torch.float32
    if setting != "auto":
        return getattr(torch, setting)
    if on.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(on) >= (8, 0) else torch.float16
    return torch.bfloat16 if on.type == "cpu" and _cpu_has_bfloat16() else torch.float32


def _cpu_has_bfloat16() -> bool:
    """Whether the CPU has bfloat16 instructions; without them it is emulated, and slower than float32."""
    if hasattr(torch.cpu, "get_capabilities"):
        known = torch.cpu.get_capabilities()
        return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
    return not _linux_flags().isdisjoint(
        {"avx512_bf16", "amx_bf16"}
    )  # torch 2.10, as in Kaggle's image, has no such function


def _linux_flags() -> set[str]:
    """The CPU's instruction sets as Linux lists them; empty on other systems."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {flag for line in lines if line.startswith("flags") for flag in line.partition(":")[2].split()}


def set_tf32(enabled: bool) -> None:
    """Set whether NVIDIA GPUs round the factors of float32 convolutions and products to 10 bits (TF32), for speed."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = enabled


@contextmanager
def exact_float32() -> Iterator[None]:
    """Without TF32 inside the block, to compare two networks: TF32 changes logits by 2e-3."""
    enabled = torch.backends.cudnn.allow_tf32
    set_tf32(False)
    try:
        yield
    finally:
        set_tf32(enabled)


@contextmanager
def fixed_sizes(enabled: bool) -> Iterator[None]:
    """Let cuDNN try its algorithms at the first batch inside the block, which pays if all batches have one size."""
    torch.backends.cudnn.benchmark = enabled
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = False


@contextmanager
def compiling(setting: str) -> Iterator[None]:
    """Turn an error of torch.compile in the block into one line.

    Args:
        setting: the option that asks for compilation, as written in a config, for the message.

    Raises:
        ValueError: in place of any error in the block.
    """
    try:
        yield
    except Exception as error:  # inductor raises many different errors if there is no compiler
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{setting} does not run here ({reason}): install a C++ compiler, or leave it out") from error


def autocast(on: torch.device, dtype: torch.dtype) -> torch.autocast:
    """The context manager in which a network runs in `dtype`."""
    return torch.autocast(on.type, dtype=dtype, enabled=dtype != torch.float32)
