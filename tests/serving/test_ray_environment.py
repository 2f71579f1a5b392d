"""The environment of Ray Serve: what is set for its processes, and what its proxy passes on."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from gliclass_fast.serving import ray_environment
from gliclass_fast.serving.access import LONGEST_ID


def test_the_environment_is_set_and_what_a_person_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure"}
    monkeypatch.setattr(os, "environ", environment)
    with ray_environment.local_environment("192.0.2.9") as folder:
        assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
        assert environment["RAY_SERVE_HAPROXY_RETRY_ON"] == "conn-failure"
        assert environment["RAY_SERVE_HAPROXY_SOCKET_PATH"].startswith(str(folder))
        config = folder / "haproxy.cfg"
        config.write_text(
            "  bind *:8404\n    bind :9101\n  bind 127.0.0.1:8000\n stats socket a mode 666 level\n"
            "defaults\n    mode http\nfrontend http_frontend\n    log global\n"
        )
        done = subprocess.run(
            [environment["RAY_SERVE_HAPROXY_BINARY_PATH"], "-c", "-f", str(config)],
            capture_output=True,
            text=True,
        )
        assert "haproxy" in done.stderr
        assert config.read_text() == (
            "  bind 192.0.2.9:8404\n    bind 192.0.2.9:9101\n  bind 127.0.0.1:8000\n"
            " stats socket a mode 600 level\n"
            "defaults\n    option http-buffer-request\n    mode http\n"
            f"frontend http_frontend\n{ray_environment.REQUEST_RULES}    log global\n"
        )
    assert not folder.exists() and environment == {"RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure"}


def test_the_page_has_a_row_for_every_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {}
    monkeypatch.setattr(os, "environ", environment)
    with ray_environment.local_environment("127.0.0.1"):
        found = set(environment)
    page = (Path(__file__).parents[2] / "docs" / "ray-serve.md").read_text(encoding="utf-8")
    values: dict[str, str] = {}
    for variables, value in re.findall(r"^\| (`RAY_[^|]*) \| ([^|]*) \|", page, re.MULTILINE):
        names = re.findall(r"\w+", variables)
        fixed = re.findall(r"`([^`]+)`", value)
        values |= dict(zip(names, fixed or [value] * len(names), strict=True))
    assert set(values) == found
    assert {name: values[name] for name in ray_environment.FAST_AND_SAFE} == ray_environment.FAST_AND_SAFE


def test_folders_of_the_dead_are_deleted_and_those_of_the_living_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dead, in_the_making = (tmp_path / f"{ray_environment.FOLDERS}{name}" for name in ("dead", "new"))
    for each in (dead, in_the_making):
        each.mkdir()
    (dead / ray_environment.LOCK).touch()
    here = ray_environment.local_environment
    with here("127.0.0.1") as living, here("127.0.0.1"):
        assert living.exists() and in_the_making.exists() and not dead.exists()


PROXY = """\
defaults
    mode http
    timeout connect 5s
    timeout client 5s
    timeout server 5s
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend echo
backend echo
    http-request return content-type text/plain lf-string "%[req.hdrs,hex]"
"""


def test_ids_of_requests_are_those_that_a_replica_logs(tmp_path: Path) -> None:
    """Ray would answer 500 to the one that is not UTF-8, and echo the others as they are."""
    port = ray_environment.free_port()
    config = tmp_path / "haproxy.cfg"
    config.write_text(PROXY.format(port=port))

    def passed_on(*lines: bytes) -> list[str]:
        with socket.create_connection(("127.0.0.1", port), 10) as client:
            client.sendall(
                b"\r\n".join((b"GET / HTTP/1.1", b"host: a", b"connection: close", *lines, b"", b""))
            )
            body = client.makefile("rb").read().partition(b"\r\n\r\n")[2]
        return [
            line
            for line in bytes.fromhex(body.decode()).decode().split("\r\n")
            if line[:2] in ("x-", "se", "up")
        ]

    with ray_environment.local_environment("127.0.0.1"):
        proxy = subprocess.Popen([os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"], "-f", str(config)])
        try:
            end = time.monotonic() + 30
            while time.monotonic() < end:
                try:
                    socket.create_connection(("127.0.0.1", port)).close()
                    break
                except OSError:
                    time.sleep(0.05)
            assert passed_on() == passed_on(b"x-request-id:") == passed_on(b"X-Request-Id: caf\xe9") == []
            assert passed_on(b"X-Request-Id: a b, c") == ["x-request-id: a b, c"]
            assert passed_on(b"x-request-id: one", b"x-request-id: two") == ["x-request-id: two"]
            assert passed_on(b"x-request-id: " + b"a" * 300) == [f"x-request-id: {'a' * LONGEST_ID}"]
            others = (
                b"serve_multiplexed_model_id: \xe9",
                b"X-Session-Id: \xe9",
                b"x-request-timeout-seconds: 0",
            )
            assert passed_on(b"connection: upgrade", b"upgrade: h2c") == []
            assert passed_on(*others, b"x-request-disconnect-disabled: ?1") == []
        finally:
            proxy.kill()
            proxy.wait()


def test_haproxy_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """An orphan would keep the port, so that no other service could have it."""
    port = ray_environment.free_port()
    config = tmp_path / "haproxy.cfg"
    config.write_text(PROXY.format(port=port))
    start = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:]); time.sleep(60)"

    def answers() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) == 0

    with ray_environment.local_environment("127.0.0.1"):
        starter = os.environ["RAY_SERVE_HAPROXY_BINARY_PATH"]
        parent = subprocess.Popen([sys.executable, "-c", start, starter, "-db", "-f", str(config)])
        for lives in (True, False):
            end = time.monotonic() + 30
            while answers() is not lives:
                assert time.monotonic() < end
                time.sleep(0.01)
            parent.kill()
        parent.wait()
