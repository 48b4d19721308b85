"""Exact selection of entries over many tensors at once, without a copy of them.

LT-SFT keeps the `k` entries that moved furthest (thesis §4.3.1, Algorithm 1); random SFT keeps any `k`.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from .devices import uses_triton

_CHUNK_ENTRIES = 1 << 18  # two buffers of this many float32 stay in the second-level cache
_CUDA_CHUNK_ENTRIES = 1 << 25
_LOW_BITS = 16  # a float32 magnitude has 31 bits: 15 are counted in the first pass, 16 in the second
_BINS_HIGH = 1 << (31 - _LOW_BITS)
_BINS_LOW = 1 << _LOW_BITS
_MAGNITUDE = 0x7FFFFFFF
_INFINITY = 0x7F800000  # as bits; every NaN lies above
_NARROW = (torch.float16, torch.bfloat16)


def select_most_changed(after: Mapping[str, Tensor], before: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """Returns the `k` entries that moved furthest, over all tensors together.

    Thesis §4.3.1, Algorithm 1. Exactly `k` are returned: ties go to the lower tensor in the order of `after`,
    then to the lower flat index (the reference keeps every tie, so it can return more).

    Non-negative floats order like their bits. So three passes over the tensors, in chunks, give the exact answer in
    bounded memory, whatever the distribution: count the upper 15 bits of |after - before|, count the lower 16 among
    those that share the threshold's upper bits, collect what lies at or above the threshold.

    Args:
        after, before: name -> floating-point tensor, equal names and shapes; dtypes and devices may differ.
            Differences are formed in float32 (float64 if either is float64) and compared in float32.
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
    chosen: dict[str, Tensor] = {}
    for name, a in after.items():
        parts = []
        for start, bits in _change_bits(a, before[name]):
            if ties > 0:
                found = _places(bits, threshold)
                tied = (bits.index_select(0, found) == threshold).nonzero().view(-1)
                if len(tied) > ties:
                    keep = torch.ones_like(found, dtype=torch.bool)
                    keep[tied[ties:]] = False
                    found = found[keep]
                ties = max(0, ties - len(tied))
            else:
                found = _places(bits, threshold + 1)
            parts.append(found.add_(start))
        chosen[name] = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device=a.device)
    return chosen


def select_most_changed_definition(
    after: Mapping[str, Tensor], before: Mapping[str, Tensor], k: int
) -> dict[str, Tensor]:
    """Says what `select_most_changed` computes: one stable sort, in memory of the model's size."""
    _check_pairs(after, before, k)
    wide = {
        n: torch.promote_types(torch.promote_types(a.dtype, before[n].dtype), torch.float32) for n, a in after.items()
    }
    changes = [(a.to(wide[n]) - before[n].to(wide[n])).abs().float().reshape(-1) for n, a in after.items()]
    flat = torch.cat(changes) if changes else torch.empty(0)
    if bool(flat.isnan().any()):
        raise ValueError("a difference is NaN")
    chosen = flat.sort(descending=True, stable=True).indices[:k].sort().values
    offsets = torch.tensor([0] + [len(c) for c in changes]).cumsum(0).tolist()
    bounds = torch.searchsorted(chosen, torch.tensor(offsets)).tolist()
    return {n: chosen[bounds[i] : bounds[i + 1]] - offsets[i] for i, n in enumerate(after)}


@torch.no_grad()
def select_largest(values: Tensor, k: int, excluded: Tensor, generator: torch.Generator) -> Tensor:
    """Returns the `k` entries of largest magnitude outside the excluded ones, of one tensor.

    SpIEL-AG's growth candidates (thesis §7.3.1): the entries of a dense gradient, without the active ones. Ties go to
    the lower flat index, but entries that are zero are drawn: nothing speaks for any of them.

    Args:
        values: floating-point, any shape; zeroed at the excluded entries.
        k: 0 <= k <= number of entries that are not excluded.
        excluded: (M,) int32 or int64 flat indices, ascending.
        generator: of the draw, on the CPU; advanced only where there is one.
    Returns:
        (k,) int64, ascending.
    Raises:
        ValueError: `k` is out of range, or a value is NaN.
    """
    free = values.numel() - len(excluded)
    if not 0 <= k <= free:
        raise ValueError(f"k={k}: must be between 0 and the number of entries that are not excluded, {free}")
    flat = values.view(-1)
    flat.index_fill_(0, excluded.long(), 0)
    nonzero = int(torch.count_nonzero(flat))
    chosen = select_most_changed({"": flat}, {"": flat.new_zeros(1).expand_as(flat)}, min(k, nonzero))[""]
    if nonzero < k:
        zeros = torch.ones_like(flat, dtype=torch.bool)
        zeros[chosen] = False
        zeros[excluded.long()] = False
        rest = zeros.nonzero().view(-1)
        drawn = rest[distinct(len(rest), k - nonzero, generator).to(rest.device)]
        chosen = torch.cat([chosen, drawn]).sort().values
    return chosen


def select_at_random(shapes: Mapping[str, torch.Size], k: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Returns `k` entries drawn uniformly, without replacement, from all entries of all tensors.

    Memory is O(k), not of the model's size. The draw depends on the generator's state, the shapes and their order.

    Args:
        shapes: name -> shape.
        k: over all tensors together, 0 <= k <= number of entries.
        generator: its state advances; the result lies on its device.
    Returns:
        name -> (n,) int64, sorted flat indices; every name is present.
    Raises:
        ValueError: `k` is out of range.
    """
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    total = sum(sizes)
    if not 0 <= k <= total:
        raise ValueError(f"k={k}: must be between 0 and the number of entries, {total}")
    chosen = distinct(total, k, generator)
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    bounds = torch.searchsorted(chosen, offsets.to(chosen.device)).tolist()
    starts = offsets.tolist()
    return {name: chosen[bounds[i] : bounds[i + 1]] - starts[i] for i, name in enumerate(shapes)}


def distinct(total: int, k: int, generator: torch.Generator) -> Tensor:
    """Draws a uniform k-subset of range(total): (k,) int64, ascending, on the generator's device. Memory is O(k)."""
    if k <= total // 2:
        return _fewer_than_half(total, k, generator)
    return _complement(_fewer_than_half(total, total - k, generator), total)


def _check_pairs(after: Mapping[str, Tensor], before: Mapping[str, Tensor], k: int) -> None:
    if after.keys() != before.keys():
        odd = sorted(after.keys() ^ before.keys())
        raise ValueError(f"{odd[0]}: is in only one of after and before ({len(odd)} such names)")
    total = 0
    for name, a in after.items():
        if a.shape != before[name].shape:
            raise ValueError(f"{name}: shape {tuple(a.shape)} after, {tuple(before[name].shape)} before")
        if not (a.is_floating_point() and before[name].is_floating_point()):
            raise ValueError(f"{name}: {a.dtype} and {before[name].dtype}: must be floating-point")
        total += a.numel()
    if not 0 <= k <= total:
        raise ValueError(f"k={k}: must be between 0 and the number of entries, {total}")


def _change_bits(after: Tensor, before: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yields (flat start, |after - before| as int32 bits) by chunks, all in one buffer: use a chunk before the next.

    A tensor that is not contiguous is copied whole.
    """
    limit = _CUDA_CHUNK_ENTRIES if after.is_cuda else _CHUNK_ENTRIES
    buffer = torch.empty(min(limit, after.numel()), dtype=torch.float32, device=after.device)
    pieces = zip(after.detach().reshape(-1).split(limit), before.detach().reshape(-1).split(limit), strict=True)
    start = 0
    for a, b in pieces:
        out = buffer[: len(a)]
        b = b.to(out.device)
        if torch.promote_types(a.dtype, b.dtype) in _NARROW:
            out.copy_(a).sub_(b)  # torch.sub would round to the narrow type first
        else:
            torch.sub(a, b, out=out)
        yield start, out.view(torch.int32).bitwise_and_(_MAGNITUDE)
        start += len(a)


def _places(bits: Tensor, least: int) -> Tensor:
    """Where `bits` >= `least`, int64, ascending. On one CPU thread NumPy finds them five times as fast as torch."""
    if bits.device.type == "cpu":
        return torch.from_numpy((bits.numpy() >= least).nonzero()[0])
    return (bits >= least).nonzero().view(-1)


def _threshold(after: Mapping[str, Tensor], before: Mapping[str, Tensor], k: int) -> tuple[int, int]:
    """Finds the bits of the k-th largest change, and how many entries equal to it belong to the `k`."""
    high = torch.zeros(_BINS_HIGH, dtype=torch.int64)
    for name, a in after.items():
        counts = _high_counts(a, before[name]).cpu()
        if bool(counts[_INFINITY >> _LOW_BITS :].any()):
            _refuse_nan(name, a, before[name])
        high += counts
    upper, wanted = _bin_of(high, k)
    low = torch.zeros(_BINS_LOW, dtype=torch.int64)
    for name, a in after.items():
        low += _low_counts(a, before[name], upper).cpu()
    lower, ties = _bin_of(low, wanted)
    return (upper << _LOW_BITS) | lower, ties


def _high_counts(after: Tensor, before: Tensor) -> Tensor:
    """(_BINS_HIGH,) int64: how many changes have each value of the upper bits."""
    if uses_triton(after) and _counted_at_once(after, before):
        from .select_triton import launch_counts

        return launch_counts(after, before, 0, _LOW_BITS, _BINS_HIGH)
    counts = torch.zeros(_BINS_HIGH, dtype=torch.int64, device=after.device)
    for _, bits in _change_bits(after, before):
        counts += torch.bincount(bits >> _LOW_BITS, minlength=_BINS_HIGH)
    return counts


def _low_counts(after: Tensor, before: Tensor, upper: int) -> Tensor:
    """(_BINS_LOW,) int64: how many changes of these upper bits have each value of the lower ones."""
    if uses_triton(after) and _counted_at_once(after, before):
        from .select_triton import launch_counts

        return launch_counts(after, before, upper << _LOW_BITS, 0, _BINS_LOW)
    counts = torch.zeros(_BINS_LOW, dtype=torch.int64, device=after.device)
    for _, bits in _change_bits(after, before):
        bits -= upper << _LOW_BITS
        members = bits.index_select(0, _places(bits, 0))
        counts += torch.bincount(members.clamp_(max=_BINS_LOW), minlength=_BINS_LOW + 1)[:_BINS_LOW]
    return counts


def _counted_at_once(after: Tensor, before: Tensor) -> bool:
    """Whether the kernel takes them: contiguous (or one value expanded), side by side, no float64."""
    expanded = before.dim() == 1 and before.stride(0) == 0
    together = after.is_contiguous() and (before.is_contiguous() or expanded) and after.device == before.device
    return together and torch.float64 not in (after.dtype, before.dtype)


def _bin_of(counts: Tensor, k: int) -> tuple[int, int]:
    """The bin that holds the k-th largest value, k >= 1, and the rank of that value within the bin, from 1."""
    at_or_above = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(at_or_above, k))
    above = int(at_or_above[place - 1]) if place > 0 else 0
    return len(counts) - 1 - place, k - above


def _refuse_nan(name: str, after: Tensor, before: Tensor) -> None:
    for start, bits in _change_bits(after, before):
        found = (bits > _INFINITY).nonzero()
        if len(found):
            raise ValueError(f"{name}: the difference at flat index {start + int(found[0])} is NaN")


def _fewer_than_half(total: int, k: int, generator: torch.Generator) -> Tensor:
    """Draws a uniform k-subset of range(total), sorted, k <= total / 2.

    Independent draws are collected until at least k are distinct. Given its size the collected set is uniform over the
    sets of that size, and stays so when a uniform choice of the surplus is dropped.
    """
    device = generator.device
    chosen = torch.empty(0, dtype=torch.int64, device=device)
    while len(chosen) < k:
        missing = k - len(chosen)
        # Of these draws, a share of at most (k + missing) / total repeats an earlier one.
        draws = missing + missing * k // total + 16
        fresh = torch.randint(total, (draws,), generator=generator, device=device)
        chosen = torch.cat([chosen, fresh]).unique(sorted=True)
    surplus = len(chosen) - k
    if surplus > 0:
        keep = torch.ones(len(chosen), dtype=torch.bool, device=device)
        keep[torch.randperm(len(chosen), generator=generator, device=device)[:surplus]] = False
        chosen = chosen[keep]
    return chosen


def _complement(left_out: Tensor, total: int) -> Tensor:
    keep = torch.ones(total, dtype=torch.bool, device=left_out.device)
    keep[left_out] = False
    return keep.nonzero().view(-1)
