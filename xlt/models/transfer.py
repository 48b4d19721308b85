"""The model that methods adapt: backbone, pre-trained language-model head and task head, under fixed names."""

from __future__ import annotations

import hashlib
import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.loss import _Loss

from xlt.errors import UsageError
from xlt.models.cpu_training import checkpoint_contexts
from xlt.models.families import DECODER, architecture, built_in_languages, finish_logits

# Language-model heads of several modules that a model does not list in the order in which they run.
_HEADS_IN_PARTS = {"DistilBertForMaskedLM": ("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector")}


class TransferModel(nn.Module):
    """A pre-trained Transformer split into parts, so that a name means the same tensor in every task and module file.

    `backbone.*` is the encoder or decoder body that all tasks share, `lm_head.*` is the head of pre-training, `head.*`
    is the head that a task adds, and `adapters.*` are the networks that a method inserts. Modules refer to tensors by
    these names.

    Args:
        backbone: body; `forward(input_ids, attention_mask).last_hidden_state` is (batch, length, hidden).
        lm_head: maps (tokens, hidden) to (tokens, vocabulary); None if the task does not use it.
        base_hash: `base_hash` of the pre-trained parts, with which module files are compared.
        base_name: path or hub id, for messages.

    Attributes:
        pretrained_parameters: number of parameters of the pre-trained model, including the language-model head; tied
            tensors count once. Density is a share of it, and it is the N of the L1 term.
    """

    def __init__(self, backbone: nn.Module, lm_head: nn.Module | None, base_hash: str, base_name: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.lm_head = lm_head
        self.head: nn.Module | None = None
        self.adapters = nn.ModuleDict()
        self._takes = frozenset(inspect.signature(backbone.forward).parameters)
        self.base_hash = base_hash
        self.base_name = base_name
        self.pretrained_parameters = sum(parameter.numel() for parameter in self.parameters())

    @cached_property
    def causal(self) -> bool:
        """Whether a token sees only those before it, as in a decoder."""
        return architecture(self.backbone.config) == DECODER

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
        """Computes contextual representations; those of an encoder-decoder come from its encoder alone.

        Args:
            input_ids: (batch, length) token ids.
            attention_mask: (batch, length), 1 for tokens and 0 for padding, on either side.
            token_type_ids: (batch, length), the number of a token's sequence in a pair; a model without types ignores
                it.
        Returns:
            (batch, length, hidden).
        """
        config: Any = self.backbone.config
        if getattr(config, "is_encoder_decoder", False):
            encoder: Any = self.backbone.encoder
            return encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        more: dict[str, Any] = {}
        if (
            token_type_ids is not None
            and "token_type_ids" in self._takes
            and getattr(config, "type_vocab_size", 1) != 0
        ):
            more["token_type_ids"] = token_type_ids
        if "use_cache" in self._takes:  # without this a decoder would copy and keep the keys and values of every layer
            more["use_cache"] = False
        if self.causal and "position_ids" in self._takes:  # else padding on the left would count
            more["position_ids"] = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
        return self.backbone(input_ids=input_ids, attention_mask=attention_mask, **more).last_hidden_state

    def whole_text(self, attention_mask: Tensor) -> Tensor:
        """Returns (batch,) int64, for each text the position whose representation has seen all of it.

        This is the first position ([CLS], <s>) of an encoder, and the last real token of a decoder, whichever side the
        padding is on.
        """
        if not self.causal:
            return attention_mask.new_zeros(len(attention_mask), dtype=torch.long)
        places = torch.arange(attention_mask.shape[1], device=attention_mask.device)
        return (attention_mask.long() * places).argmax(-1)

    def speak(self, language: str) -> None:
        """Makes a model with a network of its own per language (X-MOD) use that of `language`, an ISO 639-3 code.

        Other models do not change.

        Raises:
            UsageError: the model has no network for the language.
        """
        codes = built_in_languages(self.backbone.config)
        if codes is None:
            return
        if language not in codes:
            raise UsageError(
                f"model.path={self.base_name}: the model has no network for language {language}; "
                f"it has one for each of {', '.join(sorted(codes))}"
            )
        self.backbone.set_default_language(codes[language])  # type: ignore[operator]

    def keep_encoder(self) -> None:
        """Removes the decoder of an encoder-decoder, for a task that only reads texts."""
        backbone: Any = self.backbone
        del backbone.decoder
        backbone.decoder = None
        self.lm_head = None
        self.pretrained_parameters = sum(parameter.numel() for parameter in self.backbone.parameters())

    def decode(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Computes the representations of the target of an encoder-decoder.

        Args:
            input_ids: (batch, length) source token ids.
            attention_mask: (batch, length), 1 for tokens and 0 for padding.
            decoder_input_ids: (batch, target length) target token ids.
        Returns:
            (batch, target length, hidden). A position attends to itself and those before it, so padding on the right
            of the target needs no mask.
        """
        output = self.backbone(
            input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=decoder_input_ids, use_cache=False
        )
        return output.last_hidden_state

    @property
    def decodes(self) -> bool:
        """Whether the model is an encoder-decoder that has its decoder."""
        config: Any = self.backbone.config
        return bool(config.is_encoder_decoder) and self.backbone.decoder is not None

    @property
    def first_of_target(self) -> int:
        """The id of the token with which the target of an encoder-decoder begins; see `writing_fault`."""
        settings: Any = self.backbone.config
        return int(settings.decoder_start_token_id)

    @property
    def output_embeddings(self) -> list[nn.Linear]:
        """The layers of the language-model head that map to the vocabulary; empty without a language-model head."""
        parts = [] if self.lm_head is None else self.lm_head.modules()
        return [part for part in parts if isinstance(part, nn.Linear) and part.weight.shape[0] == self.vocabulary]

    @property
    def is_untied(self) -> bool:
        """Whether there are output embeddings that are not tied to the input embeddings."""
        return any(layer.weight is not self._input_matrix for layer in self.output_embeddings)

    def untie_embeddings(self) -> Callable[[], None]:
        """Gives output embeddings that are tied to the input embeddings a tensor of their own, with the same values.

        Returns:
            A function that ties them again if they were tied; it does not refer to the model.
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
        """Computes logits (tokens, vocabulary) of the given hidden states (tokens, hidden)."""
        assert self.lm_head is not None
        logits = self.lm_head(hidden)
        return finish_logits(self.backbone.config, logits[0] if isinstance(logits, tuple) else logits)


def split_pretrained(pretrained: Any) -> tuple[nn.Module, nn.Module | None]:
    """Splits a transformers model into body and language-model head; the head is None if it has none.

    A head of several parts runs them in the order in which the model lists them. `take_apart` checks that it computes
    the logits of the model.
    """
    backbone = pretrained.base_model
    if backbone is pretrained and isinstance(getattr(pretrained, "lm_head", None), nn.Linear):
        return _body_without_module(pretrained), pretrained.lm_head
    if backbone is pretrained:
        return backbone, None
    heads = {
        name: module
        for name, module in pretrained.named_children()
        if module is not backbone and not isinstance(module, _Loss)
    }
    if (names := _HEADS_IN_PARTS.get(type(pretrained).__name__)) is not None:
        heads = {name: heads[name] for name in names}
    if len(heads) > 1:
        return backbone, nn.Sequential(OrderedDict(heads))
    return backbone, next(iter(heads.values()), None)


def _body_without_module(pretrained: Any) -> nn.Module:
    """Returns the body of a model of the T5 family, which with its head is one module: one that has the same parts."""
    from transformers import AutoModel

    with torch.device("meta"):
        body = AutoModel.from_config(pretrained.config)
    for name, part in pretrained.named_children():
        if part is not pretrained.lm_head:
            setattr(body, name, part)
    return body.train(pretrained.training)


def block_linear_layers(model: TransferModel) -> dict[str, Any]:
    """Returns name of the weight -> layer, for all linear layers in the backbone's blocks, in the model's order.

    Blocks are the modules that a backbone has in a list; embeddings, pooler and language-model head are not blocks.
    A layer is an `nn.Linear`, or a `Conv1D` of the GPT-2 family, see `is_transposed`. X-MOD's networks for single
    languages are left out, because a module for another language would not use them.
    """
    lists = [f"{path}." for path, module in model.backbone.named_modules() if isinstance(module, nn.ModuleList)]
    return {
        f"backbone.{path}.weight": module
        for path, module in model.backbone.named_modules()
        if (isinstance(module, nn.Linear) or is_transposed(module))
        and path.startswith(tuple(lists))
        and ".adapter_modules." not in path
    }


def is_transposed(layer: nn.Module) -> bool:
    """Returns whether a linear layer is a `Conv1D` of the GPT-2 family, whose weight is (in, out): y = x W + b."""
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, Conv1D)


def stored_shape(layer: Any) -> torch.Size:
    """Returns the shape of a linear layer's weight as the layer stores it, also if it is packed in 4 bits."""
    return layer.weight.shape if is_transposed(layer) else torch.Size((layer.out_features, layer.in_features))


def parameter_report(model: TransferModel) -> dict[str, int]:
    """Counts the backbone's parameters (thesis Table 5.2), separately those of the embeddings and all others."""
    total = sum(parameter.numel() for parameter in model.backbone.parameters())
    embeddings: Any = model.backbone.get_input_embeddings()  # type: ignore[operator]
    return {
        "parameters": total,
        "embedding_parameters": embeddings.weight.numel(),
        "body_parameters": total - embeddings.weight.numel(),
    }


def recompute_activations(model: TransferModel) -> None:
    """Makes each block store its input only and compute its activations again in the backward pass.

    Raises:
        ValueError: the model family does not support this.
    """
    backbone: Any = model.backbone
    if not getattr(backbone, "supports_gradient_checkpointing", False):
        raise ValueError(
            f"train.activation_checkpointing=true: {type(backbone).__name__} does not support it; set false"
        )
    settings = {"use_reentrant": False, "context_fn": checkpoint_contexts}
    if hasattr(backbone, "activation_checkpointing_enable"):
        backbone.activation_checkpointing_enable(activation_checkpointing_kwargs=settings)
    else:  # the older name
        backbone.gradient_checkpointing_enable(gradient_checkpointing_kwargs=settings)


def layer_norm_parameters(model: nn.Module) -> set[str]:
    """Returns the names of all layer-normalisation parameters, whatever class a model family uses."""
    names: set[str] = set()
    for path, module in model.named_modules():
        if is_layer_norm(module):
            names.update(f"{path}.{name}" for name, _ in module.named_parameters(recurse=False))
    return names


def is_layer_norm(module: nn.Module) -> bool:
    """Returns whether a module is a layer normalisation, whatever class a model family uses."""
    return isinstance(module, nn.LayerNorm) or type(module).__name__.lower().endswith(("layernorm", "rmsnorm"))


def base_hash(backbone: nn.Module, lm_head: nn.Module | None) -> str:
    """Computes the hash of a base model, which tells whether a module belongs to it: `BACKBONE+HEAD`, or `BACKBONE`.

    `HEAD` covers what the language-model head does not share with the backbone; without it, there is nothing of that
    kind. `same_base` of xlt.modules.artefact compares such hashes.
    """
    shared = {id(parameter) for parameter in backbone.parameters()}
    own = {} if lm_head is None else {name: p for name, p in lm_head.named_parameters() if id(p) not in shared}
    return parameter_hash(backbone) + (f"+{_digest_of(own)}" if own else "")


def parameter_hash(module: nn.Module) -> str:
    """Computes a digest of all parameters: blake2b over names, shapes and float32 bytes, in hexadecimal.

    Buffers with floating-point numbers that a checkpoint stores, such as the constants of Apertus' activations, count
    as parameters. Equal numbers have the same hash in float16 and in float32.
    """
    stored = module.state_dict(keep_vars=True)
    buffers = {name: buffer for name, buffer in module.named_buffers() if name in stored and buffer.is_floating_point()}
    return _digest_of({**dict(module.named_parameters()), **buffers})


def _digest_of(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name, parameter in sorted(tensors.items()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(parameter.detach().to("cpu", torch.float32).contiguous().view(-1).numpy().data)
    return digest.hexdigest()
