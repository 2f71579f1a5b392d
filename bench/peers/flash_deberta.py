"""The reference package on flashdeberta's encoder: `USE_FLASHDEBERTA=1` has the package load it."""

from __future__ import annotations

from gliclass_fast.bench.contenders import Contender, Setting, Stock

NAME = "gliclass + flashdeberta"
PACKAGES = ("gliclass", "flashdeberta")
SAME_MODEL = True


def unsuitable(setting: Setting) -> str | None:
    if setting.model_type != "deberta-v2":
        return "for DeBERTa only"
    return None if setting.device != "cpu" else "needs a GPU"


def build(setting: Setting) -> Contender:
    from flashdeberta import FlashDebertaV2Model

    model = setting.copy_of_model()
    stock = model.model.encoder_model
    flash = FlashDebertaV2Model(stock.config).to(stock.device, stock.dtype).eval()
    flash.load_state_dict(stock.state_dict())
    model.model.encoder_model = flash
    return Stock(setting, model)
