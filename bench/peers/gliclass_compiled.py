"""The reference package with its encoder under torch.compile: it is compiled anew for new shapes."""

from __future__ import annotations

import torch

from gliclass_fast.bench.contenders import Contender, Setting, Stock

NAME = "gliclass + torch.compile"
PACKAGES = ("gliclass",)
SAME_MODEL = True


def build(setting: Setting) -> Contender:
    model = setting.copy_of_model()
    model.model.encoder_model = torch.compile(model.model.encoder_model)
    return Stock(setting, model)
