"""Reading what `jepack embed` wrote: an .npz, a .parquet, or a folder of Parquet parts."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from jepack.client.answers import OUTPUTS
from jepack.errors import ArtifactError, ConfigError, DependencyError

READ_SINCE = "read_since"  # of a schema or an .npz, see SavedRows.since
PARTS = "part-*.parquet"  # of a folder; their order is that of their names
RECORD = "job.json"  # of a folder: what its parts are of, and whether all of them are there
BLOCK = 4096  # rows read at a time: 8 MB of 512 dimensions
MADE_BY = "Make it: jepack embed DATA --out photos.npz (or photos.parquet, or a folder)"

Block = tuple[list[str], npt.NDArray[Any]]  # names, vectors [N, D]


@dataclass(frozen=True)
class Saved:
    """One output's rows, each of the image of that name below the data folder."""

    names: list[str]
    vectors: npt.NDArray[Any]  # [N, D]
    fingerprint: str


@dataclass(frozen=True)
class SavedRows:
    """As `Saved`, read a block at a time: of Parquet no more than a block is in memory."""

    fingerprint: str
    blocks: Callable[[], Iterator[Block]]
    base: str = ""  # the folder that names count from, see names.kept; "" where nothing is said
    since: tuple[
        tuple[int, int], ...
    ] = ()  # (rows, ns since 1970), in the order of the rows: no image of
    # these rows was read earlier, so that one changed later may not be what its row is of


def read_saved(path: Path, output: str) -> Saved:
    """One output of what `jepack embed` wrote, whole. Raises ArtifactError saying what it lacks."""
    rows = saved_rows(path, output)
    names: list[str] = []
    vectors = []
    for some, block in rows.blocks():
        names += some
        vectors.append(block)
    return Saved(names, np.concatenate(vectors), rows.fingerprint)


def saved_rows(path: Path, output: str) -> SavedRows:
    """One output of what `jepack embed` wrote. Raises ArtifactError saying what it lacks."""
    if is_parquet(path):
        return rows_of_parquet(path, output)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names, vectors = arrays["path"], arrays[output]
            fingerprint = str(arrays[f"fingerprint_{output}"])
            base = str(arrays["base"]) if "base" in arrays else ""
            read = int(arrays[READ_SINCE]) if READ_SINCE in arrays else path.stat().st_mtime_ns
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        reason = f"no such file: {path}" if isinstance(error, FileNotFoundError) else str(error)
        raise ArtifactError(f"{path}: not a file of embeddings ({reason}). {MADE_BY}") from error
    if vectors.ndim != 2 or len(vectors) != len(names):
        raise ArtifactError(f"{path}: {len(names)} paths, but {output} of shape {vectors.shape}")
    block = ([str(name) for name in names.tolist()], vectors)
    return SavedRows(fingerprint, lambda: iter([block]), base, ((len(names), read),))


def default_output(path: Path) -> str:
    """The output that the encoder says to search by; `embedding` where nothing is said."""
    try:
        if is_parquet(path):
            told = about(parquet_files(path)[0])
            found = told.get("default_output", "")
        else:
            with np.load(path, allow_pickle=False) as arrays:
                found = str(arrays["default_output"])
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError, ArtifactError):
        return OUTPUTS[0]  # saved_rows says what is wrong with a file
    return found if found in OUTPUTS else OUTPUTS[0]


def unfinished(folder: Path) -> str | None:
    """How to finish the job of a folder of parts; None where it is finished, or nothing is known of it."""
    try:
        told = json.loads((folder / RECORD).read_text())
        if told["whole"]:
            return None
        source = told["job"]["source"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    out = folder.with_suffix("") if folder.suffix == ".parts" else folder
    return (
        f"the job is not finished: run the same `jepack embed {source} --out {out} ...` again, it goes on "
        "where it was"
    )


def check_finished(path: Path) -> None:
    """Raises ConfigError for a folder, or a file that is still to be made, whose job has not ended."""
    folder = path if path.is_dir() else path.with_name(f"{path.name}.parts")
    todo = unfinished(folder)
    if todo is not None and (folder == path or not path.exists()):
        raise ConfigError(f"{path}: {todo}. Its rows wait in {folder}")


def is_saved(place: str) -> bool:
    """Whether `place` is called, or looks, like what `jepack embed` writes; a manifest does not."""
    path = Path(place)
    if path.suffix == ".npz":
        return True
    try:
        return is_parquet(path) and any(map(about(parquet_files(path)[0]).get, FINGERPRINTS))
    except ArtifactError:
        return False


FINGERPRINTS = tuple(f"fingerprint_{output}" for output in OUTPUTS)


def is_parquet(path: Path) -> bool:
    return path.suffix == ".parquet" or path.is_dir()


def parquet_files(path: Path) -> list[Path]:
    """The file, or the parts of a folder. Raises ArtifactError where there are none."""
    files = sorted(path.glob(PARTS)) if path.is_dir() else [path]
    if not files:
        raise ArtifactError(f"{path}: not a folder of embeddings (no {PARTS} in it). {MADE_BY}")
    return files


def parquet() -> Any:
    """pyarrow.parquet. Raises DependencyError."""
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise DependencyError(
            "a .parquet or a folder of parts needs pyarrow. Install it: pip install pyarrow, "
            "or write .npz"
        ) from error
    return pyarrow.parquet


def about(file: Path) -> dict[str, str]:
    """What the schema of a Parquet file says beside its columns. Raises ArtifactError."""
    module = parquet()
    try:
        told = module.read_schema(file).metadata or {}
    except (OSError, ValueError) as error:  # pyarrow's own errors are these
        reason = f"no such file: {file}" if isinstance(error, FileNotFoundError) else str(error)
        raise ArtifactError(f"{file}: not a file of embeddings ({reason}). {MADE_BY}") from error
    return {
        key.decode(errors="replace"): value.decode(errors="replace") for key, value in told.items()
    }


def rows_of_parquet(path: Path, output: str) -> SavedRows:
    """The fingerprint stands in the schema of every part, and all must say the same."""
    module, files = parquet(), parquet_files(path)
    key, prints = f"fingerprint_{output}", dict[str, Path]()
    for file in files:
        told = about(file)
        if key not in told:
            others = [name for name in OUTPUTS if f"fingerprint_{name}" in told]
            there = (
                f", only of {others[0]}: `jepack index` takes --output {others[0]}"
                if others
                else ""
            )
            raise ArtifactError(
                f"{file}: not a file of embeddings (it tells no fingerprint of its {output}{there}). "
                f"{MADE_BY}"
            )
        prints.setdefault(told[key], file)
    if len(prints) > 1:
        told_apart = ", ".join(f"{file.name} {text}" for text, file in prints.items())
        raise ArtifactError(
            f"{path}: holds {output}s of several encoders ({told_apart}), which cannot be compared. "
            "Remove the parts of one, or embed anew into another folder"
        )

    def blocks() -> Iterator[Block]:
        for file in files:
            try:
                for batch in module.ParquetFile(file).iter_batches(BLOCK, columns=["path", output]):
                    yield batch.column("path").to_pylist(), matrix(batch.column(output))
            except (OSError, ValueError, KeyError) as error:
                raise ArtifactError(f"{file}: cannot be read ({error}). {MADE_BY}") from error

    since = tuple(some for file in files for some in since_of(file))
    return SavedRows(next(iter(prints)), blocks, about(files[-1]).get("base", ""), since)


def since_of(file: Path) -> list[tuple[int, int]]:
    """`SavedRows.since` of a Parquet file; by its time of change where `jepack embed` said nothing."""
    try:
        return [(int(rows), int(read)) for rows, read in json.loads(about(file)[READ_SINCE])]
    except (KeyError, ValueError, TypeError):
        return [(parquet().read_metadata(file).num_rows, file.stat().st_mtime_ns)]


def matrix(column: Any) -> npt.NDArray[Any]:
    """[N, D] of a column of lists of one length."""
    return np.asarray(column.flatten()).reshape(len(column), -1)
