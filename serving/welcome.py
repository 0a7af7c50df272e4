"""What `jepack serve` tells a person, and a program, once it serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from jepack.bundle import Probe, origin, standing
from jepack.names import examples, marked, marked_lines
from serving.served import ALONE, Served
from serving.server import TritonServer

Probes = Mapping[str, Probe]  # of one bundle, by name


def notes_of(served: Sequence[Served]) -> list[str]:
    return [
        note if one.model == ALONE else f"{one.told}: {note}"
        for one in served
        for note in standing.notes(one.bundle)
    ]


def identity(served: Sequence[Served]) -> dict[str, Any]:
    """Who is served: a bundle's own facts, or a list of them under `models`."""
    told = [
        {
            "model": one.model,
            "version": one.version,
            "bundle": one.bundle.name,
            "fingerprints": one.bundle.fingerprints,
            "dimensions": one.bundle.dimensions,
            "default_output": one.bundle.default_output,
            "promises": one.bundle.promises,
            "source": origin.told(one.bundle.folder),
            "notes": standing.notes(one.bundle),
        }
        for one in served
    ]
    return told[0] if served[0].model == ALONE else {"models": told}


def facts(
    served: Sequence[Served],
    server: TritonServer | None,
    gateway: str | None,
    probes: Sequence[Probes] = (),
) -> dict[str, Any]:
    """What a program may want to know: `url` and what follows it are Triton's, `gateway` is for HTTP."""
    found: dict[str, Any] = {}
    if server is not None:
        found = {
            "url": server.url,
            "http": f"http://127.0.0.1:{server.ports['http']}",
            "metrics": f"http://127.0.0.1:{server.ports['metrics']}/metrics",
            "log": str(server.log_file),
        }
    names = list(dict.fromkeys(name for own in probes for name in own))
    return found | {"gateway": gateway, "probes": names, **identity(served)}


def welcome(
    console: Console,
    served: Sequence[Served],
    server: TritonServer | None,
    gateway: str | None,
    *,
    keys: bool = False,
    probes: Sequence[Probes] = (),
) -> None:
    """Print addresses, identity and a client; with `keys` the gateway asks for one. `probes`: of each
    bundle, or () for none.

    No box and no line breaks of ours, so that each line can be pasted whatever the terminal's width.
    """
    told = facts(served, server, gateway)
    spaces = "\n".join(
        f"  {output:<11} {one.bundle.dimensions[output]:>5} dims   {fingerprint}"
        + ("" if one.model == ALONE else f"   {one.told}")
        for one in served
        for output, fingerprint in one.bundle.fingerprints.items()
    )
    parts = []
    if gateway is not None:
        parts.append(
            f"HTTP     {gateway}/v1/embeddings\nready    {gateway}/health/ready\n"
            f"drift    {gateway}/v1/drift"
        )
    if server is not None:
        parts.append(
            f"gRPC     {told['url']}\nhealth   {told['http']}/v2/health/ready\n"
            f"metrics  {told['metrics']}\nlog      {told['log']}"
        )
    parts.append(f"Fingerprints\n{spaces}")
    heads = "\n".join(
        f"  {probe.name:<11} of {probe.output}: {examples(probe.classes, 5)}"
        + ("" if one.model == ALONE else f"   {one.told}")
        for one, own in zip(served, probes, strict=bool(probes))
        for probe in own.values()
    )
    if heads:
        parts.append(f"Probes\n{heads}")
    parts += pasted(served, server, gateway, keys)
    text = "\n\n".join([*parts, "The golden images came back right. Ctrl-C stops."])
    names = ", ".join(dict.fromkeys(one.told_name for one in served))
    title = f"{marked(names)} {'is' if len(served) == 1 else 'are'} served"
    console.print(f"[bold green]✓ {title}[/]\n", highlight=False, soft_wrap=True)
    console.print(marked_lines(text), highlight=False, soft_wrap=True)


def pasted(
    served: Sequence[Served], server: TritonServer | None, gateway: str | None, keys: bool
) -> list[str]:
    """Lines to paste that ask for the first bundle."""
    first, parts, shell = served[0], [], []
    model = "" if first.model == ALONE else f', model="{first.model}"'
    asked = server.url if server is not None else gateway
    parts.append(
        "Python\n"
        "  from jepack.client import Client\n"
        f'  found = Client("{asked}"{model}).embed("photo.jpg")\n'
        "  print(found.embedding.shape)"
    )
    named = "" if not model else f" --model {first.model}"
    if keys:
        shell.append(
            "  export JEPACK_KEY=...  # one of its keys, for the client and the commands too"
        )
    shell.append(f"  jepack embed photos/ --url {asked}{named} --out photos.npz")
    if gateway is not None:
        form = f" -F model={first.told_name}" if len({one.name for one in served}) > 1 else ""
        key = ' -H "authorization: Bearer $JEPACK_KEY"' if keys else ""
        shell.append(f"  curl {gateway}/v1/embeddings{key} -F file=@photo.jpg{form}")
    return [*parts, "\n".join(["Shell", *shell])]
