"""Weights from the Hugging Face hub: of its cache on this machine (HF_HUB_CACHE), or downloaded into it once."""

import logging
import re
from pathlib import Path

from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

from pipeline.files import file_digest
from pipeline.quoting import first_line

log = logging.getLogger(__name__)
FILE = "model.safetensors"  # in every repository of timm's; nothing is unpickled
TIMEOUTS = (2.0, 10.0, 10.0, 10.0)  # seconds: to connect to each of its addresses, to read, write, get a socket
MAX_REASON = 60  # characters: what follows the beginning is a URL
SHA256 = re.compile(r"[0-9a-f]{64}")


def hub_file(repository: str) -> Path:
    """The weights of a repository, in the cache.

    What is in the cache is used without asking the network: all folds start from the same file, on any machine that the
    folder was copied to.

    Args:
        repository: such as "timm/resnet18.a1_in1k".

    Raises:
        ConnectionError: if they are not in the cache and cannot be downloaded, with the reason.
        ValueError: if the file is damaged.
    """
    cached = try_to_load_from_cache(repository, FILE)
    path = Path(cached) if isinstance(cached, str) else _download(repository)
    _check_digest(path)
    return path


def _download(repository: str) -> Path:
    url = hf_hub_url(repository, FILE)
    try:
        # One request without repetitions: without a network, hf_hub_download alone tries for minutes.
        found = get_hf_file_metadata(url, timeout=TIMEOUTS)
        if not found.etag:
            raise ConnectionError("a login page or a proxy answered")
        log.info("downloading %s (%.0f MB)", url, (found.size or 0) / 1e6)
        return Path(hf_hub_download(repository, FILE))
    except Exception as error:  # of huggingface_hub, of its HTTP library and of Xet, each with errors of its own
        raise ConnectionError(f"{type(error).__name__}: {first_line(error)}"[:MAX_REASON].strip()) from error


def _check_digest(path: Path) -> None:
    """Compare a file with its SHA-256, which the cache has as the name of the file that the path links to.

    A cache that was copied without its links does not have it.
    """
    stored = path.resolve()
    if SHA256.fullmatch(stored.name) and (found := file_digest(stored)) != stored.name:
        raise ValueError(
            f"model.weights: {stored}: sha256 {found[:12]}…: the file is damaged. Remove it and start again"
        )
