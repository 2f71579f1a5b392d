"""The reference package as it is: it runs padded batches eagerly."""

from __future__ import annotations

from gliclass_fast.bench.contenders import Contender, Setting, Stock

NAME = "gliclass"
PACKAGES = ("gliclass",)
SAME_MODEL = True


def build(setting: Setting) -> Contender:
    return Stock(setting, setting.model)
