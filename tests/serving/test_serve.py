"""`gliclass-fast serve` as a process: options, its log, mistakes, and its end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest
from typer.testing import CliRunner

from gliclass_fast.cli.app import app
from gliclass_fast.cli.options import labels_in
from gliclass_fast.runtime.device import MOST_THREADS
from gliclass_fast.serving.ray_service import RayService
from gliclass_fast.serving.server import run
from gliclass_fast.serving.settings import Placement, ServeSettings, address_of

READY_WITHIN = 10  # seconds, on a machine that does little else; a busy one may take three times as long


def started(*options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gliclass_fast", "serve", "--port", "0", "--device", "cpu", *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


def lines_until(process: subprocess.Popen[str], event: str) -> list[dict[str, Any]]:
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(json.loads(line))
        if lines[-1]["event"] == event:
            return lines
    raise AssertionError(f"the service ended before {event!r}: {lines}")


@pytest.mark.slow
def test_a_service_with_every_kind_of_setting(tmp_path: Path) -> None:
    labels, keys, config = tmp_path / "labels.json", tmp_path / "keys", tmp_path / "service.yaml"
    labels.write_text(json.dumps(["sports", "politics"]))
    keys.write_text("a-key\n\nanother-key\n")
    config.write_text("model: nowhere\nmax_labels: 3\ndefault_threshold: 0.9\nroute_prefix: /v2\n")
    demo = str(Path(__file__).parents[2] / "gliclass_fast" / "demo")
    start = time.monotonic()
    process = started(
        demo, "--labels-file", str(labels), "--api-key-file", str(keys), "--config", str(config),
        "--threshold", "0.0", "--max-model-len", "128", "--batch-wait-timeout-ms", "5", "--threads", "1",
    )  # fmt: skip
    lines = lines_until(process, "ready")
    assert time.monotonic() - start < 3 * READY_WITHIN
    assert any("batch_wait_timeout_ms has no effect" in line["event"] for line in lines)
    assert lines[-1]["service"]["max_length"] == 128 and lines[-1]["service"]["model"] == demo
    with httpx2.Client(base_url=lines[-1]["address"], headers={"x-api-key": "another-key"}) as client:
        body = {"text": "The match went to extra time."}
        found = client.post("/v2", json=body, headers={"x-request-id": "mine"})
        assert [each["label"] for each in found.json()] == ["sports", "politics"]
        refused = client.post("/v2", json={**body, "labels": list("abcd")})
        assert refused.status_code == 422 and "at most 3" in refused.json()["error"]
        assert client.post("/v2", json=body, headers={"x-api-key": "no"}).status_code == 401
    process.send_signal(signal.SIGTERM)
    logged = lines_until(process, "draining")
    [line] = [each for each in logged if each.get("request_id") == "mine"]
    assert line["route"] == "/v2" and line["status"] == 200 and line["ms"] > 0
    assert process.wait(20) == 0


def test_what_is_no_port_and_labels_of_each_text_are_mistakes(tmp_path: Path) -> None:
    for port in (-1, 65_536, 99_999):  # the system would take port 34463 for the last
        with pytest.raises(ValueError, match=f"from 0 to 65535, not {port}"):
            Placement(port=port)
    file = tmp_path / "labels.json"
    file.write_text('[["a", "b"], ["c"]]')
    with pytest.raises(ValueError, match="must hold a list of strings"):
        labels_in(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--add-model", "m=a", "--add-model", "m=b"], "--add-model names 'm' twice"),
        (["--add-model", "m"], "--add-model takes NAME=FOLDER, not 'm'"),
        (["a/b", "--add-model", "a/b=c"], "a further model has the name of the first, 'a/b'"),
        (["--threads", "100000"], f"(--threads) must be at most {MOST_THREADS} here, not 100000"),
        (["--tokenizer-threads", "100000"], "(--tokenizer-threads) must be at most"),
        (["--log-level", "foo"], "'--log-level'"),
    ],
)
def test_a_mistake_in_an_option_is_named(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gliclass_fast.serving.logs.use_json", lambda level: None)
    result = CliRunner().invoke(app, ["serve", *options])
    assert result.exit_code == 2 and message in " ".join(result.stderr.split()), result.stderr


def test_an_address_that_is_taken_is_a_mistake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen at http://127.0.0.1:{port}: .*in use"):
            run(ServeSettings(device="cpu"), Placement(port=port))


def test_addresses_are_those_of_the_web() -> None:
    assert address_of("127.0.0.1", 80) == "http://127.0.0.1:80"
    assert (
        address_of("::1", 80)
        == RayService(ServeSettings(), Placement("::1", 80)).address
        == "http://[::1]:80"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["/nowhere/at-all"], "/nowhere/at-all"),
        (["--max-model-length", "5"], "max_model_len"),
        (["--api-key-file", os.devnull], "holds no key"),
        (["--ray-address", "ray://nowhere:10001"], "ray_address, the address of a cluster, needs --ray"),
    ],
)
def test_a_mistake_is_one_line(options: list[str], message: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gliclass_fast", "serve", "--device", "cpu", *options],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
