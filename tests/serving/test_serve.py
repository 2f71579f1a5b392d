"""`gliclass-fast serve` as a process: options, its log, mistakes, and its end."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx2
import pytest
from fastapi import FastAPI
from typer.testing import CliRunner
from uvicorn import Config

from gliclass_fast.cli.app import app
from gliclass_fast.cli.options import labels_in, opened
from gliclass_fast.runtime.device import MOST_THREADS
from gliclass_fast.serving.listening import address_of, check_free
from gliclass_fast.serving.ray_service import RayService
from gliclass_fast.serving.server import Server, run
from gliclass_fast.serving.settings import Limits, Placement, ServeSettings

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
        (["--api-key", "k"], "unknown option '--api-key'; the nearest known one is '--api-key-file'"),
        (["--host", "256.1.1.1"], "the service cannot listen at http://256.1.1.1:8000"),
        (["--host", ""], "the host (--host) must be an address"),
        (["--host", " "], "the host (--host) must be an address"),
        (["--timeout", "0"], "seconds (--timeout, request_timeout_s) must be positive, not 0.0"),
        (["--request-timeout-s", "0"], "seconds (--timeout, request_timeout_s) must be positive, not 0.0"),
        (["--threshold", "5"], "Invalid value for '--threshold'"),
        (["--default-threshold", "5"], "default_threshold must be from 0 to 1, not 5.0"),
        (["a", "--model", "b"], "MODEL and --model mean the same"),
        (["--port", "0", "--http-port", "1"], "--port and --http-port mean the same"),
        (["--replicas", "1", "--num-replicas", "2"], "--replicas and --num-replicas mean the same"),
        (["--max-length", "9", "--max-model-len", "8"], "--max-length and --max-model-len mean the same"),
        (
            ["--device", "cpu", "--num-gpus-per-replica", "1"],
            "--num-gpus-per-replica goes with --device cuda",
        ),
    ],
)
def test_a_mistake_in_an_option_is_named(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gliclass_fast.serving.logs.use_json", lambda level: None)
    result = CliRunner().invoke(app, ["serve", *options])
    assert result.exit_code == 2 and message in " ".join(result.stderr.split()), result.stderr


def test_the_name_of_the_argument_is_no_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gliclass_fast.serving.logs.use_json", lambda level: None)
    result = CliRunner().invoke(app, ["serve", "--argument", "k"])
    assert result.exit_code == 2 and result.stderr == "error: unknown option '--argument'\n"


def test_an_error_that_is_not_of_the_file_names_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    error = OSError("libcuda.so: cannot open")
    monkeypatch.setattr("gliclass_fast.serving.logs.use_json", lambda level: None)
    monkeypatch.setattr("torch.cuda.is_available", Mock(side_effect=error))
    result = CliRunner().invoke(app, ["serve", "--num-gpus-per-replica", "1"])
    assert result.exit_code == 2 and result.stderr == f"error: {error}\n"
    with pytest.raises(ValueError, match=f"--config a: {error}"), opened("--config", Path("a")):
        raise error  # not of the system, so it has no strerror


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[ServeSettings, Placement]]:
    """Returns what `serve` would start, in one process or with --ray, from its options."""
    found: list[tuple[ServeSettings, Placement]] = []
    monkeypatch.setattr("gliclass_fast.serving.logs.use_json", lambda level: None)
    monkeypatch.setattr("gliclass_fast.serving.server.run", lambda *given: found.append(given))
    monkeypatch.setattr(
        "gliclass_fast.serving.ray_service.run_until_signal",
        lambda service: found.append((service.settings, service.placement)),
    )

    def call(*options: str) -> tuple[ServeSettings, Placement]:
        result = CliRunner().invoke(app, ["serve", *options])
        assert result.exit_code == 0, result.output
        return found.pop()

    return call


def test_a_key_on_the_command_line_changes_nothing_else(
    starts: Callable[..., tuple[ServeSettings, Placement]], caplog: pytest.LogCaptureFixture
) -> None:
    ours, place = starts()
    assert (ours, place) == (ServeSettings(), Placement())
    for options, settings, placement in (
        (["--max-ongoing-requests", "5"], {}, {"ongoing_requests": 5}),
        (["--num-cpus-per-replica", "2", "--http-port", "9"], {}, {"cpus": 2.0, "port": 9}),
        (["--default-threshold", "0.25"], {"threshold": 0.25}, {}),
        (
            ["--max-batch-size", "8", "--tokenizer-threads", "3"],
            {"batch_texts": 8, "tokenizer_threads": 3},
            {},
        ),
        (["m", "--max-model-len", "9"], {"model": "m", "max_length": 9}, {}),
        (["--queue-capacity", "7"], {"limits": Limits(queue_texts=7)}, {}),
    ):
        assert starts(*options) == (replace(ours, **settings), replace(place, **placement))
    assert [record.getMessage() for record in caplog.records] == [
        f"{key} has no effect: it is for replicas, with --ray"
        for key in ("max_ongoing_requests", "num_cpus_per_replica")
    ]


def test_a_key_for_replicas_in_a_file_is_named_too(
    starts: Callable[..., tuple[ServeSettings, Placement]], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """One that has its default there is none that a person has set: `to_yaml` writes all of them."""
    file = tmp_path / "serve.yaml"
    file.write_text("model: m\ndevice: cpu\nnum_cpus_per_replica: 4.0\nmax_ongoing_requests: 256\n")
    starts("--config", str(file))
    assert [record.getMessage() for record in caplog.records] == [
        "num_cpus_per_replica has no effect: it is for replicas, with --ray"
    ]


def test_with_ray_what_no_key_sets_is_shared_out(
    starts: Callable[..., tuple[ServeSettings, Placement]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(8))
    whole = ServeSettings().limits.queue_texts + ServeSettings().batch_texts
    for options, threads, placement in (
        (["--replicas", "2"], 4, Placement(replicas=2, cpus=4.0, ongoing_requests=whole)),
        (["--num-replicas", "2"], 4, Placement(replicas=2, cpus=4.0, ongoing_requests=whole)),
        (["--max-ongoing-requests", "5"], 8, Placement(cpus=8.0, ongoing_requests=5)),
        (["--num-cpus-per-replica", "2"], 2, Placement(cpus=2.0, ongoing_requests=whole)),
        (
            ["--ray-address", "auto", "--num-gpus-per-replica", "0.5"],
            8,
            Placement(cpus=8.0, gpus=0.5, ongoing_requests=whole, ray_address="auto"),
        ),
    ):
        assert starts("--ray", *options) == (ServeSettings(threads=threads), placement)


def test_a_file_has_the_references_defaults_and_options_count_more(
    starts: Callable[..., tuple[ServeSettings, Placement]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tmp_path / "service.yaml"
    config.write_text("model: m\ndevice: cuda\nmax_labels: 3\n")
    read = {"device": "cpu", "batch_texts": 32, "tokenizer_threads": 4, "limits": Limits(labels=3)}
    settings, placement = starts("--config", str(config), "--device", "cpu", "--max-model-len", "9")
    assert settings == ServeSettings(model="m", max_length=9, **read)  # and no 16 bit on a CPU
    assert placement == Placement(gpus=0.0)
    settings, _ = starts("n", "--config", str(config), "--device", "cpu")
    assert settings == ServeSettings(model="n", max_length=2048, **read)
    config.write_text("model: m\nray_address: auto\nnum_gpus_per_replica: 0.5\n")
    settings, placement = starts("--ray", "--config", str(config))
    assert placement.gpus == 0.5 and settings.dtype == "bfloat16"  # the cluster has the GPUs
    for device in ("tpu", "mps"):
        config.write_text(f"model: m\ndevice: {device}\n")
        result = CliRunner().invoke(app, ["serve", "--config", str(config)])
        assert result.exit_code == 2 and f"unknown device '{device}'" in result.stderr
    assert not caplog.messages  # which would say that it runs on the CPU


def test_the_end_of_a_terminal_ends_the_service_in_order() -> None:
    server = Server(Config(FastAPI()), None)  # type: ignore[arg-type]
    before = signal.getsignal(signal.SIGHUP)
    try:
        for usual, within in ((signal.SIG_DFL, server.handle_exit), (signal.SIG_IGN, signal.SIG_IGN)):
            signal.signal(signal.SIGHUP, usual)
            with server.capture_signals():
                assert signal.getsignal(signal.SIGHUP) == within
                assert signal.getsignal(signal.SIGTERM) == server.handle_exit
            assert signal.getsignal(signal.SIGHUP) == usual
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_address_that_is_taken_is_a_mistake() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"cannot listen at http://127.0.0.1:{port}: .*in use"):
            run(ServeSettings("/nowhere", device="cpu"), Placement(port=port))  # before the model is loaded
    for host in ("localhost", "0.0.0.0"):
        check_free(host, 0)
    with pytest.raises(OSError, match=r"cannot listen at http://nowhere\.invalid:80: "):
        check_free("nowhere.invalid", 80)


@pytest.mark.parametrize("without", [errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL])
def test_one_address_of_a_name_is_enough(without: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may have no IPv6, or no such address."""
    create, here = socket.create_server, {socket.AF_INET}

    def create_server(address: Any, *, family: socket.AddressFamily) -> socket.socket:
        if family not in here:
            raise OSError(without, "not here")
        return create(address, family=family)

    both = [(family, 0, 0, "", ("127.0.0.1", 0)) for family in (socket.AF_INET6, socket.AF_INET)]
    monkeypatch.setattr(socket, "create_server", create_server)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: both)
    check_free("a-name", 0)
    here.clear()
    with pytest.raises(OSError, match=r"cannot listen at http://a-name:80: .*not here"):
        check_free("a-name", 80)


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
        (["--max-model-length", "5"], "the nearest known one is '--max-model-len'"),
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
