"""Markdown that somebody else's words cannot break."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jepack.names import valid

Json = dict[str, Any]


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def text_of(value: Any) -> str:
    """Someone else's words, safe inside Markdown: one line, no HTML, no table bars, no links."""
    return re.sub(r"([\\`*_<>|\[\]])", r"\\\1", " ".join(valid(str(value)).split()))


def read_json(path: Path) -> Any:
    """The file's content, None when there is no such file."""
    return json.loads(path.read_text()) if path.is_file() else None
