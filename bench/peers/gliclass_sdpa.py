"""The reference package with SDPA: transformers calls torch's scaled_dot_product_attention."""

from __future__ import annotations

from gliclass_fast.bench.contenders import Contender, Setting, Stock

NAME = "gliclass + SDPA"
PACKAGES = ("gliclass",)
SAME_MODEL = True


def unsuitable(setting: Setting) -> str | None:
    supported = getattr(setting.model.model.encoder_model, "_supports_sdpa", False)
    return None if supported else f"transformers has no SDPA for {setting.model_type}"


def build(setting: Setting) -> Contender:
    model = setting.copy_of_model()
    model.model.encoder_model.set_attn_implementation("sdpa")
    return Stock(setting, model)
