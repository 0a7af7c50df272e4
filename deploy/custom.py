"""Custom resources against typed models: the Prometheus operator's, KEDA's and KServe's."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator
from typing import Any

from tools import kserve_models

PYDANTIC = {
    "monitoring.coreos.com/v1": "cloudcoil.models.prometheus_operator.v1",
    "keda.sh/v1alpha1": "cloudcoil.models.keda.v1alpha1",
}
KSERVE = {"serving.kserve.io/v1alpha1": "V1alpha1", "serving.kserve.io/v1beta1": "V1beta1"}
GROUPS = set(PYDANTIC) | set(KSERVE)


def problems(document: dict[str, Any]) -> Iterator[str]:
    if module := PYDANTIC.get(document["apiVersion"]):
        return of_pydantic(module, document)
    return of_kserve(f"{KSERVE[document['apiVersion']]}{document['kind']}", document)


def of_pydantic(module: str, document: dict[str, Any]) -> Iterator[str]:
    """Its models pass over names that they do not know, so what they kept is compared."""
    model = getattr(importlib.import_module(module), document["kind"])
    try:
        made = model.model_validate(document)
    except ValueError as error:
        yield str(error)
        return
    kept = made.model_dump(by_alias=True, exclude_unset=True, mode="json")
    yield from (f"{place}: no such name" for place in lost(document, kept))


def lost(given: Any, kept: Any, place: str = "") -> Iterator[str]:
    if isinstance(given, dict) and isinstance(kept, dict):
        for name, value in given.items():
            here = f"{place}.{name}".lstrip(".")
            if name not in kept:
                yield here
            else:
                yield from lost(value, kept[name], here)
    elif isinstance(given, list) and isinstance(kept, list):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from lost(one, other, f"{place}[{number}]")


def of_kserve(model: str, document: dict[str, Any]) -> Iterator[str]:
    """KServe's classes tell name and type of each field; those of Kubernetes are its own client's."""
    if "kserve" not in sys.modules:  # its own __init__ would import a server
        package = types.ModuleType("kserve")
        package.__path__ = [str(kserve_models() / "kserve")]
        sys.modules["kserve"] = package
    from kubernetes import client

    names = importlib.import_module("kserve.models")

    def walk(kind: str, value: Any, place: str) -> Iterator[str]:
        if kind.startswith("list["):
            if not isinstance(value, list):
                yield f"{place}: a list is needed"
                return
            for number, one in enumerate(value):
                yield from walk(kind[5:-1], one, f"{place}[{number}]")
            return
        made = getattr(names, kind, None) or getattr(client, kind, None)
        if made is None or not hasattr(made, "attribute_map"):
            return  # a plain value, or a map of any names
        known = {name: made.openapi_types[ours] for ours, name in made.attribute_map.items()}
        for name, inner in value.items():
            if name not in known:
                yield f"{place}.{name}: no such name".lstrip(".")
            else:
                yield from walk(known[name], inner, f"{place}.{name}")

    yield from walk(model, document, "")
