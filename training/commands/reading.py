"""Which images of a data set decode, for a command that keeps no pixels."""

from __future__ import annotations

import functools
import hashlib

from rich.console import Console

from jepack.decoding import Window, preprocess
from jepack.errors import DataError, listed
from jepack.names import marked_lines
from jepack.sources import ENDED, ImageFile, in_blocks
from jepack.terminal import counter


def readable(
    files: list[ImageFile], channels: int, window: Window = None
) -> tuple[list[ImageFile], list[str]]:
    """The files that decode, and the SHA-256 of each one's bytes."""
    kept, contents, bad = [], [], []
    work, done = functools.partial(content_of, channels=channels, window=window), 0
    with counter("read") as show:
        for block in in_blocks(files, work, ended, workers=1):
            for file, (content, reason) in zip(files[done : done + len(block)], block, strict=True):
                if reason:
                    bad.append((file.name, reason))
                else:
                    contents.append(content)
                    kept.append(file)
            done += len(block)
            show(done, len(files))
    if bad and not kept:
        raise DataError(f"none of {len(files)} images can be read:\n{listed(bad)}")
    if bad:
        console = Console(stderr=True)
        console.print(
            f"[yellow]{len(bad)} images skipped:[/]\n{marked_lines(listed(bad))}", soft_wrap=True
        )
    return kept, contents


def content_of(file: ImageFile, channels: int, window: Window) -> tuple[str, str]:
    """The SHA-256 of the bytes of an image that decodes, and why it does not."""
    try:
        content = file.read()
        preprocess.decode(content, channels, window)
    except DataError as error:
        reason = str(error).removeprefix(f"{file.path}: ")
        return "", reason.removeprefix(f"{file.name}: ")
    return hashlib.sha256(content).hexdigest(), ""


def ended(file: ImageFile) -> tuple[str, str]:
    """As `content_of`, of an image at which that ends its process."""
    return "", ENDED
