"""What a request asks for beside its images; every dialect's names for it become one dataclass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jepack.client import Endpoint
from jepack.measures.codes import Kept
from serving.gateway.errors import Refusal, invalid
from serving.gateway.items import no_side
from serving.gateway.probing import Probes, asked_of

# The names that dialects give to one thing.
DIMENSIONS = ("dimensions", "output_dimension", "truncate_dim")
NORMALIZE = ("normalize", "normalized")
ENCODINGS = ("encoding_format", "output_encoding")
NUMBERS = ("embedding_type", "embedding_types", "encoding_type", "output_dtype")
# What may stand in a header too, for bodies that have no room for an option.
HEADERS = {
    "x-jepack-atypicality": "atypicality",
    "x-jepack-fingerprint": "fingerprint",
    "x-jepack-probe": "probe",
    "x-stainless-lang": "sdk",  # of OpenAI's own clients
    "x-user-id": "user",
}
FLOATS = ("float", "float32", "base64")
# As clients name them: (what it is, whether its bytes are told without a sign).
COARSE = {"int8": ("int8", False), "binary": ("binary", False), "ubinary": ("binary", True)}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How the rows are written."""

    output: str  # "embedding" or "projection"
    encoding: str = (
        "float"  # or "base64": of little-endian float32, unless `big_endian`, or of bytes
    )
    numbers: str = "float"  # or "int8", "binary", "ubinary"
    dimensions: int | None = None  # the first so many; None for all
    normalize: bool = False  # to unit length
    big_endian: bool = False
    skip_bad: bool = False  # leave bad images out instead of refusing the request
    atypicality: bool = False  # tell how ordinary each image is, beside its row
    probes: tuple[str, ...] = ()  # which say what each image is, beside its row


@dataclass(frozen=True)
class Offer:
    """What may be asked for: the endpoint, what was measured of shorter rows of its outputs, its probes."""

    endpoint: Endpoint
    kept: Mapping[str, Kept | None]  # None: nobody measured it
    probes: Probes = field(default_factory=dict)


def options_of(fields: Mapping[str, Any], offer: Offer) -> Options:
    """Raises Refusal for what this endpoint cannot do; fields it does not know are passed over."""
    check_modality(fields.get("modality"))
    endpoint = offer.endpoint
    output = output_of(fields, endpoint)
    kept = offer.kept.get(output)
    asked = numbers_of(fields)
    for name, one in asked:
        check_numbers(one, name, kept, output)
    normalize = [truth(fields, name) for name in NORMALIZE]
    return Options(
        output=output,
        encoding=encoding_of(fields, [one for _, one in asked]),
        numbers=next((one for _, one in asked if one in COARSE), "float"),
        dimensions=dimensions_of(fields, endpoint.dimensions[output], kept, output),
        normalize=any(normalize),
        big_endian=choice(fields, "endianness", ("native", "little", "big")) == "big",
        skip_bad=choice(fields, "on_error", ("fail", "skip")) == "skip",
        atypicality=truth(fields, "atypicality"),
        probes=asked_of(fields.get("probe"), offer.probes),
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


def dimensions_of(
    fields: Mapping[str, Any], width: int, kept: Kept | None, output: str
) -> int | None:
    """0 and null mean all. A cut that nobody measured would be a promise without ground."""
    found = None
    for name in DIMENSIONS:
        value = fields.get(name)
        if value in (None, "", 0, "0", width, str(width)) and not isinstance(value, bool):
            continue
        text = str(value) if type(value) in (int, str) else ""
        if not (text.isascii() and text.isdigit() and len(text) < 9 and 0 < int(text) <= width):
            raise unsupported(f"{value!r:.40}; a whole number from 1 to {width}", name)
        share = kept.share_of(int(text)) if kept else None
        if kept is None or share is None:
            raise unsupported(
                f"{text}, and {output} gives {width}: no row so short was measured. {UNMEASURED}",
                name,
            )
        if kept.shortest is None or int(text) < kept.shortest:
            least = f"{kept.shortest} are the fewest" if kept.shortest else "no shorter row does"
            raise unsupported(f"{told(text, share, kept, output)}; {least}", name)
        found = int(text)
    return found


UNMEASURED = "jepack export measures it on 40 or more held-out images; leave it out"


def unsupported(message: str, name: str) -> Refusal:
    return invalid("unsupported_dimensions", message, name)


def told(what: str, share: float, kept: Kept, output: str) -> str:
    """The figure that speaks against it."""
    return (
        f"{what} of {output} keeps {share:.0%} of the {kept.neighbours} nearest neighbours on {kept.images} "
        f"held-out images, {kept.floor:.0%} are needed"
    )


def numbers_of(fields: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(field, what it asks for), empty values left out."""
    found = []
    for name in NUMBERS:
        value = fields.get(name)
        for one in value if isinstance(value, list) else [value]:
            if one not in (None, ""):
                found.append((name, one))
    return found


def check_numbers(one: Any, name: str, kept: Kept | None, output: str) -> None:
    """Raises Refusal unless rows may be written so."""
    code = "unsupported_embedding_type"
    if one in FLOATS:
        return
    if one == "uint8":
        raise invalid(code, "uint8 moves the zero, after which no cosine holds; ask for int8", name)
    if not isinstance(one, str) or one not in COARSE:
        raise invalid(code, f"{one!r:.40}; one of {', '.join((*FLOATS, *COARSE))}", name)
    share = kept.numbers.get(COARSE[one][0]) if kept else None
    if kept is None or share is None:
        raise invalid(code, f"{one} of {output} was not measured. {UNMEASURED}", name)
    if share < kept.floor:
        raise invalid(code, f"{told(one, share, kept, output)}; ask for float or base64", name)


def encoding_of(fields: Mapping[str, Any], numbers: list[str]) -> str:
    found = ""
    for name in ENCODINGS:
        found = choice(fields, name, ("float", "base64")) or found
    found = found or ("base64" if "base64" in numbers else "float")
    if found == "base64" and fields.get("sdk") and any(one in COARSE for one in numbers):
        # They ask for base64 where the caller named nothing, and read float32 whatever comes.
        raise invalid(
            "invalid_option",
            'this client reads base64 as float32, which these bytes are not; say encoding_format="float"',
            "encoding_format",
        )
    return found


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
