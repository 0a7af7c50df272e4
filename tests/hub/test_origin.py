"""Where a bundle came from is told: pulled, edited since, in the Hub's cache; and so is what was forced."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import local_hub
import pytest
from huggingface_hub import constants, snapshot_download
from local_hub import TOKEN, Fault, LocalHub
from small_bundle import write_tiny_bundle
from test_hub import REPO, pull, push
from typer.testing import CliRunner

from jepack import bundle as bundles
from jepack.bundle import Bundle, card, origin, standing
from jepack.cli import app
from jepack.errors import ArtifactError, ConfigError, GateError, ServerError
from jepack.hub.fetching import already_there
from jepack.hub.preparing import prepare, refuse_overridden

# huggingface_hub 2.4 hands file objects to its HTTP client in a way that client wants renamed.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    with local_hub.running() as server:
        yield server


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    return bundles.load(write_tiny_bundle(tmp_path / "tiny"))


def edit(bundle: Bundle) -> Bundle:
    with bundles.editing(bundle) as stage:
        (stage / "isotropy.json").unlink()
        (stage / "isotropy.json").write_text('{"note": "measured again"}')
        card.refresh(stage, bundle.manifest)
    return bundles.load(bundle.folder)


def run(*words: str | Path) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_a_pulled_bundle_that_was_edited_is_no_longer_that_revision(
    hub: LocalHub, tiny: Bundle, tmp_path: Path
) -> None:
    revision = push(tiny, hub, tmp_path / "work").revision
    out = tmp_path / "out"
    pulled = pull(hub, out)
    assert already_there(REPO, revision, out)
    assert standing.notes(pulled) == []
    edited = edit(pulled)
    assert not already_there(REPO, revision, out)
    assert edited.manifest["provenance"]["edited_after_pull"] == f"{REPO}@{revision}"
    assert f"Changed after it was pulled as `{REPO}@{revision}`" in (out / "README.md").read_text()
    assert "not that revision" in standing.notes(edited)[0]
    shown = run("verify", out)
    assert shown.exit_code == 0
    assert "edited here since" in " ".join(shown.stdout.split())
    with pytest.raises(ConfigError, match="edited here since"):
        pull(hub, out)
    assert json.loads((out / "isotropy.json").read_text())["note"]  # nothing was lost
    assert standing.notes(pull(hub, out, force=True)) == []
    # What is published from it says what it was made of.
    (tmp_path / "again").mkdir()
    sent = prepare(edit(bundles.load(out)), REPO, tmp_path / "again")
    assert sent.manifest["provenance"]["edited_after_pull"] == f"{REPO}@{revision}"


def test_a_record_of_an_earlier_version_knows_an_edit_by_the_order_of_the_files(
    hub: LocalHub, tiny: Bundle, tmp_path: Path
) -> None:
    revision = push(tiny, hub, tmp_path / "work").revision
    pulled = pull(hub, tmp_path / "out")
    record = pulled.folder / origin.SOURCE
    value = json.loads(record.read_text())
    del value["manifest"]
    record.write_text(json.dumps(value))
    assert already_there(REPO, revision, pulled.folder)
    assert not already_there(REPO, revision, edit(pulled).folder)


def test_a_damaged_pull_is_fetched_again_without_force(
    hub: LocalHub, tiny: Bundle, tmp_path: Path
) -> None:
    push(tiny, hub, tmp_path / "work")
    pulled = pull(hub, tmp_path / "out")
    (pulled.folder / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=f"jepack pull {REPO}@[0-9a-f]{{40}} --out"):
        bundles.load(pulled.folder)
    assert bundles.verify(pull(hub, pulled.folder).folder) == []


def cached(hub: LocalHub, place: Path, **options: Any) -> Path:
    found = snapshot_download(
        REPO, cache_dir=place / "hub", endpoint=hub.url, token=TOKEN, **options
    )
    return Path(found)


def test_a_bundle_in_the_hubs_cache_is_read_where_it_lies_and_never_changed(
    hub: LocalHub, tiny: Bundle, tmp_path: Path
) -> None:
    revision = push(tiny, hub, tmp_path / "work").revision
    folder = cached(hub, tmp_path)
    assert (folder / "model.safetensors").is_symlink()
    bundle = bundles.load(folder)
    assert bundle.fingerprints == tiny.fingerprints
    assert origin.told(folder) == f"{REPO}@{revision}, in the Hub's cache"
    with pytest.raises(ArtifactError, match=f"jepack pull {REPO}@{revision} --out FOLDER"):
        edit(bundle)
    assert bundles.verify(folder) == []
    # The same through a link of one's own, as `--cache-dir` or a moved home may be.
    (tmp_path / "mine").symlink_to(folder)
    assert bundles.verify(tmp_path / "mine") == []


def test_links_out_of_the_hubs_cache_and_parts_of_a_snapshot_are_refused_with_the_way_out(
    hub: LocalHub, tiny: Bundle, tmp_path: Path
) -> None:
    revision = push(tiny, hub, tmp_path / "work").revision
    folder = cached(hub, tmp_path)
    shutil.copy((folder / "config.json").resolve(), tmp_path / "elsewhere.json")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(tmp_path / "elsewhere.json")
    assert bundles.verify(folder) == ["config.json: a link, only plain files are accepted"]
    part = cached(hub, tmp_path / "part", allow_patterns=["config.json", "model.safetensors"])
    with pytest.raises(ArtifactError, match=f"only a part of {REPO}@{revision}.*\n.*jepack pull"):
        bundles.load(part)
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in tiny.folder.iterdir():
        (linked / path.name).symlink_to(path)
    with pytest.raises(ArtifactError, match="--local-dir FOLDER"):
        bundles.load(linked)


FORCED = {
    "passed": False,
    "forced": True,
    "forced_files": {"onnx/model_fp16.onnx": ["onnx/model_fp16.onnx: smallest cosine 0.5"]},
    "refusals": ["onnx/model_fp16.onnx: smallest cosine 0.5"],
}


def with_fp16(tiny: Bundle, gate: dict[str, Any] | None, measured: dict[str, Any]) -> Bundle:
    with bundles.editing(tiny, {"gate": gate} if gate else {}) as stage:
        (stage / "onnx").mkdir()
        (stage / "onnx" / "model_fp16.onnx").write_bytes(b"\x3a\x00")  # an empty graph
        (stage / "isotropy.json").unlink()
        (stage / "isotropy.json").write_text(json.dumps(measured))
        card.refresh(stage, {**tiny.manifest, "gate": gate})
    return bundles.load(tiny.folder)


OLD = {"exports": {"onnx/model_fp16.onnx": {"refusals": ["cosine 0.5"], "bytes": 1}}}


@pytest.mark.parametrize(
    ("gate", "measured"), [(FORCED, {}), ({"passed": True, "forced": False, "refusals": []}, OLD)]
)
def test_a_file_that_was_forced_is_told_by_verify_and_push_whoever_wrote_it(
    gate: dict[str, Any], measured: dict[str, Any], tiny: Bundle
) -> None:
    """The second record is one of an earlier version, whose manifest said that the gate passed."""
    bundle = with_fp16(tiny, gate, measured)
    (note,) = standing.notes(bundle)
    assert note.startswith("onnx/model_fp16.onnx was refused by the gate and kept by --force")
    shown = run("verify", bundle.folder)
    assert "overridden" in shown.stdout
    assert json.loads(run("verify", bundle.folder, "--json").stdout)["notes"] == [note]
    with pytest.raises(GateError, match="exports of this bundle.*\n.*cosine 0.5\n.*--formats fp16"):
        refuse_overridden(bundle, force=False)
    refuse_overridden(bundle, force=True)
    dry = run("push", bundle.folder, REPO, "--dry-run", "--force")
    assert "refused by the gate" in " ".join(dry.stdout.split())
    if gate is FORCED:
        text = (bundle.folder / "README.md").read_text()
        assert "**The gate refused `onnx/model\\_fp16.onnx` and was overridden**" in text


REFUSALS = {
    "private storage": (403, "Private repository storage limit reached, please upgrade your plan", ""),
    "storage patterns": (403, "Your storage patterns tripped our internal systems!", ""),
    "large files": (403, "LFS quota exceeded", ""),
    "payment": (402, "Payment required", ""),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("step", ["POST /api/repos/create", "preupload", "commit/main"])
def test_a_full_account_is_not_blamed_on_the_token(
    step: str, kind: str, hub: LocalHub, tiny: Bundle, tmp_path: Path
) -> None:
    status, message, code = REFUSALS[kind]
    hub.faults.append(Fault(step, status, times=100, message=message, code=code))
    with pytest.raises(ServerError) as caught:
        push(tiny, hub, tmp_path / "work")
    text = str(caught.value)
    assert message.rstrip(".") in text
    assert "the token is not the reason" in text
    assert "hf auth login" not in text
    assert hub.count(step) < 3  # asking again would not help


@pytest.mark.parametrize(
    ("status", "message", "code", "words"),
    [
        (403, "Access to model ann/photos is restricted", "GatedRepo", "a gated repository"),
        (403, "You don't have the rights to push here", "", "hf auth login"),
        (403, "Something new", "", 'The Hub says: "Something new"'),
        (401, "Invalid credentials in Authorization header", "", "hf auth login"),
    ],
)
def test_other_refusals_say_what_the_hub_said(
    status: int, message: str, code: str, words: str, hub: LocalHub, tiny: Bundle, tmp_path: Path
) -> None:
    push(tiny, hub, tmp_path / "work")
    hub.faults.append(Fault("GET /api/models", status, times=100, message=message, code=code))
    with pytest.raises(ServerError) as caught:
        pull(hub, tmp_path / "out")
    assert words in str(caught.value)
    assert message in str(caught.value)
