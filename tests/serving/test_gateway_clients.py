"""Clients of other servers, unchanged: each asks the gateway as it asks its own, and gets the engine's rows.

They may live in an environment of their own (their versions clash easily), named by JEPACK_CLIENTS_PYTHON:
`pip install openai cohere voyageai litellm langchain-openai langchain-nvidia-ai-endpoints` and
`tritonclient[http]`. A client that is not installed leaves its test out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pictures import data_url, png

ONE, TWO = png(7), png(90)
PYTHON = os.environ.get("JEPACK_CLIENTS_PYTHON", sys.executable)
HEAD = """
import json, sys, warnings
warnings.simplefilter("ignore")
url, one, two, name = sys.argv[1], *[open(path).read() for path in sys.argv[2:4]], "small-resnet10t"
"""
OPENAI = """
from openai import OpenAI
client = OpenAI(base_url=url + "/v1", api_key="unused")
"""
# Of its own accord it asks for a list of prices when it is imported.
LITELLM = """
import os
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import litellm
litellm.telemetry = False
"""
# client: (modules it needs, what its user writes)
CLIENTS = {
    "openai, as it is": (
        ["openai"],
        OPENAI
        + "answer = client.embeddings.create(input=[one, two], model=name)\n"
        + "found = [one.embedding for one in answer.data]",
    ),
    "openai, floats": (
        ["openai"],
        OPENAI
        + 'answer = client.embeddings.create(input=[one, two], model=name, encoding_format="float")\n'
        + "found = [one.embedding for one in answer.data]",
    ),
    "openai, below another root": (
        ["openai"],
        OPENAI.replace('"/v1"', '"/openai/v1"')
        + "found = [one.embedding for one in client.embeddings.create(input=[one, two], model=name).data]",
    ),
    "openai, the list of models": (
        ["openai"],
        OPENAI
        + "names = [model.id for model in client.models.list()]\n"
        + "answer = client.embeddings.create(input=[one, two], model=names[0])\n"
        + "found = [one.embedding for one in answer.data]",
    ),
    "cohere": (
        ["cohere"],
        """
import cohere
client = cohere.ClientV2(api_key="unused", base_url=url)
answer = client.embed(model=name, input_type="image", images=[one, two], embedding_types=["float"])
found = answer.embeddings.float_
""",
    ),
    "voyageai": (
        ["voyageai", "PIL"],
        """
import base64, io, voyageai
from PIL import Image
client = voyageai.Client(api_key="unused", base_url=url + "/v1")
pictures = [[Image.open(io.BytesIO(base64.b64decode(text.split(",")[1])))] for text in (one, two)]
found = client.multimodal_embed(pictures, model=name).embeddings
""",
    ),
    "litellm, openai/": (
        ["litellm"],
        LITELLM
        + 'answer = litellm.embedding(f"openai/{name}", [one, two], api_base=url + "/v1", api_key="unused")\n'
        + 'found = [one["embedding"] for one in answer.data]',
    ),
    "litellm, infinity/": (
        ["litellm"],
        LITELLM
        + 'answer = litellm.embedding(f"infinity/{name}", [one, two], api_base=url, api_key="unused", '
        + 'modality="image")\n'
        + 'found = [one["embedding"] for one in answer.data]',
    ),
    "litellm, cohere/": (
        ["litellm"],
        LITELLM
        + 'answer = litellm.embedding(f"cohere/{name}", [one], api_base=url + "/v2/embed", api_key="unused", '
        + 'input_type="image")\n'
        + 'found = [one["embedding"] for one in answer.data]',
    ),
    "litellm, jina_ai/": (
        ["litellm"],
        LITELLM
        + 'answer = litellm.embedding(f"jina_ai/{name}", [one, two], api_base=url + "/v1", '
        + 'api_key="unused")\n'
        + 'found = [one["embedding"] for one in answer.data]',
    ),
    "langchain, OpenAIEmbeddings": (
        ["langchain_openai"],
        """
from langchain_openai import OpenAIEmbeddings
found = OpenAIEmbeddings(
    model=name, base_url=url + "/v1", api_key="unused", check_embedding_ctx_length=False
).embed_documents([one, two])
""",
    ),
    "langchain, NVIDIAEmbeddings": (
        ["langchain_nvidia_ai_endpoints"],
        """
from langchain_nvidia_ai_endpoints import NVIDIAEmbeddings
found = NVIDIAEmbeddings(model=name, base_url=url + "/v1", api_key="unused").embed_documents([one, two])
""",
    ),
    "geventhttpclient": (
        ["geventhttpclient"],
        """
from geventhttpclient import HTTPClient
client = HTTPClient.from_url(url)
body = json.dumps({"model": name, "input": [one, two]})
answer = client.post("/v1/embeddings", body=body, headers={"content-type": "application/json"})
found = [row["embedding"] for row in json.loads(answer.read())["data"]]
""",
    ),
    "tritonclient, binary": (
        ["tritonclient", "geventhttpclient"],
        """
import base64, numpy as np, tritonclient.http as triton
files = np.array([base64.b64decode(text.split(",")[1]) for text in (one, two)], dtype=object).reshape(2, 1)
client = triton.InferenceServerClient(url.removeprefix("http://"))
assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("embed")
assert client.get_model_metadata("embed")["inputs"][0]["datatype"] == "BYTES"
given = triton.InferInput("image", [2, 1], "BYTES")
given.set_data_from_numpy(files, binary_data=True)
wanted = [triton.InferRequestedOutput("embedding", binary_data=True)]
found = client.infer("embed", [given], outputs=wanted).as_numpy("embedding").tolist()
""",
    ),
}  # fmt: skip


@cache
def has(module: str) -> bool:
    code = "import importlib.util, sys; sys.exit(not importlib.util.find_spec(sys.argv[1]))"
    return subprocess.run([PYTHON, "-c", code, module], check=False).returncode == 0


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_of_another_server_needs_nothing_but_the_address(
    client: str, gateway: Any, embedded: Any, tmp_path: Path
) -> None:
    modules, code = CLIENTS[client]
    missing = [module for module in modules if not has(module)]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed for {PYTHON}")
    files = [tmp_path / "one", tmp_path / "two"]
    for file, image in zip(files, (ONE, TWO), strict=True):
        file.write_text(data_url(image))
    done = subprocess.run(
        [PYTHON, "-c", f"{HEAD}{code}\nprint(json.dumps(found))", gateway.url, *map(str, files)],
        capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = np.array(json.loads(done.stdout.strip().splitlines()[-1]), np.float32)
    want = embedded.embed([ONE, TWO][: len(found)], limit_s=300).rows["embedding"]
    np.testing.assert_allclose(found, want, rtol=1e-6, atol=1e-6)


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_posts_a_file_as_it_is(gateway: Any, embedded: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(ONE)
    want = embedded.embed([ONE], limit_s=300).rows["embedding"]
    for how in (
        ["-H", "content-type: image/png", "--data-binary", "@a.png"],
        ["-F", "file=@a.png"],
    ):
        done = subprocess.run(
            ["curl", "-sS", "--fail", "--noproxy", "*", f"{gateway.url}/v1/embeddings", *how],
            capture_output=True, text=True, timeout=300, check=True, cwd=tmp_path,
        )  # fmt: skip
        found = [one["embedding"] for one in json.loads(done.stdout)["data"]]
        np.testing.assert_allclose(np.array(found, np.float32), want, rtol=1e-6, atol=1e-6)


def test_langchain_is_told_how_not_to_send_token_ids(gateway: Any, tmp_path: Path) -> None:
    """What its OpenAIEmbeddings sends by default, without its tokenizer, which it would download."""
    import httpx

    answer = httpx.post(
        f"{gateway.url}/v1/embeddings", json={"input": [[101, 7, 102]]}, trust_env=False,
        timeout=300,
    )  # fmt: skip
    assert answer.status_code == 400
    assert "check_embedding_ctx_length=False" in answer.json()["error"]["message"]
