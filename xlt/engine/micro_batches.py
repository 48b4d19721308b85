"""Divides the examples of a step into micro-batches, each of which has a forward and a backward pass of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def micro_batches(rows: range, size: int) -> list[range]:
    """Divides rows into micro-batches of `size` rows, in their order; the last one can have fewer."""
    return [rows[at : at + size] for at in range(0, len(rows), size)]


def micro_batches_by_length(lengths: Sequence[int], cost: int) -> list[list[int]]:
    """Divides the rows of a batch into micro-batches of similar length, so that least is computed in all.

    A micro-batch computes the length of its longest row for each of its rows, and `cost` once. No division of the rows
    has a smaller sum than this one. Only divisions that cut the rows in the order of their lengths are looked at: to
    exchange a longer row for a shorter one makes no sum smaller.

    Args:
        lengths: tokens of each row, without padding.
        cost: of a micro-batch, in tokens.
    Returns:
        Numbers of the rows of each micro-batch, ascending; the longest rows are in the first one.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    least, first = [0], [0]  # the smallest sum for the longest rows, by their number, and where its last part begins
    for end in range(1, len(order) + 1):
        sums = (least[at] + (end - at) * lengths[order[at]] + cost for at in range(end))
        smallest, at = min(zip(sums, range(end), strict=True))
        least.append(smallest)
        first.append(at)
    parts: list[list[int]] = []
    end = len(order)
    while end:
        parts.append(sorted(order[first[end] : end]))
        end = first[end]
    return parts[::-1]


def rows_of(batch: Mapping[str, Tensor], rows: Sequence[int], *, has_targets: bool) -> dict[str, Tensor]:
    """Returns some rows of a right-padded batch, without the padding that only the other rows needed.

    Args:
        batch: name -> tensor; those of the attention mask's width are cut as it is.
        rows: numbers of the rows.
        has_targets: whether `labels` and `decoder_input_ids` have the length of an encoder-decoder's targets, and stay
            as they are.
    """
    width = batch["attention_mask"].shape[1]
    chosen = slice(rows.start, rows.stop) if isinstance(rows, range) else list(rows)
    part = {name: tensor[chosen] for name, tensor in batch.items()}
    length = int(part["attention_mask"].sum(1).max())
    whole = {"labels", "decoder_input_ids"} if has_targets else set()
    cut = {name for name, tensor in part.items() if tensor.dim() > 1 and tensor.shape[1] == width} - whole
    return {name: tensor[:, :length] if name in cut else tensor for name, tensor in part.items()}
