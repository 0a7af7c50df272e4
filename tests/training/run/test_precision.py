"""`--precision auto` on a CPU: bfloat16 only where the processor has it and the network gains by it."""

import pytest
import torch

from training.run.precision import faster_in_bf16, of_mobilenet_kind

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "mobilenetv3_small_050"])
def test_networks_of_the_mobilenet_kind_stay_in_float32(name: str) -> None:
    assert not faster_in_bf16(name, CPU)


def test_others_are_not_of_that_kind() -> None:
    for name in ("resnet18", "convnextv2_atto", "vit_tiny_patch16_224", "no-such-model"):
        assert not of_mobilenet_kind(name)
