"""Deployment files: what they name exists, and a real Prometheus sees what they ask for."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.client import CallFailed, Client
from server.metrics import Metrics
from server.pb import management_pb2 as management
from tests.support import models
from tests.support.calls import ended, floats, submit
from tests.support.data import FAST_INT8
from tests.support.servers import Server, running
from tests.support.variants import make_variant

DEPLOY = Path(__file__).parents[2] / "deploy"
DOCKERFILE = DEPLOY.parent / "Dockerfile"
SELECTOR = re.compile(r"\b((?:hone|process|model:hone)[a-z0-9_:]*|up)\b(\{[^}]*\})?")


def documents(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def dashboard_expressions() -> list[str]:
    board = json.loads((DEPLOY / "grafana/dashboards/hone.json").read_text())
    panels = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    notes = [note["expr"] for note in board["annotations"]["list"]]
    filled = []
    for expression in (*panels, *notes):
        for variable, value in (
            ("$model", ".*"),
            ("$__rate_interval", "1m"),
            ("$__interval", "1m"),
        ):
            expression = expression.replace(variable, value)
        filled.append(expression)
    return filled


def rule_expressions() -> list[str]:
    groups = documents(DEPLOY / "prometheus/rules.yml")["groups"]
    return [rule["expr"] for group in groups for rule in group["rules"]]


def test_the_dockerfile_has_the_targets_and_none_runs_as_root() -> None:
    stages: dict[str, list[str]] = {}
    for line in DOCKERFILE.read_text().splitlines():
        match = re.match(r"FROM (\S+) AS (\S+)", line)
        if match:
            parent = stages.get(match[1], [])
            stages[match[2]] = lines = list(parent)
        elif line and not line.startswith(("#", " ", "ARG")):
            lines.append(line)
    assert list(stages)[-1] == "hone"
    for target in ("hone", "hone-serving", "hone-cuda"):
        words = [line.split()[0] for line in stages[target]]
        assert {"USER", "HEALTHCHECK", "ENTRYPOINT", "CMD", "EXPOSE"} <= set(words), target
        assert "USER hone" in stages[target]
    for source in re.findall(r"^COPY ([^-\s].*) \S+$", DOCKERFILE.read_text(), re.MULTILINE):
        for name in source.split():
            assert (DOCKERFILE.parent / name).exists(), name


def test_compose_names_files_that_exist_and_publishes_no_admin_port() -> None:
    compose = documents(DEPLOY / "compose.yaml")
    assert set(compose["services"]) == {"hone", "prometheus", "grafana"}
    for name, service in compose["services"].items():
        image = service["image"]
        assert ":" in image, image
        assert not image.endswith(":latest"), image
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("./"):
                assert (DEPLOY / source).exists(), source
            elif not source.startswith("$"):
                assert source in compose["volumes"], source
        assert not [port for port in service["ports"] if "8003" in port], name
    targets = documents(DEPLOY / "prometheus/prometheus.yml")["scrape_configs"][0]
    assert targets["static_configs"][0]["targets"] == ["hone:8002"]
    source = documents(DEPLOY / "grafana/provisioning/datasources/prometheus.yaml")
    assert source["datasources"][0]["url"] == "http://prometheus:9090"


def test_no_panel_lies_on_another_one() -> None:
    taken: dict[tuple[int, int], int] = {}
    for panel in json.loads((DEPLOY / "grafana/dashboards/hone.json").read_text())["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["id"]) == panel["id"]


def test_everything_that_is_counted_of_jobs_is_on_the_dashboard() -> None:
    drawn = " ".join(dashboard_expressions())
    for metric in Metrics().registry.collect():
        if metric.name.startswith("hone_job"):
            assert re.search(rf"\b{metric.name}", drawn), metric.name


def test_every_alert_has_a_case_that_fires_and_one_that_does_not() -> None:
    groups = documents(DEPLOY / "prometheus/rules.yml")["groups"]
    alerts = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    cases = [
        case
        for test in documents(DEPLOY / "prometheus/rules_test.yml")["tests"]
        for case in test["alert_rule_test"]
    ]
    fires = {case["alertname"] for case in cases if case["exp_alerts"]}
    rests = {case["alertname"] for case in cases if not case["exp_alerts"]}
    assert fires == rests == alerts


@pytest.mark.parametrize(
    "command",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "rules.yml"),
        ("test", "rules", "rules_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool_agrees(command: tuple[str, ...]) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("PROMETHEUS NOT TESTED: install Debian's package `prometheus`")
    done = subprocess.run(
        [promtool, *command],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def prometheus(directory: Path, target: str) -> Iterator[str]:
    """A real Prometheus with our rules that scrapes `target`; its URL."""
    executable = shutil.which("prometheus")
    if executable is None:
        pytest.skip("PROMETHEUS NOT TESTED: install Debian's package `prometheus`")
    config = documents(DEPLOY / "prometheus/prometheus.yml")
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(DEPLOY / "prometheus/rules.yml")]
    config["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    process = subprocess.Popen(
        [
            executable,
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address={address}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(30)


def query(url: str, path: str, **parameters: str) -> Any:
    full = f"{url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
    with urllib.request.urlopen(full, timeout=10) as answer:
        return json.load(answer)["data"]


async def make_history(server: Server, variant: str) -> None:
    """A bit of everything: answers, refusals, a swap and back, a job."""
    async with Client(server.public) as client, Client(server.admin) as operator:
        for _ in range(5):
            await client.infer("linear", {"x": floats(1, 4)})
        flood = [client.infer("slow", {"x": floats(1, 512)}) for _ in range(12)]
        results = await asyncio.gather(*flood, return_exceptions=True)
        refused = [one for one in results if isinstance(one, CallFailed)]
        assert refused
        assert {one.code.name for one in refused} == {"RESOURCE_EXHAUSTED"}
        route = management.SetRouteRequest(model="linear", variant=variant)
        await operator.call("SetRoute", route, management.RouteResponse)
        await client.infer("linear", {"x": floats(1, 4)})
        back = management.RollBackRequest(model="linear")
        await operator.call("RollBack", back, management.RouteResponse)
    job = await submit(server.admin, "pair", FAST_INT8)
    assert (await ended(server.admin, job.id)).state == "refused"


async def test_a_real_prometheus_finds_every_series_that_dashboard_and_rules_select(
    tmp_path: Path,
) -> None:
    original = models.linear(tmp_path / "models/linear/1/model.onnx")
    models.slow(tmp_path / "models/slow/1/model.onnx", rounds=4000)
    models.two_inputs(tmp_path / "models/pair/1/model.onnx")
    sealed = make_variant(
        tmp_path / "state",
        original,
        "linear",
        lambda path: models.linear(path, seed=1),
        golden_inputs={"x": floats(2, 4)},
    )
    flags = ("--cpus", "2", "--max-queue-items", "2")
    with running(tmp_path / "models", tmp_path / "state", *flags) as server:
        target = server.metrics.removeprefix("http://").removesuffix("/metrics")
        await make_history(server, sealed.manifest.variant)
        with prometheus(tmp_path, target) as url:
            expressions = (*dashboard_expressions(), *rule_expressions())
            wanted = {match[0] for text in expressions for match in SELECTOR.finditer(text)}
            assert len(wanted) > 20
            missing = set(wanted)
            for _ in range(100):
                await asyncio.sleep(0.3)
                try:
                    missing = {
                        name for name in missing if not query(url, "series", **{"match[]": name})
                    }
                except OSError:
                    continue  # it is still starting
                if not missing:
                    break
            assert not missing
            for expression in expressions:
                query(url, "query", query=expression)
