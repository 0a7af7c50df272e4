"""deploy/ for serving: its commands are ours, its ports and keys agree, and every metric it names is told.

What needs tools that pip does not bring into `dev` (helm, promtool, hadolint) is `make deploy-check`.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
import yaml

from jepack.cli import app
from jepack.measures import Watcher, fit_null, samples
from serving.command import GRPC_LOCKED, NO_KEY, SERVICES
from serving.gateway.app import DIALECTS, build
from serving.gateway.limits import Limits
from serving.server import TritonServer

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "chart"
SERVED = ("gateway.Dockerfile", "triton.Dockerfile")
MONITORING = [CHART / "monitoring" / name for name in ("alerts.yaml", "dashboard.json")]
SCALING = CHART / "templates" / "autoscaling.yaml"

spec = importlib.util.spec_from_file_location("containers", DEPLOY / "containers.py")
assert spec is not None
containers: Any = importlib.util.module_from_spec(spec)
assert spec.loader is not None
spec.loader.exec_module(containers)


def command_of(name: str) -> Any:
    """The command as click knows it."""
    commands: Any = typer.main.get_command(app)
    return commands.get_command(None, name)


def parsed(words: list[str]) -> dict[str, Any]:
    """A command line of ours, by its own parser; the files it names need not be there."""
    command = command_of(words[0])
    context = type(command).context_class(command, info_name=words[0], resilient_parsing=True)
    values, rest, _ = command.make_parser(context).parse_args(list(words[1:]))
    assert not rest
    return dict(values)


def test_the_ray_job_runs_a_command_of_ours_on_the_ray_that_is_tested() -> None:
    job = yaml.safe_load((DEPLOY / "ray" / "job.yaml").read_text())["spec"]
    program, *words = job["entrypoint"].split()
    assert program == "jepack"
    given = parsed(words)
    assert given["engine"] == "ray"
    cluster = job["rayClusterSpec"]
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for pod in (one["template"]["spec"] for one in groups):  # each sees what the command names
        mounted = {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
        for place in (given["data"], given["out"], given["bundle"]):
            assert any(str(place).startswith(f"{one}/") for one in mounted), place


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml", "prometheus/prometheus.yml"])
def test_the_files_parse(name: str) -> None:
    assert yaml.safe_load((DEPLOY / name).read_text())


def test_compose_gives_our_command_what_it_takes() -> None:
    services = containers.compose()
    repository, gateway = (parsed(services[name]["command"]) for name in ("repository", "gateway"))
    assert repository["bundles"] == gateway["bundles"] == ("/bundle",)
    assert repository["repository_only"] == "/work/repository"
    assert gateway["engine"] == f"triton:{SERVICES['grpc']}"
    assert float(gateway["wait_s"]) > 0
    assert gateway["http_log"] == "-"
    assert gateway["http"].endswith(":8080")
    assert services["gateway"]["ports"] == ["127.0.0.1:8080:8080"]  # one door, of this machine
    assert all("ports" not in services[name] for name in ("repository", "triton"))
    assert ":8080/health/ready" in services["gateway"]["healthcheck"]["test"][-1]


def test_prometheus_asks_where_they_answer_with_a_key() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    targets = {
        one["job_name"]: one["static_configs"][0]["targets"] for one in config["scrape_configs"]
    }
    assert targets == {"jepack": ["gateway:8080"], "triton": [f"triton:{SERVICES['metrics']}"]}
    assert set(containers.compose()) >= {"gateway", "triton"}
    [job] = [one for one in config["scrape_configs"] if one["job_name"] == "jepack"]
    [secret] = containers.compose()["prometheus"]["secrets"]
    assert job["authorization"]["credentials_file"] == f"/run/secrets/{secret}"


def test_containers_of_compose_are_shut() -> None:
    for name, service in containers.compose().items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"]
        assert int(service["user"].split(":")[0]) > 0


@pytest.mark.parametrize("name", SERVED)
def test_images_are_built_on_a_digest_that_somebody_names_and_run_as_nobody(name: str) -> None:
    text = (DEPLOY / name).read_text()
    [digest] = set(re.findall(r"^ARG (\w+_DIGEST)$", text, re.MULTILINE))  # no default
    bases = [line.split()[1] for line in text.splitlines() if line.startswith("FROM ")]
    assert bases
    assert all(base.endswith(f"@${{{digest}}}") for base in bases)
    assert re.findall(r"^USER (.*)$", text, re.MULTILINE) == ["1000:1000"]
    arguments = [one["build"]["args"] for one in containers.compose().values() if "build" in one]
    assert any(digest in one for one in arguments)


def test_triton_of_the_image_is_as_shut_as_the_one_started_here() -> None:
    entry = containers.entrypoint("triton.Dockerfile")
    assert entry[1] == "tritonserver"
    assert f"--grpc-restricted-protocol={GRPC_LOCKED}:{NO_KEY}" in entry
    assert {"--model-control-mode=none", "--allow-http=false", "--strict-readiness=true"} <= {
        *entry
    }
    assert f"--grpc-port={SERVICES['grpc']}" in entry
    assert f"--metrics-port={SERVICES['metrics']}" in entry


def test_the_decoders_of_the_image_are_those_of_the_pins() -> None:
    def pins(path: Path) -> dict[str, str]:
        lines = [line for line in path.read_text().splitlines() if "==" in line]
        return dict(line.split("==") for line in lines if not line.startswith("#"))

    ours, theirs = pins(ROOT / "constraints.txt"), pins(DEPLOY / "triton-requirements.txt")
    same = {name for name in theirs if ours[name] == theirs[name]}
    assert same == {"pillow", "tifffile", "pydicom"}  # the others need NumPy 2 in our versions


def test_the_chart_gives_only_options_that_there_are() -> None:
    text = (CHART / "templates/deployment.yaml").read_text()
    asked = set(re.findall(r"^ +- (--[a-z-]+)=?", text, re.MULTILINE))
    ours = {
        word
        for name in ("serve", "pull", "verify")
        for one in command_of(name).params
        for word in one.opts
    }
    tritons = {"--grpc-address", "--model-config-name", "--model-control-mode", "--load-model"}
    assert asked - ours == tritons
    assert {"--engine", "--fingerprint", "--key-file", "--wait-s", "--http-log"} <= asked
    for line in (DEPLOY / "kserve/runtime.yaml").read_text().splitlines():
        if found := re.match(r" +- (--[a-z-]+)", line):
            assert found[1] in ours


def test_ports_of_the_chart_are_those_of_its_commands() -> None:
    text = (CHART / "templates/deployment.yaml").read_text()
    assert "--http=0.0.0.0:8080" in text
    assert f"--engine=127.0.0.1:{SERVICES['grpc']}" in text
    assert re.findall(r"name: (\w+), containerPort: (\d+)", text) == [
        ("metrics", str(SERVICES["metrics"])),
        ("http", "8080"),
    ]
    assert set(re.findall(r'"127\.0\.0\.1", (\d+)', text)) == {str(SERVICES["grpc"])}


def test_versions_of_the_chart_are_ours() -> None:
    from jepack import __version__

    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert chart["appVersion"] == __version__
    assert {one["tag"] for one in values["images"].values() if isinstance(one, dict)} == {
        __version__
    }


def test_alerts_speak_of_the_limits_that_there_are() -> None:
    text = MONITORING[0].read_text()
    limits = Limits()
    assert f"{limits.workers} requests at the engine and {limits.waiting} that wait" in text
    assert f"requests wait; {limits.waiting} may" in text


def test_routes_that_embed_are_those_that_alerts_and_dashboard_ask_for() -> None:
    asked = {
        pattern
        for path in MONITORING
        for pattern in re.findall(r'route=~\\?"([^"\\]*embed[^"\\]*)', path.read_text())
    }
    assert asked
    probes = ("/health/ready", "/metrics", "/v1/models", "/v1/drift", "/v2/health/ready")
    for pattern in asked:
        for route in (*DIALECTS, "/v2/models/{name}/infer"):
            assert re.fullmatch(pattern, route), (pattern, route)
        assert not [route for route in probes if re.fullmatch(pattern, route)]


def named(prefix: str) -> set[str]:
    """Metrics that alerts, dashboard and autoscaling name."""
    texts = [path.read_text() for path in (*MONITORING, SCALING)]
    return set(re.findall(rf"\b{prefix}_[a-z_]+\b", "\n".join(texts)))


def told(page: str) -> set[str]:
    return set(re.findall(r"^([a-zA-Z_]\w*)[{ ]", page, re.MULTILINE))


def test_every_metric_of_ours_that_is_named_is_told(embedded: Any) -> None:
    _, place = build(embedded)
    place.metrics.requests.labels("/v1/embeddings", "200").inc()
    place.metrics.seconds.labels("/v1/embeddings").observe(1)
    null = fit_null(np.random.default_rng(0).standard_normal((200, 64)), runs=2)
    watcher = Watcher(null)
    watcher.add(np.random.default_rng(1).standard_normal((128, 64)).astype(np.float32))
    ours = told(place.metrics.page().decode()) | {one.name for one in samples(watcher.report())}
    ours |= {"jepack_drift_missed_total"}  # of serving/gateway/watching.py, beside those
    assert named("jepack") - ours == set()


@pytest.mark.triton
def test_every_metric_of_triton_that_is_named_is_told(triton_server: TritonServer) -> None:
    import httpx

    address = f"http://127.0.0.1:{triton_server.ports['metrics']}/metrics"
    page = httpx.get(address, trust_env=False).text
    assert named("nv") - told(page) == set()


def test_the_dashboard_has_its_panels_side_by_side() -> None:
    panels = json.loads(MONITORING[1].read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


@pytest.mark.slow
@pytest.mark.triton
def test_the_processes_of_compose_serve_break_and_come_back(tmp_path: Path) -> None:
    words = [sys.executable, str(DEPLOY / "smoke.py"), "--out", str(tmp_path / "smoke")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "all is well" in done.stdout
    pages = [(tmp_path / "smoke" / f"{one}.metrics").read_text() for one in ("gateway", "triton")]
    assert (named("jepack") | named("nv")) - told("\n".join(pages)) == set()
