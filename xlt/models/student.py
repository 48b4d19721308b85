"""A student of a pre-trained model: fewer layers and fewer tokens, and what is left copied (thesis §5.3.2)."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xlt.config import UsageError
from xlt.models.loading import take_apart, whole_pretrained
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


def make_student(teacher: TransferModel, blocks: Sequence[int], kept: Tensor, *, copies: bool, seed: int) -> Any:
    """A model of the teacher's family with some of its blocks and tokens.

    Every tensor of the student has its counterpart in the teacher, of equal shape but for the rows of tokens; the
    student's is a copy of it, which is checked (the reference code copies none).

    Args:
        teacher: with its language-model head, if it has one; left as it is.
        blocks: those of the teacher that the student has, numbers from 0, ascending.
        kept: (tokens,) int64, the teacher's id of each of the student's tokens.
        copies: start from the teacher's values; else from random ones, as the family initialises them.
        seed: of the random values.
    Returns:
        The student, its head and all.
    Raises:
        UsageError: a tensor of the student has no counterpart, or a special token's id would be lost.
    """
    whole = whole_pretrained(teacher)
    shape = _shape(whole.config, len(blocks), kept)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        student = type(whole)(shape)
    student = student.to(next(whole.parameters()).dtype)
    if copies:
        _copy(teacher, student, blocks, kept)
    result = take_apart(student, teacher.base_name)
    result.train(teacher.training)
    return result


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


@torch.no_grad()
def _copy(teacher: TransferModel, student: nn.Module, blocks: Sequence[int], kept: Tensor) -> None:
    """Gives each tensor of the student its counterpart's values."""
    whole = whole_pretrained(teacher)
    theirs: Mapping[str, Tensor] = whole.state_dict(keep_vars=True)
    path = next(p for p, module in whole.named_modules() if module is _block_list(teacher))
    vocabulary = teacher.vocabulary
    for name, tensor in student.state_dict(keep_vars=True).items():
        value = theirs.get(counterpart(name, path, blocks))
        if value is not None and value.shape[:1] == (vocabulary,) and tensor.shape[:1] == (len(kept),):
            value = value.index_select(0, kept.to(value.device))
        if value is None or value.shape != tensor.shape:
            there = "absent" if value is None else str(tuple(value.shape))
            raise UsageError(f"model.student: {name} is {tuple(tensor.shape)}, its counterpart in the teacher {there}")
        tensor.copy_(value)
        if not torch.equal(tensor, value):  # a tensor that shares its memory with another
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
