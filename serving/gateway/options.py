"""What a request asks for beside its images; every dialect's names for it become one dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jepack.client import Endpoint
from serving.gateway.errors import invalid
from serving.gateway.items import no_side

# The names that dialects give to one thing.
DIMENSIONS = ("dimensions", "output_dimension", "truncate_dim")
NORMALIZE = ("normalize", "normalized")
ENCODINGS = ("encoding_format", "output_encoding")
NUMBERS = ("embedding_type", "embedding_types", "encoding_type", "output_dtype")
# What may stand in a header too, for bodies that have no room for an option.
HEADERS = {
    "x-jepack-atypicality": "atypicality",
    "x-jepack-fingerprint": "fingerprint",
    "x-user-id": "user",
}
OTHER_NUMBERS = ("int8", "uint8", "binary", "ubinary")


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the rows are written."""

    output: str  # "embedding" or "projection"
    encoding: str = "float"  # or "base64": little-endian float32, unless `big_endian`
    normalize: bool = False  # to unit length
    big_endian: bool = False
    skip_bad: bool = False  # leave bad images out instead of refusing the request
    atypicality: bool = False  # tell how ordinary each image is, beside its row


def options_of(fields: Mapping[str, Any], endpoint: Endpoint) -> Options:
    """Raises Refusal for what this endpoint cannot do; fields it does not know are passed over."""
    check_modality(fields.get("modality"))
    output = output_of(fields, endpoint)
    check_dimensions(fields, endpoint.dimensions[output], endpoint.bundle)
    normalize = [truth(fields, name) for name in NORMALIZE]
    return Options(
        output=output,
        encoding=encoding_of(fields),
        normalize=any(normalize),
        big_endian=choice(fields, "endianness", ("native", "little", "big")) == "big",
        skip_bad=choice(fields, "on_error", ("fail", "skip")) == "skip",
        atypicality=truth(fields, "atypicality"),
    )


def output_of(fields: Mapping[str, Any], endpoint: Endpoint) -> str:
    """By `output`, by the model's name ("photos:projection"), else the one that search should use."""
    _, colon, named = str(fields.get("model") or "").rpartition(":")
    named = named if colon and named in endpoint.dimensions else ""
    asked = choice(fields, "output", tuple(endpoint.dimensions))
    return asked or named or endpoint.default_output


def model_names(endpoint: Endpoint, label: str) -> list[str]:
    """The name it is asked by, whose default output answers, and each output of it."""
    return [label, *(f"{label}:{output}" for output in endpoint.dimensions)]


def check_modality(value: Any) -> None:
    for number, one in enumerate(value if isinstance(value, list) else [value]):
        if one not in (None, "", "image"):
            param = f"modality[{number}]" if isinstance(value, list) else "modality"
            raise no_side(f"{one!s:.40}", param)


def check_dimensions(fields: Mapping[str, Any], width: int, bundle: str) -> None:
    """0 and null mean all. A cut that nobody measured would be a promise without ground."""
    for name in DIMENSIONS:
        value = fields.get(name)
        if value in (None, "", 0, "0", width, str(width)) and not isinstance(value, bool):
            continue
        raise invalid(
            "unsupported_dimensions",
            f"{value!r:.40}, and {bundle} gives {width}: no shorter embedding of it was measured. "
            "Leave it out",
            name,
        )


def encoding_of(fields: Mapping[str, Any]) -> str:
    found = ""
    for name in ENCODINGS:
        found = choice(fields, name, ("float", "base64")) or found
    for name in NUMBERS:
        value = fields.get(name)
        for one in value if isinstance(value, list) else [value]:
            if one in OTHER_NUMBERS:
                raise invalid(
                    "unsupported_embedding_type",
                    f"{one}, which this bundle has not measured; ask for float or base64",
                    name,
                )
            if one not in (None, "", "float", "float32", "base64"):
                raise invalid("unsupported_embedding_type", f"{one!r:.40}; float or base64", name)
            found = found or ("base64" if one == "base64" else "")
    return found or "float"


def choice(fields: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str:
    value = fields.get(name)
    if value in (None, ""):
        return ""
    if value not in known:
        raise invalid("invalid_option", f"{value!r:.40}; one of {', '.join(known)}", name)
    return str(value)


def truth(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name)
    value = value.lower() if isinstance(value, str) else value
    if value in (None, "", False, "false", "0", 0):
        return False
    if value in (True, "true", "1", 1):
        return True
    raise invalid("invalid_option", f"{value!r:.40}; true or false", name)
