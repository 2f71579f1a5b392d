"""Registries refuse a name by what config.json calls it."""

from __future__ import annotations

from typing import Any

import pytest

from gliclass_fast.config import UnsupportedConfigError
from gliclass_fast.models.architectures import ARCHITECTURES
from gliclass_fast.models.decoders import DECODERS, LANGUAGE_MODELS
from gliclass_fast.models.encoders import ENCODERS
from gliclass_fast.models.registry import Registry
from gliclass_fast.models.scorers import SCORERS


@pytest.mark.parametrize(
    ("registry", "option"),
    [
        (ARCHITECTURES, "architecture_type"),
        (SCORERS, "scorer_type"),
        *((each, r"encoder_config\.model_type") for each in (ENCODERS, DECODERS, LANGUAGE_MODELS)),
    ],
)
def test_an_unknown_name(registry: Registry[Any], option: str) -> None:
    with pytest.raises(UnsupportedConfigError, match=f"^{option}='none' is not supported; supported: "):
        registry["none"]
