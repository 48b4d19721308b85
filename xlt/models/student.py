"""A student of a pre-trained model: fewer layers, fewer tokens, perhaps narrower, the rest copied (thesis §5.3.2)."""

from __future__ import annotations

import copy
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

# Ids that a model's config names; positions in XLM-R's family are counted from the padding id on.
_SPECIAL_IDS = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")


def kept_blocks(layers: int, reduction: int) -> list[int]:
    """The teacher's blocks that a student keeps, numbers from 0: those whose number from 1 is a multiple of the stride.

    Thesis §5.3.1: L_S = L_T / s must be whole; block i of the student answers to block i s of the teacher.

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
    """How many Transformer layers a model has."""
    return len(outermost_blocks(model.backbone))


def make_student(
    teacher: TransferModel, blocks: Sequence[int], kept: Tensor, *, copies: bool, seed: int, hidden: int | None = None
) -> TransferModel:
    """A model of the teacher's family with some of its blocks and tokens.

    Every tensor of the student has its counterpart in the teacher, of equal shape but for the rows of tokens; the
    student's is a copy of it, which is checked (the reference code copies none). A narrower one is narrowed from it.

    Args:
        teacher: with its language-model head, if it has one; left as it is.
        blocks: those of the teacher that the student has, numbers from 0, ascending.
        kept: (tokens,) int64, the teacher's id of each of the student's tokens.
        copies: start from the teacher's values; else from random ones, as the family initialises them.
        seed: of the random values.
        hidden: the student's hidden size; None: the teacher's.
    Returns:
        The student, its head and all; with copies of a narrower one, its `head` takes its hidden states to the
        teacher's.
    Raises:
        UsageError: a tensor of the student has no counterpart, a special token's id would be lost, or the teacher
            cannot be made so narrow.
    """
    whole = whole_pretrained(teacher)
    shape = _shape(whole.config, len(blocks), kept)
    if hidden is not None:
        inner = getattr(shape, "intermediate_size", 0)  # not all families have one of that name
        before = Width(shape.hidden_size, shape.num_attention_heads, inner)
        after = before.narrowed(hidden)
        shape.hidden_size, shape.intermediate_size = after.hidden, after.inner
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = type(whole)(shape)
    student = student.to(next(whole.parameters()).dtype)
    widening = None
    if copies:
        theirs = _counterparts(teacher, student, blocks, kept)
        if hidden is not None:
            embeddings: Any = teacher.backbone.get_input_embeddings()  # type: ignore[operator]
            basis = principal_directions(embeddings.weight.detach()[kept], after.hidden)
            theirs = narrow(theirs, basis, before, after)
            widening = Widening(basis)
        _copy(theirs, student)
    result = take_apart(student, teacher.base_name)
    result.head = widening
    result.train(teacher.training)
    return result


class Widening(nn.Module):
    """Takes a narrow student's hidden states to its teacher's, (..., narrow) -> (..., wide), so that they compare.

    Args:
        basis: (wide, narrow), what it begins with.
    """

    def __init__(self, basis: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(basis.detach().clone())

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden, self.weight)


def _shape(config: Any, layers: int, kept: Tensor) -> Any:
    """The teacher's config with the student's layers and vocabulary."""
    shape = copy.deepcopy(config)
    shape.num_hidden_layers = layers
    shape.vocab_size = len(kept)
    for name in _SPECIAL_IDS:
        old = getattr(shape, name, None)
        if isinstance(old, int) and old >= 0:
            found = (kept == old).nonzero()
            if not len(found):
                raise UsageError(f"model.student: {name}={old} of the model's config is no token of its tokenizer")
            setattr(shape, name, int(found[0]))
    if getattr(config, "pad_token_id", None) != getattr(shape, "pad_token_id", None):
        raise UsageError("model.student: the padding id must stay what it is; positions are counted from it")
    return shape


def _counterparts(teacher: TransferModel, student: nn.Module, blocks: Sequence[int], kept: Tensor) -> dict[str, Tensor]:
    """The student's name -> the teacher's tensor, only the kept rows of those with a row a token."""
    whole = whole_pretrained(teacher)
    theirs: Mapping[str, Tensor] = whole.state_dict()
    path = next(p for p, module in whole.named_modules() if module is _block_list(teacher))
    found = {}
    for name, tensor in student.state_dict().items():
        value = theirs.get(counterpart(name, path, blocks))
        if value is None:
            raise UsageError(f"model.student: {name} has no counterpart in the teacher")
        if value.shape[:1] == (teacher.vocabulary,) and tensor.shape[:1] == (len(kept),):
            value = value.index_select(0, kept.to(value.device))
        found[name] = value
    return found


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], student: nn.Module) -> None:
    """Gives each tensor of the student its values, and sees that it has them.

    Raises:
        UsageError: one has another shape, or shares its memory with one of other values.
    """
    tensors = student.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        if values[name].shape != tensor.shape:
            there = tuple(values[name].shape)
            raise UsageError(f"model.student: {name} is {tuple(tensor.shape)}, its counterpart in the teacher {there}")
        tensor.copy_(values[name])
    for name, tensor in tensors.items():
        if not torch.equal(tensor, values[name].to(tensor)):
            raise UsageError(f"model.student: {name} did not keep its teacher's values")


def counterpart(name: str, path: str, blocks: Sequence[int]) -> str:
    """The teacher's name of a student's tensor: blocks renumbered, everything else the same.

    Args:
        name: of the student's.
        path: of the list of blocks.
        blocks: the teacher's that the student has.
    """
    found = re.fullmatch(rf"{re.escape(path)}\.(\d+)\.(.+)", name)
    return f"{path}.{blocks[int(found[1])]}.{found[2]}" if found is not None else name


def _block_list(model: TransferModel) -> nn.Module:
    """The module that holds the blocks."""
    first = outermost_blocks(model.backbone)[0]
    return next(m for m in model.backbone.modules() if isinstance(m, nn.ModuleList) and len(m) and m[0] is first)
