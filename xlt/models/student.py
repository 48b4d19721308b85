"""Builds a student of a pre-trained model, with fewer layers and tokens and optionally a smaller hidden size.

All other values are copied from the teacher (thesis §5.3.2).
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xlt.errors import UsageError
from xlt.models.loading import take_apart, whole_pretrained
from xlt.models.narrowing import Width, narrow, principal_directions
from xlt.models.sublayers import outermost_blocks
from xlt.models.transfer import TransferModel

# Token ids in a model's config.
_SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")


def kept_blocks(layers: int, reduction: int) -> list[int]:
    """Returns the numbers, from 0, of the teacher's blocks that a student has.

    Thesis §5.3.1: L_S = L_T / s must be whole; block i of the student corresponds to block i s of the teacher, both
    counted from 1.

    Args:
        layers: number of the teacher's blocks, L_T.
        reduction: s.
    Raises:
        UsageError: the reduction does not divide the number of layers.
    """
    if layers % reduction:
        divisors = ", ".join(str(n) for n in range(1, layers + 1) if layers % n == 0)
        raise UsageError(
            f"model.student.layer_reduction={reduction}: the teacher has {layers} layers; must be one of {divisors}"
        )
    return list(range(reduction - 1, layers, reduction))


def count_blocks(model: TransferModel) -> int:
    """Returns the number of a model's Transformer blocks."""
    return len(outermost_blocks(model.backbone))


def make_student(
    teacher: TransferModel, blocks: Sequence[int], kept: Tensor, *, copies: bool, seed: int, hidden: int | None = None
) -> TransferModel:
    """Builds a model of the teacher's family with some of the teacher's blocks and tokens.

    Every tensor of the student corresponds to one of the teacher, of equal shape except for the rows of tokens, and is
    a copy of it. This is checked, because the reference code copies none. The tensors of a narrower student are
    computed by `narrow`.

    Args:
        teacher: with its language-model head, if it has one; it does not change.
        blocks: numbers, from 0 and ascending, of the teacher's blocks that the student has.
        kept: (tokens,) int64, the teacher's id of each of the student's tokens.
        copies: whether to start from the teacher's values; otherwise from random ones, as the family initialises them.
        seed: of the random values.
        hidden: the student's hidden size; None means the teacher's.
    Returns:
        The student with its language-model head. If it is a narrower one with copied values, its `head` is a
        `Widening`.
    Raises:
        UsageError: a tensor of the student has no counterpart, the student lacks a special token, or the teacher
            cannot be narrowed to this size.
    """
    whole = whole_pretrained(teacher)
    shape = _shape(whole.config, len(blocks), kept)
    if hidden is not None:
        inner = getattr(shape, "intermediate_size", 0)  # not all families have a setting of this name
        before = Width(shape.hidden_size, shape.num_attention_heads, inner)
        after = before.narrowed(hidden)
        shape.hidden_size, shape.intermediate_size = after.hidden, after.inner
    # A teacher without a language-model head is a bare body, in which transformers would put a pooler of its own.
    takes_pooler = "add_pooling_layer" in inspect.signature(type(whole).__init__).parameters
    options = {"add_pooling_layer": whole.pooler is not None} if takes_pooler else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = type(whole)(shape, **options)
    student = student.to(next(whole.parameters()).dtype)
    widening = None
    if copies:
        teacher_tensors = _counterparts(teacher, student, blocks, kept)
        if hidden is not None:
            embeddings: Any = teacher.backbone.get_input_embeddings()  # type: ignore[operator]
            basis = principal_directions(embeddings.weight.detach()[kept], after.hidden)
            teacher_tensors = narrow(teacher_tensors, basis, before, after)
            widening = Widening(basis)
        _copy(teacher_tensors, student)
    result = take_apart(student, teacher.base_name)
    result.head = widening
    result.train(teacher.training)
    return result


class Widening(nn.Module):
    """A layer that maps a narrow student's hidden states to the teacher's hidden size, so that both can be compared.

    It maps (..., narrow) to (..., wide).

    Args:
        basis: (wide, narrow) initial weight.
    """

    def __init__(self, basis: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(basis.detach().clone())

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden, self.weight)


def _shape(config: Any, layers: int, kept: Tensor) -> Any:
    """Returns the teacher's config with the student's number of layers and vocabulary."""
    shape = copy.deepcopy(config)
    shape.num_hidden_layers = layers
    shape.vocab_size = len(kept)
    for name in _SPECIAL_IDS:
        old = getattr(shape, name, None)
        if isinstance(old, int) and old >= 0:
            places = (kept == old).nonzero()
            if not len(places):
                raise UsageError(f"model.student: {name}={old} of the model's config is no token of its tokenizer")
            setattr(shape, name, int(places[0]))
    old_padding, padding = (getattr(c, "pad_token_id", None) for c in (config, shape))
    if old_padding != padding:
        raise UsageError(
            f"model.student: the student's padding id would be {padding}, but the teacher counts positions from its "
            f"padding id {old_padding}, so it must not change; this tokenizer cannot be reduced"
        )
    return shape


def _counterparts(teacher: TransferModel, student: nn.Module, blocks: Sequence[int], kept: Tensor) -> dict[str, Tensor]:
    """Returns the student's name -> the teacher's tensor; of tensors with one row per token only the kept rows."""
    whole = whole_pretrained(teacher)
    teacher_tensors: Mapping[str, Tensor] = whole.state_dict()
    path = next(p for p, module in whole.named_modules() if module is _block_list(teacher))
    counterparts = {}
    for name, tensor in student.state_dict().items():
        value = teacher_tensors.get(counterpart(name, path, blocks))
        if value is None:
            raise UsageError(f"model.student: {name} has no counterpart in the teacher")
        if value.shape[:1] == (teacher.vocabulary,) and tensor.shape[:1] == (len(kept),):
            value = value.index_select(0, kept.to(value.device))
        counterparts[name] = value
    return counterparts


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], student: nn.Module) -> None:
    """Copies values into each tensor of the student, and checks the result.

    Raises:
        UsageError: a tensor has another shape, or shares its memory with a tensor that has other values.
    """
    tensors = student.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        if values[name].shape != tensor.shape:
            raise UsageError(
                f"model.student: {name} has shape {tuple(tensor.shape)}, but its counterpart in the teacher has "
                f"{tuple(values[name].shape)}"
            )
        tensor.copy_(values[name])
    for name, tensor in tensors.items():
        if not torch.equal(tensor, values[name].to(tensor)):
            raise UsageError(
                f"model.student: {name} does not have the teacher's values, because another tensor shares its memory"
            )


def counterpart(name: str, path: str, blocks: Sequence[int]) -> str:
    """Returns the teacher's name of a student's tensor, in which only the number of the block differs.

    Args:
        name: of the student's tensor.
        path: of the list of blocks.
        blocks: numbers of the teacher's blocks that the student has.
    """
    match = re.fullmatch(rf"{re.escape(path)}\.(\d+)\.(.+)", name)
    return f"{path}.{blocks[int(match[1])]}.{match[2]}" if match is not None else name


def _block_list(model: TransferModel) -> nn.Module:
    """Returns the list of a model's blocks."""
    first = outermost_blocks(model.backbone)[0]
    return next(m for m in model.backbone.modules() if isinstance(m, nn.ModuleList) and len(m) and m[0] is first)
