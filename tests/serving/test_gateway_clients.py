"""Clients of other servers, unchanged: each asks the gateway as it asks its own, and gets the engine's rows.

They are no part of any extra (`pip install openai cohere voyageai litellm langchain-nvidia-ai-endpoints
'tritonclient[http]'`): each test is left out where its client is not installed.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pictures import data_url, png

ONE, TWO = png(7), png(90)
URLS = [data_url(ONE), data_url(TWO)]
NAME = "small-resnet10t"
# A client in a process of its own, as its user runs it: its warnings and threads are not ours. It prints rows.
HEAD = """
import json, sys
url, one, two = sys.argv[1:4]
"""


def rows_of(code: str, gateway: Any, module: str) -> Any:
    pytest.importorskip(module) if "." not in module else None
    done = subprocess.run(
        [sys.executable, "-c", f"{HEAD}{code}", gateway.url, *URLS],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return np.array(eval(done.stdout.strip().splitlines()[-1]), np.float32)
