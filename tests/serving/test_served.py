"""Several bundles under names and versions: what a command line means, and the repository it becomes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from jepack.bundle import Bundle
from jepack.errors import ConfigError
from serving.models import decoded_as
from serving.repository import Plan, RepositoryConfig, configs
from serving.served import pair_of, served_of, together


@pytest.fixture
def here(small_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two bundles in it, of which one has an odd name."""
    monkeypatch.chdir(tmp_path)
    for name in ("june", "a=b"):
        shutil.copytree(small_bundle.folder, tmp_path / name)
    return tmp_path


def told(*texts: str) -> list[tuple[str, str, int]]:
    return [(one.model, one.bundle.folder.name, one.version) for one in served_of(texts)]


def test_a_bundle_alone_is_the_model_embed(here: Path) -> None:
    assert told("june") == [("embed", "june", 1)]
    assert told("a=b") == [("embed", "a=b", 1)]
    assert told(f"{here}/a=b") == [("embed", "a=b", 1)]


def test_a_name_given_again_is_its_next_version(here: Path) -> None:
    assert told("photos=june") == [("photos", "june", 1)]
    assert told("p=june", "q=june", "p=a=b") == [
        ("p@1", "june", 1),
        ("q", "june", 1),
        ("p@2", "a=b", 2),
    ]


@pytest.mark.parametrize("name", ["", "-x", "a b", "a@2", "a:projection", "x" * 65, "encoder"])
def test_a_name_that_would_be_mistaken_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot be the name.*NAME=BUNDLE"):
        pair_of(f"{name}=june")


def test_of_several_bundles_each_needs_a_name(here: Path) -> None:
    with pytest.raises(ConfigError, match="Write NAME=june"):
        served_of(["photos=june", "june"])
    with pytest.raises(ConfigError, match="no bundle after the name"):
        served_of(["photos="])


def changed(bundle: Bundle, **look: object) -> Bundle:
    preprocessing = {**bundle.preprocessing.to_json(), **look}
    return Bundle(bundle.folder, {**bundle.manifest, "preprocessing": preprocessing})


def test_bundles_that_cut_the_same_crop_share_their_decoders(small_bundle: Bundle) -> None:
    other, larger = changed(small_bundle, mean=[0.1], std=[0.9]), changed(small_bundle, size=80)
    plan = Plan(together([("a", small_bundle), ("a", other), ("b", larger)]))
    assert [plan.decoder_of(one) for one in plan.served] == ["preprocess"] * 2 + ["preprocess@2"]
    assert plan.processes(RepositoryConfig(processes=3)) == 3 * 3
    framed = [changed(small_bundle, mean=[value], crop_mode="border") for value in (0.1, 0.2)]
    assert decoded_as(framed[0].preprocessing) != decoded_as(framed[1].preprocessing)


def test_each_version_is_an_ensemble_of_its_own_encoder(small_bundle: Bundle) -> None:
    told = {"fingerprints": {"embedding": "e" * 16, "projection": "f" * 16}}
    newer = Bundle(small_bundle.folder, {**small_bundle.manifest, **told})
    plan = Plan(together([("photos", small_bundle), ("photos", newer)]))
    found = {
        place: text_format.Parse(text, ModelConfig())
        for place, text in configs(plan, RepositoryConfig(decoders=2))
    }
    assert {place.partition("/")[0] for place in found} == {
        "preprocess", "encoder@photos@1", "encoder@photos@2", "photos@1", "photos@2",
    }  # fmt: skip
    for place, config in found.items():
        assert config.name == place.partition("/")[0]
    for one in plan.served:
        config = found[f"{one.model}/config.pbtxt"]
        steps = [step.model_name for step in config.ensemble_scheduling.step]
        assert steps == ["preprocess", f"encoder@{one.model}"]
        values = {key: value.string_value for key, value in config.parameters.items()}
        assert values["version"] == str(one.version)
        assert values["fingerprint_embedding"] == one.bundle.fingerprints["embedding"]
        alone = found[f"{one.model}/configs/cpu.pbtxt"].parameters
        assert alone["encoder"].string_value == f"encoder@{one.model}"
        assert alone["version"].string_value == str(one.version)
    assert found["preprocess/config.pbtxt"].instance_group[0].count == 2


def test_every_model_that_computes_is_warmed_at_one_image_and_a_full_batch(
    small_bundle: Bundle,
) -> None:
    plan = Plan(together([("photos", small_bundle)]))
    for place, text in configs(plan, RepositoryConfig(max_batch_size=24)):
        config = text_format.Parse(text, ModelConfig())
        sizes = [one.batch_size for one in config.model_warmup]
        assert sizes == ([] if config.platform == "ensemble" else [1, 24]), place
