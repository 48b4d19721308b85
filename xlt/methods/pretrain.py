"""Pre-training: full training that leaves a whole model for other runs to start from."""

from __future__ import annotations

from dataclasses import dataclass

from xlt.config import key
from xlt.methods.full import Full


@dataclass
class PretrainConfig:
    """Pre-training of a model, or the training of a student."""

    _target_: str = "xlt.methods.pretrain.Pretrain"
    freeze_layer_norm: bool = key("keep layer normalisation fixed")


SCHEMA = PretrainConfig


class Pretrain(Full):
    """Every parameter is tuned, tied output embeddings together with the input ones; a checkpoint is left.

    Beside the checkpoint the run leaves the dense difference as a module, as full fine-tuning does.
    """

    name = "pretrain"
    leaves_checkpoint = True

    def __init__(self, freeze_layer_norm: bool) -> None:
        super().__init__(freeze_layer_norm, untie_embeddings=False)
