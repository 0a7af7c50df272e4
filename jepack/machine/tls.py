"""The certificate of a server of ours, as `--tls-cert` and `--tls-key` name it."""

from __future__ import annotations

import ssl
from pathlib import Path

from jepack.errors import ConfigError


def certificate(tls_cert: Path | None, tls_key: Path | None) -> tuple[Path, Path] | None:
    """(certificate, private key), or None where neither is named. Raises ConfigError for half of a pair,
    files that are not there, and a pair that TLS does not take."""
    if (tls_cert is None) != (tls_key is None):
        raise ConfigError("--tls-cert and --tls-key belong together")
    if tls_cert is None or tls_key is None:
        return None
    for file in (tls_cert, tls_key):
        if not file.is_file():
            raise ConfigError(f"{file}: no such file")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(tls_cert, tls_key, password="")
    except (OSError, ValueError) as error:  # ssl's own errors are OSErrors
        raise ConfigError(
            f"--tls-cert {tls_cert} and --tls-key {tls_key}: no certificate with its private key, both "
            f"PEM, the key without a passphrase ({error})"
        ) from error
    return tls_cert, tls_key
