"""The reference's modules and names exist here, or a page says that they do not."""

from __future__ import annotations

import pkgutil
import re
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import gliclass

import gliclass_fast

# names that public code imports, by their module; our pipelines and models stand for all architectures
NAMES = {
    "": ("GLiClassModel", "GLiClassBiEncoder", "GLiClassUniEncoder", "GLiClassModelConfig"),
    "model": ("GLiClassDecoderKV", "GLiClassEncoderDecoderCLS", "GLiClassBiEncoderFused", "GLiClassOutput"),
    "pipeline": (
        "UniEncoderZeroShotClassificationPipeline", "BiEncoderZeroShotClassificationPipeline",
        "DecoderKVZeroShotClassificationPipeline", "ZeroShotClassificationWithChunkingPipeline",
    ),
}  # fmt: skip
EXISTING = {  # what the page names beside what is missing
    "config", "gliclass", "gliclass_fast", "gliclass_fast.ops", "model", "pipeline", "serve",
    "serve.__main__", "streaming",
}  # fmt: skip


def test_names_are_where_the_reference_has_them() -> None:
    exported = {name for name in dir(gliclass) if name[0].isupper()}
    assert not [name for name in exported if not hasattr(gliclass_fast, name)]
    for place, names in NAMES.items():
        path = f".{place}" if place else ""
        theirs, own = (import_module(f"{package}{path}") for package in ("gliclass", "gliclass_fast"))
        assert all(callable(getattr(theirs, name)) and callable(getattr(own, name)) for name in names)


def test_names_that_a_module_imports_from_another_one_that_exists_here_are_there() -> None:
    for place in ("model", "config", "pipeline", "streaming", "serve"):
        theirs, own = (import_module(f"{package}.{place}") for package in ("gliclass", "gliclass_fast"))
        for name, each in vars(theirs).items():
            origin = (getattr(each, "__module__", None) or "").replace("gliclass", "gliclass_fast", 1)
            if origin.startswith("gliclass_fast.") and find_spec(origin):
                assert hasattr(own, name) or not hasattr(import_module(origin), name), (place, name)


def test_the_page_of_differences_names_what_is_missing() -> None:
    page = (Path(gliclass_fast.__file__).parents[1] / "docs" / "differences.md").read_text(encoding="utf-8")
    [section] = re.findall(r"^## Which modules exist\n(.*?)^## ", page, re.DOTALL | re.MULTILINE)
    missing = set()
    for found in pkgutil.walk_packages(gliclass.__path__, "gliclass."):
        own = found.name.replace("gliclass", "gliclass_fast", 1)
        if find_spec(own) is None:
            missing.add(found.name.removeprefix("gliclass."))
            continue
        theirs, mine = vars(import_module(found.name)), import_module(own)
        public = {name for name, each in theirs.items() if getattr(each, "__module__", None) == found.name}
        names = {name for name in public | set(theirs.get("__all__", ())) if not name.startswith("_")}
        missing |= {name for name in names if not hasattr(mine, name)}
    assert missing == set(re.findall(r"`([\w.]+)`", section)) - EXISTING
