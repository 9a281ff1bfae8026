"""Pretrained weights of the hub: those that it serves arrive; they are downloaded once; a failure is one line.

A mock of the hub on the loopback answers huggingface_hub itself, in processes of their own: conftest forbids the
network to this one.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save, save_file

from pipeline import config
from pipeline.models import build_model, check_model, hub, pretrained
from pipeline.models.encoder_name import parse
from pipeline.models.packaged_weights import PACKAGES
from tests.hub_server import DAMAGES, FAULTS, FILE, serve

ROOT = Path(__file__).parents[1]
MODEL = "test_resnet.r160_in1k"
STEM = "model.conv1.0.weight"
CACHED = f"hub/models--timm--{MODEL}"  # in HF_HOME
# Models with a repository in the hub, for its faults.
OTHERS = (
    "test_efficientnet.r160_in1k",
    "test_convnext.r160_in1k",
    "test_byobnet.r160_in1k",
    "test_nfnet.r160_in1k",
    "test_vit.r160_in1k",
    "test_convnext2.r160_in1k",
)


def weights(name: str = MODEL) -> dict[str, torch.Tensor]:
    """Weights in the format of timm."""
    torch.manual_seed(7)
    return timm.create_model(name, pretrained=False).state_dict()


def environment(home: Path, url: str, **others: str) -> dict[str, str]:
    """The environment of a process with a cache of its own."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("HF_") and key != "HF_HUB_OFFLINE"}
    here = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "NO_PROXY": "*"}
    return {**kept, **here, "HF_HOME": str(home), "HF_ENDPOINT": url, **others}


def run(arguments: list[str], variables: Mapping[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *arguments], env=variables, capture_output=True, text=True)


BUILD = """
import json, sys
from safetensors.torch import save_file
from pipeline import config
from pipeline.models import build_model

for number, options in enumerate(json.loads(sys.argv[1])):
    try:
        model = build_model(config.Model(weights="imagenet", **options))
    except Exception as error:
        print(f"{type(error).__name__}: {error}")
    else:
        save_file(model.encoder.state_dict() | {"mean": model.mean}, f"built{number}.safetensors")
"""


def build(variables: Mapping[str, str], *options: dict) -> list[str]:
    """Build models in another process; returns the messages of those that failed."""
    done = run(["-c", BUILD, json.dumps(options)], variables)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_weights_that_the_hub_serves_arrive_in_the_encoder_and_are_downloaded_once(somewhere):
    served = weights()
    with serve({f"timm/{MODEL}": save(served)}) as mock:
        variables = environment(somewhere / "home", mock.url)
        archs = [{"encoder": f"tu-{MODEL}", "in_channels": channels} for channels in (3, 1, 4)]
        archs += [{"encoder": "tu-test_resnet", "arch": "fpn"}]  # without its tag
        assert build(variables, *archs) == []
        assert sum(call.startswith("GET /cdn/") for call in mock.calls) == 1
    built = [load_file(f"built{number}.safetensors") for number in range(4)]
    for each in (built[0], built[3]):
        names = {key: key.removeprefix("model.") for key in each if key != "mean"}
        assert all(torch.equal(each[key], served[name]) for key, name in names.items())
        assert each["mean"].flatten().tolist() == [127.5] * 3, "not ImageNet's .485: this tag's is .5"
    stem = served["conv1.0.weight"]
    torch.testing.assert_close(built[1][STEM], stem.sum(dim=1, keepdim=True))
    torch.testing.assert_close(built[2][STEM], stem[:, [0, 1, 2, 0]] * 0.75)


@pytest.mark.slow
def test_every_failure_of_a_download_is_one_short_line(somewhere):
    names = dict(zip(FAULTS, OTHERS, strict=True))
    served = {f"timm/{name}": save(weights(name)) for name in OTHERS}
    with serve(served, {f"timm/{name}": fault for fault, name in names.items()}) as mock:
        started = time.monotonic()
        variables = environment(somewhere / "home", mock.url)
        archs = [{"encoder": f"tu-{name}", "arch": "dpt" if "vit" in name else "fpn"} for name in OTHERS]
        said = dict(zip(FAULTS, build(variables, *archs, {"encoder": f"tu-{MODEL}"}), strict=False))
        seconds = time.monotonic() - started
    reasons = {
        "truncated": "OSError: Consistency check",
        "a page instead of the file": "OSError: Consistency check",
        "a page instead of an answer": "a login page or a proxy answered",
        "no answer": "ReadTimeout",
        "busy": "503",
    }
    for fault, reason in reasons.items():
        assert reason in said[fault], said[fault]
        expected = f"ConnectionError: model.weights: {names[fault]} could not be downloaded ("
        assert said[fault].startswith(expected)
        copy = f"Copy pretrained/{names[fault]}.safetensors, or the folder HF_HUB_CACHE, from another machine"
        assert said[fault].endswith(f'{copy}; or set a file, or "none"')
        assert len(said[fault]) < 280
    damaged = said["another file of this size"]
    assert damaged.startswith("ValueError: model.weights: ")
    assert damaged.endswith("the file is damaged. Remove it and start again")
    assert not list(Path().rglob("*.incomplete"))
    assert seconds < 200, "huggingface_hub alone tries each unanswered file for six minutes"


@pytest.mark.slow
def test_a_training_downloads_once_and_goes_on_without_a_network(tiny):
    options = [
        "--set",
        f"model.encoder=tu-{MODEL}",
        "--set",
        "model.weights=imagenet",
        "--set",
        "train.phases.0.epochs=1",
    ]
    train = ["-m", "pipeline", "train", "configs/tiny.toml", *options, "--fold"]
    with serve({f"timm/{MODEL}": save(weights())}) as mock:
        variables = environment(tiny / "home", mock.url)
        first = run([*train, "0"], variables)
        assert first.returncode == 0, first.stderr
        assert "downloading" in first.stderr
        assert f"{CACHED}/snapshots" in first.stderr, "the log names the file"
    again = run([*train, "1"], variables | {"HF_HUB_OFFLINE": "1"})
    assert again.returncode == 0, again.stderr
    started = time.monotonic()
    refused = run([*train, "0", "--set", "name=other"], environment(tiny / "empty", mock.url))
    assert time.monotonic() - started < 200  # most of it to import libraries
    assert refused.returncode == 2
    (said,) = [line for line in refused.stderr.splitlines() if line.startswith("pipeline train")]
    assert said.startswith(
        f"pipeline train: configs/tiny.toml: model.weights: {MODEL} could not be downloaded (Connect"
    )
    assert said.endswith('from another machine; or set a file, or "none"'), "it is short enough"


@pytest.mark.slow
@pytest.mark.parametrize("links", [True, False], ids=["with its links", "without links"])
def test_a_cache_that_was_copied_to_another_machine_is_used(somewhere, links):
    served = weights()
    with serve({f"timm/{MODEL}": save(served)}) as mock:
        assert build(environment(somewhere / "home", mock.url), {"encoder": f"tu-{MODEL}"}) == []
    shutil.copytree("home/hub", "carried", symlinks=links)
    shutil.rmtree("home")
    variables = environment(somewhere / "other", mock.url, HF_HUB_CACHE=str(somewhere / "carried"))
    Path("built0.safetensors").unlink()
    assert build(variables, {"encoder": f"tu-{MODEL}"}) == []
    assert torch.equal(load_file("built0.safetensors")[STEM], served["conv1.0.weight"])
    (file,) = Path("carried").rglob(FILE)
    file.write_bytes(file.read_bytes()[:1000])
    (said,) = build(variables, {"encoder": f"tu-{MODEL}"})
    assert ("is damaged" if links else "cannot be read") in said


def test_the_mock_damages_files():
    content = save(weights())
    assert all(damage(content) != content for damage in DAMAGES.values())
    assert len(DAMAGES["another file of this size"](content)) == len(content)


def test_a_file_of_the_project_is_used_before_package_and_hub(somewhere, monkeypatch):
    monkeypatch.setattr(pretrained, "hub_file", None)  # must not be called
    served = weights()
    path = pretrained.project_file(parse("tu-test_resnet"))
    assert path == Path(f"pretrained/{MODEL}.safetensors"), "the default's tag is part of its name"
    path.parent.mkdir()
    save_file(served, path)
    for name in ("tu-test_resnet", f"tu-{MODEL}"):
        model = build_model(config.Model(encoder=name, weights="imagenet"))
        assert torch.equal(model.encoder.state_dict()[STEM], served["conv1.0.weight"])


def test_a_package_serves_the_tag_that_it_holds(somewhere, monkeypatch):
    monkeypatch.setattr(pretrained, "packaged_weights", lambda model: Path(f"package of {model}"))
    monkeypatch.setattr(pretrained, "hub_file", lambda repository: Path(repository))
    monkeypatch.setitem(PACKAGES, "resnet18", PACKAGES["tf_efficientnet_lite0"]._replace(tag="a2_in1k"))
    of = {
        name: str(pretrained.pretrained_file(parse(f"tu-{name}"))) for name in ("resnet18.a2_in1k", "resnet18.a1_in1k")
    }
    assert of == {"resnet18.a2_in1k": "package of resnet18", "resnet18.a1_in1k": "timm/resnet18.a1_in1k"}


def test_the_packages_hold_the_default_tag():
    for model, package in PACKAGES.items():
        assert pretrained.full_name(parse(model)) == f"{model}.{package.tag}"


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("tu-resnext26ts", None),
        ("tu-densenet264d", r"timm has no weights of densenet264d: set model\.weights to \"none\", or to a file"),
        ("tu-legacy_seresnet18", r"legacy_seresnet18\.in1k are not on the hub: download https://.*\.pth and set model"),
    ],
)
def test_weights_that_do_not_exist_are_refused_before_data_is_read(encoder, message):
    check_model(config.Model(encoder=encoder, weights="none"))
    if message is None:
        check_model(config.Model(encoder=encoder, weights="imagenet"))
    else:
        with pytest.raises(ValueError, match=rf"^model\.weights: .*{message}"):
            check_model(config.Model(encoder=encoder, weights="imagenet"))


def test_a_file_whose_name_is_no_digest_is_not_compared(tmp_path):
    for name in ("model.safetensors", "0123456789abcdef" * 4):
        (tmp_path / name).write_bytes(b"x")
    hub._check_digest(tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="is damaged"):
        hub._check_digest(tmp_path / ("0123456789abcdef" * 4))
