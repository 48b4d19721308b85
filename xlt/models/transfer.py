"""The model that methods adapt: backbone, pre-trained language-model head, task head, under fixed names."""

from __future__ import annotations

import hashlib
import inspect
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xlt.models.cpu_training import as_before

# Language-model heads in several parts, which act in this order.
_HEADS_IN_PARTS = {"DistilBertForMaskedLM": ("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector")}


class TransferModel(nn.Module):
    """A pre-trained Transformer taken apart, so that one name means one tensor in every task and module file.

    `backbone.*` is the encoder or decoder body that all tasks share, `lm_head.*` the head it was pre-trained with,
    `head.*` what a task adds, `adapters.*` what a method inserts and trains. Modules refer to tensors by these names.

    Args:
        backbone: body; `forward(input_ids, attention_mask).last_hidden_state` is (batch, length, hidden).
        lm_head: maps (tokens, hidden) to (tokens, vocabulary); None where the task does not use it.
        base_hash: `parameter_hash` of the pre-trained backbone, which module files are checked against.
        base_name: path or hub id, for messages.

    Attributes:
        pretrained_parameters: entries of the pre-trained model as it came, tied tensors once and language-model head
            included; what density is a share of, and the N of the L1 term.
    """

    def __init__(self, backbone: nn.Module, lm_head: nn.Module | None, base_hash: str, base_name: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.lm_head = lm_head
        self.head: nn.Module | None = None
        self.adapters = nn.ModuleDict()
        self._caches = "use_cache" in inspect.signature(backbone.forward).parameters
        self.base_hash = base_hash
        self.base_name = base_name
        self.pretrained_parameters = sum(parameter.numel() for parameter in self.parameters())

    @property
    def hidden_size(self) -> int:
        return int(self.backbone.config.hidden_size)  # type: ignore[union-attr,arg-type]

    @property
    def vocabulary(self) -> int:
        return int(self.backbone.config.vocab_size)  # type: ignore[union-attr,arg-type]

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def encode(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """(batch, length) token ids and 0/1 mask -> (batch, length, hidden) contextual representations.

        `token_type_ids`, (batch, length), say which sequence of a pair a token is of; None for a model without them.
        """
        more: dict[str, Any] = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        if self._caches:  # keys and values are not wanted again: a decoder would copy and keep those of every layer
            more["use_cache"] = False
        return self.backbone(input_ids=input_ids, attention_mask=attention_mask, **more).last_hidden_state

    def decode(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Of an encoder-decoder: (batch, length) source ids and mask, (batch, target length) ids -> representations.

        Returns:
            (batch, target length, hidden). Each position sees itself and those before it, so padding on the right of
            the target needs no mask.
        """
        made = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=decoder_input_ids, use_cache=False
        )
        return made.last_hidden_state

    @property
    def decodes(self) -> bool:
        """Whether it is an encoder-decoder."""
        return bool(self.backbone.config.is_encoder_decoder)  # type: ignore[union-attr]

    @property
    def output_embeddings(self) -> list[nn.Linear]:
        """The layer that maps to the vocabulary; none where the language-model head is left out."""
        parts = [] if self.lm_head is None else self.lm_head.modules()
        return [part for part in parts if isinstance(part, nn.Linear) and part.weight.shape[0] == self.vocabulary]

    @property
    def is_untied(self) -> bool:
        """Whether there are output embeddings, and they are a tensor of their own."""
        return any(layer.weight is not self._input_matrix for layer in self.output_embeddings)

    def untie_embeddings(self) -> Callable[[], None]:
        """Gives output embeddings that are tied to the input embeddings a tensor of their own, of the same values.

        Returns:
            What ties them again, if they were tied; it does not hold the model.
        """
        inputs = self._input_matrix
        tied = [layer for layer in self.output_embeddings if layer.weight is inputs]
        for layer in tied:
            layer.weight = nn.Parameter(inputs.detach().clone(), requires_grad=inputs.requires_grad)

        def tie() -> None:
            for layer in tied:
                layer.weight = inputs

        return tie

    @property
    def _input_matrix(self) -> nn.Parameter:
        return self.backbone.get_input_embeddings().weight  # type: ignore[operator]

    def language_model_logits(self, hidden: Tensor) -> Tensor:
        """(tokens, hidden) -> (tokens, vocabulary); only the positions asked for are projected."""
        assert self.lm_head is not None
        return self.lm_head(hidden)


def split_pretrained(pretrained: Any) -> tuple[nn.Module, nn.Module | None]:
    """Takes a transformers language model apart into body and head.

    Raises:
        ValueError: the head is not one submodule that maps hidden states to logits.
    """
    backbone = pretrained.base_model
    if (parts := _HEADS_IN_PARTS.get(type(pretrained).__name__)) is not None:
        return backbone, nn.Sequential(OrderedDict((name, getattr(pretrained, name)) for name in parts))
    heads = [module for module in pretrained.children() if module is not backbone]
    if len(heads) > 1:
        kind = type(pretrained).__name__
        raise ValueError(f"{kind}: its language-model head has {len(heads)} parts; such models are not supported yet")
    return backbone, heads[0] if heads else None


def block_linear_layers(model: TransferModel) -> dict[str, nn.Linear]:
    """Name of the weight -> linear layer, of all inside the backbone's blocks, in the model's order.

    Blocks are what a backbone keeps in a list; embeddings, pooler and language-model head are none.
    """
    lists = [f"{path}." for path, module in model.backbone.named_modules() if isinstance(module, nn.ModuleList)]
    return {
        f"backbone.{path}.weight": module
        for path, module in model.backbone.named_modules()
        if isinstance(module, nn.Linear) and path.startswith(tuple(lists))
    }


def parameter_report(model: TransferModel) -> dict[str, int]:
    """How many parameters the backbone has (thesis Table 5.2), those that grow with the vocabulary for themselves."""
    total = sum(parameter.numel() for parameter in model.backbone.parameters())
    embeddings: Any = model.backbone.get_input_embeddings()  # type: ignore[operator]
    return {
        "parameters": total,
        "embedding_parameters": embeddings.weight.numel(),
        "body_parameters": total - embeddings.weight.numel(),
    }


def recompute_activations(model: TransferModel) -> None:
    """Has each block keep its input alone, and compute the rest again in the backward pass.

    Raises:
        ValueError: the model family cannot.
    """
    backbone: Any = model.backbone
    if not getattr(backbone, "supports_gradient_checkpointing", False):
        raise ValueError(f"train.activation_checkpointing=true: {type(backbone).__name__} cannot do that")
    backbone.gradient_checkpointing_enable(
        gradient_checkpointing_kwargs={"use_reentrant": False, "context_fn": as_before}
    )


def layer_norm_parameters(model: nn.Module) -> set[str]:
    """Names of all layer-normalisation parameters, whatever class a model family uses for it."""
    found: set[str] = set()
    for path, module in model.named_modules():
        if is_layer_norm(module):
            found.update(f"{path}.{name}" for name, _ in module.named_parameters(recurse=False))
    return found


def is_layer_norm(module: nn.Module) -> bool:
    """Whether a module is a layer normalisation, whatever class a model family uses for it."""
    return isinstance(module, nn.LayerNorm) or type(module).__name__.lower().endswith(("layernorm", "rmsnorm"))


def parameter_hash(module: nn.Module) -> str:
    """A name for the values of all parameters: blake2b over names, shapes and float32 bytes, hexadecimal.

    Files in float16 and float32 that hold the same numbers have the same hash.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in sorted(module.named_parameters(), key=lambda item: item[0]):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().to("cpu", torch.float32).contiguous().view(-1).numpy().data)
    return digest.hexdigest()
