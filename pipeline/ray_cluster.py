"""The way to a Ray cluster, and its errors in one line."""

import logging
from pathlib import Path
from typing import Any

import pipeline

CLUSTER = "auto"  # the cluster that this machine is part of, or RAY_ADDRESS


def connected() -> Any:
    """Ray's package, connected to a cluster.

    Raises:
        ValueError: if Ray is not installed, or there is no cluster.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("--executor ray needs a package that is not here: pip install -e .[ray]") from None
    if not ray.is_initialized():
        # The cluster's machines get this project's own package from here.
        own = {"py_modules": [str(Path(pipeline.__file__).parent)]}
        try:
            ray.init(address=CLUSTER, runtime_env=own, log_to_driver=False, logging_level=logging.ERROR)
        except ConnectionError as error:
            raise ValueError(
                f"no Ray cluster to be found ({last_line(error)}): ray start --head begins one on this machine, "
                f"RAY_ADDRESS names another"
            ) from error
    return ray


def last_line(error: BaseException) -> str:
    """What an error says at its end; its name, if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
