"""Live models whose weights torch computes as they are read: parametrizations, older forms, pruning."""

from __future__ import annotations

import peft
import pytest
import torch
from torch.nn.utils import parametrizations, parametrize, prune

from gliclass_fast import CheckpointError
from tests.accuracy import assert_same_results
from tests.runtime.test_live import Change, optimizer_step, scores
from tests.tiny import fast_pipeline, loaded, reference_model, reference_pipeline


class Half(torch.nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 0.5


LAYER = "model.encoder_model.encoder.layer.0."
COMPUTED: dict[str, Change] = {  # each on a layer of its own
    f"{LAYER}attention.self.query_proj": lambda layer: parametrize.register_parametrization(
        layer, "weight", Half()
    ),
    f"{LAYER}attention.self.key_proj": parametrizations.weight_norm,
    f"{LAYER}attention.self.value_proj": parametrizations.spectral_norm,
    f"{LAYER}intermediate.dense": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "model.classes_projector.linear_1": lambda layer: [
        prune.random_unstructured(layer, "weight", 0.3) for _ in range(2)
    ],
    "model.text_projector.linear_1": torch.nn.utils.weight_norm,
    "model.scorer.mlp.0": torch.nn.utils.spectral_norm,
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_weights_that_torch_computes() -> None:
    model = reference_model(scorer_type="mlp")
    fast, reference = fast_pipeline(model), reference_pipeline(model)
    scores(fast)
    for name, compute in COMPUTED.items():
        compute(model.get_submodule(name))
    model.train()
    state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    found = scores(fast)
    assert all(torch.equal(tensor, state[key]) for key, tensor in model.state_dict().items())
    assert_same_results(found, scores(reference_pipeline(model)))
    optimizer_step(model)
    model.eval()
    assert_same_results(scores(fast), scores(reference))
    assert fast.model.state_dict().keys() == reference_model(scorer_type="mlp").state_dict().keys()


@pytest.mark.parametrize("compute", [parametrizations.weight_norm, COMPUTED[f"{LAYER}intermediate.dense"]])
def test_an_adapter_on_a_computed_weight_is_refused_by_its_name(compute: Change) -> None:
    model = reference_model()
    compute(model.get_submodule(f"{LAYER}intermediate.dense"))
    backbone = model.model.encoder_model
    config = peft.LoraConfig(r=2, target_modules=["dense"])
    model.model.encoder_model = peft.get_peft_model(backbone, config)
    with pytest.raises(CheckpointError, match=r"into .*intermediate\.dense.*weight, which torch computes"):
        loaded(model)
