"""Atheris (coverage-guided bytes) on what reads strangers' bytes: the gateway's parser, the image decoder.

    pip install atheris                                  (no dependency of ours; CPython 3.11 on Linux)
    python -m benchmarks.fuzz --seconds 120              (that long for each target)
    python -m benchmarks.fuzz --targets decoder --seconds 600

A target may answer or refuse (Refusal, DataError). Anything else, a crash, 20 s for one input or 2 GB of
memory ends it; the input then lies in the working folder, and its name is told.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jepack.files import write_json

OUT = Path(__file__).parent / "results" / "fuzz.json"
LONGEST = 65_536  # bytes of an input


def parser() -> Callable[[bytes], None]:
    """The first byte chooses the dialect, the second the media type, the rest is the body."""
    from jepack.client import Endpoint
    from serving.gateway import Limits, oip, parse
    from serving.gateway.errors import Refusal
    from serving.gateway.options import Offer

    endpoint = Endpoint(
        bundle="photos", fingerprints={"embedding": "a", "projection": "b"},
        dimensions={"embedding": 512, "projection": 64}, max_batch_size=16,
    )  # fmt: skip
    dialects = [parse.openai, parse.cohere, parse.voyage, parse.weaviate, oip.read]
    media = ["application/json", "image/png", "multipart/form-data; boundary=y", ""]
    limits, offer = Limits(items=8, image=LONGEST, pixels=1_000_000), Offer(endpoint, {})

    def one(data: bytes) -> None:
        if len(data) < 3:
            return
        binary = {oip.HEAD_SIZE: str(data[2])} if data[1] & 64 else {}
        received = parse.Received(data[2:], media[data[1] % 4], {}, binary)
        try:
            parse.parsed(parse.read(received, dialects[data[0] % 5], limits), offer, limits)
        except Refusal as refusal:
            if not 400 <= refusal.status < 500:
                raise

    return one


def decoder() -> Callable[[bytes], None]:
    from jepack.decoding import Preprocessing, load
    from jepack.errors import DataError

    settings = Preprocessing(size=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3)

    def one(data: bytes) -> None:
        try:
            found = load(data, settings)
        except DataError:
            return
        assert found.shape == (32, 32, 3)

    return one


# Whose branches guide the search; what these import beside is neither slowed nor watched.
READERS = ["jepack", "serving.gateway", "python_multipart", "PIL", "tifffile"]
TARGETS = {"parser": parser, "decoder": decoder}


def seeds(target: str, folder: Path) -> None:
    """Inputs to begin from: small pictures in every format that Pillow writes, and a request a dialect."""
    import base64
    import io

    import numpy as np
    from PIL import Image

    pixels = np.arange(24 * 20 * 3, dtype=np.uint8).reshape(24, 20, 3)
    files = {}
    for mode in ("RGB", "L", "P", "1", "CMYK", "RGBA", "I;16"):
        for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000"):
            stream = io.BytesIO()
            try:
                Image.fromarray(pixels).convert(mode).save(stream, kind)
            except (OSError, ValueError):
                continue
            files[f"{kind}-{mode.replace(';', '')}"] = stream.getvalue()
    stream = io.BytesIO()
    np.save(stream, pixels)
    files["npy"] = stream.getvalue()
    if target == "parser":
        url = "data:image/png;base64," + base64.b64encode(files["PNG-L"]).decode()
        part = {"type": "image_url", "image_url": {"url": url}}
        bodies: list[Any] = [
            {"input": [url, {"image": url}], "dimensions": 0, "encoding_format": "base64"},
            {"images": [url], "embedding_types": ["float"]},
            {"inputs": [{"content": [part]}], "output_dtype": "int8"},
            {"image": url, "id": "1", "on_error": "skip"},
            {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [url]}]},
        ]
        form = b'--y\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        files = {
            f"json-{n}": bytes([n, 0]) + json.dumps(body).encode() for n, body in enumerate(bodies)
        }
        files["form"] = bytes([0, 2]) + form + b"abc\r\n--y--\r\n"
        files["raw"] = bytes([0, 1]) + b"\x89PNG"
    for name, data in files.items():
        (folder / name).write_bytes(data)


def fuzz(target: str, corpus: Path, seconds: int) -> None:
    """In this process, which libFuzzer ends."""
    import atheris

    with atheris.instrument_imports(include=READERS):
        one = TARGETS[target]()
    flags = [
        f"-max_total_time={seconds}",
        f"-max_len={LONGEST}",
        "-timeout=20",
        "-rss_limit_mb=2048",
    ]
    artifact = f"-artifact_prefix={target}-"
    atheris.Setup([target, *flags, artifact, "-print_final_stats=1", str(corpus)], one)
    atheris.Fuzz()


def run(target: str, seconds: int, work: Path) -> dict[str, Any]:
    corpus = work / target
    corpus.mkdir(parents=True, exist_ok=True)
    seeds(target, corpus)
    command = [sys.executable, "-m", "benchmarks.fuzz", "--one", target, str(corpus), str(seconds)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + 300,
        check=False,
    )
    text = done.stderr + done.stdout
    executed = re.search(r"stat::number_of_executed_units: (\d+)", text)
    edges = re.findall(r"cov: (\d+)", text)
    found = re.search(r"Test unit written to (\S+)", text)
    return {
        "seconds": seconds,
        "inputs": int(executed[1]) if executed else None,
        "edges": int(edges[-1]) if edges else None,
        "kept_inputs": len(list(corpus.iterdir())),
        "ended": done.returncode,
        "finding": found[1] if found else None,
        "tail": text[-3000:] if done.returncode else "",
    }


def main() -> None:
    if sys.argv[1:2] == ["--one"]:
        fuzz(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
        return
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    options.add_argument("--seconds", type=int, default=120)
    options.add_argument("--work", type=Path, default=Path("fuzz-corpus"))
    asked = options.parse_args()
    table = json.loads(OUT.read_text()) if OUT.is_file() else {}
    for target in asked.targets:
        found = run(target, asked.seconds, asked.work)
        print(
            f"{target}: {found['inputs']} inputs, {found['edges']} edges, finding: {found['finding']}"
        )
        print(found["tail"])
        table[target] = {key: value for key, value in found.items() if key != "tail"}
    write_json(OUT, table)


if __name__ == "__main__":
    main()
