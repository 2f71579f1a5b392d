"""GliznetConfig: it holds what the engine reads of GliZNet's config.json, checked once and frozen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from gliclass_fast.config import UnsupportedConfigError, dtype_name
from gliclass_fast.models.backbone_config import backbone_of
from gliclass_fast.models.encoders import ENCODER_ONLY, ENCODERS


@dataclass(frozen=True, slots=True)
class GliznetConfig:
    """Holds the options by config.json's field names; the rest depends on the tensors, see `heads.py`."""

    model_type: str  # the backbone's
    backbone_config: Any  # the backbone's own Config
    vocab_size: int
    lab_token_id: int
    dtype: str | None  # the one that config.json asks to compute in
    use_lab_token_for_labels: bool  # for variants 0 and A; the others always do
    # where config.json gives the following options, they must agree with the tensors
    similarity_metric: str | None  # for variants 0 and A
    scoring_method: str | None  # for variants C and D
    enrich_labels: bool | None  # for variant D

    # other parts of the engine ask every configuration for these
    architecture_type: ClassVar[str] = "gliznet"
    decoder_config: ClassVar[None] = None
    label_backbone_config: ClassVar[None] = None

    @classmethod
    def from_raw(cls, raw: Mapping[str, Any]) -> GliznetConfig:
        """Reads the parsed config.json; raises UnsupportedConfigError, which names option and values."""
        model_type, backbone = backbone_of(raw, "backbone_config", raw.get("vocab_size"), ENCODER_ONLY)
        backbone_config = ENCODERS[model_type].config_from(backbone)
        lab_token_id = raw.get("lab_token_id")
        if not isinstance(lab_token_id, int) or not 0 <= lab_token_id < backbone_config.vocab_size:
            raise UnsupportedConfigError(
                f"lab_token_id={lab_token_id!r}: config.json must give the id of the [LAB] token, one of the "
                f"backbone's {backbone_config.vocab_size}"
            )
        return cls(
            model_type=model_type,
            backbone_config=backbone_config,
            vocab_size=backbone_config.vocab_size,
            lab_token_id=lab_token_id,
            dtype=dtype_name(raw.get("dtype") or raw.get("torch_dtype")),
            use_lab_token_for_labels=bool(raw.get("use_lab_token_for_labels", False)),
            similarity_metric=raw.get("similarity_metric"),
            scoring_method=raw.get("scoring_method"),
            enrich_labels=raw.get("enrich_labels"),
        )
