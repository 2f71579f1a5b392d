"""StockModel: a stock model's call with padded tensors, and what users touch beside, by the stock names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gliclass_fast.config import STOCK_DEFAULTS, GLiClassModelConfig
from gliclass_fast.runtime.adapters import AdapterLibrary
from gliclass_fast.runtime.forward import GLiClassOutput, forward
from gliclass_fast.runtime.positional_arguments import by_position_too
from gliclass_fast.runtime.stock_tensors import INSTEAD_OF_MODULE, StockTensors
from gliclass_fast.runtime.transfer import uncompiled
from gliclass_fast.text.arguments import adapters_per_text
from gliclass_fast.text.checked_inputs import check_inputs, check_label_slots
from gliclass_fast.text.errors import WrongType

if TYPE_CHECKING:
    from typing_extensions import Self

WITHOUT_WEIGHTS = (
    "a model needs weights: from_pretrained loads a checkpoint, and from_gliclass takes those of a gliclass "
    "model, such as gliclass.GLiClassModel(config)"
)
_OF_TRANSFORMERS = (  # people use these of its models, whose class takes a second to import
    "model", "get_input_embeddings", "set_input_embeddings", "resize_token_embeddings", "tie_weights",
    "gradient_checkpointing_enable", "gradient_checkpointing_disable", "is_gradient_checkpointing",
    "enable_input_require_grads", "disable_input_require_grads", "get_output_embeddings", "init_weights",
    "set_attn_implementation", "add_adapter", "set_adapter", "enable_adapters", "disable_adapters",
    "active_adapters", "delete_adapter", "base_model", "get_memory_footprint", "calibrator", "post_init",
    "add_calibrator", "remove_calibrator", "update_decoder_cache", "classify_from_decoder_cache", "generate",
)  # fmt: skip
_STEPS = ("use_recurrence",)  # False asks for other steps than None does, so it is refused too


class StockModel(StockTensors):
    """The base of the model: a forward pass over padded tensors, and the tensors of its checkpoint."""

    adapters: AdapterLibrary
    training = False
    config_class, base_model_prefix, main_input_name = GLiClassModelConfig, "model", "input_ids"

    @classmethod
    def can_generate(cls) -> bool:
        return False

    @classmethod
    def _from_config(cls, *args: Any, **kwargs: Any) -> Any:
        """Raises TypeError: `AutoModel.from_config` makes random weights by this name."""
        raise TypeError(WITHOUT_WEIGHTS)

    def follow_origin(self) -> None:
        raise NotImplementedError

    def to(self, *targets: Any) -> Self:
        raise NotImplementedError

    @uncompiled
    @by_position_too
    def __call__(
        self,
        *,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        class_input_ids: Tensor | None = None,
        class_attention_mask: Tensor | None = None,
        labels_mask: Tensor | None = None,
        max_num_classes: int | None = None,
        output_text_embeddings: bool | None = None,
        output_class_embeddings: bool | None = None,
        return_dict: bool | None = True,
        token_type_ids: Tensor | None = None,
        adapter_ids: Any = None,
        **refused: Any,
    ) -> GLiClassOutput | tuple[Tensor, ...]:
        """Runs padded inputs, as `prepare_inputs` of a pipeline makes them; N texts, S tokens, K label slots.

        Arguments may come by position, in the reference's order: `call_positions` of its architecture.

        Args:
            input_ids: int [N, S]; plain bi-encoders take [N, 1, S] too, as in the reference.
            attention_mask: as input_ids, of any dtype, 0 for padding, on either side; default: no padding.
                Ids that are padding may have any value; the others are tokens of the vocabulary.
            class_input_ids: for bi-encoders the labels, int [N, K, S']; for encoder-decoders the sequence of
                all labels, int [N, S']. Elsewhere it has no effect, as in the reference.
            class_attention_mask: as attention_mask, of the shape of class_input_ids.
            labels_mask: [N, K], for bi-encoders, 1 for the slots that hold a label, of which every text has
                one; default: every slot does. Elsewhere it has no effect, as in the reference.
            max_num_classes: K, from 1 to 2**20, where labels are in input_ids; default: that of the
                configuration, which counts alone for encoder-decoders. For bi-encoders, and with
                `decoder-kv`, where K is the largest number of labels of a text, it has no effect.
            output_text_embeddings: whether the output has those of the texts.
            output_class_embeddings: whether it has those of the labels.
            return_dict: False gives a tuple that holds the logits alone; of a model with a calibrator the
                output, as in the reference.
            token_type_ids: has no effect, as in the reference's backbones.
            adapter_ids: the id of every text's adapter, None for the model without one; see `load_adapter`.

        Raises:
            TypeError: an argument is not supported, is missing, or is no tensor of the kind above.
            ValueError: a text has no label, no token, or more tokens than the model reads; an id is no token;
                a tensor has another shape; or an adapter is not loaded.
        """
        off = {name: None if name in _STEPS else False for name in refused}
        if wrong := [name for name, value in refused.items() if value is not None and value is not off[name]]:
            raise WrongType(
                f"{', '.join(wrong)} is not supported: the engine returns logits and embeddings of the steps "
                "that the checkpoint asks for, and does not train; for other steps, hidden states, "
                "attentions, losses and gradients use the gliclass package"
            )
        self._follow()
        loaded, asked = self.loaded, check_label_slots(max_num_classes)
        with loaded.inference():  # tensors may come from a GPU, which another thread may be recording on
            inputs = check_inputs(
                loaded.config, input_ids, attention_mask, class_input_ids, class_attention_mask, labels_mask,
                loaded.network.takes_slot_axis,
            )  # fmt: skip
        adapters = adapters_per_text(adapter_ids, len(inputs.text_rows.kept), self.adapters)
        if inputs.labels_mask is not None:
            label_slots = inputs.labels_mask.shape[1]
        elif inputs.label_rows is None and asked is not None:
            label_slots = asked
        else:
            own = getattr(self.origin.config, "max_num_classes", None)
            label_slots = int(STOCK_DEFAULTS["max_num_classes"] if own is None else own)
        wanted = {"text_embeddings": output_text_embeddings, "class_embeddings": output_class_embeddings}
        of_texts = [None if each is None else self.adapters[each] for each in adapters]
        found = forward(loaded, inputs, label_slots, any(wanted.values()), of_texts)
        output = GLiClassOutput(**{name: each for name, each in found.items() if wanted.get(name, True)})
        whole = return_dict is not False or output.uncalibrated_logits is not None
        return output if whole else (output.logits,)

    forward = __call__

    def adapters_per_text(self, adapter_ids: Any, count: int) -> list[str | None]:
        """Returns the id of every text's adapter, None for none, of the adapters that there are now.

        Raises TypeError, or ValueError for an id that is not among them.
        """
        self._follow()
        return adapters_per_text(adapter_ids, count, self.adapters)

    def _follow(self) -> None:
        """Does what `on_change` says about a change since the network was built, if there is one."""
        if self.origin.changed():
            self.follow_origin()

    if not TYPE_CHECKING:  # to mypy every attribute would exist

        def __getattr__(self, name: str) -> Any:
            """Raises AttributeError, which says what stands in for what stock models have."""
            instead = INSTEAD_OF_MODULE if hasattr(nn.Module, name) or name in _OF_TRANSFORMERS else ""
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}{instead}")

    def __setattr__(self, name: str, value: Any) -> None:
        """Raises AttributeError for another forward, which no call would use."""
        if name in ("forward", "__call__"):
            raise AttributeError(
                f"{name} of {type(self).__name__} cannot be set: pipelines run the network without it. "
                "Derive from the pipeline, or use the gliclass package"
            )
        super().__setattr__(name, value)

    @property
    def name_or_path(self) -> str:
        """Returns what the model was loaded by, as transformers does; "" where it was made of tensors."""
        return str(self.origin.config.name_or_path)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Returns the model for False, as `train` does; raises RuntimeError for True."""
        return self.train(requires_grad)

    def train(self, mode: bool = True) -> Self:
        """Returns the model for train(False); raises RuntimeError for training, which the engine lacks."""
        if mode:
            raise RuntimeError(
                "the engine only infers: train the gliclass model, and give it to a pipeline or to "
                "GLiClassModel.from_gliclass, which notice its steps"
            )
        return self

    def eval(self) -> Self:
        """Does nothing, as the engine only infers, and returns the model."""
        return self

    def double(self) -> Self:
        """Raises ValueError: the engine has no float64."""
        return self.to(torch.float64)

    def float(self) -> Self:
        return self.to(torch.float32)

    def half(self) -> Self:
        return self.to(torch.float16)

    def bfloat16(self) -> Self:
        return self.to(torch.bfloat16)

    def cpu(self) -> Self:
        return self.to("cpu")

    def cuda(self, device: torch.device | str | None = None) -> Self:
        return self.to("cuda" if device is None else device)
