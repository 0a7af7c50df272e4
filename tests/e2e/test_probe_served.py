"""From labels that a person gives to probabilities that the endpoint answers, by the bundle alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from pictures import data_url
from typer.testing import CliRunner

from app.desk import Desk
from app.engine import in_process
from app.indexing import from_embedder, write_index
from app.journal import LABEL, Journal
from app.library import Library
from app.store import IndexInfo
from app.tabs.probe.answer import Answers
from app.tabs.probe.bench import Question
from jepack import bundle as bundles
from jepack.bundle import Bundle
from jepack.cli import app
from jepack.inprocess import InProcess
from jepack.sources import find_images


@pytest.fixture
def bundle(exported_bundle: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(exported_bundle.folder, tmp_path / "bundle")
    return bundles.load(tmp_path / "bundle")


@pytest.fixture
def answers(bundle: Bundle, digits_folder: Path, tmp_path: Path) -> Answers:
    """The Probe tab over an index of digits, the bundle at hand."""
    info = IndexInfo(
        name="digits", output="embedding", dimension=bundle.dimensions["embedding"],
        fingerprint=bundle.fingerprints["embedding"], data=str(digits_folder), bundle=bundle.name,
    )  # fmt: skip
    parts = from_embedder(find_images(digits_folder), "embedding", InProcess(bundle), {})
    write_index(tmp_path / "index", info, parts, {})
    return Answers(Desk(Library(tmp_path / "index"), in_process(bundle.folder)))


def test_labels_become_a_probe_that_serve_answers_with(
    answers: Answers, bundle: Bundle, digits_folder: Path, tmp_path: Path
) -> None:
    # A person says which digits are round, of nothing but pictures.
    journal = Journal(answers.desk.library.folder)
    names = [name for name, _ in answers.desk.library.catalogue]
    of_round = [name for name in names if name.split("/")[0] in ("digit-0", "digit-6", "digit-8")]
    journal.add(LABEL, of_round, "round")
    journal.add(LABEL, [name for name in names if name.startswith("digit-1")], "thin")
    view = replace(answers.first(), question=Question(True, ""))
    board, until = answers.show(view), time.monotonic() + 120
    while board.working and time.monotonic() < until:
        time.sleep(0.05)
        board = answers.show(board.view)
    told = answers.keep(board.view, "shape")
    assert f"jepack serve {bundle.folder} --probe shape" in told
    found, _ = answers.work.look(view.question)
    assert found is not None
    assert found.head is not None
    assert found.shares_NC is not None

    command = [
        sys.executable, "-m", "jepack", "serve", str(bundle.folder), "--probe", "shape", "--engine",
        "embedded", "--http", "127.0.0.1:0", "--threads", "1", "--json",
    ]  # fmt: skip
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()
            facts = json.loads(line)
            assert facts["probes"] == ["shape"]
            asked = [3, 20, 40]
            images = [data_url((digits_folder / names[at]).read_bytes()) for at in asked]
            with httpx.Client(base_url=facts["gateway"], trust_env=False, timeout=60) as http:
                answer = http.post("/v1/embeddings", json={"input": images}).json()
                listed = http.get("/v1/models").json()["data"][0]["probes"]
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
        finally:
            process.kill()

    said = answer["probes"]["shape"]
    assert said["classes"] == ["round", "thin"]
    shares = np.array(said["probabilities"])
    assert np.allclose(shares.sum(axis=1), 1, atol=1e-9)
    rows = np.array([one["embedding"] for one in answer["data"]])
    head = found.head
    logits = (rows - head.mean_D) / head.scale_D @ head.weight_CD.T.astype(float) + head.bias_C
    want = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(shares, want, atol=1e-6)
    np.testing.assert_allclose(shares, found.shares_NC[asked], atol=1e-3)  # as on the page
    [one] = listed
    assert one["figures"]["labels_of_people"] == len(journal.stands().labels)

    done = CliRunner().invoke(app, ["serve", str(bundle.folder), "--probe", "nope"])
    assert getattr(done.exception, "exit_code", None) == 2
    assert "no probe of this name; small-resnet10t keeps shape" in str(done.exception)
