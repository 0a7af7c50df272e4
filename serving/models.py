"""What each Triton model is: `embed` = `preprocess` (bytes -> uint8 crop) -> `encoder` (ONNX graph).

Two worlds, one repository: config.pbtxt is for production; --model-config-name=cpu picks configs/cpu.pbtxt,
where `embed` does both itself. E, D dimensions of the outputs; N images of a batch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from jepack.bundle import ONNX_NAMES, OUTPUTS, standing
from jepack.decoding import Preprocessing
from jepack.errors import ConfigError
from jepack.machine import threads
from serving import pbtxt
from serving.pbtxt import DataType, Kind, ModelConfig
from serving.served import Served

IMAGE = pbtxt.Tensor(name="image", data_type=DataType.STRING, dims=(1,))
A_PICTURE = pbtxt.WarmupInput(data_type=DataType.STRING, dims=(1,), input_data_file="image")
PIXELS = "pixel_values"
TENSORRT = ("off", "fp32", "fp16")
PRODUCTION_DECODERS = 4  # where the encoder has a GPU and the cores are free


@dataclass(frozen=True, kw_only=True)
class RepositoryConfig:
    """Knobs of the generated configs; defaults suit one small GPU or a laptop."""

    max_batch_size: int = 16  # images per request and per encoder run
    queue_delay_us: int = 1000  # how long an image may wait for others to share a batch
    max_queue_size: int = 128  # requests waiting per model; more are refused at once
    threads: int = 0  # CPU: of each process that decodes and encodes; 0: one a core
    processes: int = 2  # CPU: while one hands its batch back, the other computes
    decoders: int = PRODUCTION_DECODERS  # production: processes that decode, one thread each
    encoder_instances: int = 1  # production: per GPU
    tensorrt: str = "off"  # production: off (CUDA), fp32 or fp16 engines
    tensorrt_cache: str = "/var/cache/jepack/tensorrt"  # persistent volume in the container

    def __post_init__(self) -> None:
        if self.tensorrt not in TENSORRT:
            raise ConfigError(f"tensorrt must be {', '.join(TENSORRT)}; found {self.tensorrt}")
        counts = (
            self.max_batch_size, self.max_queue_size, self.processes, self.decoders, self.encoder_instances,
        )  # fmt: skip
        if min(counts) < 1 or min(self.queue_delay_us, self.threads) < 0:
            raise ConfigError(f"counts must be at least 1 and delays at least 0; found {self}")

    @property
    def cpu_threads(self) -> int:
        return self.threads or threads.cores()


def embed(served: Served, decoder: str, encoder: str, config: RepositoryConfig) -> ModelConfig:
    """Image bytes -> embedding [E], projection [D]. Its parameters tell clients which space they talk to."""
    return ModelConfig(
        name=served.model,
        platform="ensemble",
        max_batch_size=config.max_batch_size,
        input=(IMAGE,),
        output=outputs(served, OUTPUTS),
        ensemble_scheduling=pbtxt.Ensemble(
            step=(
                pbtxt.Step(
                    model_name=decoder,
                    input_map={IMAGE.name: IMAGE.name},
                    output_map={PIXELS: PIXELS},
                ),
                pbtxt.Step(
                    model_name=encoder,
                    input_map={PIXELS: PIXELS},
                    output_map={ONNX_NAMES[output]: output for output in OUTPUTS},
                ),
            )
        ),
        parameters=parameters(told(served)),
    )


def embed_on_cpu(
    served: Served, decoder: str, encoder: str, config: RepositoryConfig
) -> ModelConfig:
    """The same by one Python model, which takes decoder and graph from the folders of the other two."""
    own = {"decoder": decoder, "encoder": encoder, "threads": str(config.cpu_threads)}
    return ModelConfig(
        name=served.model,
        backend="python",
        max_batch_size=config.max_batch_size,
        input=(IMAGE,),
        output=outputs(served, OUTPUTS),
        instance_group=(pbtxt.InstanceGroup(count=config.processes, kind=Kind.CPU),),
        dynamic_batching=batching(config, config.queue_delay_us),
        model_warmup=warmups(config, IMAGE.name, A_PICTURE),
        parameters=parameters({**told(served), **own}),
    )


def parameters(texts: dict[str, str]) -> dict[str, pbtxt.Parameter]:
    return {key: pbtxt.Parameter(string_value=text) for key, text in texts.items()}


def batching(config: RepositoryConfig, delay_us: int = 0) -> pbtxt.DynamicBatching:
    return pbtxt.DynamicBatching(
        max_queue_delay_microseconds=delay_us,
        default_queue_policy=pbtxt.QueuePolicy(max_queue_size=config.max_queue_size),
    )


def told(served: Served) -> dict[str, str]:
    """What a client reads of an endpoint before it asks."""
    bundle = served.bundle
    return {
        "bundle": bundle.name,
        "version": str(served.version),
        **{f"fingerprint_{output}": text for output, text in bundle.fingerprints.items()},
        # The output that search should use, and what the projection's distribution was shown to allow.
        "default_output": bundle.default_output,
        "promises": ",".join(name for name, kept in bundle.promises.items() if kept),
        # The values it shows as 0..255, so that small pictures can show what the encoder sees.
        "window": json.dumps(bundle.preprocessing.to_json()["window"]),
        # How much of a picture it sees: side of the square over the shorter side, and the crop mode.
        "crop": f"{bundle.preprocessing.crop_pct:g} {bundle.preprocessing.crop_mode}",
        # What its user must know: exports the gate refused, changes since it was pulled. A sentence a line.
        "notes": "\n".join(standing.notes(bundle)),
    }


def outputs(served: Served, names: Any) -> tuple[pbtxt.Tensor, ...]:
    """Of the ensemble, by our names, or of the encoder, by those of the ONNX graph."""
    return tuple(
        pbtxt.Tensor(name=name, data_type=DataType.FP32, dims=(served.bundle.dimensions[output],))
        for output, name in zip(OUTPUTS, names, strict=True)
    )


def shape(preprocessing: Preprocessing) -> tuple[int, int, int]:
    return (preprocessing.size, preprocessing.size, preprocessing.channels)


def decoded_as(preprocessing: Preprocessing) -> dict[str, Any]:
    """What decides about the crop: bundles that agree in it share their decoders. The graph normalises."""
    value = preprocessing.to_json()
    del value["std"]
    if preprocessing.crop_mode != "border":  # which fills up with the mean colour
        del value["mean"]
    return value


def preprocess(name: str, of: Preprocessing, config: RepositoryConfig) -> ModelConfig:
    """Image bytes -> [size, size, C] uint8 by Pillow, in processes of one thread each."""
    return ModelConfig(
        name=name,
        backend="python",
        max_batch_size=config.max_batch_size,
        input=(IMAGE,),
        output=(pbtxt.Tensor(name=PIXELS, data_type=DataType.UINT8, dims=shape(of)),),
        instance_group=(pbtxt.InstanceGroup(count=config.decoders, kind=Kind.CPU),),
        dynamic_batching=batching(config),
        model_warmup=warmups(config, IMAGE.name, A_PICTURE),
    )


def encoder(name: str, served: Served, config: RepositoryConfig) -> ModelConfig:
    """The graph in Triton's own ONNX Runtime backend; the kind of instance is left to it. Normalisation is
    inside the graph, so a quarter of the bytes travel."""
    dims = shape(served.bundle.preprocessing)
    zeros = pbtxt.WarmupInput(data_type=DataType.UINT8, dims=dims, zero_data=True)
    return ModelConfig(
        name=name,
        backend="onnxruntime",
        default_model_filename="model.onnx",
        max_batch_size=config.max_batch_size,
        input=(pbtxt.Tensor(name=PIXELS, data_type=DataType.UINT8, dims=dims),),
        output=outputs(served, ONNX_NAMES.values()),
        instance_group=(pbtxt.InstanceGroup(count=config.encoder_instances),),
        dynamic_batching=batching(config, config.queue_delay_us),
        model_warmup=warmups(config, PIXELS, zeros),
        optimization=tensorrt(served, config),
    )


def warmups(
    config: RepositoryConfig, name: str, value: pbtxt.WarmupInput
) -> tuple[pbtxt.Warmup, ...]:
    """One image and a full batch: the first request of either size finds its memory and engine there."""
    sizes = {"one image": 1, "full batch": config.max_batch_size}
    return tuple(
        pbtxt.Warmup(name=told, batch_size=size, inputs={name: value})
        for told, size in sizes.items()
    )


def tensorrt(served: Served, config: RepositoryConfig) -> pbtxt.Optimization | None:
    """Engines take minutes to build, so they and their timings are kept, and one profile spans every
    batch size: without it each new size builds again."""
    if config.tensorrt == "off":
        return None
    image = "x".join(map(str, shape(served.bundle.preprocessing)))
    most = f"{PIXELS}:{config.max_batch_size}x{image}"
    parameters = {
        "precision_mode": config.tensorrt.upper(),
        "max_workspace_size_bytes": str(1 << 30),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": config.tensorrt_cache,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": config.tensorrt_cache,
        "trt_profile_min_shapes": f"{PIXELS}:1x{image}",
        "trt_profile_opt_shapes": most,
        "trt_profile_max_shapes": most,
    }
    engine = pbtxt.Accelerator(name="tensorrt", parameters=parameters)
    return pbtxt.Optimization(
        execution_accelerators=pbtxt.Accelerators(gpu_execution_accelerator=(engine,))
    )
