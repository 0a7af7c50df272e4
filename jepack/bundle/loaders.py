"""The files by which transformers and sentence-transformers load a bundle. JSON only.

timm reads `config.json`. transformers reads it too (as its `timm_wrapper`) and takes the preprocessing
from `preprocessor_config.json`. sentence-transformers would average the tokens of such a folder, so
`modules.json` and `sentence_bert_config.json` point it to the pooled output.
"""

from __future__ import annotations

from typing import Any

from jepack.decoding import Preprocessing

PILLOW_RESAMPLING = {"bilinear": 2, "bicubic": 3, "lanczos": 1}
TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"


def loader_files(config: dict[str, Any], preprocessing: Preprocessing) -> dict[str, Any]:
    """{file name: JSON value} for a bundle with this timm `config.json`."""
    side = {"height": preprocessing.size, "width": preprocessing.size}
    processor = {
        # timm's own keys: TimmWrapperImageProcessor builds timm's evaluation transform from them.
        "image_processor_type": "TimmWrapperImageProcessor",
        "architecture": config["architecture"],
        "pretrained_cfg": config["pretrained_cfg"],
        # The usual keys, for readers that know nothing of timm (transformers.js).
        "do_resize": True,
        "size": size_before_crop(preprocessing),
        "resample": PILLOW_RESAMPLING[preprocessing.interpolation],
        "do_center_crop": True,
        "crop_size": side,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
    return {
        "preprocessor_config.json": processor,
        "modules.json": [{"idx": 0, "name": "0", "path": "", "type": TRANSFORMER}],
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": {
                "image": {"method": "forward", "method_output_name": "pooler_output"}
            },
            "module_output_name": "sentence_embedding",
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "similarity_fn_name": "cosine",
            "prompts": {},
            "default_prompt_name": None,
        },
    }


def size_before_crop(preprocessing: Preprocessing) -> dict[str, int]:
    """In the usual keys. They know no border; such readers see its image without one."""
    side = int(preprocessing.size / preprocessing.crop_pct)
    if preprocessing.crop_mode == "squash":
        return {"height": side, "width": side}
    return {"shortest_edge" if preprocessing.crop_mode == "center" else "longest_edge": side}
