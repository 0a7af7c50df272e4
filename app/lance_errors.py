"""What the LanceDB engine says, as errors that say what was found and what to do."""

from __future__ import annotations

import functools
import inspect
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from app.store import IndexInfo
from jepack.disk import UNKNOWN_CALL, disk_error, system_error
from jepack.errors import ArtifactError

PREFIX = "lance error"
SOURCE = re.compile(r", \S+\.rs:\d+(:\d+)?$")  # where in the engine it was raised
Method = TypeVar("Method", bound=Callable[..., Any])


@contextmanager
def engine_errors(folder: Path) -> Iterator[None]:
    """What the engine says when it cannot write."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if not text.startswith(PREFIX):
            raise
        number = system_error(text)
        if number in UNKNOWN_CALL:
            raise ArtifactError(
                f"{folder}: its file system has no hard links ({os.strerror(number)}), which the vector "
                "engine writes with. Nothing already there was changed. Build the index on a local disk "
                "with --out, and copy the folder here"
            ) from error
        if number:
            raise disk_error(OSError(number, os.strerror(number)), folder) from error
        raise ArtifactError(
            f"{folder}: the vector engine cannot write ({reason_of(error)}). Nothing already there "
            "was changed."
        ) from error


def damaged(folder: Path, info: IndexInfo, error: Exception) -> ArtifactError:
    """A table that is missing or cannot be read."""
    return ArtifactError(
        f"{folder}: the table of vectors cannot be opened ({reason_of(error)}). "
        f"Build it again: jepack index {info.data} --out {folder}"
    )


def reason_of(error: Exception) -> str:
    """The first line, without where in the engine's source it was raised."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return SOURCE.sub("", line).removeprefix(f"{PREFIX}: ")


def reads(method: Method) -> Method:
    """A method of a store with `folder` and `info`, or a generator, that tells of a damaged table."""
    if inspect.isgeneratorfunction(method):

        @functools.wraps(method)
        def each(self: Any, *words: Any, **options: Any) -> Iterator[Any]:
            with read_errors(self):
                yield from method(self, *words, **options)

        return cast(Method, each)

    @functools.wraps(method)
    def whole(self: Any, *words: Any, **options: Any) -> Any:
        with read_errors(self):
            return method(self, *words, **options)

    return cast(Method, whole)


@contextmanager
def read_errors(store: Any) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith(PREFIX):
            raise
        raise damaged(store.folder, store.info, error) from error
