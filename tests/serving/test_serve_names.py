"""`gliclass_fast.serve` has the names of `gliclass.serve`, and its command takes the reference's options."""

from __future__ import annotations

import importlib
import subprocess
import sys
import types
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import gliclass.serve.__main__ as reference
import pytest

from gliclass_fast import serve
from gliclass_fast.serve import __main__ as command
from gliclass_fast.serving import client, config
from gliclass_fast.serving.config import GLiClassServeConfig
from gliclass_fast.text.errors import ArgumentError

RAY_NAMES = ("GLiClassFactory", "serve_gliclass", "shutdown")


@pytest.fixture
def ray_serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A stand-in for the module that imports Ray."""
    module: Any = types.ModuleType("gliclass_fast.serving.ray_serve")
    for name in RAY_NAMES:
        setattr(module, name, lambda *args, _name=name, **options: calls.append((_name, args, options)))
    calls: list[Any] = []
    module.calls = calls
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


@pytest.fixture(autouse=True)
def keep_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the log of this process as it is, which the command would replace."""
    monkeypatch.setattr("gliclass_fast.serving.logs.use_json", lambda level: None)


def test_the_names_are_the_serving_room_s(ray_serve: Any) -> None:
    assert serve.GLiClassClient is serve.client.GLiClassClient is client.GLiClassClient
    assert serve.GLiClassServeConfig is serve.config.GLiClassServeConfig is config.GLiClassServeConfig
    for name in RAY_NAMES:
        assert getattr(serve, name) is getattr(serve.server, name) is getattr(ray_serve, name)
        assert name in dir(serve) and name in dir(serve.server) and name in serve.__all__


def test_what_does_not_exist_says_what_does() -> None:
    for module in (serve, serve.server):
        for name, use in (
            ("GLiClassServer", "create_app"),
            ("GLiClassMemoryEstimator", "batch_tokens"),
            ("other", "no attribute"),
        ):
            with pytest.raises(AttributeError, match=rf"{name}.*{use}|{use} '{name}'"):
                getattr(module, name)
    assert {*serve.__all__, *serve.server.INSTEAD} == set(importlib.import_module("gliclass.serve").__all__)


def test_to_import_it_imports_neither_ray_nor_torch() -> None:
    program = (
        "import sys, gliclass_fast.serve as s; s.GLiClassServeConfig('m'); "
        "assert not {'ray', 'torch', 'fastapi', 'httpx2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_command_takes_every_option_of_the_reference() -> None:
    for action in reference.build_parser()._actions:
        if not action.option_strings or action.dest in ("help", "config", "host"):
            continue
        option = action.option_strings[0]
        key = {"port": "http_port"}.get(action.dest, action.dest)
        if key == "enable_polylora":
            continue
        value = {"dtype": "fp16", "quantization": "int8", "model": "m", "device": "cpu"}.get(key, "1")
        given = [option] if action.nargs == 0 else [option, value]
        config, host = command.arguments_of(["--model", "m", *given])
        args = reference.build_parser().parse_args(["--model", "m", *given])
        assert config == GLiClassServeConfig(**vars(reference.config_from_args(args))), option
        assert host == "127.0.0.1" and getattr(config, key) != [], option


def test_options_count_more_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("model: m\nhttp_port: 9000\nmax_labels: 7\n")
    config, host = command.arguments_of(["--config", str(path), "--port", "9001", "--host", "::1"])
    assert (config.model, config.http_port, config.max_labels, host) == ("m", 9001, 7, "::1")
    assert command.arguments_of([])[0].model == "knowledgator/gliclass-edge-v3.0"
    with pytest.raises(ArgumentError, match="unknown option '--max-label'"):
        command.arguments_of(["--max-label", "3"])
    with pytest.raises(ArgumentError, match="unknown option '--hosts'; the nearest known one is '--host'"):
        command.arguments_of(["--hosts", "a"])


def test_one_copy_runs_here_and_several_on_ray(ray_serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Any] = []
    monkeypatch.setattr("gliclass_fast.serving.server.run", lambda *given: ran.append(given))
    command.main(["--model", "m", "--device", "cpu", "--port", "9001", "--max-model-len", "77"])
    settings, placement = ran[0]
    assert (settings.model, settings.max_length) == ("m", 77)
    assert (placement.host, placement.port) == ("127.0.0.1", 9001) and not ray_serve.calls
    command.main(["--model", "m", "--num-replicas", "2", "--host", "0.0.0.0"])
    command.main(["--model", "m", "--ray-address", "auto"])
    assert [(name, options) for name, _, options in ray_serve.calls] == [
        ("serve_gliclass", {"blocking": True, "host": "0.0.0.0"}),
        ("serve_gliclass", {"blocking": True, "host": "127.0.0.1"}),
    ]
    assert len(ran) == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TypeError("a wrong type"), "error: a wrong type"),
        (
            ModuleNotFoundError("No module named 'ray'", name="ray.serve"),
            "error: ray is missing: pip install 'gliclass-fast[ray]'",
        ),
        (
            MemoryError(),  # with options that this command has
            "error: out of memory: MemoryError. "
            "A smaller model, --max-batch-size or --max-model-len needs less",
        ),
    ],
)
def test_a_service_that_cannot_start_says_why_in_a_line(
    error: Exception,
    message: str,
    capsys: pytest.CaptureFixture[str],
    ray_serve: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_serve, "serve_gliclass", Mock(side_effect=error))
    with pytest.raises(SystemExit) as ended:
        command.main(["--num-replicas", "2"])
    assert ended.value.code == 2 and capsys.readouterr().err == f"{message}\n"


def test_without_the_extra_the_command_says_what_to_install(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit) as ended:
        command.main([])
    said = "error: a service needs typer: pip install 'gliclass-fast[serve]'\n"
    assert ended.value.code == 2 and capsys.readouterr().err == said


def test_mistakes_and_help_end_the_command(capsys: pytest.CaptureFixture[str], ray_serve: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["--max-label", "3"])
    assert ended.value.code == 2 and "the nearest known one is '--max-labels'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        command.main(["--help"])
    printed = capsys.readouterr().out
    assert ended.value.code == 0 and "--max-batch-size" in printed and "--warmup-iterations" in printed
