"""The encoder bundle: one flat folder that is also one Hub repository. No torch here."""

from jepack.bundle.contents import (
    MANIFEST,
    MAX_SIGNATURE,
    ONNX_NAMES,
    OUTPUTS,
    REQUIRED,
    SIGNATURE,
    SUFFIXES,
    files_of,
    fingerprints,
)
from jepack.bundle.folder import Bundle, cosine, load
from jepack.bundle.golden import difference, golden_file
from jepack.bundle.hardening import MAX_TENSORS, misfit, projector_problems, shapes_in
from jepack.bundle.making import (
    editing,
    refuse_cached,
    refuse_other_folder,
    write_loader_files,
    write_manifest,
    writing,
)
from jepack.bundle.ordinary import NULL, write_null
from jepack.bundle.origin import REVISION, SOURCE, Source, edited, source_of
from jepack.bundle.probes import Probe, check_probe_name, write_probe
from jepack.bundle.rules import PRETRAINED_CFG, argument_problems, config_problems, table_problems
from jepack.bundle.verifying import printable, read_manifest, verify

__all__ = [
    "MANIFEST",
    "MAX_SIGNATURE",
    "MAX_TENSORS",
    "NULL",
    "ONNX_NAMES",
    "OUTPUTS",
    "PRETRAINED_CFG",
    "REQUIRED",
    "REVISION",
    "SIGNATURE",
    "SOURCE",
    "SUFFIXES",
    "Bundle",
    "Probe",
    "Source",
    "argument_problems",
    "check_probe_name",
    "config_problems",
    "cosine",
    "difference",
    "edited",
    "editing",
    "files_of",
    "fingerprints",
    "golden_file",
    "load",
    "misfit",
    "printable",
    "projector_problems",
    "read_manifest",
    "refuse_cached",
    "refuse_other_folder",
    "shapes_in",
    "source_of",
    "table_problems",
    "verify",
    "write_loader_files",
    "write_manifest",
    "write_null",
    "write_probe",
    "writing",
]
