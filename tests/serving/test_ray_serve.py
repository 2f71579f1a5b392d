"""Ray Serve: replicas answer as one process does, and lose no request when one of them dies or all end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx2
import numpy as np
import psutil
import pytest
import ray
import ray.serve
from fastapi.testclient import TestClient

from gliclass_fast import ZeroShotClassificationPipeline, demo
from gliclass_fast.serving import ray_environment, ray_serve, ray_service
from gliclass_fast.serving.app import create_app
from gliclass_fast.serving.errors import Draining, Invalid
from gliclass_fast.serving.http_protocol import HEAD_BYTES
from gliclass_fast.serving.ray_drain import drain_all
from gliclass_fast.serving.ray_replica import Replica, Surroundings, service_app
from gliclass_fast.serving.ray_service import RayService, shared_out
from gliclass_fast.serving.settings import Placement, ServeSettings
from tests.serving.ray_running import LABELS, TEXTS, Clients, Running, close

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    labels = tmp_path_factory.mktemp("ray") / "labels.json"
    labels.write_text(json.dumps(LABELS))
    running = Running("--replicas", "2", "--labels-file", str(labels), "--threads", "1")
    yield running
    running.end()


@pytest.fixture(scope="module")
def alone() -> Iterator[TestClient]:
    app = create_app(ServeSettings(device="cpu", labels=LABELS, threads=1))
    app.state.service.start()  # without a lifespan, as every request of a TestClient has its own event loop
    yield TestClient(app)
    asyncio.run(app.state.service.drain())


REQUESTS: list[tuple[str, str, Any]] = [
    ("POST", "/gliclass", {"text": TEXTS[0], "labels": LABELS, "threshold": 0.0}),
    ("POST", "/gliclass/", {"texts": TEXTS, "labels": [LABELS, ["law"], ["food", "sea"], ["a"]]}),
    ("POST", "/classify", {"texts": TEXTS, "threshold": 0.1, "return_info": True, "examples": None}),
    ("POST", "/", {"inputs": TEXTS[0], "parameters": {"candidate_labels": "sports,law"}}),
    ("POST", "/predict", {"inputs": TEXTS[:2]}),
    ("POST", "/rerank", {"query": "sports", "texts": TEXTS[:3], "return_text": True}),
    ("POST", "/classify", {"texts": [1]}),
    ("POST", "/classify", {"texts": "a", "adapter_id": "other"}),
    ("GET", "/gliclass/adapter-cache", None),
    ("GET", "/gliclass/-/healthz", None),
    ("GET", "/health", None),
    ("GET", "/ready", None),
    ("GET", "/info", None),
    ("GET", "/", None),
    ("GET", "/openapi.json", None),
    ("GET", "/nowhere", None),
    ("DELETE", "/classify", None),
]


@pytest.mark.parametrize(("method", "path", "body"), REQUESTS)
def test_every_route_answers_as_one_process_does(
    service: Running, alone: TestClient, method: str, path: str, body: Any
) -> None:
    wanted = alone.request(method, path, json=body)
    found = httpx2.request(method, service.address + path, json=body, headers={"x-request-id": "mine"})
    assert found.status_code == wanted.status_code
    assert found.headers.get_list("x-request-id") == ["mine"]
    assert found.headers["content-type"] == wanted.headers["content-type"]
    if "json" not in found.headers["content-type"]:
        assert found.content == wanted.content
    elif path == "/classify" and wanted.status_code == 200:
        assert close({**found.json(), "timing": 0}, {**wanted.json(), "timing": 0})
    else:
        assert close(found.json(), wanted.json())


def test_haproxy_listens_here_alone_and_the_log_is_json(service: Running) -> None:
    [proxy] = [pid for pid, name in service.processes().items() if "/haproxy" in name.split()[0]]
    listening = [each for each in psutil.Process(proxy).net_connections("tcp") if each.status == "LISTEN"]
    assert {each.laddr.ip for each in listening} == {"127.0.0.1"} and len(listening) == 3
    httpx2.post(f"{service.address}/predict", json={"inputs": "a"}, headers={"x-request-id": "logged"})
    service.wait_for(lambda: service.requests("logged"))
    [line] = service.requests("logged")
    assert line["route"] == "/predict" and line["status"] == 200 and line["pid"] in service.replicas()
    assert {each["pid"] for each in service.events("replica")} == service.replicas()
    assert all(line.startswith("{") for line in service.lines)


def test_work_for_a_client_that_left_is_not_done(service: Running) -> None:
    body = json.dumps({"texts": ["a long text " * 200] * 30, "labels": LABELS}).encode()
    head = f"POST /classify HTTP/1.1\r\nhost: a\r\nx-request-id: left\r\ncontent-length: {len(body)}\r\n"
    before = service.total("texts_total")
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body)
        service.wait_for(lambda: service.total("queue_tokens") > 0)
    service.wait_for(lambda: service.requests("left"))
    assert service.requests("left")[0]["status"] != 200
    service.wait_for(lambda: not service.total("queue_tokens"))
    assert service.total("texts_total") - before < 20


def test_replicas_take_our_protocol(service: Running) -> None:
    """Its answers leave in one piece: a replica that is killed in the middle of one costs that answer."""
    request = b"GET /health HTTP/1.1\r\nhost: a\r\nx-long: " + b"x" * HEAD_BYTES + b"\r\n\r\n"
    for replica in service.replicas():
        found = []
        for each in psutil.Process(replica).net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN:  # Ray listens, too
                with socket.create_connection(each.laddr) as client, suppress(OSError):
                    client.settimeout(5)
                    client.sendall(request)
                    found.append(client.recv(12))
        assert b"HTTP/1.1 431" in found


def test_a_replica_that_is_killed_costs_no_answer(service: Running) -> None:
    with Clients(service) as clients:
        time.sleep(1)
        dead = min(service.replicas())
        os.kill(dead, signal.SIGKILL)
        time.sleep(3)
        service.wait_for(lambda: len(service.replicas() - {dead}) == 2)
    assert set(clients.fates) == {"right"} and clients.fates["right"] > 50


@pytest.mark.nightly
def test_at_sigterm_what_waits_is_answered_and_nothing_is_left(service: Running) -> None:
    before = [psutil.Process(pid) for pid in service.processes()]
    body = json.dumps({"texts": TEXTS * 2, "labels": LABELS}).encode()
    head = f"POST /classify HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
    clients = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(48)]
    for client in clients:
        client.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body)
    looks = [0.0]

    def all_wait() -> bool:
        looks.append(service.total("queue_tokens"))
        return 0 < looks[-1] <= looks[-2]

    service.wait_for(all_wait)
    service.process.send_signal(signal.SIGTERM)
    answers = [client.makefile("rb").read() for client in clients]
    assert service.process.wait(120) == 0
    assert [answer.split(b" ", 2)[1] for answer in answers] == [b"200"] * 48
    assert all(close(_results(answer), _results(answers[0])) for answer in answers)
    assert not [each for each in before if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def _results(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["results"]


@pytest.mark.nightly
def test_a_redeployment_loses_nothing_and_starts_new_processes() -> None:
    service = Running("--replicas", "2", "--threads", "1")
    try:
        before = service.replicas()
        with Clients(service) as clients:
            service.process.send_signal(signal.SIGHUP)
            service.wait_for(lambda: service.events("redeployed"))
            time.sleep(2)
        assert set(clients.fates) == {"right"}
        assert not before & service.replicas() and len(service.replicas()) == 2
    finally:
        service.end()


@pytest.mark.nightly
def test_without_the_repetition_a_killed_replica_costs_answers() -> None:
    """The control of the test above: it would see an error."""
    service = Running("--replicas", "2", "--threads", "1", RAY_SERVE_HAPROXY_RETRY_ON="conn-failure")
    try:
        with Clients(service) as clients:
            time.sleep(1)
            os.kill(min(service.replicas()), signal.SIGKILL)
            time.sleep(3)
        assert any(fate != "right" for fate in clients.fates), clients.fates
    finally:
        service.end()


@pytest.mark.nightly
def test_the_names_of_the_reference() -> None:
    program = """if True:
        import asyncio, json, sys
        from gliclass_fast.serving.ray_serve import GLiClassFactory
        model, texts, labels = json.loads(sys.argv[1])
        with GLiClassFactory(model=model, device="cpu", http_port=0, default_threshold=0.0) as service:
            found = [
                service.predict(texts, labels),
                service.predict(texts[0], labels),
                service.predict(texts[:2], [labels, ["a"]]),
                asyncio.run(service.predict_async(texts[:1], labels)),
                service.handle.predict.remote(texts[0], labels).result(),
            ]
            try:
                service.predict("a", [1])
            except Exception as error:
                found.append(str(error))
        print(json.dumps(found))"""
    texts = TEXTS * 20
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps([str(demo.PATH), texts, LABELS])],
        capture_output=True, text=True, timeout=240, check=True,
    )  # fmt: skip
    found = json.loads(done.stdout.splitlines()[-1])
    pipeline = ZeroShotClassificationPipeline(demo.PATH, device="cpu", progress_bar=False)
    wanted = pipeline(texts, LABELS, threshold=0.0)
    own = pipeline(texts[:2], [LABELS, ["a"]], threshold=0.0)
    assert close(found[:5], [wanted, wanted[0], own, wanted[:1], wanted[0]])
    assert "label" in found[5]


def test_a_replica_without_ray(alone: TestClient, tmp_path: Path) -> None:
    """Its handle answers a text and several, and it drains where it is told to."""
    replica = Replica(ServeSettings(device="cpu", threads=1), service_app, Surroundings(None, tmp_path))

    async def use() -> None:
        assert callable(replica.__serve_build_asgi_app__())
        replica.service.start()
        one, many = await replica.predict(TEXTS[0], LABELS, 0.0), await replica.predict(TEXTS, LABELS, 0.0)
        body = {"texts": TEXTS, "labels": LABELS, "threshold": 0.0}
        assert close([one, many], [many[0], alone.post("/gliclass", json=body).json()])
        with pytest.raises(Invalid, match="labels"):
            await replica.predict("a", [1])
        with pytest.raises(Invalid, match=r"^labels must be a list or an object$"):
            await replica.predict("a", 5)
        for own in (tuple(LABELS), np.array(LABELS), [tuple(LABELS)] * 4, ({"a": tuple(LABELS)},) * 4):
            assert len((await replica.predict(tuple(TEXTS), own, np.float32(0.0)))[3]) == len(LABELS)
        single = await replica.predict(np.array(TEXTS), LABELS, multi_label=(0, 1, np.False_, 1))
        assert len(single[0]) == len(single[2]) == 1
        assert await replica.predict(TEXTS[0], LABELS, multi_label=0) == single[0]
        assert await replica.predict(TEXTS[:2], LABELS, 0.0, prompt=("p", "q"))
        waiting = asyncio.ensure_future(replica.predict(TEXTS, LABELS, 0.0))
        await asyncio.sleep(0)
        (tmp_path / f"{2**22 + 1}.replica").touch()  # of one that died
        await asyncio.to_thread(drain_all, tmp_path, 60)
        assert waiting.done() and close(await waiting, many)
        with pytest.raises(Draining):
            await replica.predict("a", LABELS)

    asyncio.run(use())


def test_what_each_text_has_stays_with_it_in_every_call() -> None:
    texts, nested = [str(number) for number in range(40)], [{"a": [str(number)]} for number in range(40)]
    examples = [None, *([{"text": text, "labels": ["a"]}] for text in texts[1:])]
    for name, own in (
        ("labels", nested),
        ("labels", [[text] for text in texts]),
        ("multi_label", [number % 3 == 0 for number in range(40)]),
        ("examples", examples),
        ("prompt", texts),
    ):
        found = list(ray_serve.parts(texts, {name: own, "threshold": 0.5}))
        assert [part for part, _ in found] == [texts[:32], texts[32:]]
        assert [arguments for _, arguments in found] == [
            {name: own[:32], "threshold": 0.5},
            {name: own[32:], "threshold": 0.5},
        ]
        with pytest.raises(ValueError, match=f"{name} has one entry per text, and there are 39 texts and 40"):
            list(ray_serve.parts(texts[:39], {name: own}))
    shared = {"labels": ["a"], "multi_label": True, "examples": examples[1], "prompt": "p"}
    for _, arguments in ray_serve.parts(texts, shared):
        assert arguments == shared


def test_threads_cores_and_queues_of_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(9)), raising=False)
    settings = ServeSettings(batch_texts=10)
    placement = shared_out(Placement(replicas=2, port=0), settings)
    assert placement.cpus == 4 and placement.ongoing_requests == 4096 + 10
    service = RayService(settings, placement)
    assert service.settings.threads == 4 and service.placement.port > 0
    assert RayService(ServeSettings(threads=3), Placement(cpus=0.5)).settings.threads == 3
    assert RayService(ServeSettings(), Placement(cpus=0.5)).settings.threads == 1


def test_at_its_end_a_service_refuses_before_its_proxy_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that loses its connection cannot tell whether to ask again; status 503 says so."""
    numbers, service = iter((signal.SIGHUP, signal.SIGTERM)), Mock()
    monkeypatch.setattr(ray_service, "_at_signals", lambda *_: None)
    monkeypatch.setattr(ray_service, "SimpleQueue", lambda: Mock(get=lambda: next(numbers)))
    ray_service.run_until_signal(service)
    assert [name for name, *_ in service.method_calls] == ["start", "redeploy", "drain", "refuse_for", "stop"]


def test_why_no_replica_starts_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's error names the deployment alone; the status of that has a traceback."""
    told = "Error:\n\x1b[36mray::Replica()\x1b[39m\n  File a, line 1\nValueError: no such folder\n"
    application = Mock(deployments={"gliclass": Mock(message=told)})
    for applications, reason in (
        ({"gliclass": application}, "ValueError: no such folder"),
        ({}, "Deploying failed"),
    ):
        monkeypatch.setattr(ray.serve, "status", lambda found=applications: Mock(applications=found))
        assert ray_service._reason(RuntimeError("Deploying failed")) == reason
    assert ray_service._reason(RuntimeError("")) == "RuntimeError"


def test_folders_that_replicas_get_have_whole_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They work in folders of their own, where a path of this one leads to nothing."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "current").symlink_to("here")  # a redeployment follows it to where it points then
    settings = ServeSettings("here", {"a": "./current", "b": "owner/name"}, {"c": "here", "d": "gone"})
    found = RayService(settings, Placement()).settings
    here = str(tmp_path / "here")
    assert found.model == here and found.more_models == {"a": str(tmp_path / "current"), "b": "owner/name"}
    assert found.adapters == {"c": here, "d": "gone"}


def test_what_is_wrong_is_said_before_ray_starts() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        RayService(ServeSettings(), Placement(port=taken.getsockname()[1])).start()
    with pytest.raises(ValueError, match=r"--host ::1: .* IPv4; one process, without --ray"):
        RayService(ServeSettings(), Placement(host="::1")).start()
    address = f"127.0.0.1:{ray_environment.free_port()}"
    with pytest.raises(OSError, match=f"no cluster of Ray answers at {address}: .*refused"):
        RayService(ServeSettings(), Placement(ray_address=address)).start()
    for arguments in ({}, {"model": "a", "config": "b"}):
        with pytest.raises(ValueError, match=r"give a"):
            ray_serve.GLiClassFactory(**arguments)
    for arguments in ({"labels": [["a"]]}, {"labels": ["a"], "prompt": ["p"]}):
        with pytest.raises(ValueError, match="2 texts and 1"):
            list(ray_serve.parts(["a", "b"], arguments))
    ray_serve.shutdown()  # nothing runs
    alone = [sys.executable, "-m", "gliclass_fast", "serve", "--replicas", "2"]
    done = subprocess.run(alone, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "several replicas need --ray" in done.stderr


def test_the_application_of_a_configuration() -> None:
    """A node that builds it for others needs no GPU."""
    keys = {
        "model": str(demo.PATH),
        "num_replicas": 3,
        "num_gpus_per_replica": 0.5,
        "num_cpus_per_replica": 4.0,
    }
    deployment = ray_serve.application(keys)._bound_deployment
    assert deployment.num_replicas == 3 and deployment.max_ongoing_requests == 256
    assert deployment.ray_actor_options == {"num_cpus": 4.0, "num_gpus": 0.5}
    [settings, *_] = deployment.init_args
    assert settings.threads == 4 and settings.dtype == "bfloat16" and settings.device == "cuda"
    cpu = ray_serve.application({**keys, "device": "cpu"})._bound_deployment
    assert cpu.ray_actor_options["num_gpus"] == 0 and cpu.init_args[0].dtype is None
    with pytest.raises(ValueError, match="num_replica"):
        ray_serve.application({**keys, "num_replica": 2})
