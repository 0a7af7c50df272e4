"""A signature holds for the bundle as it was signed, and for nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from keys import key_pair

from jepack import bundle as bundles
from jepack.bundle import SIGNATURE, Bundle, signing
from jepack.errors import ArtifactError, ConfigError


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return key_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def signed(small_bundle: Bundle, keys: tuple[Path, Path], tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(small_bundle.folder, tmp_path / "bundle"))
    (folder / SIGNATURE).write_bytes(signing.signature_of(folder, keys[0]))
    return folder


def jepack(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jepack", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_the_commands_sign_and_verify(
    small_bundle: Bundle, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(small_bundle.folder, tmp_path / "bundle"))
    private, public = keys
    assert jepack("sign", folder, "--key", private).returncode == 0
    done = jepack("verify", folder, "--public-key", public, "--json")
    assert json.loads(done.stdout)["signature"] == "valid"
    other = key_pair(tmp_path / "other")[1]
    done = jepack("verify", folder, "--public-key", other)
    assert done.returncode == 4
    assert "not the signature of this bundle" in done.stdout


def test_the_library_s_own_command_accepts_the_signature(
    signed: Path, keys: tuple[Path, Path]
) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed)]
    command += ["--signature", str(signed / SIGNATURE), "--public_key", str(keys[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_signed_bundle_is_sound_and_may_be_renamed(
    signed: Path, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    moved = signed.rename(tmp_path / "moved")
    (moved / ".cache" / "jepack").mkdir(parents=True)
    (moved / ".cache" / "jepack" / "source.json").write_text("{}")  # what `jepack pull` notes
    signing.check(bundles.load(moved), keys[1])


def agree(folder: Path, name: str) -> None:
    """Make the manifest agree with a changed file: hashes alone no longer tell."""
    manifest = json.loads((folder / "manifest.json").read_text())
    data = (folder / name).read_bytes()
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest["fingerprints"] = bundles.fingerprints(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def another_card(folder: Path) -> None:
    (folder / "README.md").write_text("Trained on everything.")
    agree(folder, "README.md")


def another_file(folder: Path) -> None:
    (folder / "notes.txt").write_text("more")
    agree(folder, "notes.txt")


def a_file_less(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"].pop("modules.json")
    (folder / "modules.json").unlink()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def another_licence(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "name": "theirs"}))


def half_a_signature(folder: Path) -> None:
    data = (folder / SIGNATURE).read_bytes()
    (folder / SIGNATURE).write_bytes(data[: len(data) // 2])


def a_letter_changed(folder: Path) -> None:
    envelope = json.loads((folder / SIGNATURE).read_text())
    told = envelope["dsseEnvelope"]["signatures"][0]
    told["sig"] = told["sig"][:20] + ("A" if told["sig"][20] != "A" else "B") + told["sig"][21:]
    (folder / SIGNATURE).write_text(json.dumps(envelope))


def no_signature(folder: Path) -> None:
    (folder / SIGNATURE).unlink()


DAMAGE = (
    another_card, another_file, a_file_less, another_licence, half_a_signature, a_letter_changed,
    no_signature,
)  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_what_was_not_signed_is_refused_though_the_manifest_agrees(
    damage: Callable[[Path], None], signed: Path, keys: tuple[Path, Path]
) -> None:
    damage(signed)
    bundle = bundles.load(signed)  # sound as far as hashes tell
    with pytest.raises(ArtifactError, match=SIGNATURE):
        signing.check(bundle, keys[1])


def test_a_signature_that_is_a_link_or_a_flood_is_refused(signed: Path) -> None:
    (signed / SIGNATURE).unlink()
    (signed / SIGNATURE).symlink_to("/etc/hostname")
    assert bundles.verify(signed) == [f"{SIGNATURE}: a link or not a plain file"]
    (signed / SIGNATURE).unlink()
    with (signed / SIGNATURE).open("wb") as stream:
        os.truncate(stream.fileno(), 17_000_000)
    assert "at most 16000000" in bundles.verify(signed)[0]


def test_changing_a_bundle_drops_its_signature(signed: Path) -> None:
    with bundles.editing(bundles.load(signed)) as stage:
        (stage / "LICENSE").write_text("MIT")
    assert not (signed / SIGNATURE).exists()
    assert bundles.verify(signed) == []


def test_an_encrypted_key_signs_with_its_password_only(
    small_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, _ = key_pair(tmp_path, "open sesame")
    with pytest.raises(ConfigError, match=signing.PASSWORD):
        signing.signature_of(small_bundle.folder, private)
    monkeypatch.setenv(signing.PASSWORD, "open sesame")
    assert signing.signature_of(small_bundle.folder, private)


def test_a_file_that_is_no_key_is_named(small_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("secret")
    with pytest.raises(ConfigError, match=r"key.pem: not a private key.*openssl"):
        signing.signature_of(small_bundle.folder, tmp_path / "key.pem")
