"""Which bundles a server holds, each under a name and a version: `A=bundle1 A=bundle2 B=bundle3`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.errors import ConfigError

ALONE = "embed"  # Triton's model of a bundle that is served without a name
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
TAKEN = ("preprocess", "encoder")  # Triton's models behind it
FORM = "jepack serve BUNDLE, or jepack serve NAME=BUNDLE NAME=BUNDLE ..."


@dataclass(frozen=True)
class Served:
    """A bundle as it is asked for. Version 1 is the first that was given for a name."""

    bundle: Bundle
    name: str = ""  # "": the only one
    version: int = 1
    only: bool = True  # version of its name

    @property
    def model(self) -> str:
        """Triton's model that takes image bytes.

        Triton's own versions share one config, and an ensemble's names the version of each part. A bundle's
        dimensions and fingerprints stand there too, so each version is a model of its own: `A@1`, `A@2`.
        """
        return (self.name or ALONE) if self.only else f"{self.name}@{self.version}"

    @property
    def told_name(self) -> str:
        """The name that callers of the gateway know."""
        return self.name or self.bundle.name

    @property
    def told(self) -> str:
        """For a person."""
        return self.told_name if self.only else f"{self.told_name}@{self.version}"


def served_of(texts: Sequence[str]) -> list[Served]:
    """The command line's BUNDLE, or its NAME=BUNDLE; one name given again is its next version.

    Raises ConfigError for what is neither, and what `bundles.load` raises.
    """
    pairs = [pair_of(text) for text in texts]
    if len(pairs) > 1 and (nameless := [path for name, path in pairs if not name]):
        raise ConfigError(
            f"{nameless[0]}: of several bundles each needs a name to be asked by. Write NAME={nameless[0]}"
        )
    return together([(name, bundles.load(path)) for name, path in pairs])


def together(named: Sequence[tuple[str, Bundle]]) -> list[Served]:
    """Versions in the order in which bundles of one name stand."""
    names = [name for name, _ in named]
    return [
        Served(bundle, name, names[:place].count(name) + 1, names.count(name) == 1)
        for place, (name, bundle) in enumerate(named)
    ]


def pair_of(text: str) -> tuple[str, Path]:
    """("", folder) or (name, folder); a folder whose own name holds "=" is a folder."""
    name, equals, folder = text.partition("=")
    if not equals or Path(text).exists() or "/" in name:
        return "", Path(text)
    if not NAME.fullmatch(name) or name in TAKEN:
        raise ConfigError(
            f"{name!r:.80} cannot be the name of a model: up to 64 letters, digits, '.', '_' and '-' after a "
            f"letter or digit, and not {' or '.join(TAKEN)}. {FORM}"
        )
    if not folder:
        raise ConfigError(f"{text}: no bundle after the name. {FORM}")
    return name, Path(folder)
