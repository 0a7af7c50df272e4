"""Who may come in: keys from a file that is read again when it changes, or from the environment."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import threading
from pathlib import Path

from jepack.errors import ConfigError

LOG = logging.getLogger("jepack.gateway")
VARIABLE = "JEPACK_KEYS"
SHORTEST = 16  # characters


class Keys:
    """Any of several keys opens. Never on the command line, which every user of the machine can read.

    A file holds one key a line; empty lines and lines that begin with # are passed over. It may be replaced
    while the server runs: an empty one lets nobody in, one that is missing, cannot be read or
    holds what is no key changes nothing, which the log tells.
    """

    def __init__(self, file: Path | None = None, *, text: str | None = None) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._digests: list[bytes] = []
        self._told = ""  # what is wrong with the file, as the log told it last
        if file is not None:
            self._seen, self._digests = self._read(file)
        elif text is not None:
            self._digests = digests(text.replace(",", "\n"), VARIABLE)
        if not self._digests:
            raise ConfigError(
                f"{file or VARIABLE}: holds no key. Write one a line, such as 32 random digits"
            )

    @classmethod
    def chosen(cls, file: Path | None) -> Keys | None:
        """Those of `file`, else of $JEPACK_KEYS (separated by commas), else None: anybody may ask."""
        text = os.environ.get(VARIABLE, "").strip()
        return cls(file, text=text or None) if file is not None or text else None

    def open_to(self, key: str) -> bool:
        """Whether this is one of the keys; takes the same time for every wrong one."""
        self._refresh()
        digest, found = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest(), False
        for known in self._digests:
            found |= hmac.compare_digest(digest, known)
        return found

    def _refresh(self) -> None:
        if self.file is None:
            return
        with self._lock:
            try:
                if identity(self.file) != self._seen:
                    self._seen, self._digests = self._read(self.file)
                    self._told = ""
            except ConfigError as error:
                self._seen = None  # looked at again
                if str(error) != self._told:
                    self._told = str(error)
                    LOG.warning("%s; the keys stay as they were, no key was added or taken", error)

    def _read(self, file: Path) -> tuple[tuple[int, int, int], list[bytes]]:
        seen = identity(file)
        try:
            return seen, digests(file.read_text(), str(file))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: the keys cannot be read ({error})") from error


def identity(file: Path) -> tuple[int, int, int]:
    try:
        stat = file.stat()
    except OSError as error:
        raise ConfigError(f"{file}: the keys cannot be read ({error.strerror})") from error
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def digests(text: str, where: str) -> list[bytes]:
    lines = [line.strip() for line in text.splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    for number, key in enumerate(keys, 1):
        if len(key) < SHORTEST or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(
                f"{where}: key {number} is not one: {SHORTEST} or more ASCII characters without spaces"
            )
    return [hashlib.sha256(key.encode()).digest() for key in keys]
