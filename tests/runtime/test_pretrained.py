"""`from_pretrained` knows the options of transformers, and `config` says which dtype was asked for."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path

import gliclass
import torch
from transformers import PreTrainedModel

from gliclass_fast import GLiClassModel, demo
from tests.tiny import reference_model


def test_every_option_of_transformers_may_have_its_default() -> None:
    """Options come and go with the versions of transformers; those of this version are read in its source."""
    theirs = PreTrainedModel.from_pretrained
    named, source = inspect.signature(theirs).parameters.values(), inspect.getsource(theirs)
    options = {each.name: each.default for each in named if each.kind is each.KEYWORD_ONLY}
    for name, default in re.findall(r'kwargs\.pop\("(\w+)", (None|False|\{\}|"\w*")\)', source):
        options[name] = ast.literal_eval(default)
    for names in re.findall(r"for name in (\[[^]]*\])", source):  # those that it no longer reads
        options |= dict.fromkeys(ast.literal_eval(names))
    assert {"config", "state_dict", "device_map", "_commit_hash", "from_tf"} <= options.keys()
    GLiClassModel.from_pretrained(demo.PATH, **options)


def test_the_configuration_says_which_dtype_was_asked_for(tmp_path: Path) -> None:
    reference_model().save_pretrained(tmp_path)
    for options, expected in (
        ({}, torch.float32),
        ({"dtype": "auto"}, torch.float32),
        ({"dtype": torch.float16}, torch.float16),
        ({"torch_dtype": torch.bfloat16}, torch.bfloat16),
        ({"torch_dtype": "half", "dtype": "float32"}, torch.float32),
        ({"torch_dtype": "half"}, torch.float16),
    ):
        ours = GLiClassModel.from_pretrained(tmp_path, **options)
        assert ours.config.dtype is ours.config.torch_dtype is expected and not ours.origin.changed()
    theirs = gliclass.GLiClassModel.from_pretrained(tmp_path, **options)
    assert ours.config.to_dict() == theirs.config.to_dict()
    assert ours.float().config.dtype is theirs.float().config.dtype is torch.float16


def test_what_is_saved_names_the_dtype_that_was_asked_for_also_beside_given_tensors(tmp_path: Path) -> None:
    stored = GLiClassModel.from_pretrained(demo.PATH)
    given, asked = stored.state_dict(), GLiClassModel.from_pretrained(demo.PATH, dtype="float16")
    for number, ours in enumerate((asked, stored.half())):
        ours.save_pretrained(tmp_path / str(number), state_dict=given)
    first, second = (json.loads((tmp_path / name / "config.json").read_text()) for name in "01")
    assert first == second and first["dtype"] == "float16"
