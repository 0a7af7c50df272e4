"""From a trained encoder to a bundle: calibration, golden images, isotropy, card."""

from training.bundling.assembling import CPU, Content, assemble, write
from training.bundling.origin import commit, data_of, provenance, versions
from training.bundling.principal import principal_projector

__all__ = [
    "CPU",
    "Content",
    "assemble",
    "commit",
    "data_of",
    "principal_projector",
    "provenance",
    "versions",
    "write",
]
