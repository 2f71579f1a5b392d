"""A service beside others on one Ray: what it refuses, what it leaves alone, and what it says meanwhile.

Ray itself does not run here.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from unittest.mock import Mock

import pytest
import ray
import ray.serve

from gliclass_fast.serving import ray_serve, ray_service, ray_sharing
from gliclass_fast.serving.config import GLiClassServeConfig
from gliclass_fast.serving.errors import Invalid
from gliclass_fast.serving.ray_service import NoReplica, RayService
from gliclass_fast.serving.settings import Placement, ServeSettings


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mock]:
    """A cluster of 4 CPUs where a service answers at port 9000; its `applications` can be set."""
    serve = Mock(applications={}, addresses=[("127.0.0.1", 9000)])
    serve.status = lambda: Mock(applications=serve.applications, proxies={"node": "HEALTHY"})
    for name in ("status", "start", "run", "delete", "shutdown"):
        monkeypatch.setattr(ray.serve, name, getattr(serve, name))
    monkeypatch.setattr(ray_sharing, "_answers", lambda *address: address in serve.addresses)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0})
    yield serve


def service(**placement: Any) -> RayService:
    return RayService(ServeSettings(device="cpu"), Placement(**placement))


def test_an_application_of_another_service_is_neither_replaced_nor_deleted(there: Mock) -> None:
    there.applications["gliclass"] = Mock(deployments={})
    with pytest.raises(
        ValueError, match="has an application 'gliclass' already, of another service: end that"
    ):
        service(port=9000).start()
    assert not there.run.called and not there.delete.called and not there.shutdown.called


def test_a_service_that_does_not_answer_at_its_address_is_refused(
    there: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Serve may have been started before, for another address, or without a proxy."""
    monkeypatch.setattr(ray_sharing, "SECONDS_TO_LISTEN", 0.05)
    with pytest.raises(ValueError, match=r"does not answer at http://127.0.0.1:8000: .* own cluster"):
        service(port=8000).start()
    assert there.delete.call_args_list == [(("gliclass",),)] and not there.shutdown.called
    there.delete.reset_mock()
    for host in ("127.0.0.1", "0.0.0.0"):
        found = service(port=9000, host=host)
        found.start()
        found.stop()
        found.stop()
        assert there.delete.call_args_list == [(("gliclass",),)] and not there.shutdown.called
        there.delete.reset_mock()


def test_what_answers_says_so_at_ready() -> None:
    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/ready" and ready else 404)
            self.end_headers()

        def log_message(self, *args: Any) -> None:
            pass

    ready = True
    with ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        assert ray_sharing._answers("127.0.0.1", port)
        ready = False
        assert not ray_sharing._answers("127.0.0.1", port)
        server.shutdown()
    assert not ray_sharing._answers("127.0.0.1", port)


def test_whoever_ended_ray_has_ended_the_service(there: Mock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Serve would start another cluster, to delete an application there."""
    found = service(port=9000)
    found.start()
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    found.stop()
    assert not there.delete.called


def test_a_route_that_another_application_has_is_a_mistake(there: Mock) -> None:
    there.run.side_effect = ray.serve.exceptions.RayServeException(
        'Prefix / is being used by application "a".'
    )
    with pytest.raises(NoReplica, match='Prefix / is being used by application "a"'):
        service(port=9000).start()


def test_replicas_that_fit_nowhere(there: Mock, caplog: pytest.LogCaptureFixture) -> None:
    """Ray would wait for room without a word."""
    message = "the cluster has 4 CPUs and 0 GPUs: 2 replicas need 6 CPUs and 0.5 GPUs"
    found = service(port=9000, replicas=2, cpus=3.0, gpus=0.25)
    found.start()  # a cluster that runs already may grow
    assert any(line.startswith(message) for line in caplog.messages) and there.run.called
    found._local = True
    with pytest.raises(ValueError, match=message):
        found._check_room()


def test_a_replica_that_this_machine_cannot_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(ValueError, match="a replica needs 1e\\+06 CPUs: this machine has"):
        service(port=0, cpus=1e6).start()


def test_what_it_waits_for_is_logged(
    there: Mock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(ray_sharing, "SECONDS_OF_SILENCE", 0.001)

    def deploy(*_: Any, **__: Any) -> None:
        there.applications["gliclass"] = Mock(deployments={"gliclass": Mock(message="No room\na traceback")})
        end = time.monotonic() + 10
        while "No room" not in [getattr(each, "reason", None) for each in caplog.records]:
            assert time.monotonic() < end
            time.sleep(0.001)

    there.run.side_effect = deploy
    service(port=9000, replicas=2).start()
    [first, *others] = [each for each in caplog.records if each.levelno == logging.INFO]
    assert first.getMessage() == "starting" and first.replicas == 2  # type: ignore[attr-defined]
    assert {each.getMessage() for each in others} == {"waiting"}


def test_signals_are_handled_as_before_ray_started() -> None:
    """Ray puts handlers of its own in their place, the last one below Python."""
    found: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: found.append(number))
    try:
        with ray_service._handlers_kept():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.kill(os.getpid(), signal.SIGTERM)
        assert found == [signal.SIGTERM]
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with ray_service._handlers_kept():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # a program without one keeps Ray's
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> ray_serve.GLiClassFactory:
    monkeypatch.setattr(ray_serve, "_service", lambda config, host: Mock())
    return ray_serve.GLiClassFactory("m")


def test_a_factory_that_nobody_holds_shuts_down(factory: ray_serve.GLiClassFactory) -> None:
    held = factory._service
    factory.shutdown()
    factory.shutdown()
    assert held.stop.call_count == 1
    other = ray_serve.GLiClassFactory("m")
    held = other._service
    del other
    assert held.stop.call_count == 1


def test_at_the_end_of_a_process_a_factory_shuts_down_before_ray() -> None:
    """The hook of all finalizers may be older than Ray's, and hooks run from the newest on."""
    program = """if True:
        import atexit, weakref
        from gliclass_fast.serving import ray_serve
        weakref.finalize(weakref.WeakSet(), print, end="")

        class Service:
            def start(self):
                atexit.register(print, "Ray has ended")
            def stop(self):
                print("the service has ended")

        ray_serve._service = lambda config, host: Service()
        factory = ray_serve.GLiClassFactory("m")"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["the service has ended", "Ray has ended"]


def test_an_error_of_a_replica_is_raised_as_it_was_there(factory: ray_serve.GLiClassFactory) -> None:
    error = ray.exceptions.RayTaskError("predict", "a traceback", Invalid("labels: no"))
    factory.handle.predict.remote.return_value.result.side_effect = error.as_instanceof_cause()
    for texts in ("a", ["a"]):
        with pytest.raises(Invalid, match=r"^labels: no$"):
            factory.predict(texts, [1])


def test_a_configuration_is_one_of_ours() -> None:
    with pytest.raises(TypeError, match="config must be a GLiClassServeConfig, not dict"):
        ray_serve.GLiClassFactory(config={"model": "m"})  # type: ignore[arg-type]
    assert GLiClassServeConfig("m", dtype="BF16").dtype == "bf16"  # as the reference reads it
