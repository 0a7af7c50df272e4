"""What a run of `jepack embed` is: which images, which encoder, which outputs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from jepack.client import Endpoint
from jepack.errors import ConfigError
from jepack.names import kept
from jepack.sources import Source

KEY = "jepack"  # of the schema of every part
WORDS = {
    "source": "images of",
    "tile": "windows of",
    "tile_stride": "windows every",
    "outputs": "outputs",
    "fingerprints": "encoder",
    "probes": "probes",
}


@dataclass(frozen=True)
class Job:
    """Rows of two jobs that are not `same` never stand in one table."""

    source: str  # absolute, as `jepack embed` takes it
    tile: int
    tile_stride: int
    outputs: tuple[str, ...]
    fingerprints: dict[str, str]  # of `outputs`
    dimensions: dict[str, int]  # of `outputs`
    default_output: str
    bundle: str  # its name, for people
    base: str = ""  # the folder that names of the images count from, see names.kept
    probes: tuple[str, ...] = ()  # that answer beside the rows: `name digest digest`

    @classmethod
    def of(
        cls,
        source: Source,
        tile: int,
        stride: int,
        outputs: tuple[str, ...],
        served: Endpoint,
        probes: tuple[str, ...] = (),
    ) -> Job:
        """Raises ConfigError where the encoder tells no fingerprint of an output."""
        if missing := [output for output in outputs if output not in served.fingerprints]:
            raise ConfigError(
                f"{served.bundle}: tells no fingerprint of its {' and '.join(missing)}, so its rows cannot "
                "be kept apart from another encoder's. Serve a jepack bundle: jepack serve BUNDLE"
            )
        source = source.absolute()
        return cls(
            source=source.text if source.away else "#".join(filter(None, (str(source.path), source.choice))),
            tile=tile,
            tile_stride=(stride or tile),
            outputs=outputs,
            fingerprints={output: served.fingerprints[output] for output in outputs},
            dimensions={output: served.dimensions[output] for output in outputs},
            default_output=served.default_output if served.default_output in outputs else outputs[0],
            bundle=served.bundle,
            base=kept(str(source.base)),
            probes=probes,
        )  # fmt: skip

    def differences(self, other: dict[str, Any]) -> list[str]:
        """What another job, as JSON, has that this one has not: a sentence each; none = the same job."""
        own = json.loads(json.dumps(asdict(self)))
        theirs, mine = other.get("fingerprints") or {}, own["fingerprints"]
        both = theirs.keys() & mine.keys()
        if both and all(theirs[output] == mine[output] for output in both):
            own["fingerprints"] = theirs  # one encoder: other outputs are told as such
        return [
            f"{words} {told(other.get(name))}, not {told(own[name])}"
            for name, words in WORDS.items()
            if (other.get(name) or None) != (own[name] or None)
        ]

    def metadata(self, **more: str) -> dict[str, str]:
        """Of a Parquet schema: what readers look for, and the whole job."""
        prints = {f"fingerprint_{name}": text for name, text in self.fingerprints.items()}
        job = json.dumps(asdict(self), sort_keys=True)
        return {
            **prints,
            "default_output": self.default_output,
            "base": self.base,
            KEY: job,
            **more,
        }


def told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {text}" for name, text in value.items())
    if isinstance(value, list):
        return " and ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
