"""From a trained encoder to a bundle: calibration, golden images, isotropy, card."""

from training.bundling.assembling import CPU, Content, assemble
from training.bundling.concluding import conclude
from training.bundling.origin import commit, data_of, provenance, versions
from training.bundling.principal import principal_projector
from training.bundling.runs import write

__all__ = [
    "CPU",
    "Content",
    "assemble",
    "commit",
    "conclude",
    "data_of",
    "principal_projector",
    "provenance",
    "versions",
    "write",
]
