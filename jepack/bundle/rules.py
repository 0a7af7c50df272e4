"""What a bundle's JSON files may tell the libraries that load it. Data and checks: no torch, no timm.

A config.json is somebody else's text, and timm's `create_model` takes more than the shape of a network:
`pretrained`, `pretrained_cfg` (an address to fetch weights from), `checkpoint_path` (any file), `scriptable`
and more. So only names listed here go on, with values that are numbers, words or short lists of them;
what timm may add later is refused until it is listed.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from jepack.bundle.values import (
    LONGEST,
    any_of,
    is_count,
    is_flag,
    is_large,
    is_list,
    is_number,
    is_plain,
    is_table,
    is_text,
    is_word,
    or_nothing,
    per_channel,
    shown,
)

# Arguments of timm's networks that say how one is built: the constructors of timm 1.0.31, without those
# that name code, devices, other weights, or (num_classes, out_indices) another output than the pooled one.
_NAMES = """
abs_win_pos_embed act_layer always_partition attn_drop_rate attn_head_dim_reduction attn_mlp_ratio
attn_pool_mlp_ratio attn_pool_num_heads attn_ratio attn_type attn_types avg_down base_dim base_dims
base_width bias block_config bn_size bottle_ratio cardinality channel_attention channel_multiplier
channels class_token cls_attn_layers conv_bias conv_mlp conv_ratio crop_scale crpe_window
deepen_factor depth depth_mult depth_token_only depths dim dims distillation distilled
down_kernel_size down_patch_size down_stride downsample downsamples drop drop_block_rate
drop_block_size drop_path_rate drop_rate dropout dynamic_img_pad dynamic_img_size embed_dim
embed_dims embed_norm expand_ratio expansion_ratio fc_norm feature_dim ffn_ratio final_chs
final_norm first_stride fix_init fix_stem focal_levels focal_windows global_att_blocks
global_attn_indexes global_block_counts global_pool global_pos_size growth_rate growth_rates
head_bias head_dim head_hidden_size head_init_scale head_mul head_norm head_norm_first head_widths
heads hidden_size hidden_sizes img_scale img_size in_chans init_channels init_values initial_chs
inner_dim input_3x3 intermediate_size kernel_size kernel_sizes key_dim layer_scale
layer_scale_init_value layer_scale_init_values layers layerscale_value linear local_conv_size
local_up_to_layer ls_init_value mask_unit_attn mask_unit_size merge_size mlp_bias mlp_ratio
mlp_ratio_token_only mlp_ratios multi_conv neck_chans no_embed_class norm_eps norm_layer num_blocks
num_features num_heads num_heads_inner num_heads_outer num_init_features num_kv_heads num_reg_tokens
num_vit out_features output_stride pad_type parallel_depth patch_drop_rate patch_kernel patch_norm
patch_padding patch_size patch_sizes patch_stride pool_include_prefix pool_size pool_type
pooling_scale pos_drop_rate pos_embed pos_embed_grid_size pre_norm preact proj_bias proj_drop_rate
q_pool q_stride qk_dim qk_norm qkv_bias qkv_fused ref_feat_shape reg_tokens rel_pos_dim rel_pos_type
res_scale_init_values rope_grid_indexing rope_grid_offset rope_rotate_half rope_temperature
rope_theta rope_type scale scale_attn_inner scale_attn_norm scale_mlp scale_mlp_norm se_ratio
sep_pos_embed serial_depths shared_rel_pos sr_ratios stages standardize state_dim stem_bias stem_chs
stem_hidden_dim stem_kernel_size stem_norm stem_size stem_stride stem_type stem_width
strict_img_size strides swiglu_align_to swiglu_mlp token_mixers tokens_norm transformer_depths
use_abs_pos use_abs_pos_emb use_expand_proj use_fc_norm use_grn use_layer_scale use_overlap_down
use_pos_emb use_pos_embed use_post_norm use_post_transformer_norm use_pre_transformer_norm
use_rel_pos use_rel_pos_bias use_rope use_rot_pos_emb use_shared_rel_pos_bias v2 vit_stem
weight_init widen_factor width width_factor width_list width_mult widths window_ratio window_size
window_sizes window_spec zero_init_last
"""
MODEL_ARGUMENTS = frozenset(_NAMES.split())

MODEL_NAME = re.compile(r"[A-Za-z0-9_]{1,100}(\.[A-Za-z0-9_-]{1,100})?")


names = or_nothing(lambda value: is_word(value) or is_list(is_word)(value))
PRETRAINED_CFG: dict[str, Callable[[Any], bool]] = {
    "input_size": lambda value: is_list(is_count)(value) and len(value) == 3,
    "fixed_input_size": is_flag,
    "interpolation": is_word,
    "crop_pct": is_number,
    "crop_mode": any_of("center", "squash", "border"),
    "mean": per_channel(is_number),
    "std": per_channel(is_number),
    "num_classes": lambda value: type(value) is int and 0 <= value < 10**9,
    "first_conv": names,
    "classifier": names,
    "license": is_text,
}
PROJECTOR = {"in_features", "hidden", "out_features", "layers"}
CONFIG: dict[str, Callable[[Any], bool]] = {
    "architecture": lambda value: isinstance(value, str) and bool(MODEL_NAME.fullmatch(value)),
    "num_classes": is_count,
    "num_features": is_count,
    "global_pool": or_nothing(is_word),
    "model_args": is_table,
    "pretrained_cfg": is_table,
    "jepack": is_table,
}
SENTENCE_BERT = {"transformer_task", "modality_config", "module_output_name", "max_seq_length"}
PREPROCESSING: dict[str, Callable[[Any], bool]] = {  # of the manifest
    "size": is_count,
    "channels": is_count,
    "mean": per_channel(is_number),
    "std": per_channel(is_number),
    "crop_pct": is_number,
    "crop_mode": any_of("center", "squash", "border"),
    "interpolation": is_word,
    "window": lambda value: value in (None, "dicom") or per_channel(is_list(is_large))(value),
}
SENTENCE_TRANSFORMERS = {
    "model_type", "similarity_fn_name", "prompts", "default_prompt_name", "__version__"
}  # fmt: skip
# Keys by which transformers and its neighbours fetch or run something else, wherever they stand.
LEADING_AWAY = {
    "auto_map", "trust_remote_code", "custom_pipelines", "base_model_name_or_path", "_name_or_path",
    "quantization_config", "hf_hub_id", "hf_hub_filename", "checkpoint_path",
}  # fmt: skip
TABLES = ("isotropy.json", "recipe.json", "preprocessor_config.json")
# Files that loaders look for by name and follow to other files; no bundle has them.
FOLLOWED = ("adapter_config.json", "model.safetensors.index.json")


def argument_problems(arguments: Any) -> list[str]:
    """What must not go on to timm of a config's `model_args`; an empty list when all may."""
    if not isinstance(arguments, dict):
        return [f"model_args is {shown(arguments)}, not a table"]
    problems = [
        f"model_args: {shown(name)} is no argument that says how a network is built, so it is not "
        "passed to timm"
        for name in arguments
        if name not in MODEL_ARGUMENTS
    ]
    return problems or [
        f"model_args: {name} is {shown(value)}; numbers, words and short lists of them are accepted"
        for name, value in arguments.items()
        if not is_plain(value)
    ]


def table_problems(what: str, value: Any, rules: dict[str, Callable[[Any], bool]]) -> list[str]:
    """Entries that are not listed, or of the wrong kind."""
    if not isinstance(value, dict):
        return [f"{what} is {shown(value)}, not a table"]
    problems = [f"{what}: {shown(name)} has no place there" for name in value if name not in rules]
    return problems + [
        f"{what}: {name} cannot be {shown(value[name])}"
        for name, check in rules.items()
        if name in value and not check(value[name])
    ]


def config_problems(config: Any, dimensions: dict[str, int]) -> list[str]:
    """What is wrong with a bundle's config.json; the widths must be the manifest's `dimensions`."""
    problems = table_problems("config.json", config, CONFIG)
    if problems:
        return problems
    for name in ("architecture", "pretrained_cfg", "jepack"):
        if name not in config:
            return [f"config.json: {name} is missing"]
    problems = argument_problems(config.get("model_args", {}))
    problems += table_problems("pretrained_cfg", config["pretrained_cfg"], PRETRAINED_CFG)
    head = config["jepack"].get("projector")
    if not isinstance(config["jepack"].get("method"), str):
        problems.append("jepack: method must be a word")
    if (
        not isinstance(head, dict)
        or set(head) != PROJECTOR
        or not all(map(is_count, head.values()))
    ):
        problems.append(f"jepack: projector needs {', '.join(sorted(PROJECTOR))}, whole numbers")
    elif min(head.values()) < 1 or head["layers"] > LONGEST:
        problems.append(
            f"jepack: a projector of {head['layers']} layers and {head['hidden']} hidden dimensions "
            f"(1 to {LONGEST} layers, all widths 1 or more)"
        )
    elif (head["in_features"], head["out_features"]) != tuple(dimensions.values()):
        problems.append(
            f"jepack: the projector maps {head['in_features']} to {head['out_features']} dimensions, "
            f"the manifest says {' to '.join(map(str, dimensions.values()))}"
        )
    width = config.get("num_features", dimensions["embedding"])
    if width != dimensions["embedding"]:
        problems.append(
            f"num_features is {width}, the manifest's embedding has {dimensions['embedding']}"
        )
    return [f"config.json: {problem}" for problem in problems]


def loader_problems(name: str, value: Any) -> list[str]:
    """What is wrong with another JSON file of a bundle, by its name."""
    if PurePosixPath(name).name in FOLLOWED:
        return [f"{name}: loaders follow such a file to other files; no bundle has it"]
    away = sorted(keys_of(value) & LEADING_AWAY)
    if away:
        return [f"{name}: {', '.join(away)} would make a loader fetch or run something else"]
    if name == "modules.json":
        return [f"{name}: {problem}" for problem in module_problems(value)]
    rules: dict[str, set[str]] = {
        "sentence_bert_config.json": SENTENCE_BERT,
        "config_sentence_transformers.json": SENTENCE_TRANSFORMERS,
    }
    if name in rules:
        if not isinstance(value, dict):
            return [f"{name}: not a table"]
        return [
            f"{name}: {shown(key)} has no place there" for key in value if key not in rules[name]
        ]
    if name in TABLES and not isinstance(value, dict):
        return [f"{name}: not a table"]
    if name == "probes.json" and not (isinstance(value, list) and all(map(is_table, value))):
        return [f"{name}: not a list of tables"]
    if name == "preprocessor_config.json" and "pretrained_cfg" in value:
        problems = table_problems("pretrained_cfg", value["pretrained_cfg"], PRETRAINED_CFG)
        return [f"{name}: {problem}" for problem in problems]
    return []


def module_problems(value: Any) -> list[str]:
    """sentence-transformers imports the class that each entry names, and opens the folder it names."""
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        return ["not a list of modules"]
    problems = []
    for entry in value:
        kind, place = entry.get("type"), entry.get("path")
        if not (is_word(kind) and str(kind).startswith("sentence_transformers.")):
            problems.append(f"{shown(kind)} is no module of sentence-transformers")
        if place != "":
            problems.append(f"a module lies in {shown(place)}, not in the bundle itself")
    return problems


def keys_of(value: Any) -> set[str]:
    """Every name of every table inside a JSON value."""
    keys: set[str] = set()
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            keys |= item.keys()
            waiting += item.values()
        elif isinstance(item, list):
            waiting += item
    return keys
