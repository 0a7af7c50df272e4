"""The share of callers that the newest version of a name gets: a number, or a file that is read again."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

from jepack.errors import ConfigError

LOG = logging.getLogger("jepack.gateway")
OFTEN_S = 0.2  # at most as often is the file looked at
FORM = "a share from 0 to 1, or lines NAME=SHARE"


class Shares:
    """`Shares.told("0.1")`, or a file that holds such a text: `0.1` for all names, or `photos=0.1` for one a
    line. 0 is all callers on the version before, 1 all on the newest.

    The file may be replaced while the server runs; one that is missing or makes no sense changes nothing and
    is told in the log.
    """

    def __init__(self, shares: dict[str, float] | None = None, *, file: Path | None = None) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._shares = dict(shares or {})
        self._told = ""  # the text that holds, or what is wrong with the file
        self._several: set[str] | None = None
        self._looked = float("-inf")
        if file is not None:
            self._told, self._shares = read(file)

    @classmethod
    def told(cls, text: str | None) -> Shares:
        """From the command line. Raises ConfigError."""
        if not text:
            return cls()
        try:
            return cls(shares_of(text, "--canary"))
        except ConfigError as error:
            if not Path(text).exists():
                raise ConfigError(f"{error}, nor a file that is there") from error
        return cls(file=Path(text))

    def of(self, name: str) -> float:
        """Of the newest version of this name."""
        self._refresh()
        return self._shares.get(name, self._shares.get("", 0.0))

    @property
    def given(self) -> bool:
        """Whether anybody told one."""
        return self.file is not None or bool(self._shares)

    def check(self, several: set[str]) -> None:
        """Raise ConfigError for a name of which no two versions are served; a later file is held to it."""
        check_names(self._shares, several)
        self._several = several

    def _refresh(self) -> None:
        if self.file is None or time.monotonic() - self._looked < OFTEN_S:
            return
        with self._lock:
            self._looked = time.monotonic()
            try:
                text, shares = read(self.file)
                if self._several is not None:
                    check_names(shares, self._several)
            except ConfigError as error:
                if str(error) != self._told:
                    self._told = str(error)
                    LOG.warning("%s; the share stays as it was, %s", error, written(self._shares))
                return
            if text != self._told:
                self._told, self._shares = text, shares
                LOG.warning("%s: the canary's share is now %s", self.file, written(shares))


def read(file: Path) -> tuple[str, dict[str, float]]:
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: the canary's share cannot be read ({error})") from error
    return text, shares_of(text, str(file))


def check_names(shares: dict[str, float], several: set[str]) -> None:
    if strange := {name for name in shares if name} - several:
        raise ConfigError(f"--canary names {min(strange)}, of which no two versions are served")


def written(shares: dict[str, float]) -> str:
    return " ".join(f"{name}={share:g}" if name else f"{share:g}" for name, share in shares.items())


def shares_of(text: str, where: str) -> dict[str, float]:
    """{name: share}, "" for all names. Raises ConfigError."""
    found = {}
    for line in text.split():
        name, _, value = line.rpartition("=")
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise ConfigError(f"{where}: {line!r:.60} is not {FORM}")
        found[name] = share
    if not found:
        raise ConfigError(f"{where}: empty; it needs {FORM}")
    return found
