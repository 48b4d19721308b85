"""Selects exactly k entries over many tensors together, without a copy of the tensors.

LT-SFT selects the `k` entries that changed most (thesis §4.3.1, Algorithm 1), random SFT draws `k` entries, and
SpIEL-AG selects the `k` largest gradients (thesis §7.3.1).
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from .devices import uses_triton

_CHUNK_ENTRIES = 1 << 18  # two buffers of this many float32 stay in the second-level cache
_CUDA_CHUNK_ENTRIES = 1 << 25
_LOW_BITS = 16  # a float32 magnitude has 31 bits: the first pass counts by the upper 15, the second by the lower 16
_BINS_HIGH = 1 << (31 - _LOW_BITS)
_BINS_LOW = 1 << _LOW_BITS
_MAGNITUDE = 0x7FFFFFFF
_INFINITY = 0x7F800000  # the bits of infinity; those of every NaN are above
_SIXTEEN_BIT_DTYPES = (torch.float16, torch.bfloat16)


def select_most_changed(after: Mapping[str, Tensor], before: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """Returns the `k` entries that changed most, over all tensors together.

    Thesis §4.3.1, Algorithm 1. It returns exactly `k`: of equal changes it takes the one in the earlier tensor, in the
    order of `after`, then the one of the lower flat index. (The reference code keeps every tie, so it can return more.)

    Non-negative floats order like their bits. Three passes over the tensors, in chunks, therefore give the exact answer
    in bounded memory for every distribution: the first counts the upper 15 bits of |after - before|, the second counts
    the lower 16 bits of the changes with the threshold's upper bits, and the third collects the entries at or above
    the threshold.

    Args:
        after, before: name -> floating-point tensor, with equal names and shapes; dtypes and devices may differ.
            Differences are computed in float32 (float64 if either tensor is float64) and compared in float32.
        k: over all tensors together, 0 <= k <= number of entries.
    Returns:
        name -> (n,) int64, sorted flat row-major indices, on the device of `after`; every name is present.
    Raises:
        ValueError: names or shapes differ, `k` is out of range, or a difference is NaN.
    """
    _check_pairs(after, before, k)
    if k == 0:
        return {name: torch.empty(0, dtype=torch.int64, device=a.device) for name, a in after.items()}
    threshold, ties = _threshold(after, before, k)
    selection: dict[str, Tensor] = {}
    for name, a in after.items():
        parts = []
        for start, bits in _change_bits(a, before[name]):
            if ties > 0:
                places = _places(bits, threshold)
                ties_here = (bits.index_select(0, places) == threshold).nonzero().view(-1)
                if len(ties_here) > ties:
                    keep = torch.ones_like(places, dtype=torch.bool)
                    keep[ties_here[ties:]] = False
                    places = places[keep]
                ties = max(0, ties - len(ties_here))
            else:
                places = _places(bits, threshold + 1)
            parts.append(places.add_(start))
        selection[name] = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device=a.device)
    return selection


def select_most_changed_definition(
    after: Mapping[str, Tensor], before: Mapping[str, Tensor], k: int
) -> dict[str, Tensor]:
    """Defines `select_most_changed` in plain torch: one stable sort, with memory of the model's size."""
    _check_pairs(after, before, k)
    wide = {
        n: torch.promote_types(torch.promote_types(a.dtype, before[n].dtype), torch.float32) for n, a in after.items()
    }
    changes = [(a.to(wide[n]) - before[n].to(wide[n])).abs().float().reshape(-1) for n, a in after.items()]
    flat = torch.cat(changes) if changes else torch.empty(0)
    if bool(flat.isnan().any()):
        raise ValueError("a difference between after and before is NaN: the entries cannot be ordered")
    selection = flat.sort(descending=True, stable=True).indices[:k].sort().values
    offsets = torch.tensor([0] + [len(c) for c in changes]).cumsum(0).tolist()
    bounds = torch.searchsorted(selection, torch.tensor(offsets)).tolist()
    return {n: selection[bounds[i] : bounds[i + 1]] - offsets[i] for i, n in enumerate(after)}


@torch.no_grad()
def select_with_overlap(
    after: Mapping[str, Tensor],
    before: Mapping[str, Tensor],
    k: int,
    shared: int,
    others: Mapping[str, Tensor | None],
) -> dict[str, Tensor]:
    """Returns the `k` entries that changed most, of which exactly `shared` are among the entries `others`.

    These are the `shared` entries of `others` that changed most, and the `k - shared` entries outside of them that
    changed most (thesis §4.5.2 proposes such masks). Ties are decided as in `select_most_changed`. The memory is that
    of `others` and of a mask of the largest tensor.

    Args:
        after, before: as for `select_most_changed`, contiguous and with equal dtypes. `after` is changed in place: at
            the entries `others` it gets the values of `before`.
        k: over all tensors together, 0 <= k <= number of entries.
        shared: 0 <= shared <= k.
        others: name -> (M,) int32 or int64 flat row-major indices, ascending; None: every entry. Names that are not in
            `after` do not count.
    Returns:
        name -> (n,) int64, sorted flat row-major indices, on the device of `after`; every name is present.
    Raises:
        ValueError: names, shapes or dtypes differ, there are too few entries in or outside of `others`, or a difference
            is NaN.
    """
    _check_pairs(after, before, k)
    for name, a in after.items():
        if a.dtype != before[name].dtype:
            raise ValueError(f"tensor {name} has dtypes {a.dtype} and {before[name].dtype}: they must be equal")
    places = {n: _flat_places(others[n], a) for n, a in after.items() if n in others}
    members = sum(after[n].numel() if own is None else len(own) for n, own in places.items())
    free = sum(a.numel() for a in after.values()) - members
    if not 0 <= shared <= min(k, members) or k - shared > free:
        raise ValueError(
            f"k={k}, shared={shared}: there are {members} entries of `others` and {free} outside of them, too few"
        )
    inside = [{n: _at(tensors[n], own) for n, own in places.items()} for tensors in (after, before)]
    for name in places:
        if bool((inside[0][name] - inside[1][name]).isnan().any()):
            raise ValueError(f"tensor {name}: a difference is NaN: the entries cannot be ordered")
    chosen = select_most_changed(inside[0], inside[1], shared)
    for name, own in places.items():
        flat = after[name].detach().view(-1)
        if own is None:
            flat.copy_(inside[1][name])
        else:
            chosen[name] = own[chosen[name]]
            flat[own] = inside[1][name]
    rest = _without(select_most_changed(after, before, k - shared), after, places)
    _fill(rest, after, places, k - shared)
    return {n: torch.cat([own, chosen[n]]).sort().values if n in chosen else own for n, own in rest.items()}


def _at(tensor: Tensor, places: Tensor | None) -> Tensor:
    flat = tensor.detach().view(-1)
    return flat if places is None else flat[places]


def _flat_places(indices: Tensor | None, tensor: Tensor) -> Tensor | None:
    return None if indices is None else indices.to(tensor.device, torch.int64)


def _without(
    selection: Mapping[str, Tensor], after: Mapping[str, Tensor], places: Mapping[str, Tensor | None]
) -> dict[str, Tensor]:
    """Returns the selection without the entries `places`."""
    rest = dict(selection)
    for name, own in places.items():
        if own is None:
            rest[name] = selection[name][:0]
        elif len(selection[name]):
            rest[name] = selection[name][~_marked(after[name], own)[selection[name]]]
    return rest


def _fill(rest: dict[str, Tensor], after: Mapping[str, Tensor], places: Mapping[str, Tensor | None], k: int) -> None:
    """Adds the first entries that are neither selected nor in `places`, until there are `k`; changes `rest`.

    If entries are missing, entries without a change were selected, so that no other entry has one.
    """
    missing = k - sum(len(own) for own in rest.values())
    for name, a in after.items():
        own = places.get(name, a.new_zeros(0, dtype=torch.int64))
        if missing == 0 or own is None:
            continue
        free = ~_marked(a, own, rest[name])
        added = free.nonzero().view(-1)[:missing]
        rest[name] = torch.cat([rest[name], added])
        missing -= len(added)


def _marked(tensor: Tensor, *places: Tensor) -> Tensor:
    """Returns a flat bool mask of a tensor's entries that is true at some places."""
    mask = torch.zeros(tensor.numel(), dtype=torch.bool, device=tensor.device)
    for indices in places:
        mask[indices] = True
    return mask


@torch.no_grad()
def select_largest(values: Tensor, k: int, excluded: Tensor, generator: torch.Generator) -> Tensor:
    """Returns the `k` entries of one tensor with the largest magnitude, among those that are not excluded.

    SpIEL-AG selects its growth candidates with this function (thesis §7.3.1): `values` is a dense gradient, and the
    active entries are excluded. If magnitudes are equal, the lower flat index wins. If fewer than `k` entries are not
    zero, the rest is drawn uniformly from the entries that are zero, because the gradient does not rank those.

    Args:
        values: floating-point, any shape. It is changed in place: the excluded entries become zero.
        k: 0 <= k <= number of entries that are not excluded.
        excluded: (M,) int32 or int64 flat row-major indices, ascending.
        generator: a CPU generator for this draw; its state changes only if the draw is needed.
    Returns:
        (k,) int64 flat row-major indices, ascending.
    Raises:
        ValueError: `k` is out of range, or a value is NaN.
    """
    free = values.numel() - len(excluded)
    if not 0 <= k <= free:
        raise ValueError(f"k={k}: it must be between 0 and the number of entries that are not excluded, {free}")
    flat = values.view(-1)
    flat.index_fill_(0, excluded.long(), 0)
    nonzero = int(torch.count_nonzero(flat))
    selection = select_most_changed({"": flat}, {"": flat.new_zeros(1).expand_as(flat)}, min(k, nonzero))[""]
    if nonzero < k:
        zeros = torch.ones_like(flat, dtype=torch.bool)
        zeros[selection] = False
        zeros[excluded.long()] = False
        rest = zeros.nonzero().view(-1)
        drawn = rest[draw_distinct(len(rest), k - nonzero, generator).to(rest.device)]
        selection = torch.cat([selection, drawn]).sort().values
    return selection


def select_at_random(shapes: Mapping[str, torch.Size], k: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Draws `k` entries uniformly, without replacement, from all entries of all tensors.

    Memory is O(k), not of the model's size. The draw depends on the generator's state, the shapes and their order.

    Args:
        shapes: name -> shape.
        k: over all tensors together, 0 <= k <= number of entries.
        generator: its state advances; the result is on its device.
    Returns:
        name -> (n,) int64, sorted flat indices; every name is present.
    Raises:
        ValueError: `k` is out of range.
    """
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    total = sum(sizes)
    if not 0 <= k <= total:
        raise ValueError(f"k={k}: must be between 0 and the number of entries, {total}")
    selection = draw_distinct(total, k, generator)
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    bounds = torch.searchsorted(selection, offsets.to(selection.device)).tolist()
    tensor_starts = offsets.tolist()
    return {name: selection[bounds[i] : bounds[i + 1]] - tensor_starts[i] for i, name in enumerate(shapes)}


def draw_distinct(total: int, k: int, generator: torch.Generator) -> Tensor:
    """Draws `k` distinct numbers uniformly from range(total), with O(k) memory.

    Returns:
        (k,) int64, ascending, on the generator's device.
    """
    if k <= total // 2:
        return _draw_at_most_half(total, k, generator)
    return _complement(_draw_at_most_half(total, total - k, generator), total)


def _check_pairs(after: Mapping[str, Tensor], before: Mapping[str, Tensor], k: int) -> None:
    if after.keys() != before.keys():
        unmatched = sorted(after.keys() ^ before.keys())
        raise ValueError(
            f"tensor {unmatched[0]} is in only one of after and before: both must have the same names "
            f"({len(unmatched)} do not match)"
        )
    total = 0
    for name, a in after.items():
        if a.shape != before[name].shape:
            raise ValueError(
                f"tensor {name} has shape {tuple(a.shape)} after and {tuple(before[name].shape)} before: "
                "the shapes must be equal"
            )
        if not (a.is_floating_point() and before[name].is_floating_point()):
            raise ValueError(
                f"tensor {name} has dtypes {a.dtype} and {before[name].dtype}: both must be floating-point"
            )
        total += a.numel()
    if not 0 <= k <= total:
        raise ValueError(f"k={k}: must be between 0 and the number of entries, {total}")


def _change_bits(after: Tensor, before: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yields chunk by chunk its first flat index and the bits of |after - before| as int32.

    All chunks share one buffer, so a caller must use a chunk before it asks for the next. A tensor that is not
    contiguous is copied as a whole.
    """
    limit = _CUDA_CHUNK_ENTRIES if after.is_cuda else _CHUNK_ENTRIES
    buffer = torch.empty(min(limit, after.numel()), dtype=torch.float32, device=after.device)
    pieces = zip(after.detach().reshape(-1).split(limit), before.detach().reshape(-1).split(limit), strict=True)
    start = 0
    for a, b in pieces:
        out = buffer[: len(a)]
        b = b.to(out.device)
        if torch.promote_types(a.dtype, b.dtype) in _SIXTEEN_BIT_DTYPES:
            out.copy_(a).sub_(b)  # torch.sub would first round the difference to 16 bits
        else:
            torch.sub(a, b, out=out)
        yield start, out.view(torch.int32).bitwise_and_(_MAGNITUDE)
        start += len(a)


def _places(bits: Tensor, least: int) -> Tensor:
    """Returns the indices at which `bits` >= `least`, int64, ascending.

    On one CPU thread NumPy finds them five times as fast as torch.
    """
    if bits.device.type == "cpu":
        return torch.from_numpy((bits.numpy() >= least).nonzero()[0])
    return (bits >= least).nonzero().view(-1)


def _threshold(after: Mapping[str, Tensor], before: Mapping[str, Tensor], k: int) -> tuple[int, int]:
    """Returns the bits of the k-th largest change, and how many of the `k` entries have exactly this change."""
    high = torch.zeros(_BINS_HIGH, dtype=torch.int64)
    for name, a in after.items():
        counts = _high_counts(a, before[name]).cpu()
        if bool(counts[_INFINITY >> _LOW_BITS :].any()):
            _refuse_nan(name, a, before[name])
        high += counts
    upper, rank = _find_bin(high, k)
    low = torch.zeros(_BINS_LOW, dtype=torch.int64)
    for name, a in after.items():
        low += _low_counts(a, before[name], upper).cpu()
    lower, ties = _find_bin(low, rank)
    return (upper << _LOW_BITS) | lower, ties


def _high_counts(after: Tensor, before: Tensor) -> Tensor:
    """Counts the changes by the value of their upper bits; returns (_BINS_HIGH,) int64."""
    if uses_triton(after) and _kernel_supports(after, before):
        from .select_triton import launch_counts

        return launch_counts(after, before, 0, _LOW_BITS, _BINS_HIGH)
    counts = torch.zeros(_BINS_HIGH, dtype=torch.int64, device=after.device)
    for _, bits in _change_bits(after, before):
        counts += torch.bincount(bits >> _LOW_BITS, minlength=_BINS_HIGH)
    return counts


def _low_counts(after: Tensor, before: Tensor, upper: int) -> Tensor:
    """Counts the changes with the upper bits `upper` by the value of their lower bits; returns (_BINS_LOW,) int64."""
    if uses_triton(after) and _kernel_supports(after, before):
        from .select_triton import launch_counts

        return launch_counts(after, before, upper << _LOW_BITS, 0, _BINS_LOW)
    counts = torch.zeros(_BINS_LOW, dtype=torch.int64, device=after.device)
    for _, bits in _change_bits(after, before):
        bits -= upper << _LOW_BITS
        members = bits.index_select(0, _places(bits, 0))
        counts += torch.bincount(members.clamp_(max=_BINS_LOW), minlength=_BINS_LOW + 1)[:_BINS_LOW]
    return counts


def _kernel_supports(after: Tensor, before: Tensor) -> bool:
    """Returns whether the counting kernel supports these tensors.

    It does if they are contiguous (`before` may be one expanded value), on one device, and neither is float64.
    """
    expanded = before.dim() == 1 and before.stride(0) == 0
    aligned = after.is_contiguous() and (before.is_contiguous() or expanded) and after.device == before.device
    return aligned and torch.float64 not in (after.dtype, before.dtype)


def _find_bin(counts: Tensor, k: int) -> tuple[int, int]:
    """Returns the bin that holds the k-th largest value, k >= 1, and the rank of that value in the bin, from 1."""
    at_or_above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(at_or_above, k))
    above = int(at_or_above[place - 1]) if place > 0 else 0
    return len(counts) - 1 - place, k - above


def _refuse_nan(name: str, after: Tensor, before: Tensor) -> None:
    for start, bits in _change_bits(after, before):
        nan_places = (bits > _INFINITY).nonzero()
        if len(nan_places):
            raise ValueError(
                f"tensor {name}: the difference at flat index {start + int(nan_places[0])} is NaN: "
                "the entries cannot be ordered"
            )


def _draw_at_most_half(total: int, k: int, generator: torch.Generator) -> Tensor:
    """Draws `k` distinct numbers uniformly from range(total), in ascending order, for k <= total / 2.

    It collects independent draws until at least k of them are distinct. All sets of the size reached are equally
    likely, and this remains true when a uniform choice removes the surplus.
    """
    device = generator.device
    selection = torch.empty(0, dtype=torch.int64, device=device)
    while len(selection) < k:
        missing = k - len(selection)
        # On average at most a share (k + missing) / total of these draws repeats an earlier one.
        draws = missing + missing * k // total + 16
        new_draws = torch.randint(total, (draws,), generator=generator, device=device)
        selection = torch.cat([selection, new_draws]).unique(sorted=True)
    surplus = len(selection) - k
    if surplus > 0:
        keep = torch.ones(len(selection), dtype=torch.bool, device=device)
        keep[torch.randperm(len(selection), generator=generator, device=device)[:surplus]] = False
        selection = selection[keep]
    return selection


def _complement(excluded: Tensor, total: int) -> Tensor:
    keep = torch.ones(total, dtype=torch.bool, device=excluded.device)
    keep[excluded] = False
    return keep.nonzero().view(-1)
