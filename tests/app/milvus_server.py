"""Milvus for tests: a file of Milvus Lite, or the real server of the wheel `milvus`, with TLS and a token."""

from __future__ import annotations

import datetime
import importlib
import ipaddress
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jepack.files import cache_root
from jepack.machine import loopback

WHEEL = "milvus==2.3.5"  # the last that holds a whole server; it needs nothing else of Python
TOKEN = "root:Milvus"  # of a new server
GIVEN = "JEPACK_TEST_MILVUS"  # environment: the address of another server to test with


@contextmanager
def lite_or_server(kind: str, folder: Path) -> Iterator[str]:
    """An address without a collection."""
    if kind == "lite":
        yield str(folder / "index.db")
    elif given := os.environ.get(GIVEN):
        yield given
    else:
        with server(folder) as address:
            yield address


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The server below `folder` while the block runs; the environment holds its token and certificate."""
    place = cache_root() / WHEEL.replace("==", "-")
    if not (place / "milvus" / "__init__.py").is_file():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(place)]
        subprocess.run([*pip, WHEEL], check=True)
    sys.path.insert(0, str(place))
    try:
        milvus = importlib.import_module("milvus")
    finally:
        sys.path.remove(str(place))
    key, certificate = certified(folder)
    running = milvus.MilvusServer(milvus.MilvusServerConfig())
    running.set_base_dir(str(folder / "server"))
    config = running.config
    for name in ("server_key_path", "server_pem_path", "ca_pem_path"):
        config.set(name, str(key if name == "server_key_path" else certificate))
    config.set("authorization_enabled", True)
    config.set("tls_mode", 1)
    for part in (
        "rootCoord",
        "proxy",
        "queryCoord",
        "queryNode",
        "indexNode",
        "dataCoord",
        "dataNode",
    ):
        config.extra_configs[f"{part}.ip"] = "127.0.0.1"
    for name in [name for name in config.configurable_items if name.endswith("_port")]:
        with loopback.hold(0) as held:
            config.set(name, held.getsockname()[1])
    with loopback.hold(0) as held:
        running.webservice_port = held.getsockname()[1]
    known = dict(os.environ)
    os.environ |= {
        "JEPACK_MILVUS_TOKEN": TOKEN,
        "JEPACK_CA_FILE": str(certificate),
        "JEPACK_INDEXES": str(folder / "indexes"),
    }
    try:
        running.start()
        yield f"https://127.0.0.1:{running.listen_port}"
    finally:
        running.stop()
        os.environ.clear()
        os.environ |= known


def certified(folder: Path) -> tuple[Path, Path]:
    """(key, certificate) as PEM, for 127.0.0.1 and signed by itself."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = key.private_bytes(
        pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    for file, data in (("key.pem", plain), ("certificate.pem", made.public_bytes(pem))):
        (folder / file).write_bytes(data)
    return folder / "key.pem", folder / "certificate.pem"
