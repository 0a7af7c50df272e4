"""What others released of the same method, from an installation or from a folder of it.

pip install --no-deps --target FOLDER lightly==1.6.* lightly-utils stable-pretraining==0.1.8
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Loss = Callable[
    [Tensor, Tensor], Tensor
]  # of [images, dimensions], and directions it need not take


class Missing(Exception):
    """A contender that is not here; its text says which."""


def lightly(folder: Path | None, slices: int, device: str) -> Loss | str:
    """lightly's SIGReg, or why it is not run. It draws its own directions inside the call."""
    if folder is not None and str(folder) not in sys.path:
        sys.path.append(str(folder))
    try:
        theirs: Any = importlib.import_module("lightly.loss.lejepa_loss")
    except ImportError as error:
        return f"no lightly ({error})"
    loss = theirs.SIGReg(num_vectors=slices).to(device)
    return lambda z_ND, directions_DM: loss(z_ND)


def stable_pretraining(folder: Path | None, slices: int, device: str) -> Loss | str:
    """stable-pretraining's SIGReg, or why it is not run. It draws its own directions inside the call."""
    try:
        loss = lejepa_module(folder).SlicedEppsPulley(num_slices=slices).to(device)
    except Missing as error:
        return str(error)
    return lambda z_ND, directions_DM: loss(z_ND)


def lejepa_module(folder: Path | None) -> Any:
    """stable-pretraining's `methods/lejepa.py`: its model and loss. Raises Missing.

    Only this file is executed; the training framework it imports (Lightning and thirty more packages)
    plays no part in the model and is stood in for by empty names.
    """
    name = "stable_pretraining_lejepa"
    if name in sys.modules:
        return sys.modules[name]
    path = lejepa_file(folder)
    if path is None:
        raise Missing("no stable-pretraining")
    parents = {"stable_pretraining": "Module", "stable_pretraining.backbone": "MLP"}
    if importlib.util.find_spec("transformers") is None:
        parents |= {"transformers": "", "transformers.utils": "ModelOutput"}
    for parent, needed in parents.items():
        stand_in = types.ModuleType(parent)
        setattr(stand_in, needed, object if needed == "ModelOutput" else torch.nn.Module)
        sys.modules.setdefault(parent, stand_in)
    try:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    except ImportError as error:
        del sys.modules[name]
        raise Missing(f"stable-pretraining does not import: {error}") from error
    return module


def lejepa_file(folder: Path | None) -> Path | None:
    """Where it lies: in the folder, else beside this Python's packages."""
    places = [str(folder)] if folder is not None else sys.path
    for place in places:
        path = Path(place) / "stable_pretraining" / "methods" / "lejepa.py"
        if path.is_file():
            return path
    return None
