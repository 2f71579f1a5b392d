"""A live model that computes otherwise than its tensors say is refused, or a warning names its hooks."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import gliclass
import pytest
import torch
from accelerate.hooks import AlignDevicesHook, ModelHook, add_hook_to_module
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from gliclass_fast import CheckpointError, GLiClassModel, ZeroShotClassificationPipeline, accelerate, demo
from tests.accuracy import assert_same_results
from tests.runtime.test_live import scores
from tests.tiny import byte_tokenizer, fast_pipeline, reference_model, reference_pipeline

PROJECTOR, SIBLING = (f"model.{name}_projector.linear_1" for name in ("text", "classes"))


def halved(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)  # so that it has the module and the name of what it wraps
    def own(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = output.logits / 2
        return output

    return own


class Halved(gliclass.GLiClassModel):  # type: ignore[misc, name-defined]
    forward = halved(gliclass.GLiClassModel.forward)


class HalvedLinear(nn.Linear):
    @torch.no_grad()
    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return super().forward(values) / 2


class Halving(ModelHook):  # type: ignore[misc]
    def post_forward(self, module: nn.Module, output: torch.Tensor) -> torch.Tensor:
        return output / 2


class Focal(nn.Module):
    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return ((logits - labels) ** 2).mean()


class Called(nn.Linear):
    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        return super().__call__(values) / 2


def of_class(place: str, kind: type) -> Callable[[Any], object]:
    return lambda model: setattr(model.get_submodule(place), "__class__", kind)


def patched(place: str, change: Callable[[Any], Any]) -> Callable[[Any], object]:
    def patch(model: Any) -> None:
        module = model.get_submodule(place)
        module.forward = change(module.forward)

    return patch


OTHER_FORWARDS: dict[str, tuple[Callable[[Any], object], str]] = {
    "a model's class": (of_class("", Halved), r"^the model \(Halved\) has a forward of its own"),
    "a layer's class": (of_class(PROJECTOR, HalvedLinear), rf"^{PROJECTOR} \(HalvedLinear\) has a forward"),
    "a layer's call": (of_class(PROJECTOR, Called), rf"^{PROJECTOR} \(Called\) has a forward"),
    "a model's forward": (patched("", halved), "^the model .* derived from the pipeline"),
    "an inner forward": (patched("model", halved), "^model .* with the gliclass package"),
    "another's forward": (patched(PROJECTOR, lambda _: nn.Identity().forward), f"^{PROJECTOR} "),
    "a sibling's forward": (
        lambda model: setattr(
            model.get_submodule(PROJECTOR), "forward", model.get_submodule(SIBLING).forward
        ),
        rf"^{PROJECTOR} \(Linear\) has a forward",
    ),
    "a hook of accelerate's": (
        lambda model: add_hook_to_module(model.get_submodule(PROJECTOR), Halving()),
        rf"^{PROJECTOR} \(Linear\) has a forward",
    ),
    "beneath autocast": (
        patched("model", lambda own: torch.autocast("cpu", enabled=False)(halved(own))), "^model ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_FORWARDS)
def test_another_forward_is_refused_by_its_name(name: str) -> None:
    change, message = OTHER_FORWARDS[name]
    model = reference_model()
    fast = fast_pipeline(model)
    scores(fast)
    change(model)
    with pytest.raises(CheckpointError, match=message):
        scores(fast)
    with pytest.raises(CheckpointError, match=message):
        fast_pipeline(model)
    with pytest.raises(CheckpointError, match=message):
        accelerate(reference_pipeline(model))


@pytest.mark.long
def test_forwards_that_compute_the_same_are_taken() -> None:
    model = reference_model()
    expected = scores(reference_pipeline(model))
    kept = model.model.forward
    patched("model", torch.autocast("cpu", enabled=False))(model)
    patched("model.text_projector", torch.compile)(model)
    patched("model.classes_projector", lambda forward: forward)(model)
    assert model.model.forward is not kept
    model.model.scorer.compile()
    add_hook_to_module(model.model.encoder_model, AlignDevicesHook(io_same_device=True))
    model.loss_fn = Focal()  # of the training loop: no pass calls it
    assert_same_results(scores(fast_pipeline(model)), expected)


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_are_named_once(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    model = reference_model()
    expected = scores(reference_pipeline(model))
    fast = fast_pipeline(model)
    scores(fast)
    assert not caplog.messages
    getattr(model.get_submodule(PROJECTOR), kind)(lambda *given: None)
    for place in ("model.classes_projector", "model.scorer"):
        getattr(model.get_submodule(place), kind)(functools.partial(lambda *given: None))
    for each in (fast, fast, fast_pipeline(model)):
        assert_same_results(scores(each), expected)
    [message] = caplog.messages
    assert message.startswith("the forward hooks of ") and "are not called" in message
    assert f"{PROJECTOR} (Linear), " in message and "model.scorer (" in message


@pytest.mark.parametrize("register", [register_module_forward_hook, register_module_forward_pre_hook])
def test_hooks_of_all_modules_are_named_once(register: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = reference_model()
    fast = fast_pipeline(model)
    handle = register(lambda *given: None)
    try:
        for each in (fast, fast, fast_pipeline(model)):
            scores(each)
    finally:
        handle.remove()
    [message] = caplog.messages
    assert message.startswith("the forward hooks of all modules (") and register.__name__ in message


def test_neither_hooks_nor_a_forward_put_back_make_another_network() -> None:
    model = reference_model()
    fast = fast_pipeline(model)
    scores(fast)
    before = fast.model.loaded
    layer = model.get_submodule(PROJECTOR)
    layer.register_forward_hook(lambda *given: None).remove()
    handle = layer.register_forward_hook(lambda *given: None)
    layer.forward = layer.forward
    scores(fast)
    handle.remove()
    scores(fast)
    assert fast.model.loaded is before


def test_hooks_of_libraries_are_no_reason_to_warn(caplog: pytest.LogCaptureFixture) -> None:
    model = reference_model()
    model.enable_input_require_grads()  # of transformers, for training with adapters
    fast_pipeline(model)
    assert not caplog.messages


class Tempered(GLiClassModel):
    def forward(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        return halved(super().forward)(*args, **kwargs)


class Counted(GLiClassModel):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(*args, **kwargs)


def test_another_call_of_our_model_is_named(caplog: pytest.LogCaptureFixture) -> None:
    given = Counted.from_pretrained(demo.PATH, device="cpu")
    ZeroShotClassificationPipeline(given, str(demo.PATH), device="cpu")
    assert caplog.messages == ["Counted has a __call__ of its own, which pipelines do not call"]


def test_another_forward_of_our_model_is_refused() -> None:
    named = GLiClassModel.from_pretrained(demo.PATH, device="cpu")
    for name in ("forward", "__call__"):
        with pytest.raises(AttributeError, match=r"(forward|__call__) of GLiClassModel cannot be set"):
            setattr(named, name, halved(named.forward))
    given = Tempered.from_pretrained(demo.PATH, device="cpu")
    with pytest.raises(TypeError, match=r"Tempered has a forward of its own.*derive from the pipeline"):
        ZeroShotClassificationPipeline(given, byte_tokenizer(), device="cpu")


def test_compiled_modules_within_a_model_are_taken() -> None:
    model = reference_model()
    expected = scores(reference_pipeline(model))
    model.model.encoder_model = torch.compile(model.model.encoder_model, backend="eager")
    fast = fast_pipeline(model)
    assert_same_results(scores(fast), expected)
    assert fast.model.state_dict().keys() == reference_model().state_dict().keys()
    model.model = torch.compile(model.model, backend="eager")
    assert_same_results(scores(fast), expected)


def test_float64_is_computed_in_float32() -> None:
    model = reference_model().double()
    fast = fast_pipeline(model)
    assert fast.model.dtype is torch.float32
    for ours, theirs in zip(scores(fast), scores(reference_pipeline(model)), strict=True):
        for mine, other in zip(ours, theirs, strict=True):
            assert mine["label"] == other["label"] and abs(mine["score"] - other["score"]) < 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_quantized_model_is_refused_by_its_layer() -> None:
    model = torch.ao.quantization.quantize_dynamic(reference_model("bert"), {nn.Linear})
    with pytest.raises(CheckpointError, match=r"^model\.[a-z_.\d]*linear_1 holds a .*quantization='int8'"):
        fast_pipeline(model)
