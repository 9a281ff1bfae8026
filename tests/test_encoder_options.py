"""Options of encoders that act in training only: drop path, dropout, gradient checkpointing."""

import pytest
import torch
from timm.layers import DropPath

from pipeline import config
from pipeline.models import build_model, check_model
from pipeline.models.encoder_options import count_random_operations

RESNET = "tu-test_resnet"  # four blocks with a residual branch


def model_config(**options):
    return config.Model(**{"encoder": RESNET, "weights": "none", "in_channels": 1, **options})


def drop_probabilities(model):
    return [module.drop_prob for module in model.modules() if isinstance(module, DropPath)]


@pytest.mark.parametrize("arch", ["unet", "fpn", "fcn8s", "deeplabv3_aspp"])
def test_drop_path_reaches_the_encoder_of_every_kind_of_architecture(arch):
    model = build_model(model_config(arch=arch, drop_path=0.3))
    # timm raises the rate linearly from 0 at the first block to the whole rate at the last.
    assert drop_probabilities(model)[-1] == pytest.approx(0.3)
    assert drop_probabilities(build_model(model_config(arch=arch))) == []


def test_drop_path_changes_training_only_and_its_weights_fit_without_it():
    torch.manual_seed(0)
    model = build_model(model_config(drop_path=0.9))
    for name, weight in model.named_parameters():  # timm starts the last norm of a branch at 0: nothing to leave out
        torch.nn.init.ones_(weight) if weight.ndim == 1 and name.endswith("weight") else None
    plain = build_model(model_config())
    plain.load_state_dict(model.state_dict())
    images = torch.rand(4, 1, 64, 64) * 255
    with torch.no_grad():
        assert torch.equal(model.eval()(images), plain.eval()(images))
        assert not torch.equal(model.train()(images), plain.train()(images))


def test_random_operations_of_a_forward_pass_are_counted():
    blocks = len(drop_probabilities(build_model(model_config(drop_path=0.3))))
    assert blocks
    assert count_random_operations(build_model(model_config())) == 0
    assert count_random_operations(build_model(model_config(drop_path=0.3))) == blocks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "tu-vgg11", "drop_path": 0.1}, r"model\.drop_path: timm's 'tu-vgg11' takes no drop_path_rate"),
        ({"encoder": "tu-test_efficientnet", "drop_path": 0.1}, r"model\.drop_path has no effect .*test_efficientnet'"),
        ({"drop_rate": 0.1}, r"model\.drop_rate has no effect on the features of 'tu-test_resnet'"),
    ],
)
def test_a_rate_without_effect_is_refused(options, message):
    with pytest.raises(ValueError, match=message) as error:
        check_model(model_config(**options))
    assert "\n" not in str(error.value)
    check_model(model_config(**{**options, **dict.fromkeys({"drop_path", "drop_rate"} & options.keys())}))


def test_a_rate_that_works_and_a_rate_of_zero_are_accepted():
    check_model(model_config(drop_path=0.2))
    check_model(model_config(drop_path=0.0))
