"""Schemathesis, which asks everything that /openapi.json allows and much that it does not.

It lives in an environment of its own (30 packages): `pip install schemathesis`, and JEPACK_SCHEMATHESIS names
its command `st`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest

COMMAND = os.environ.get("JEPACK_SCHEMATHESIS", "")


@pytest.mark.slow
@pytest.mark.skipif(not COMMAND, reason="JEPACK_SCHEMATHESIS names no command")
def test_what_the_schema_allows_gets_an_answer_of_the_schema(gateway: Any, tmp_path: Path) -> None:
    """A string that is no image is refused, so that what fits the schema is accepted is not checked."""
    done = subprocess.run(
        [
            COMMAND, "run", f"{gateway.url}/openapi.json", "--max-examples", "25", "--max-time", "300",
            "--seed", "1", "--exclude-checks", "positive_data_acceptance",
        ],
        capture_output=True, text=True, timeout=560, check=False, cwd=tmp_path,
        env={**os.environ, "NO_PROXY": "127.0.0.1"},
    )  # fmt: skip
    print(done.stdout[-1500:])
    assert done.returncode == 0, done.stdout[-5000:]
    page = httpx.get(f"{gateway.url}/metrics", trust_env=False, timeout=300).text
    assert 'status="5' not in page
