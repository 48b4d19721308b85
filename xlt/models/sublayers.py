"""Finds where the sub-layers of a Transformer's blocks end by observing a forward pass, not by the model family."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from xlt.errors import UsageError
from xlt.models.families import built_in_languages
from xlt.models.transfer import TransferModel, block_linear_layers, is_layer_norm

_TEXTS = 3  # a number that no dimension of a model's own tensors has


@dataclass(frozen=True)
class Block:
    """One Transformer block, described by paths of modules in the model.

    Attributes:
        path: of the block.
        attention, feed_forward: paths of the modules whose outputs are added to the sub-layers' inputs (a linear layer,
            the dropout after it, or the normalisation that follows in models such as Gemma 3).
        norm: path of the layer normalisation whose output is the block's (post-norm, as in BERT); None if the block
            ends with the sum (pre-norm, as in Llama).
    """

    path: str
    attention: str
    feed_forward: str
    norm: str | None


def find_blocks(model: TransferModel) -> list[Block]:
    """Finds the blocks of a model, lowest first; of an encoder-decoder the encoder's before the decoder's.

    The attention of a decoder's block is the cross-attention. The function runs the backbone on two tokens, in
    evaluation mode; a model without weights (on the meta device) will do.

    Raises:
        UsageError: the model has no list of blocks, or a block is no sum of its input and the outputs of sub-layers.
    """
    if built_in_languages(model.backbone.config) is not None:
        raise UsageError(
            f"model.path={model.base_name}: the blocks have networks of single languages between their sub-layers: "
            "such models are not supported here"
        )
    paths = {module: f"backbone.{path}" for path, module in model.backbone.named_modules()}
    backbone: Any = model.backbone
    halves = [backbone.encoder, backbone.decoder] if model.decodes else [_reader(model)]
    blocks = [block for half in halves for block in outermost_blocks(half)]
    trace = _Trace()
    training = model.training
    modules = {module for block in blocks for module in block.modules()}
    handles = [module.register_forward_hook(trace, with_kwargs=True) for module in modules]
    model.eval()
    try:
        with torch.no_grad(), trace:
            _run_on_two_tokens(model)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return [_block(block, trace, paths, model.base_name) for block in blocks]


def _reader(model: TransferModel) -> Any:
    """Returns the part of a model that reads a text: the encoder of an encoder-decoder, or the whole backbone."""
    backbone: Any = model.backbone
    return backbone.encoder if backbone.config.is_encoder_decoder else backbone


class _Trace(TorchDispatchMode):
    """A record of what modules return, in the order in which they do, and of which tensors are sums of which.

    It is a hook of the modules, and a mode in which the model runs. It keeps all tensors, so that equal objects are
    equal tensors.
    """

    def __init__(self) -> None:
        super().__init__()
        self.called: list[tuple[nn.Module, Tensor | None, Tensor | None]] = []
        self._sums: dict[int, tuple[Tensor, ...]] = {}
        self._kept: list[Any] = []
        self.changed: set[int] = set()  # tensors that are no longer what a module returned

    def __call__(self, module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        given = [value for value in (*arguments, *named.values()) if isinstance(value, Tensor)]
        first = output[0] if isinstance(output, (tuple, list)) else output
        self._kept.append((given, first))
        self.called.append((module, next(iter(given), None), first if isinstance(first, Tensor) else None))

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 1  # without values: families look whether a mask, which is all ones here, has no zeros
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.add_.Tensor:
            self._kept.append(result)
            self.changed.add(id(result))
        if func is torch.ops.aten.add.Tensor and not kwargs:
            parts = tuple(part for part in args if isinstance(part, Tensor) and part.shape == result.shape)
            if len(parts) == 2:
                self._kept.append((parts, result))
                self._sums[id(result)] = parts
        return result

    def terms(self, tensor: Tensor) -> list[Tensor]:
        """Returns the tensors of which a tensor is the sum, whatever the order; the tensor itself if it is no sum."""
        parts = self._sums.get(id(tensor))
        return [tensor] if parts is None else [term for part in parts for term in self.terms(part)]


def outermost_blocks(backbone: nn.Module) -> list[nn.Module]:
    """Returns the longest list of modules that contain a layer normalisation; of equally long ones the first.

    Lists within other such lists, as T5's sub-layers, do not count.

    Raises:
        UsageError: there is no such list.
    """
    block_lists = {
        path: module
        for path, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList)
        and len(module) > 0
        and any(is_layer_norm(part) for part in module[0].modules())
    }
    outermost = [
        list(module)
        for path, module in block_lists.items()
        if not any(path.startswith(f"{other}.") for other in block_lists)
    ]
    if not outermost:
        raise UsageError(f"model: {type(backbone).__name__} has no list of blocks: such models are not supported here")
    return max(outermost, key=len)


def reuses_layers(model: TransferModel) -> bool:
    """Returns whether a linear layer of the blocks runs more than once in a pass, as in ALBERT and mDeBERTa.

    The function runs the model on two tokens, in evaluation mode.
    """
    uses: Counter[nn.Module] = Counter()
    handles = [
        layer.register_forward_hook(lambda module, *_: uses.update([module]))
        for layer in block_linear_layers(model).values()
    ]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            _run_on_two_tokens(model)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return max(uses.values(), default=0) > 1


def expanding_layers(model: TransferModel) -> set[str]:
    """Returns the names of the weights of linear layers that a feed-forward network begins with.

    Such a layer has more outputs than inputs, and of the layers after it in the model's order the first with another
    shape has as many inputs. It is found by shapes alone, so an attention that is wider than the model counts, too.
    """
    layers = [(name, tuple(layer.weight.shape)) for name, layer in block_linear_layers(model).items()]
    found = set()
    for number, (name, shape) in enumerate(layers):
        following = next((other for _, other in layers[number + 1 :] if other != shape), None)
        if len(shape) == 2 and shape[0] > shape[1] and following == (shape[1], shape[0]):
            found.add(name)
    return found


def layers_that_read_no_examples(model: TransferModel) -> list[str]:
    """Returns the names of the weights of linear layers in the blocks whose input has no entry for each example.

    Such are the layers of DeBERTa that read embeddings of relative positions: the first dimension of their input is not
    the number of examples. The function runs the model on three texts of two tokens, in evaluation mode; those with
    networks of single languages (X-MOD) need no look.
    """
    if built_in_languages(model.backbone.config) is not None:
        return []
    found: dict[str, None] = {}

    def look(name: str) -> Any:
        return lambda _, arguments: found.update({} if arguments[0].shape[:1] == (_TEXTS,) else {name: None})

    handles = [layer.register_forward_pre_hook(look(name)) for name, layer in block_linear_layers(model).items()]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            try:
                _run_on_two_tokens(model, _TEXTS)
            except RuntimeError:  # without weights, many models cannot look for padding in a mask
                if model.device.type != "meta":
                    raise
                found.clear()
                _run_on_two_tokens(model, _TEXTS, masked=False)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return list(found)


def _run_on_two_tokens(model: TransferModel, texts: int = 1, *, masked: bool = True) -> None:
    ids = torch.zeros(texts, 2, dtype=torch.long, device=model.device)
    inputs = {"input_ids": ids, **({"attention_mask": torch.ones_like(ids)} if masked else {})}
    if model.decodes:
        inputs["decoder_input_ids"] = ids
    backbone: Any = model.backbone if model.decodes else _reader(model)
    backbone.forward(**inputs)  # `forward`, so that hooks on the backbone do not run


def _block(block: nn.Module, trace: _Trace, paths: dict[nn.Module, str], name: str) -> Block:
    inside = set(block.modules())
    calls = [call for call in trace.called if call[0] in inside]
    returned = [output for module, _, output in calls if module is block][-1]
    # Later modules replace earlier ones with the same output: the dropout replaces the linear layer before it.
    makers = {
        id(output): module
        for module, _, output in calls
        if not any(module.children()) and id(output) not in trace.changed
    }
    order = {id(output): number for number, (_, _, output) in enumerate(calls)}
    norm = makers.get(id(returned))
    ends = norm if norm is not None and is_layer_norm(norm) else None
    total, branches = returned, []
    while total is not None:  # downwards through the sums, and through the normalisations between them
        source = makers.get(id(total))
        if source is not None and is_layer_norm(source):
            total = next(given for module, given, output in calls if module is source and output is total)
        terms = trace.terms(total) if total is not None else []
        made = [term for term in terms if id(term) in makers]
        normed = [term for term in made if is_layer_norm(makers[id(term)])] if ends is not None else []
        branches += [term for term in made if all(term is not other for other in normed)]
        total = normed[0] if len(normed) == 1 and len(terms) > 1 else None
    branches.sort(key=lambda branch: order[id(branch)])
    sites = [*(makers[id(branch)] for branch in branches[-2:]), *([] if ends is None else [ends])]
    uses = Counter(module for module, _, _ in calls)
    if len(branches) < 2 or any(uses[site] != uses[block] for site in sites):
        raise UsageError(
            f"model.path={name}: in block {paths[block]} the ends of attention and feed-forward layer were not found: "
            "such models are not supported here"
        )
    return Block(paths[block], paths[sites[0]], paths[sites[1]], None if ends is None else paths[ends])


def output_embeddings(model: TransferModel) -> str | None:
    """Returns the path of the linear layer that computes logits over the vocabulary; None if there is none."""
    if model.lm_head is None:
        return None
    for path, module in model.lm_head.named_modules():
        if isinstance(module, nn.Linear) and module.weight.shape[0] == model.vocabulary:
            return f"lm_head.{path}".rstrip(".")
    return None
