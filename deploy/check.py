"""`make deploy-check`: what can be known of deploy/ without a cluster, a container or a GPU.

Each check returns problems as sentences, or raises Missing where its tool cannot be had: then it is skipped,
and told. Exit code 1 when there is a problem.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import custom
import yaml
from tools import Missing, beside_python, helm, prometheus, run

HERE = Path(__file__).resolve().parent
CHART = HERE / "chart"
VALUES = sorted((CHART / "ci").glob("*.yaml"))
ALERTS, ALERT_TESTS = CHART / "monitoring/alerts.yaml", CHART / "monitoring/alerts.test.yaml"
DASHBOARD = CHART / "monitoring/dashboard.json"
KUBERNETES = ("1.29", "1.37")  # the chart's floor, and the newest whose schemas are at hand
# Refused by the chart before anything is installed: what was set, and a word of the reason.
REFUSED = {
    "no bundle": ("bundle.repo=", "no bundle"),
    "a branch for a commit": ("bundle.revision=main", "revision"),
    "no fingerprint": ("bundle.fingerprint=", "bundle.fingerprint"),
    "two places": ("bundle.claim=bundles", "one place"),
    "a name that no value has": ("replica=3", "replica"),
    "a tag for a digest": ("images.triton.digest=26.09", "digest"),
}
NOT_RUN = """\
Not run, for want of containers, a cluster and Grafana: no image was built, no dashboard drawn, nothing
scheduled, scaled or drained. docs/deploy.md tells what that leaves open."""


def rendered(values: Path) -> list[dict[str, Any]]:
    done = run(helm(), "template", "photos", CHART, "-f", values, "--namespace", "serving")
    if done.returncode:
        raise ValueError(f"helm template -f {values.name}: {done.stderr.strip()}")
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def check_helm() -> Iterator[str]:
    for values in VALUES:
        done = run(helm(), "lint", "--strict", CHART, "-f", values)
        if done.returncode:
            yield f"helm lint -f {values.name}: {done.stdout.strip()}"
        rendered(values)
    for case, (setting, word) in REFUSED.items():
        words = ["template", "photos", CHART, "-f", CHART / "ci/hub.yaml", "--set-string", setting]
        done = run(helm(), *words)
        if done.returncode == 0 or word not in done.stderr:
            yield f"{case} ({setting}) is not refused: {done.stderr.strip()[-300:]}"


def check_kubernetes() -> Iterator[str]:
    """Strict, by the schemas of two versions; custom resources are another check's."""
    import kubernetes_validate

    files = {one.name: rendered(one) for one in VALUES}
    files["train.yaml"] = list(yaml.safe_load_all((HERE / "kubernetes/train.yaml").read_text()))
    files["ray/job.yaml"] = ray_pods()
    for name, documents in files.items():
        for document in documents:
            if document["apiVersion"] in custom.GROUPS:
                continue
            for version in KUBERNETES:
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    place = ".".join(map(str, error.path))
                    yield f"{name}, {document['kind']} by {version}: {place}: {error.message}"


def ray_pods() -> list[dict[str, Any]]:
    """The pods that KubeRay makes of the job. Of RayJob itself no schema is at hand."""
    cluster = yaml.safe_load((HERE / "ray/job.yaml").read_text())["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "ray"}, **one["template"]}
        for one in groups
    ]


def check_custom() -> Iterator[str]:
    """ServiceMonitor, PrometheusRule, ScaledObject, KServe's: by typed models, unknown names refused."""
    files = {one.name: rendered(one) for one in VALUES}
    files |= {
        f"kserve/{one.name}": list(yaml.safe_load_all(one.read_text()))
        for one in sorted((HERE / "kserve").glob("*.yaml"))
    }
    seen = set()
    for name, documents in files.items():
        for document in documents:
            if document["apiVersion"] in custom.GROUPS:
                seen.add(document["apiVersion"])
                yield from (
                    f"{name}, {document['kind']}: {one}" for one in custom.problems(document)
                )
    if missing := custom.GROUPS - seen:
        yield f"nothing of {', '.join(sorted(missing))} was rendered"


def check_pods() -> Iterator[str]:
    """Every container: nobody's user, a disk that is read only, nothing allowed, memory bounded."""
    for values in VALUES:
        for document in rendered(values):
            if document["kind"] != "Deployment":
                continue
            pod = document["spec"]["template"]["spec"]
            volumes = {one["name"] for one in pod["volumes"]}
            if not pod["securityContext"]["runAsNonRoot"] or pod["automountServiceAccountToken"]:
                yield f"{values.name}: the pod may be root, or holds a token"
            mounted = set()
            for one in [*pod.get("initContainers", []), *pod["containers"]]:
                shut = one["securityContext"]
                if (
                    not shut["readOnlyRootFilesystem"]
                    or shut["allowPrivilegeEscalation"]
                    or shut["capabilities"] != {"drop": ["ALL"]}
                ):
                    yield f"{values.name}, {one['name']}: not shut"
                if "memory" not in one["resources"].get("limits", {}):
                    yield f"{values.name}, {one['name']}: no memory limit"
                mounted |= {mount["name"] for mount in one["volumeMounts"]}
            if mounted != volumes:
                yield f"{values.name}: mounts {sorted(mounted)}, volumes {sorted(volumes)}"


def check_alerts() -> Iterator[str]:
    promtool = prometheus()
    for words in (("check", "rules", ALERTS), ("test", "rules", ALERT_TESTS)):
        done = run(promtool, *words)
        if done.returncode:
            yield f"promtool {words[0]} rules: {(done.stdout + done.stderr).strip()}"
    rules = {one["alert"] for one in alerts()}
    tests = yaml.safe_load(ALERT_TESTS.read_text())["tests"]
    cases = [case for test in tests for case in test["alert_rule_test"]]
    fires = {one["alertname"] for one in cases if one["exp_alerts"]}
    calm = {one["alertname"] for one in cases if not one["exp_alerts"]}
    if rules != fires or rules != calm:
        yield f"no test fires {sorted(rules - fires)}, none keeps calm {sorted(rules - calm)}"
    for values in VALUES:
        for document in rendered(values):
            same = document.get("spec") == yaml.safe_load(ALERTS.read_text())
            if document["kind"] == "PrometheusRule" and not same:
                yield f"{values.name}: the PrometheusRule holds other alerts than alerts.yaml"


def check_prometheus_config() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        key = place / "metrics_key"
        key.write_text("a-key-of-sixteen-characters\n")
        text = (HERE / "prometheus/prometheus.yml").read_text()
        (place / "prometheus.yml").write_text(text.replace("/run/secrets/metrics_key", str(key)))
        (place / "alerts.yaml").write_text(ALERTS.read_text())
        done = run(prometheus(), "check", "config", place / "prometheus.yml")
        if done.returncode:
            yield (done.stdout + done.stderr).strip()


def check_dockerfiles() -> Iterator[str]:
    done = run(beside_python("hadolint"), *sorted(HERE.glob("*.Dockerfile")))
    if done.returncode or done.stdout:
        yield done.stdout.strip() or done.stderr.strip()


def check_compose() -> Iterator[str]:
    words = [beside_python("check-jsonschema"), "--builtin-schema", "vendor.compose-spec"]
    done = run(*words, HERE / "compose.yaml", HERE / "compose.gpu.yaml")
    if done.returncode:
        yield done.stdout.strip() or done.stderr.strip()


def alerts() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def queries() -> dict[str, str]:
    """Every PromQL expression: of the alerts, the dashboard, and what replicas are scaled by."""
    found = {f"alert {one['alert']}": one["expr"] for one in alerts()}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "1m")
            found[f"panel {panel['title']!r} {target['refId']}"] = expression
    for values in VALUES:
        for document in rendered(values):
            if document["kind"] == "ScaledObject":
                [trigger] = document["spec"]["triggers"]
                found["KEDA"] = trigger["metadata"]["query"]
            if document["kind"] == "HorizontalPodAutoscaler":
                found["HPA"] = document["spec"]["metrics"][0]["pods"]["metric"]["name"]
    return found


def check_queries() -> Iterator[str]:
    import promql_parser

    for where, expression in queries().items():
        try:
            promql_parser.parse(expression)
        except ValueError as error:
            yield f"{where}: {error}"


def check_metrics(pages: Path) -> Iterator[str]:
    """Every metric that a query names is told by a running gateway or Triton, with the labels asked for."""
    texts = [one.read_text() for one in sorted(pages.glob("*.metrics"))]
    if not texts:
        raise Missing(f"no *.metrics in {pages}: deploy/smoke.py did not end well, see its log")
    told: dict[str, set[str]] = {}
    for line in "\n".join(texts).splitlines():
        if found := re.match(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? ", line):
            labels = re.findall(r'(\w+)="', found[2] or "")
            told.setdefault(found[1], set()).update(labels)
    watched = "jepack_drift_alarm" in told  # not without a null, which smoke.py tells
    for where, expression in queries().items():
        for name in re.findall(r"\b(?:jepack|nv)_\w+", expression):
            if name.startswith("jepack_drift_") and not watched:
                continue
            if name not in told:
                yield f"{where} names {name}, which no process tells"
        for name, matchers in re.findall(r"\b((?:jepack|nv)_\w+)\{([^}]*)\}", expression):
            asked = set(re.findall(r"(\w+)=", matchers)) - {"namespace", "service"}
            if name in told and (lost := asked - told[name]):
                yield f"{where} asks {name} for {sorted(lost)}, which it has not"


CHECKS: dict[str, Callable[[], Iterator[str]]] = {
    "helm lint and template, three values files; six mistakes refused": check_helm,
    f"Kubernetes schemas {' and '.join(KUBERNETES)}, strict": check_kubernetes,
    "custom resources by typed models": check_custom,
    "containers are shut": check_pods,
    "alerts: promtool check and unit tests": check_alerts,
    "prometheus.yml: promtool check config": check_prometheus_config,
    "Dockerfiles: hadolint": check_dockerfiles,
    "compose files: schema": check_compose,
    "queries parse": check_queries,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--metrics", type=Path, help="Folder with pages of /metrics (deploy/smoke.py)."
    )
    asked = parser.parse_args()
    checks = dict(CHECKS)
    if asked.metrics:
        checks["metrics that queries name are told by a live process"] = lambda: check_metrics(
            asked.metrics
        )
    failed = skipped = 0
    for name, check in checks.items():
        try:
            problems = list(check())
        except Missing as missing:
            skipped += 1
            print(f"SKIPPED  {name}\n         because {missing}", flush=True)
            continue
        except ValueError as error:
            problems = [str(error)]
        failed += bool(problems)
        print(f"{'FAILED ' if problems else 'ok     '}  {name}", flush=True)
        for problem in problems:
            print("         " + problem.replace("\n", "\n         "), flush=True)
    print(
        f"\n{len(checks) - failed - skipped} passed, {failed} failed, {skipped} skipped.\n{NOT_RUN}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
