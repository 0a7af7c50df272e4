"""Who may log in: users, and hashes of their passwords by scrypt in PHC's string form."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import stat
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from jepack.errors import ConfigError

# OWASP's cost for a processor of today: 32 MiB and about a quarter of a second a password.
LN, R, P = 15, 8, 3
WEAKEST = 1 << 24  # of N * r * p * 128 B; below, a graphics card tries too many a second
LARGEST = 1 << 28  # bytes of memory that one password may take
SHORTEST = 8  # signs of a new password
EXAMPLE = "USER:$scrypt$ln=15,r=8,p=3$SALT$HASH"
MAKE = "make one: jepack app --make-hash USER"
USER = re.compile(r"[\w.@+-]{1,64}")
FORM = re.compile(
    r"\$scrypt\$ln=(\d{1,2}),r=(\d{1,2}),p=(\d{1,2})\$([A-Za-z0-9+/]{11,86})\$([A-Za-z0-9+/]{22,86})"
)


@dataclass(frozen=True)
class Hash:
    """`$scrypt$ln=15,r=8,p=3$SALT$HASH`: N = 2**ln, salt and hash in base64 without padding."""

    ln: int
    r: int
    p: int
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)

    @classmethod
    def of(cls, password: str, *, ln: int = LN, r: int = R, p: int = P) -> Hash:
        salt = secrets.token_bytes(16)
        return cls(ln, r, p, salt, scrypt(password, salt, ln, r, p, 32))

    @classmethod
    def parse(cls, text: str) -> Hash:
        """Raises ValueError that says what is wrong, and never what the hash is."""
        found = FORM.fullmatch(text)
        if found is None:
            raise ValueError("no hash by scrypt")
        ln, r, p = (int(one) for one in found.groups()[:3])
        memory = 128 * r << ln
        if not (ln and r and p and memory * p >= WEAKEST):
            raise ValueError("a hash that is too cheap to try out")
        if memory > LARGEST or p > 16:
            raise ValueError("a hash that takes too much memory or time")
        return cls(ln, r, p, plain(found[4]), plain(found[5]))

    def __str__(self) -> str:
        return f"$scrypt$ln={self.ln},r={self.r},p={self.p}${coded(self.salt)}${coded(self.digest)}"

    def opened_by(self, password: str) -> bool:
        """Takes the same time for every password."""
        made = scrypt(password, self.salt, self.ln, self.r, self.p, len(self.digest))
        return hmac.compare_digest(made, self.digest)


def scrypt(password: str, salt: bytes, ln: int, r: int, p: int, length: int) -> bytes:
    """Of the same password, however a keyboard composes its signs."""
    told = unicodedata.normalize("NFC", password).encode("utf-8", "surrogatepass")
    room = 128 * r * ((1 << ln) + p + 2) + (1 << 20)
    return hashlib.scrypt(told, salt=salt, n=1 << ln, r=r, p=p, maxmem=room, dklen=length)


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def plain(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


class Accounts:
    """{user: Hash}; never empty."""

    def __init__(self, hashes: dict[str, Hash]) -> None:
        self._hashes = hashes
        one = next(iter(hashes.values()))
        self._nobody = Hash.of(secrets.token_hex(), ln=one.ln, r=one.r, p=one.p)

    @classmethod
    def chosen(cls, text: str) -> Accounts:
        """`USER:HASH`, or a file that holds one a line. Raises ConfigError, which tells no hash."""
        if ":$" in text:
            return cls(dict([account(text, "--auth")]))
        if not Path(text).is_file():
            told = "what was given" if ":" in text else text  # a password, by mistake
            raise ConfigError(
                f"--auth: {told} is neither a file nor {EXAMPLE} (in single quotes: a shell takes $ for "
                f"its own); {MAKE}"
            )
        return cls.read(Path(text))

    @classmethod
    def read(cls, file: Path) -> Accounts:
        """From lines `USER:HASH`; empty ones and those that begin with # are passed over."""
        try:
            with file.open(encoding="utf-8") as stream:
                check_mode(file, os.fstat(stream.fileno()).st_mode)
                lines = stream.read(1 << 20).splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--auth {file}: cannot be read ({error})") from error
        hashes: dict[str, Hash] = {}
        for number, line in enumerate(map(str.strip, lines), 1):
            if line and not line.startswith("#"):
                user, found = account(line, f"--auth {file}, line {number}")
                if user in hashes:
                    raise ConfigError(f"--auth {file}, line {number}: {user} is there already")
                hashes[user] = found
        if not hashes:
            raise ConfigError(f"--auth {file}: holds no {EXAMPLE}; {MAKE} >> {file}")
        return cls(hashes)

    def opened_by(self, user: str, password: str) -> bool:
        """Whether this is the user's password; takes as long for a user that is not known."""
        found = self._hashes.get(user)
        return (found or self._nobody).opened_by(password) and found is not None


def account(line: str, where: str) -> tuple[str, Hash]:
    user, _, text = line.partition(":")
    if not USER.fullmatch(user) or not text:
        raise ConfigError(
            f"{where}: is not {EXAMPLE}, with a user of up to 64 letters, digits and .@+-_; {MAKE}"
        )
    try:
        return user, Hash.parse(text)
    except ValueError as error:
        raise ConfigError(f"{where}: holds {error} for {user}, need {EXAMPLE}; {MAKE}") from error


def check_mode(file: Path, mode: int) -> None:
    """Who reads a hash can try passwords at leisure; who writes one comes in."""
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise ConfigError(
            f"--auth {file}: other users of this machine may read or change it (mode "
            f"{stat.S_IMODE(mode):o}). Make it yours: chmod 600 {file}"
        )
