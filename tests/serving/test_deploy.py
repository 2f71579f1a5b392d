"""What `deploy/` holds fits what it is for: KubeRay's and Ray's schemas, the metrics, the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import typer
import yaml
from prometheus_client import parser
from ray.serve.schema import ServeDeploySchema

from gliclass_fast.cli.app import app
from gliclass_fast.serving.app import create_app
from gliclass_fast.serving.config import GLiClassServeConfig
from gliclass_fast.serving.metrics import Metrics
from gliclass_fast.serving.ray_environment import FAST_AND_SAFE
from gliclass_fast.serving.settings import ServeSettings

DEPLOY = Path(__file__).parents[2] / "deploy"
SCHEMA = Path(__file__).parent / "rayservice.schema.json"


def rayservice() -> Any:
    return yaml.safe_load((DEPLOY / "rayservice.yaml").read_text(encoding="utf-8"))


def test_the_rayservice_is_one_of_kuberay() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert [error.message for error in validator.iter_errors(rayservice())] == []
    for spoil in (
        lambda service: service["spec"].update(rayClusterconfig={}),
        lambda service: service["spec"]["rayClusterConfig"]["workerGroupSpecs"][0].pop("groupName"),
        lambda service: service["spec"]["rayClusterConfig"].update(rayVersion=2.6),
        lambda service: service.update(apiVersion="ray.io/v1alpha1"),
    ):
        service = rayservice()
        spoil(service)
        assert not validator.is_valid(service)


def test_ray_takes_its_application_and_we_take_its_arguments() -> None:
    cluster = rayservice()["spec"]["rayClusterConfig"]
    (application,) = ServeDeploySchema.model_validate(
        yaml.safe_load(rayservice()["spec"]["serveConfigV2"])
    ).applications
    assert application.import_path.startswith("gliclass_fast.serving.ray_serve:")
    config = GLiClassServeConfig.from_mapping(application.args)
    assert not config.without_effect()
    (group,) = cluster["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/gpu"] == config.num_gpus_per_replica
    assert float(limits["cpu"]) == config.num_cpus_per_replica
    assert group["minReplicas"] * limits["nvidia.com/gpu"] >= config.num_replicas
    pod = cluster["headGroupSpec"]["template"]["spec"]["containers"][0]
    assert pod["image"] == group["template"]["spec"]["containers"][0]["image"] == "gliclass-fast:cuda"
    for each in (pod, group["template"]["spec"]["containers"][0]):
        assert {one["name"]: one["value"] for one in each["env"]} == FAST_AND_SAFE
    requirement = (DEPLOY.parent / "pyproject.toml").read_text(encoding="utf-8")
    low, high = re.findall(r'"ray\[data,serve\]>=([\d.]+),<([\d.]+)"', requirement)[0]
    version = _numbers(cluster["rayVersion"])
    assert _numbers(low) <= version < _numbers(high)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def test_the_dashboard_asks_for_metrics_that_exist() -> None:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    exposed = Metrics().exposition().decode()
    families = {
        family.name: family.type
        for family in parser.text_string_to_metric_families(exposed)
        if not family.name.endswith("_created")
    }
    endings = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("_total",), "gauge": ("",)}
    known = {name + ending for name, kind in families.items() for ending in endings[kind]}
    asked: set[str] = set()
    for panel in dashboard["panels"]:
        assert panel["description"].endswith(".") and panel["datasource"]["uid"] == "${datasource}"
        for target in panel["targets"]:
            expression = target["expr"]
            assert expression.count("(") == expression.count(")") and '{job=~"$job"' in expression
            asked |= set(re.findall(r"\bgliclass_\w+", expression))
    assert asked <= known
    assert {re.sub(r"_(bucket|sum|count|total)$", "", name) for name in asked} == set(families)
    assert {each["name"] for each in dashboard["templating"]["list"]} == {"datasource", "job"}
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)


def test_what_the_dashboard_says_of_requests_is_of_the_same_routes() -> None:
    """Else a part of requests could be more than all, and a probe would be an answer in no time."""
    text = json.loads((DEPLOY / "grafana.json").read_text(encoding="utf-8"))
    asked = "".join(target["expr"] for panel in text["panels"] for target in panel["targets"])
    families = [each for each in vars(Metrics()).values() if hasattr(each, "_labelnames")]
    labelled = {each._name for each in families if "route" in each._labelnames}
    assert labelled == {"gliclass_request_seconds", "gliclass_requests", "gliclass_rejected"}
    found = re.findall(r'(gliclass_\w+?)(?:_(?:bucket|sum|count|total))?\{job=~"\$job"(?:,([^}]*))?\}', asked)
    assert {name for name, selector in found if selector} == labelled
    [selector] = {selector for name, selector in found if name in labelled}
    left_out = re.fullmatch(r'route!~"(.*)"', selector)
    assert left_out is not None
    routes = create_app(ServeSettings(device="cpu", route_prefix="/v2/gliclass")).routes
    scores = {each.path for each in routes if "POST" in each.methods and each.path != "/v2/gliclass/"}  # type: ignore[attr-defined]
    assert scores == {"/", "/classify", "/predict", "/rerank", "/v2/gliclass"}
    kept = {each.path for each in routes if not re.fullmatch(left_out[1], each.path)}  # type: ignore[attr-defined]
    assert kept - {"/v2/gliclass/"} == scores and re.fullmatch(left_out[1], "none")


def test_the_images_start_the_command_as_nobody() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    stages = dict(re.findall(r"^FROM \S+ AS ([\w-]+)\n(.*?)(?=^FROM|\Z)", text, re.DOTALL | re.MULTILINE))
    assert {"cpu", "cuda"} < set(stages)
    for name in ("cpu", "cuda"):
        assert stages[name].rstrip().endswith("USER service")
    command = json.loads(re.findall(r"^ENTRYPOINT (.*)$", text, re.MULTILINE)[0])
    assert command[:2] == ["gliclass-fast", "serve"] and "HEALTHCHECK" in stages["service"]
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    known = {option for item in commands["serve"].params for option in item.opts}
    assert {each for each in command if each.startswith("--")} <= known
    kept = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    needed = (DEPLOY.parent / "tests" / "conftest.py").read_text(encoding="utf-8")  # what a wheel is built of
    for name in re.findall(r'^        "([\w.]+)",$', needed, re.MULTILINE):
        assert f"!{name}\n" in kept or name in ("Makefile", "constraints.txt")
