"""`GLiClassServeConfig` reads what the reference's does, and says what is wrong or has no effect."""

from __future__ import annotations

import logging
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from gliclass.serve.config import GLiClassServeConfig as ReferenceConfig

from gliclass_fast.config import UnsupportedConfigError
from gliclass_fast.serving.config import GLiClassServeConfig
from gliclass_fast.serving.config_keys import EFFECTS, WITHOUT_EFFECT
from gliclass_fast.text.errors import ArgumentError

CHANGED = {
    "device": "cpu", "dtype": "fp16", "quantization": "int8", "max_labels_alloc": 50,
    "default_threshold": 0.25, "num_gpus_per_replica": 0, "max_batch_size": 12,
    "precompiled_batch_sizes": [64, 2], "http_port": 9000, "ray_address": "auto",
    "polylora_max_cpu_adapters": None, "polylora_adapter_weight_modules": ["q", "v"],
}  # fmt: skip


def test_the_keys_and_their_defaults_are_the_references() -> None:
    assert asdict(GLiClassServeConfig("m")) == asdict(ReferenceConfig("m"))
    assert get_type_hints(GLiClassServeConfig) == get_type_hints(ReferenceConfig)
    assert [each.name for each in fields(GLiClassServeConfig)] == [
        each.name for each in fields(ReferenceConfig)
    ]
    assert GLiClassServeConfig("m").to_env_vars() == ReferenceConfig("m").to_env_vars()
    assert GLiClassServeConfig("m", tokenizer_threads=0).to_env_vars() == {}


def test_every_key_has_an_effect_or_a_reason_for_none() -> None:
    names = {each.name for each in fields(GLiClassServeConfig)}
    assert set(EFFECTS) | set(WITHOUT_EFFECT) == names and not set(EFFECTS) & set(WITHOUT_EFFECT)


def test_files_go_to_and_fro_between_both(tmp_path: Path) -> None:
    ours, theirs = GLiClassServeConfig("m", **CHANGED), ReferenceConfig("m", **CHANGED)
    ours.to_yaml(tmp_path / "new" / "ours.yaml")
    theirs.to_yaml(tmp_path / "theirs.yaml")
    read = GLiClassServeConfig.from_yaml(tmp_path / "theirs.yaml")
    assert asdict(read) == asdict(theirs) == asdict(ReferenceConfig.from_yaml(tmp_path / "new" / "ours.yaml"))
    assert read == ours and ours.precompiled_batch_sizes == [2, 12, 64]
    assert GLiClassServeConfig.from_yaml(tmp_path / "theirs.yaml", model="n", device=None).model == "n"


@pytest.mark.parametrize(
    "older",
    [
        {"mlora_max_rank": 4, "mlora_target_modules": ["q"], "mlora_lazy_load_adapters": True},
        {"mlora_max_rank": 4, "polylora_max_rank": 8, "polylora_target_modules": ["q"]},
        {"enable_mlora": False, "mlora_adapter_weight_modules": ["q"], "mlora_target_modules": ["v"]},
        {"polylora_target_modules": ["q"], "polylora_adapter_weight_modules": ["v"]},
        {"polylora_allow_unsafe_bin_adapters": True, "mlora_adapter_id_pattern": "a+"},
    ],
)
def test_older_names_mean_what_they_mean_in_the_reference(older: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "older.yaml"
    path.write_text(yaml.safe_dump({"model": "m", **older}))
    assert asdict(GLiClassServeConfig.from_yaml(path)) == asdict(ReferenceConfig.from_yaml(path))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_batchsize": 8}, "unknown key 'max_batchsize'; the nearest known one is 'max_batch_size'"),
        ({"zzz": 8}, "unknown key 'zzz'$"),
        ({"max_batch_size": "8"}, "max_batch_size must be int, not str: '8'"),
        ({"max_batch_size": True}, "max_batch_size must be int, not bool: True"),
        ({"max_batch_size": 0}, "max_batch_size must be at least 1, not 0"),
        ({"request_timeout_s": "1e-3"}, "request_timeout_s must be float, not str"),
        ({"default_threshold": 1.5}, "default_threshold must be from 0 to 1, not 1.5"),
        ({"default_threshold": float("nan")}, "default_threshold must be from 0 to 1, not nan"),
        ({"http_port": 70000}, "http_port must be from 0 to 65535"),
        ({"precompiled_batch_sizes": [1, "2"]}, "precompiled_batch_sizes must be list of int, not list"),
        ({"polylora_max_cpu_adapters": 1.0}, "polylora_max_cpu_adapters must be int or None, not float"),
        ({"dtype": "float8"}, "dtype must be one of 'float32', 'float16', 'fp16', 'bfloat16', 'bf16', not"),
        ({"quantization": "int4"}, "quantization must be one of None, 'int8', not 'int4'"),
        ({"model": None}, "model must be str, not NoneType"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=f"^{message}"):
        GLiClassServeConfig.from_mapping({"model": "m", **given})
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"model": "m", **given}))
    with pytest.raises(ArgumentError, match=message):
        GLiClassServeConfig.from_yaml(path)
    config = GLiClassServeConfig("m")
    if None not in given.values():
        with pytest.raises(ArgumentError, match=message):
            config.update(**given)
    assert config == GLiClassServeConfig("m")


def test_files_that_hold_no_configuration_are_named(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for text, message in (
        ("device: cpu", "config.yaml: a configuration needs the key 'model'"),
        ("- a", "config.yaml: a configuration is a mapping of keys to values, not list"),
        ("{", "config.yaml is not valid YAML"),
        ("model: a\nport: 1\nmodel: b", "config.yaml is not valid YAML: the key 'model' stands there twice"),
        ("model: 2026-13-45", "config.yaml is not valid YAML: month must be in"),
        ("model: \xe9", "config.yaml is not valid YAML: 'utf-8' codec"),
    ):
        path.write_text(text, encoding="latin-1")
        with pytest.raises(ArgumentError, match=message):
            GLiClassServeConfig.from_yaml(path)


def test_adapters_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    for given in ({"enable_polylora": True}, {"enable_mlora": True}):
        with pytest.raises(UnsupportedConfigError, match=r"^enable_polylora=True is not supported"):
            GLiClassServeConfig.from_mapping({"model": "m", **given})
        path.write_text(yaml.safe_dump({"model": "m", **given}))
        with pytest.raises(UnsupportedConfigError, match=r"^enable_polylora=True is not supported"):
            GLiClassServeConfig.from_yaml(path)


def test_a_command_line_sets_any_key() -> None:
    line = """--model n --max-batch-size 8 --port=9001 --request-timeout-s 5 --max-labels-alloc 50
        --quantization none --precompiled-batch-sizes 1,3 --polylora-adapter-weight-modules q,v
        --polylora-max-cpu-adapters 7 --enable-compilation --no-polylora-use-triton-kernels
        --calibrate-on-startup=yes"""
    config = GLiClassServeConfig("m", quantization="int8").override(line.split())
    expected = GLiClassServeConfig(
        "n", max_batch_size=8, http_port=9001, request_timeout_s=5, max_labels_alloc=50,
        precompiled_batch_sizes=[1, 3], polylora_max_cpu_adapters=7,
        polylora_adapter_weight_modules=["q", "v"], enable_compilation=True,
        polylora_use_triton_kernels=False, calibrate_on_startup=True,
    )  # fmt: skip
    assert config == expected and config.request_timeout_s == 5.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--max-batchsize", "8"], "unknown option '--max-batchsize'; the nearest known one is '--max-batch"),
        (["--prot", "8"], "unknown option '--prot'; the nearest known one is '--port'$"),
        (["--zzz", "8"], "unknown option '--zzz'$"),
        (["--max-batch-size"], "--max-batch-size needs a value"),
        (["--max-batch-size", "many"], "max_batch_size must be int, not 'many'"),
        (["--enable-compilation=perhaps"], "enable_compilation must be bool, not 'perhaps'"),
        (["--precompiled-batch-sizes", "1,x"], "precompiled_batch_sizes must be list of int, not '1,x'"),
        (["8"], "an option is expected, as --max-batch-size 8, not '8'"),
        (["--enable-polylora", "true"], "--enable-polylora takes no value, so 'true' is one too many"),
        (["--port", "1", "true"], "an option is expected, as --max-batch-size 8, not 'true'"),
        (["--no-max-batch-size"], "unknown option '--no-max-batch-size'"),
    ],
)
def test_a_wrong_command_line_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        GLiClassServeConfig("m").override(arguments)


def test_keys_without_an_effect_are_told_once_and_with_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        config = GLiClassServeConfig("m", max_batch_size=12, num_replicas=2)
        assert not caplog.records and not config.without_effect()
        config.update(batch_wait_timeout_ms=5.0, precompiled_batch_sizes=[1, 7])
        config.update(warmup_iterations=1)
    assert [record.getMessage() for record in caplog.records] == [
        "batch_wait_timeout_ms has no effect: how long a batch waits for texts follows from the time of the "
        "one before",
        "precompiled_batch_sizes has no effect: batches are sized by tokens, and the warm-up takes its sizes "
        "from them",
        "warmup_iterations has no effect: one run of each size is enough",
    ]
