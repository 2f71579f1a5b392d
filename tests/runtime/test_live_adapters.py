"""Live models with adapters of PEFT, which are merged in a copy."""

from __future__ import annotations

from typing import Any

import peft
import pytest
import torch

from gliclass_fast import CheckpointError, GLiClassModel, ZeroShotClassificationPipeline
from gliclass_fast.checkpoint import adapters
from tests.accuracy import assert_same_results
from tests.runtime.test_live import optimizer_step, scores
from tests.tiny import byte_tokenizer, fast_pipeline, reference_model, reference_pipeline


def adapted(whole: bool, **options: Any) -> Any:
    """Gives a reference model with an adapter that changes its scores, on its encoder or on all of it."""
    torch.manual_seed(1)
    model = reference_model(scorer_type="mlp")
    config = peft.LoraConfig(r=4, lora_alpha=9, init_lora_weights=False, **options)
    wrapped = peft.get_peft_model(model if whole else model.model.encoder_model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "trainable_tokens" in name:  # They begin as the rows of the embedding.
                parameter += 1
    if whole:
        return wrapped
    model.model.encoder_model = wrapped
    return model


ADAPTERS: dict[str, dict[str, Any]] = {
    "query and key": {"target_modules": ["query_proj", "key_proj"]},
    "all linear layers": {"target_modules": "all-linear"},
    "embeddings": {"target_modules": ["word_embeddings"]},
    "DoRA": {"target_modules": ["value_proj"], "use_dora": True},
    "rank-stabilized": {"target_modules": ["value_proj"], "use_rslora": True},
    "with a bias": {"target_modules": ["value_proj"], "lora_bias": True},
    "trained tokens": {
        "target_modules": ["value_proj"],
        "trainable_token_indices": {"word_embeddings": [5, 60, 101]},
    },
}


@pytest.mark.parametrize("first", [True, False], ids=["the first", "the second"])
def test_adapters_of_which_one_trains_a_module_that_the_other_adapts(first: bool) -> None:
    """PEFT then has layers with adapters within the copies of the module."""
    model = reference_model(scorer_type="mlp")
    saved = {True: ["scorer"], False: None}
    configs = [
        peft.LoraConfig(
            r=4, target_modules="all-linear", init_lora_weights=False, modules_to_save=saved[each]
        )
        for each in (first, not first)
    ]
    wrapped = peft.get_peft_model(model, configs[0])
    fast = ZeroShotClassificationPipeline(wrapped, byte_tokenizer(), device="cpu", progress_bar=False)
    wrapped.add_adapter("second", configs[1])
    for name in ("default", "second", "default"):
        wrapped.set_adapter(name)
        assert_same_results(scores(fast), scores(reference_pipeline(wrapped)))


def test_what_peft_cannot_merge_names_the_layer() -> None:
    model = reference_model("modernbert")
    config = peft.LoraConfig(target_modules="all-linear", lora_bias=True)
    model.model.encoder_model = peft.get_peft_model(model.model.encoder_model, config)
    with pytest.raises(CheckpointError, match=r"adapter on model\.encoder_model\..*Wqkv"):
        fast_pipeline(GLiClassModel.from_gliclass(model, device="cpu"))


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "encoder"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_that_is_not_merged_is_merged_in_the_copy(name: str, whole: bool) -> None:
    model = adapted(whole, **ADAPTERS[name])
    expected = scores(reference_pipeline(model))
    fast = ZeroShotClassificationPipeline(model, byte_tokenizer(), device="cpu", progress_bar=False)
    assert_same_results(scores(fast), expected)
    holder = model if whole else model.model.encoder_model
    with holder.disable_adapter():
        plain = scores(reference_pipeline(model))
        assert_same_results(scores(fast), plain)
    assert_same_results(scores(fast), expected)
    assert any("lora_" in key for key in model.state_dict())  # the live model stays as it is
    holder.merge_adapter()
    fast.refresh()
    assert_same_results(scores(fast), expected)
    with holder.disable_adapter():
        assert_same_results(scores(fast), plain)


def test_adapters_of_transformers_and_trained_copies_of_modules() -> None:
    model = reference_model(scorer_type="mlp")
    torch.manual_seed(1)
    config = peft.LoraConfig(r=2, target_modules=["dense"], init_lora_weights=False)
    model.model.encoder_model.add_adapter(config)
    assert_same_results(scores(fast_pipeline(model)), scores(reference_pipeline(model)))

    model = adapted(True, target_modules=["query_proj"], modules_to_save=["scorer"])
    with torch.no_grad():
        model.base_model.model.model.scorer.modules_to_save["default"].mlp[0].weight.mul_(2)
    fast = ZeroShotClassificationPipeline(model, byte_tokenizer(), device="cpu", progress_bar=False)
    assert_same_results(scores(fast), scores(reference_pipeline(model)))


def test_adapters_that_are_off_for_a_moment_of_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may exchange them for others, and back, so that the start and the end look alike."""
    model = adapted(True, target_modules=["query_proj"], modules_to_save=["scorer"])
    expected = scores(reference_pipeline(model))
    fast = ZeroShotClassificationPipeline(model, byte_tokenizer(), device="cpu", progress_bar=False)
    for name in ("_merged", "adapter_state"):
        own, calls = getattr(adapters, name), [0]

        def off_at_first(*given: Any, own: Any = own, calls: list[int] = calls) -> Any:
            calls[0] += 1
            if calls[0] > 1:
                return own(*given)
            with model.disable_adapter():
                return own(*given)

        monkeypatch.setattr(adapters, name, off_at_first)
        fast.refresh()
        assert calls[0] > 1
        assert_same_results(scores(fast), expected)


def test_another_copy_of_a_module_counts_from_the_next_call() -> None:
    model = adapted(True, target_modules=["query_proj"], modules_to_save=["scorer"])
    fast = ZeroShotClassificationPipeline(model, byte_tokenizer(), device="cpu", progress_bar=False)
    scorer = model.base_model.model.model.scorer
    with torch.no_grad():
        scorer.modules_to_save["default"].mlp[0].weight.mul_(2)
    seen = []
    for enabled in (True, False, True):
        scorer.enable_adapters(enabled)
        seen.append(scores(fast))
        assert_same_results(seen[-1], scores(reference_pipeline(model)))
    assert seen[0] != seen[1]


def test_an_adapter_that_cannot_be_merged_is_named() -> None:
    model = reference_model()
    model.model.encoder_model = peft.get_peft_model(
        model.model.encoder_model,
        peft.IA3Config(target_modules=["dense"], feedforward_modules=[], init_ia3_weights=False),
    )
    assert_same_results(scores(fast_pipeline(model)), scores(reference_pipeline(model)))  # PEFT merges it
    vera = peft.VeraConfig(target_modules=["query_proj"], r=4)  # its layers share two tensors
    wrapped = peft.get_peft_model(reference_model(), vera)
    optimizer_step(wrapped)
    assert_same_results(scores(fast_pipeline(wrapped)), scores(reference_pipeline(wrapped.get_base_model())))
    ada = peft.AdaLoraConfig(target_modules=["query_proj"], init_lora_weights=False, total_step=10)
    wrapped = peft.get_peft_model(reference_model(), ada)
    assert_same_results(scores(fast_pipeline(wrapped)), scores(reference_pipeline(wrapped.get_base_model())))
    model = adapted(False, target_modules=["query_proj"])
    for layer in model.modules():
        if isinstance(layer, peft.tuners.lora.Linear):
            layer.merge = None  # as of a kind that has no merge
    with pytest.raises(CheckpointError, match=r"query_proj \(Linear\) is not LoRA that PEFT can merge"):
        GLiClassModel.from_gliclass(model)
