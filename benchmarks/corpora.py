"""The test images of image libraries, many of them broken on purpose, through the gateway on both engines.

    apt-get source --download-only libpng1.6 libgd2 giflib   (and unpack them; Pillow's are in its sdist)
    python -m benchmarks.corpora BUNDLE libpng=FOLDER libgd=FOLDER giflib=FOLDER

Every file is posted as it is. Read: answered with an embedding, refused (a 4xx that says why), failed (5xx)
or without an answer, the longest, memory before and after. Aim: nothing failed, nothing unanswered.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.overload import engine_of
from jepack import bundle as bundles
from jepack.files import write_json
from serving.gateway import Gateway

OUT = Path(__file__).parent / "results" / "corpora.json"


def memory_mb() -> int:
    """Of this process and every process below it."""
    me = psutil.Process()
    total = 0
    for one in (me, *me.children(recursive=True)):
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total >> 20


def through(http: httpx.Client, files: list[Path]) -> dict[str, Any]:
    statuses, reasons, failures = Counter[str](), Counter[str](), []
    longest, before = (0.0, ""), memory_mb()
    for file in files:
        began = time.monotonic()
        try:
            answer = http.post(
                "/v1/embeddings",
                content=file.read_bytes(),
                headers={"content-type": "application/octet-stream"},
            )
        except httpx.TransportError as error:
            statuses["no answer"] += 1
            failures.append(f"{file.name}: {type(error).__name__}")
            continue
        longest = max(longest, (round(time.monotonic() - began, 2), file.name))
        statuses[str(answer.status_code)] += 1
        if answer.status_code != 200:
            error = answer.json()["error"]
            reasons[error["code"]] += 1
            if answer.status_code >= 500 or not error["message"]:
                failures.append(f"{file.name}: {answer.status_code} {error['message']}")
    return {
        "files": len(files),
        "embedded": statuses["200"],
        "refused": sum(n for status, n in statuses.items() if status.startswith("4")),
        "failed": sum(n for status, n in statuses.items() if status.startswith("5")),
        "no_answer": statuses["no answer"],
        "reasons": dict(reasons),
        "failures": failures,
        "longest_s": longest[0],
        "longest": longest[1],
        "memory_mb": [before, memory_mb()],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("corpora", nargs="+", help="NAME=FOLDER")
    parser.add_argument("--engines", nargs="+", default=["embedded", "triton"])
    asked = parser.parse_args()
    bundle, console = bundles.load(asked.bundle), Console(width=140)
    table = Table(title="files of other libraries' tests")
    columns = ("files", "embedded", "refused", "failed", "no_answer", "longest_s", "memory_mb")
    for column in ("engine", "corpus", *columns):
        table.add_column(column.replace("_", " "))
    found: dict[str, Any] = json.loads(OUT.read_text()) if OUT.is_file() else {}
    with TemporaryDirectory() as work:
        for name in asked.engines:
            with (
                engine_of(name, bundle, Path(work)) as engine,
                Gateway(engine, port=0) as gateway,
                httpx.Client(base_url=gateway.url, trust_env=False, timeout=120) as http,
            ):
                for corpus in asked.corpora:
                    label, _, folder = corpus.partition("=")
                    files = sorted(one for one in Path(folder).rglob("*") if one.is_file())
                    row = through(http, files)
                    found.setdefault(name, {})[label] = row
                    table.add_row(name, label, *(str(row[column]) for column in columns))
                    for failure in row["failures"]:
                        console.print(f"[red]{name} {label}[/] {failure}")
                assert http.get("/health/ready").status_code == 200
    console.print(table)
    write_json(OUT, found)


if __name__ == "__main__":
    main()
