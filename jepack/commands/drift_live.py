"""What a running gateway says of its images: GET /v1/drift, asked for and shown. No torch here."""

from __future__ import annotations

import http.client
import json
import os
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from rich import box
from rich.console import Console
from rich.table import Table

from jepack.commands import drift_picture
from jepack.errors import ConfigError, ServerError
from jepack.machine import loopback
from jepack.names import marked, shown

VARIABLE, CA_FILE = (
    "JEPACK_KEY",
    "JEPACK_CA_FILE",
)  # of the environment, as jepack.client reads them
TIMEOUT_S = 30.0
MOST = 16 << 20  # bytes of an answer
DRIFTED, UNKNOWN = 9, 10  # exit codes
COLOURS = {"calm": "green", "alarm": "bold red", "unknown": "yellow"}
HEADINGS = ("window, images", "z", "mean shift", "scale", "atypical")
FIGURES = ("z", "mean_shift", "scale", "atypical")
Told = dict[str, Any]  # what the gateway says of one model version


def is_web(text: str) -> bool:
    return text.lower().startswith(("http://", "https://"))


def ask(address: str, key_file: Path | None) -> list[Told]:
    """What it says of each model version, its history too. Raises ServerError, ConfigError."""
    parts = urlsplit(address)
    if parts.username or parts.password or parts.query or not parts.hostname:
        raise ConfigError(
            f"{shown(parts.hostname or address)}: a gateway's address is http://host:port. Keys come from "
            f"--key-file or ${VARIABLE}; every user of the machine can read an address in the command"
        )
    path = parts.path.rstrip("/").removesuffix("/drift").removesuffix("/v1")
    url = f"{parts.scheme}://{parts.netloc}{path}/v1/drift?history=true"
    key = key_of(key_file)
    headers = {"authorization": f"Bearer {key}"} if key else {"accept": "application/json"}
    try:
        with loopback.open_url(url, TIMEOUT_S, headers, os.environ.get(CA_FILE)) as answer:
            body = answer.read(MOST + 1)
    except HTTPError as error:
        raise ServerError(f"{url}: {refusal(error.code)}") from error
    except (OSError, URLError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        if "CERTIFICATE_VERIFY_FAILED" in str(reason):
            raise ServerError(
                f"{url}: its certificate is not to be trusted ({reason}). Name the authority that signed it: "
                f"{CA_FILE}=FILE in the environment"
            ) from error
        raise ServerError(
            f"{url}: no answer ({reason}). Start it: jepack serve BUNDLE, and name its HTTP address"
        ) from error
    return versions_of(body, url)


def key_of(file: Path | None) -> str:
    """The first key of the file, else of $JEPACK_KEY; empty where neither is given. Raises ConfigError."""
    if file is None:
        lines = [os.environ.get(VARIABLE, "")]
    else:
        try:
            lines = file.read_text().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: the key cannot be read ({error})") from error
    keys = [one.strip() for one in lines if one.strip() and not one.strip().startswith("#")]
    if file is not None and not keys:
        raise ConfigError(f"{file}: holds no key. Write one of the gateway's keys on a line")
    if keys and not (keys[0].isascii() and keys[0].isprintable()):
        raise ConfigError(f"{file or VARIABLE}: a key is one word of ASCII characters")
    return keys[0] if keys else ""


def refusal(status: int) -> str:
    if status in (401, 403):
        return f"refused ({status}). Give one of its keys: --key-file FILE, or ${VARIABLE}"
    if status == 404:
        return "no such page (404), so this is no gateway of jepack that watches its images"
    if 300 <= status < 400:
        return f"sends elsewhere ({status}), where no key is taken. Name that address itself"
    return f"the gateway failed ({status}); its log tells why"


def versions_of(body: bytes, url: str) -> list[Told]:
    """The entries of an answer, checked for what is read of them."""
    try:
        data = json.loads(body)["data"] if len(body) <= MOST else None
        if isinstance(data, list) and data and all(map(is_sound, data)):
            return data
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise ServerError(f"{url}: not the answer of a jepack gateway. Is this its HTTP address?")


def is_sound(told: Any) -> bool:
    """Whether an entry holds what `show` and the page read."""

    def number(value: Any) -> bool:
        return isinstance(value, (int, float)) and not isinstance(value, bool)

    if not isinstance(told, dict) or told.get("state") not in COLOURS:
        return False
    texts = ["model", "fingerprint", "verdict"]
    if not told.get("watching"):
        return all(isinstance(told.get(name), str) for name in texts)
    texts += ["since", "watched_since", "promise"]
    history = told["history"]
    full = [window for window in told["windows"] if window["full"]]
    channels = [window.get(name) for window in full for name in drift_picture.CHANNELS]
    widths = {len(row) for row in history["z"]} - {len(told["windows"])}
    return (
        all(isinstance(told.get(name), str) for name in texts)
        and all(map(number, (told["images"], told["missed"], told["threshold"])))
        and all(number(window["length"]) for window in told["windows"])
        and len(history["images"]) == len(history["z"])
        and not widths
        and all(map(number, history["images"]))
        and all(number(window[name]) for window in full for name in FIGURES)
        and all(one is None or number(one) for row in (*history["z"], channels) for one in row)
    )


def of_model(versions: list[Told], model: str | None) -> list[Told]:
    """Those called `model`, or the one called NAME@VERSION; all where none is named. Raises ConfigError."""
    named = [
        told
        for told in versions
        if model in (None, told["model"], f"{told['model']}@{told.get('version')}")
    ]
    if not named:
        known = ", ".join(dict.fromkeys(shown(told["model"]) for told in versions))
        raise ConfigError(f"--model {shown(model)}: not served there; there are {known}")
    return named


def exit_code(versions: list[Told]) -> int:
    """9 where one has drifted, else 10 where one cannot tell, else 0."""
    states = {told["state"] for told in versions}
    return DRIFTED if "alarm" in states else UNKNOWN if "unknown" in states else 0


def show(told: Told, console: Console) -> None:
    """The verdict and the windows of one model version."""
    name = f"{marked(told['model'])} ({marked(told['fingerprint'])})"
    colour = COLOURS[told["state"]]
    console.print(
        f"{name}: [{colour}]{marked(told['verdict'])}[/]", highlight=False, soft_wrap=True
    )
    if not told["watching"]:
        return
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    for row in rows_of(told):
        table.add_row(*row)
    console.print(table)
    missed = f", {told['missed']:,} passed by unwatched" if told["missed"] else ""
    console.print(
        f"{told['images']:,} images since {marked(told['watched_since'])}{missed}; alarm above z = "
        f"{told['threshold']:.1f}: {marked(told['promise'])}.",
        highlight=False,
        soft_wrap=True,
    )


def rows_of(told: Told) -> list[list[str]]:
    """A row of text for each window; a dash where it is not full."""
    return [
        [
            f"{one['length']:,}",
            *([f"{one['z']:.1f}", f"{one['mean_shift']:.2f}", f"{one['scale']:.2f}",
               f"{one['atypical']:.1%}"] if one["full"] else ["-"] * 4),
        ]
        for one in told["windows"]
    ]  # fmt: skip
