"""Signatures of bundles: OpenSSF model signing with an elliptic-curve key pair, kept as `model.sig`.

The signature covers every file of the folder, the manifest included. It is no line of the manifest, which
it signs. The `model_signing` command of the same library reads and makes the same files.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console

from jepack import bundle as bundles
from jepack.bundle.contents import SIGNATURE
from jepack.bundle.folder import Bundle
from jepack.errors import ArtifactError, ConfigError, DependencyError
from jepack.files import write_bytes
from jepack.names import marked

PASSWORD = "JEPACK_KEY_PASSWORD"  # environment: of an encrypted private key
IGNORED = (SIGNATURE, ".cache")  # `.cache` is where `jepack pull` notes the source
MAKE_KEYS = (
    "Make a pair: openssl ecparam -name prime256v1 -genkey -noout -out key.pem && "
    "openssl ec -in key.pem -pubout -out key.pub"
)


def sign(
    folder: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Bundle to sign.")],
    key: Annotated[Path, typer.Option(help="Private key, PEM: NIST P-256, P-384 or P-521.")],
) -> None:
    """Sign a bundle as it is: writes model.sig into it. Any later change makes it invalid.

    The password of an encrypted key is read from the environment, JEPACK_KEY_PASSWORD.

    Example: jepack sign runs/photos/bundle --key key.pem
    """
    bundle = bundles.load(folder)
    bundles.refuse_cached(bundle.folder)
    write_bytes(bundle.folder / SIGNATURE, signature_of(bundle.folder, key))
    Console().print(
        f"[green]Signed:[/] {marked(bundle.folder / SIGNATURE)}\n"
        f"Check it: jepack verify {marked(folder)} --public-key KEY.pub",
        highlight=False,
        soft_wrap=True,
    )


def signature_of(folder: Path, key: Path) -> bytes:
    """The content of model.sig for this folder. Raises ConfigError for a key that cannot sign."""
    signing, hashing = library("signing"), library("hashing")
    password = os.environ.get(PASSWORD)
    try:
        config = signing.Config().use_elliptic_key_signer(
            private_key=key, password=password.encode() if password else None
        )
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{key}: not a private key that can sign ({reason(error)}). {MAKE_KEYS}. "
            f"An encrypted key needs its password in {PASSWORD}."
        ) from error
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=IGNORED))
    with TemporaryDirectory(prefix="jepack-sign-") as work:
        target = Path(work) / SIGNATURE
        config.sign(folder, target)
        return target.read_bytes()


def check(bundle: Bundle, public_key: Path) -> None:
    """Raises ArtifactError unless model.sig is this key's signature of the bundle as it is."""
    verifying, hashing = library("verifying"), library("hashing")
    path = bundle.folder / SIGNATURE
    if not path.is_file():
        raise ArtifactError(
            f"{bundle.folder}: not signed ({SIGNATURE} is missing). Sign it: "
            f"jepack sign {bundle.folder} --key KEY"
        )
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{public_key}: not a public key that can verify ({reason(error)}). {MAKE_KEYS}"
        ) from error
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=IGNORED))
    try:
        config.verify(bundle.folder, path)
    except Exception as error:  # a forged file may break any layer of the reader
        raise ArtifactError(
            f"{bundle.folder}: {SIGNATURE} is not the signature of this bundle by {public_key} "
            f"({reason(error)}). Do not use it; fetch it again from where it came."
        ) from error


def reason(error: Exception) -> str:
    words = " ".join(str(error).split())
    return words[:200] or type(error).__name__


def library(name: str) -> Any:
    """A module of model_signing, imported when a signature is asked for."""
    try:
        return import_module(f"model_signing.{name}")
    except ImportError as error:
        raise DependencyError(
            "signatures need model-signing, which is not installed. "
            "Install it: pip install 'jepack[sign]'"
        ) from error
