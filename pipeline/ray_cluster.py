"""Connects to a Ray cluster, and formats its errors as one line."""

import logging
from pathlib import Path
from typing import Any

import pipeline

CLUSTER = "auto"  # the cluster of this machine, or the one at RAY_ADDRESS


def connect() -> Any:
    """Connect to a Ray cluster; returns the module ray.

    Raises:
        ValueError: if Ray is not installed, or there is no cluster.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("--executor ray needs a package that is not installed: pip install -e .[ray]") from None
    if not ray.is_initialized():
        # Ray copies this package to the machines of the cluster.
        own = {"py_modules": [str(Path(pipeline.__file__).parent)]}
        try:
            ray.init(address=CLUSTER, runtime_env=own, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise ValueError(
                f"no Ray cluster found ({last_line(error)}): start one on this machine with ray start --head, or set "
                f"RAY_ADDRESS"
            ) from error
    return ray


def last_line(error: BaseException) -> str:
    """The last line of an error's message; the error's type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
