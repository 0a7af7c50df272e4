"""Publishing and fetching bundles, against a local server that speaks the Hub's endpoints and stumbles."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import local_hub
import pytest
from huggingface_hub import HfApi, constants
from keys import key_pair
from local_hub import TOKEN, Fault, LocalHub

from jepack import bundle as bundles
from jepack.bundle import SIGNATURE, Bundle, privacy, signing
from jepack.errors import ArtifactError, ConfigError, GateError, JepackError, ServerError
from jepack.hub.fetching import fetch, offer_of, resolve, source_of
from jepack.hub.patience import Patience
from jepack.hub.preparing import prepare, refuse_overridden
from jepack.hub.publishing import Published, publish

# huggingface_hub 2.4 hands file objects to its HTTP client in a way that client wants renamed.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

REPO = "ann/photos"
QUICK = Patience(attempts=3, wait_s=0.01)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with local_hub.running() as server:
        yield server


@pytest.fixture
def told() -> list[str]:
    return []


def push(bundle: Bundle, hub: LocalHub, work: Path, **options: Any) -> Published:
    work.mkdir(exist_ok=True)
    api = HfApi(endpoint=hub.url, token=TOKEN)
    return publish(prepare(bundle, REPO, work), REPO, api=api, patience=QUICK, **options)


def pull(hub: LocalHub, out: Path, revision: str | None = None, **options: Any) -> Bundle:
    api = HfApi(endpoint=hub.url, token=TOKEN)
    say = options.get("say", lambda text: None)
    commit = resolve(REPO, revision, api=api, patience=QUICK, say=say)
    offer = offer_of(REPO, commit, api=api, patience=QUICK, say=say)
    return fetch(offer, out, api=api, patience=QUICK, **options)


def command(hub: LocalHub, home: Path, *words: str, token: str = TOKEN) -> Any:
    """The real command in its own process; its home holds no token but the one given."""
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("HF_")},
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(home),
        **({"HF_TOKEN": token} if token else {}),
    }
    return subprocess.run(
        [sys.executable, "-m", "jepack", *words],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )


def changed(bundle: Bundle, folder: Path, change: Callable[[Path, dict[str, Any]], None]) -> Bundle:
    """A sound copy of the bundle with other files or another manifest."""
    shutil.copytree(bundle.folder, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").unlink()
    change(folder, manifest)
    bundles.write_manifest(folder, manifest)
    return bundles.load(folder)


def contents(folder: Path) -> dict[str, str]:
    found = [*bundles.files_of(folder), folder / "manifest.json"]
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
    }


def test_what_is_published_is_what_was_signed(
    hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    private, public = key_pair(tmp_path / "keys")
    api = HfApi(endpoint=hub.url, token=TOKEN)
    (tmp_path / "work").mkdir()
    sent = prepare(small_bundle, REPO, tmp_path / "work", key=private)
    publish(sent, REPO, api=api, patience=QUICK)
    pulled = pull(hub, tmp_path / "out", public_key=public)
    assert (pulled.folder / SIGNATURE).is_file()
    # The signature travels on while the files stay the same ...
    (tmp_path / "again").mkdir()
    assert SIGNATURE in prepare(pulled, REPO, tmp_path / "again").files
    # ... and one of the bundle on disk, whose paths are not published, does not.
    folder = Path(shutil.copytree(small_bundle.folder, tmp_path / "local"))
    (folder / SIGNATURE).write_bytes(signing.signature_of(folder, private))
    (tmp_path / "third").mkdir()
    assert SIGNATURE not in prepare(bundles.load(folder), REPO, tmp_path / "third").files


def test_a_pull_that_asks_for_a_signature_keeps_nothing_without_it(
    hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    (private, _), (_, stranger) = key_pair(tmp_path / "ours"), key_pair(tmp_path / "theirs")
    push(small_bundle, hub, tmp_path / "work")
    with pytest.raises(ArtifactError, match="not signed"):
        pull(hub, tmp_path / "out", public_key=stranger)
    (tmp_path / "again").mkdir()
    sent = prepare(small_bundle, REPO, tmp_path / "again", key=private)
    publish(sent, REPO, api=HfApi(endpoint=hub.url, token=TOKEN), patience=QUICK)
    with pytest.raises(ArtifactError, match="not the signature of this bundle"):
        pull(hub, tmp_path / "out", public_key=stranger)
    assert not (tmp_path / "out").exists()


def test_a_pull_that_names_a_fingerprint_takes_no_other_space(
    hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    push(small_bundle, hub, tmp_path / "work")
    for fingerprint in small_bundle.fingerprints.values():
        assert pull(hub, tmp_path / "out", fingerprint=fingerprint).fingerprints
    asked = hub.count("/resolve/")
    with pytest.raises(ArtifactError, match=r"another embedding space .*" + "0" * 16):
        pull(hub, tmp_path / "other", fingerprint="0" * 16)
    assert hub.count("/resolve/") - asked <= 2  # the manifest alone was fetched
    assert not (tmp_path / "other").exists()
    done = command(
        hub, tmp_path, "pull", REPO, "--out", str(tmp_path / "out"), "--fingerprint", "0"
    )
    assert done.returncode == ArtifactError.exit_code  # also of what is there already


def test_what_is_pulled_is_what_was_pushed(
    hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    published = push(small_bundle, hub, tmp_path / "work")
    pulled = pull(hub, tmp_path / "pulled", published.revision)
    assert pulled.fingerprints == small_bundle.fingerprints
    assert bundles.verify(pulled.folder) == []
    before, after = contents(small_bundle.folder), contents(pulled.folder)
    # The manifest's data folder is cut to its base name; the card tells the repository's name.
    assert {name for name in after if before.get(name) != after[name]} == {
        "README.md",
        "manifest.json",
    }
    assert hub.repos[REPO].private
    assert len(hub.repos[REPO].ids) == 2  # the Hub's own first commit, and one of ours
    found = source_of(pulled.folder)
    assert found is not None
    assert (found.repo, found.revision) == (REPO, published.revision)


def test_a_published_torchscript_file_works_and_names_no_folder_of_this_machine(
    hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    import torch

    from jepack.encoder import serving_graph

    golden = small_bundle.golden()
    images = torch.from_numpy(golden["images"])

    def trace(folder: Path, manifest: dict[str, Any]) -> None:
        (folder / "torchscript").mkdir()
        with torch.no_grad():
            traced = torch.jit.trace(serving_graph(small_bundle), images, check_trace=False)
        torch.jit.save(traced, folder / "torchscript/model.pt")

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.")  # deprecated, still asked for
        bundle = changed(small_bundle, tmp_path / "bundle", trace)
        push(bundle, hub, tmp_path / "work")
        path = pull(hub, tmp_path / "pulled").folder / "torchscript/model.pt"
        embedding = torch.jit.load(path)(images)[0]
    assert privacy.folders_in(bundle.folder / "torchscript/model.pt", privacy.machine_folders())
    assert privacy.folders_in(path, privacy.machine_folders()) == []
    torch.testing.assert_close(embedding.detach(), torch.from_numpy(golden["embedding"]))


def test_paths_and_file_names_of_the_data_stay_at_home(
    hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    secret = "/home/ann/secret project/photos"

    def remember(folder: Path, manifest: dict[str, Any]) -> None:
        manifest["provenance"] = {
            "data": {"folder": secret, "digest": "ab" * 32, "held_out": ["patient-7.png", "b.png"]},
            "recipe": {"init": "~/models/start.ckpt"},
        }
        (folder / "isotropy.json").write_text(json.dumps({"note": f"9 images of {secret}"}))

    bundle = changed(small_bundle, tmp_path / "bundle", remember)
    push(bundle, hub, tmp_path / "work")
    pulled = pull(hub, tmp_path / "pulled")
    assert pulled.manifest["provenance"] == {
        "data": {"folder": "photos", "digest": "ab" * 32, "held_out_images": 2},
        "recipe": {"init": "start.ckpt"},
    }
    for path in pulled.folder.rglob("*"):
        text = path.read_bytes() if path.is_file() else b""
        assert not [word for word in (b"secret", b"patient-7", b"~/models") if word in text], path
    assert pulled.fingerprints == small_bundle.fingerprints
    assert bundle.manifest["provenance"]["data"]["folder"] == secret


def test_a_file_that_still_names_this_machine_is_not_published(
    hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    def gossip(folder: Path, manifest: dict[str, Any]) -> None:
        (folder / "notes.txt").write_text(f"made in {tmp_path}/photos")
        manifest["provenance"]["data"]["folder"] = str(tmp_path / "photos")

    bundle = changed(small_bundle, tmp_path / "bundle", gossip)
    with pytest.raises(ArtifactError, match=r"(?s)nothing is published.*notes\.txt"):
        push(bundle, hub, tmp_path / "work")
    assert hub.log == []


def test_pushing_twice_makes_one_commit(
    hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    first = push(small_bundle, hub, tmp_path / "work")
    again = push(small_bundle, hub, tmp_path / "work")
    assert (first.changed, again.changed) == (True, False)
    assert first.revision == again.revision
    assert hub.count("PUT ") == 2  # the two large files, once each


def test_a_push_replaces_what_the_last_one_left(
    hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    def add(folder: Path, manifest: dict[str, Any]) -> None:
        (folder / "notes").mkdir()
        (folder / "notes" / "old.txt").write_text("old")

    push(changed(small_bundle, tmp_path / "older", add), hub, tmp_path / "work")
    newer = push(small_bundle, hub, tmp_path / "work")
    pulled = pull(hub, tmp_path / "pulled", newer.revision)
    assert not (pulled.folder / "notes").exists()
    assert bundles.verify(pulled.folder) == []


@pytest.mark.parametrize(
    ("where", "kind"),
    [
        ("GET /api/models/ann/photos", "drop"),
        ("POST /api/repos/create", 500),
        ("POST /api/repos/create", "lost"),
        ("/preupload/", 503),
        ("/objects/batch", "drop"),
        ("PUT /storage/", "drop"),
        ("PUT /storage/", 500),
        ("/commit/", "drop"),
        ("/commit/", 500),
        ("/commit/", "lost"),
        ("/validate-yaml", 502),
        ("/tree/", "cut"),
    ],
)
def test_a_push_survives_one_fault_anywhere_and_commits_once(
    where: str, kind: str | int, hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    hub.faults.append(Fault(where, kind))
    published = push(small_bundle, hub, tmp_path / "work")
    assert hub.faults[0].times == 0, "the fault never met a request"
    assert hub.repos[REPO].ids[1:] == [published.revision]
    assert bundles.verify(pull(hub, tmp_path / "pulled", published.revision).folder) == []


def test_a_push_that_gave_up_goes_on_where_it_stopped(
    hub: LocalHub, small_bundle: Bundle, tmp_path: Path, told: list[str]
) -> None:
    hub.faults.append(Fault("/commit/", 500, times=3))
    with pytest.raises(ServerError, match=r"failed 3 times.*run the same command again"):
        push(small_bundle, hub, tmp_path / "work", say=told.append)
    assert len(told) == 2
    uploads = hub.count("PUT ")
    published = push(small_bundle, hub, tmp_path / "work")
    assert hub.count("PUT ") == uploads == 2
    assert hub.repos[REPO].ids[1:] == [published.revision]


def test_a_commit_by_someone_else_in_between_is_noticed(
    hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    push(small_bundle, hub, tmp_path / "work")
    newer = changed(
        small_bundle, tmp_path / "newer", lambda _, manifest: manifest.update(name="newer")
    )
    hub.faults.append(Fault("/commit/", 412))
    published = push(newer, hub, tmp_path / "work")
    assert published.changed
    assert hub.count("POST /api/models/ann/photos/commit/") == 3


@pytest.mark.parametrize("force", [False, True])
def test_an_overridden_gate_needs_force(force: bool, small_bundle: Bundle, tmp_path: Path) -> None:
    gate = {"passed": False, "forced": True, "refusals": ["collapsed"], "warnings": []}
    bundle = changed(small_bundle, tmp_path / "bundle", lambda _, m: m.update(gate=gate))
    if force:
        refuse_overridden(bundle, force)
        card = prepare(bundle, REPO, tmp_path / "work").files["README.md"]
        assert isinstance(card, bytes)
        assert b"was overridden" in card
    else:
        with pytest.raises(GateError, match="collapsed"):
            refuse_overridden(bundle, force)


def test_a_public_repository_is_not_published_to_by_accident(
    hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    hub.put(REPO, {".gitattributes": b""}, private=False)
    with pytest.raises(ConfigError, match="--public"):
        push(small_bundle, hub, tmp_path / "work")
    assert push(small_bundle, hub, tmp_path / "work", public=True).changed


def test_a_repository_of_something_else_is_left_alone(
    hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    hub.put(REPO, {"train.py": b"print()", "README.md": b"mine"})
    with pytest.raises(ConfigError, match=r"train\.py.*left alone"):
        push(small_bundle, hub, tmp_path / "work")
    assert len(hub.repos[REPO].ids) == 1


@pytest.mark.parametrize(
    "name", ["train.py", "pytorch_model.bin", "weights.pkl", "model.ckpt", "a/../x.json", "run"]
)
def test_foreign_kinds_of_files_are_refused_before_any_download(
    name: str, hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    push(small_bundle, hub, tmp_path / "work")
    files = dict(hub.repos[REPO].commits[-1])
    hub.put(REPO, {**files, name: b"import os"})
    hub.log.clear()
    with pytest.raises(ArtifactError, match="Nothing was downloaded"):
        pull(hub, tmp_path / "pulled")
    assert hub.count("/resolve/") == 0
    assert not (tmp_path / "pulled").exists()


def test_a_file_the_manifest_does_not_know_is_refused_with_only_the_manifest_downloaded(
    hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    push(small_bundle, hub, tmp_path / "work")
    hub.put(REPO, {**hub.repos[REPO].commits[-1], "extra.json": b"{}"})
    with pytest.raises(ArtifactError, match=r"extra\.json: not listed"):
        pull(hub, tmp_path / "pulled")
    assert hub.count("GET /ann/photos/resolve/") == 1


@pytest.mark.parametrize(
    ("kind", "times"), [("drop", 1), (500, 1), ("cut", 2), ("short", 1), ("lost", 1)]
)
def test_a_pull_survives_a_broken_download(
    kind: str | int, times: int, hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    push(small_bundle, hub, tmp_path / "work")
    hub.faults.append(Fault("GET /ann/photos/resolve/", kind, times))
    pulled = pull(hub, tmp_path / "pulled")
    assert hub.faults[0].times == 0
    assert bundles.verify(pulled.folder) == []


@pytest.mark.parametrize("kind", ["flip", "short", 500])
def test_a_failed_pull_leaves_the_good_folder_as_it_was(
    kind: str | int, hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    push(small_bundle, hub, tmp_path / "work")
    out = tmp_path / "pulled"
    pull(hub, out)
    before = contents(out)
    newer = changed(
        small_bundle, tmp_path / "newer", lambda _, manifest: manifest.update(name="newer")
    )
    push(newer, hub, tmp_path / "work")
    stuck = f"GET /{REPO}/resolve/{hub.repos[REPO].ids[-1]}/projector.safetensors"
    hub.faults.append(Fault(stuck, kind, times=1000))
    with pytest.raises(JepackError):
        pull(hub, out)
    assert contents(out) == before
    assert bundles.verify(out) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["newer", "pulled", "work"]


def test_a_bundle_from_elsewhere_is_replaced_only_by_force(
    hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    published = push(small_bundle, hub, tmp_path / "work")
    mine = shutil.copytree(small_bundle.folder, tmp_path / "mine")
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "a.txt").write_text("dear")
    with pytest.raises(ConfigError, match="--force"):
        pull(hub, mine)
    with pytest.raises(ConfigError, match="left alone"):
        pull(hub, tmp_path / "letters", force=True)
    assert source_of(pull(hub, mine, force=True).folder).revision == published.revision  # type: ignore[union-attr]


def test_an_unknown_revision_and_an_unknown_repository_say_so(
    hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ServerError, match="no such repository"):
        pull(hub, tmp_path / "pulled")
    push(small_bundle, hub, tmp_path / "work")
    with pytest.raises(ServerError, match="no such revision"):
        pull(hub, tmp_path / "pulled", "0" * 40)


def test_the_commands_publish_and_fetch(
    hub: LocalHub, small_bundle: Bundle, tmp_path: Path
) -> None:
    folder, out = str(small_bundle.folder), str(tmp_path / "out")
    dry = command(hub, tmp_path, "push", folder, REPO, "--dry-run", token="")
    assert dry.returncode == 0, dry.stderr
    assert "model.safetensors" in dry.stdout
    assert hub.log == []
    locked = command(hub, tmp_path, "push", folder, REPO, token="")
    assert locked.returncode == ConfigError.exit_code
    assert "hf auth login" in locked.stderr
    pushed = command(hub, tmp_path, "push", folder, REPO, "--json")
    assert pushed.returncode == 0, pushed.stderr
    revision = json.loads(pushed.stdout)["revision"]
    assert revision == hub.repos[REPO].ids[-1]
    pulled = command(hub, tmp_path, "pull", f"{REPO}@main", "--out", out)
    assert pulled.returncode == 0, pulled.stderr
    assert f"{REPO}@main is commit {revision} now" in pulled.stderr
    assert f"jepack pull {REPO}@{revision}" in pulled.stdout
    downloads = hub.count("/resolve/")
    again = command(hub, tmp_path, "pull", f"{REPO}@{revision}", "--out", out, "--json")
    assert json.loads(again.stdout)["changed"] is False
    assert hub.count("/resolve/") == downloads
    stranger = command(hub, tmp_path, "pull", f"{REPO}@main", "--out", f"{out}2", token="")
    assert stranger.returncode == ServerError.exit_code
    assert "no such repository, or this token may not see it" in stranger.stderr
