"""What the writer of configs gives, read by Triton's own protobuf."""

from __future__ import annotations

from dataclasses import fields
from enum import Enum
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as theirs

from serving import pbtxt

MESSAGES: dict[type, Any] = {
    pbtxt.Tensor: theirs.ModelInput,
    pbtxt.InstanceGroup: theirs.ModelInstanceGroup,
    pbtxt.QueuePolicy: theirs.ModelQueuePolicy,
    pbtxt.DynamicBatching: theirs.ModelDynamicBatching,
    pbtxt.WarmupInput: theirs.ModelWarmup.Input,
    pbtxt.Warmup: theirs.ModelWarmup,
    pbtxt.Step: theirs.ModelEnsembling.Step,
    pbtxt.Ensemble: theirs.ModelEnsembling,
    pbtxt.Accelerator: theirs.ModelOptimizationPolicy.ExecutionAccelerators.Accelerator,
    pbtxt.Accelerators: theirs.ModelOptimizationPolicy.ExecutionAccelerators,
    pbtxt.Optimization: theirs.ModelOptimizationPolicy,
    pbtxt.Parameter: theirs.ModelParameter,
    pbtxt.ModelConfig: theirs.ModelConfig,
}
ODD = 'a "quoted" \\ name,\nümlaut \U0001f600 $size\t{ # no comment'


def parse(text: str) -> Any:
    return text_format.Parse(text, theirs.ModelConfig())


@pytest.mark.parametrize("ours", MESSAGES, ids=lambda one: one.__name__)
def test_every_field_is_one_of_tritons(ours: type) -> None:
    assert {one.name for one in fields(ours)} <= set(MESSAGES[ours].DESCRIPTOR.fields_by_name)


def test_every_message_is_looked_at() -> None:
    made = {one for one in vars(pbtxt).values() if isinstance(one, type)}
    own = {one for one in made if one.__module__ == pbtxt.__name__ and not issubclass(one, Enum)}
    assert own == set(MESSAGES)


@pytest.mark.parametrize("text", [ODD, "", "x" * 500, "\x00\x7f", "0", "true"])
def test_any_text_survives(text: str) -> None:
    tensor = pbtxt.Tensor(name=text, data_type=pbtxt.DataType.FP32, dims=(1, -1, 3))
    config = pbtxt.ModelConfig(
        name="m", max_batch_size=3, input=(tensor,), output=(), parameters={
            "k": pbtxt.Parameter(string_value=text), text: pbtxt.Parameter(string_value="v"),
        },
    )  # fmt: skip
    found = parse(pbtxt.write(config, "first line\nsecond line"))
    assert found.input[0].name == text
    assert list(found.input[0].dims) == [1, -1, 3]
    assert found.input[0].data_type == theirs.TYPE_FP32
    assert {key: one.string_value for key, one in found.parameters.items()} == {
        "k": text,
        text: "v",
    }


def test_what_has_protobufs_default_is_left_out() -> None:
    config = pbtxt.ModelConfig(name="m", max_batch_size=0, input=(), output=())
    assert pbtxt.write(config) == 'name: "m"\n'
