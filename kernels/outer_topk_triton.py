"""Triton kernels that find the largest entries of an outer product: one for the threshold, one that writes the cells.

What they cost, counted for 4096 x 11008 at density 1% (450,000 cells are excluded, k = 90,000) on an H200; nothing of
it is measured:

- `_threshold_kernel` is one program, limited by latency. It takes at most 63 steps. A step has for each row a binary
  search in the sorted columns (88 kB, which stay in the first-level cache) and one in the row's excluded places. The
  bounds of a row's search narrow with those of the threshold, so most steps probe once or twice: 0.3 ms in all.
- `_cells_kernel` is one program a row, limited by integer operations: at most some 90 for each of the 45 million
  cells, 0.15 ms. It reads 4 bytes of memory for each excluded cell and writes 16 for each chosen one: 3 MB.

Designs that were weighed and not chosen:

- Several programs for the threshold, with a barrier over the grid between steps: a barrier takes as long as a step,
  and all programs must be resident at once.
- Launches that count 128 thresholds each: nine launches in place of one.
- One search a step in the sorted products of the excluded cells: they must be sorted as float64, which takes longer.
- Listing the cells along the sorted columns and sorting the list: some twelve launches in place of the second kernel.
- A bit for each cell, set and then scanned: two launches more, and memory of 1/32 of the matrix's.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .select import draw_distinct

_BLOCK_ROWS = 1024
_BLOCK_COLUMNS = 512
_WARPS = 8  # of the one program that finds the threshold


@triton.jit
def _below(values_at, base, begin, end, limit, span, here):
    """Returns how many of the ascending values from `base` on are below `limit`, which is from `begin` to `end`."""
    while span > 0:
        middle = (begin + end) // 2
        inside = here & (middle < end)
        below = inside & (tl.load(values_at + base + middle, mask=inside, other=0) < limit)
        begin = tl.where(below, middle + 1, begin)
        end = tl.where(below, end, middle)
        span = span // 2
    return begin


@triton.jit(do_not_specialize=["k", "free"])
def _threshold_kernel(
    r_at, sorted_at, starts_at, places_at, reach_at, skipped_at, cells_before_at, ties_before_at, found_at,
    rows, columns, k, free, BLOCK: tl.constexpr,
):  # fmt: skip
    # `reach` of a threshold: for each row how many of its sorted cells have a product of at least it; `skipped`: how
    # many of these are excluded. Three slots of (rows,) hold them for the bounds `high` and `low` and for the middle.
    zero = tl.full((), 0, tl.int64)
    greatest, refused = zero.to(tl.float64), zero
    for first in range(0, rows, BLOCK):
        row = first + tl.arange(0, BLOCK)
        here = row < rows
        r = tl.load(r_at + row, mask=here, other=0.0)
        greatest = tl.maximum(greatest, tl.max(r, axis=0))
        refused += tl.sum((here & ~((r >= 0) & (r < float("inf")))).to(tl.int64), axis=0)
        excluded = tl.load(starts_at + row + 1, mask=here, other=0) - tl.load(starts_at + row, mask=here, other=0)
        tl.store(reach_at + row, tl.zeros_like(row), mask=here)
        tl.store(skipped_at + row, tl.zeros_like(row), mask=here)
        tl.store(reach_at + rows + row, tl.zeros_like(row) + columns, mask=here)
        tl.store(skipped_at + rows + row, excluded.to(tl.int32), mask=here)
    tl.debug_barrier()
    first_column, last_column = tl.load(sorted_at), tl.load(sorted_at + columns - 1)
    refused += (~((last_column >= 0) & (first_column < float("inf")))).to(tl.int64)
    low, high = zero, (greatest * first_column).to(tl.int64, bitcast=True) + 1
    at_least = zero + free
    # Offsets of the slots of high, low and the middle.
    at_high = zero
    at_low = zero + rows
    at_middle = at_low + rows
    while (refused == 0) & (high - low > 1) & (at_least != k):
        middle = low + (high - low) // 2
        threshold = middle.to(tl.float64, bitcast=True)
        count = zero
        for first in range(0, rows, BLOCK):
            row = first + tl.arange(0, BLOCK)
            here = row < rows
            r = tl.load(r_at + row, mask=here, other=0.0)
            begin = tl.load(reach_at + at_high + row, mask=here, other=0)
            end = tl.load(reach_at + at_low + row, mask=here, other=0)
            span = tl.max(end - begin, axis=0)
            while span > 0:
                probe = (begin + end) // 2
                inside = here & (probe < end)
                reaches = inside & (r * tl.load(sorted_at + probe, mask=inside, other=0.0) >= threshold)
                begin = tl.where(reaches, probe + 1, begin)
                end = tl.where(reaches, end, probe)
                span = span // 2
            start = tl.load(starts_at + row, mask=here, other=0)
            skipped = tl.load(skipped_at + at_high + row, mask=here, other=0)
            most = tl.load(skipped_at + at_low + row, mask=here, other=0)
            skipped = _below(places_at, start, skipped, most, begin, tl.max(most - skipped, axis=0), here)
            tl.store(reach_at + at_middle + row, begin, mask=here)
            tl.store(skipped_at + at_middle + row, skipped, mask=here)
            count += tl.sum((begin - skipped).to(tl.int64), axis=0)
        tl.debug_barrier()
        freed = at_middle
        if count >= k:
            at_middle, at_low = at_low, freed
            low, at_least = middle, count
        else:
            at_middle, at_high = at_high, freed
            high = middle
    # If exactly k cells reach `low`, all of them are chosen. Otherwise those that reach `high` are, and of those whose
    # product is `low` some.
    at_chosen = at_high
    if at_least == k:
        at_chosen = at_low
    cells, ties = zero, zero
    for first in range(0, rows, BLOCK):
        row = first + tl.arange(0, BLOCK)
        here = row < rows
        chosen = tl.load(reach_at + at_chosen + row, mask=here, other=0)
        chosen = (chosen - tl.load(skipped_at + at_chosen + row, mask=here, other=0)).to(tl.int64)
        reaching = tl.load(reach_at + at_low + row, mask=here, other=0)
        reaching = (reaching - tl.load(skipped_at + at_low + row, mask=here, other=0)).to(tl.int64)
        tied = reaching - chosen
        tl.store(cells_before_at + row, cells + tl.cumsum(chosen, axis=0) - chosen, mask=here)
        tl.store(ties_before_at + row, ties + tl.cumsum(tied, axis=0) - tied, mask=here)
        cells += tl.sum(chosen, axis=0)
        ties += tl.sum(tied, axis=0)
    tl.store(cells_before_at + rows, cells)
    tl.store(ties_before_at + rows, ties)
    tl.store(found_at, refused)
    tl.store(found_at + 1, cells)
    tl.store(found_at + 2, ties)
    tl.store(found_at + 3, at_chosen)
    tl.store(found_at + 4, at_low)


@triton.jit(do_not_specialize=["draws"])
def _cells_kernel(
    r_at, c_at, place_at, starts_at, places_at, chosen_at, skipped_at, reach_at, cells_before_at, ties_before_at,
    draws_at, cells_at, products_at, columns, draws, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    # Ties are numbered along the rows and, within a row, along the sorted columns, without the excluded ones. Those of
    # this row that were drawn are consecutive, because the draws ascend.
    zero = row - row
    first_tie, next_tie = tl.load(ties_before_at + row), tl.load(ties_before_at + row + 1)
    first_draw = _below(draws_at, zero, zero, zero + draws, first_tie, zero + draws, True)
    drawn_here = _below(draws_at, zero, first_draw, zero + draws, next_tie, draws - first_draw, True) - first_draw
    at = tl.load(cells_before_at + row)
    missing = tl.load(cells_before_at + row + 1) - at + drawn_here
    at += first_draw
    if missing > 0:
        r = tl.load(r_at + row)
        chosen, reach, skipped = tl.load(chosen_at + row), tl.load(reach_at + row), tl.load(skipped_at + row)
        start = tl.load(starts_at + row)
        excluded = (tl.load(starts_at + row + 1) - start).to(tl.int32)
        first = 0
        while (missing > 0) & (first < columns):
            column = first + tl.arange(0, BLOCK)
            place = tl.load(place_at + column, mask=column < columns, other=0)
            written = (column < columns) & (place < reach)
            if tl.max(written.to(tl.int32), axis=0) > 0:
                none = tl.zeros_like(place)
                before = _below(places_at, start, none, none + excluded, place, excluded, written)
                match = tl.load(places_at + start + before, mask=written & (before < excluded), other=-1)
                tie = first_tie + (place - chosen - before + skipped)
                draw = tl.zeros_like(tie)
                draw = _below(draws_at, first_draw, draw, draw + drawn_here, tie, drawn_here, written)
                inside = written & (draw < drawn_here)
                drawn = tl.load(draws_at + first_draw + draw, mask=inside, other=-1) == tie
                written = written & (match != place) & ((place < chosen) | drawn)
                number = tl.cumsum(written.to(tl.int32), axis=0)
                tl.store(cells_at + at + number - 1, row * columns + column, mask=written)
                c = tl.load(c_at + column, mask=written, other=0.0)
                tl.store(products_at + at + number - 1, r * c, mask=written)
                count = tl.max(number, axis=0)
                at += count
                missing -= count
            first += BLOCK


class Threshold(NamedTuple):
    """What `launch_threshold` finds, on the device.

    Attributes:
        reach: (3 * rows,) int32, three slots: how many of a row's sorted cells have a product of at least a threshold.
        skipped: (3 * rows,) int32, of the same slots: how many of these cells are excluded.
        cells_before, ties_before: (rows + 1,) int64 free cells above the threshold, and at it, in the rows before.
        found: (5,) int64: whether factors are refused; free cells above the threshold, and at it; where the slot begins
            that is above the threshold, and where that begins which reaches it.
    """

    reach: Tensor
    skipped: Tensor
    cells_before: Tensor
    ties_before: Tensor
    found: Tensor


def launch_threshold(r: Tensor, ordered: Tensor, starts: Tensor, places: Tensor, k: int) -> Threshold:
    """Finds the k-th largest product among the free cells, 1 <= k <= their number.

    Args:
        r: (rows,) float64.
        ordered: (columns,) float64, descending.
        starts: (rows + 1,) int64 where each row's excluded cells begin in `places`.
        places: (M,) int32 the excluded cells' places in `ordered`, ascending in each row.
    """
    rows, columns = len(r), len(ordered)
    found = Threshold(
        *(torch.empty(3 * rows, dtype=torch.int32, device=r.device) for _ in range(2)),
        *(torch.empty(size, dtype=torch.int64, device=r.device) for size in (rows + 1, rows + 1, 5)),
    )
    _threshold_kernel[(1,)](
        r, ordered, starts, places, *found, rows, columns, k, rows * columns - len(places),
        BLOCK=min(_BLOCK_ROWS, triton.next_power_of_2(rows)), num_warps=_WARPS,
    )  # fmt: skip
    return found


def launch_write(
    r: Tensor, c: Tensor, place: Tensor, starts: Tensor, places: Tensor, threshold: Threshold,
    at_chosen: int, at_low: int, draws: Tensor, k: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Writes the cells above the threshold, and those at it that were drawn, in ascending order.

    Args:
        r, starts, places: as in `launch_threshold`.
        c: (columns,) float64.
        place: (columns,) int32 each column's place in descending order.
        threshold: what `launch_threshold` found.
        at_chosen, at_low: where the slots of the threshold begin that are above it, and that reach it.
        draws: int64 ascending numbers of the ties that were drawn.
        k: number of cells to write.
    Returns:
        (k,) int64 flat row-major cells, ascending; (k,) float64 their products.
    """
    cells = torch.empty(k, dtype=torch.int64, device=r.device)
    products = torch.empty(k, dtype=torch.float64, device=r.device)
    _cells_kernel[(len(r),)](
        r, c, place, starts, places, threshold.reach[at_chosen:], threshold.skipped[at_chosen:],
        threshold.reach[at_low:], threshold.cells_before, threshold.ties_before, draws, cells, products,
        len(c), len(draws), BLOCK=_BLOCK_COLUMNS,
    )  # fmt: skip
    return cells, products


def select_cells(
    r: Tensor, c: Tensor, k: int, excluded: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor] | None:
    """Does what `outer_topk` does, for 1 <= k <= number of free cells; the host waits for the device once.

    It returns the cells that the bisection in plain torch returns: it numbers ties as that does, so that a generator
    draws the same ones.

    Returns:
        what `outer_topk` returns, or None if a factor is negative or not finite.
    """
    rows, columns, device = len(r), len(c), r.device
    r, c = r.double(), c.double()
    ordered, column = c.sort(descending=True, stable=True)
    place = torch.empty(columns, dtype=torch.int32, device=device)
    place[column] = torch.arange(columns, dtype=torch.int32, device=device)
    excluded_column = excluded % columns
    keys = (excluded - excluded_column + place[excluded_column]).sort().values
    starts = torch.searchsorted(keys, torch.arange(rows + 1, device=device) * columns)
    places = (keys % columns).int()
    threshold = launch_threshold(r, ordered, starts, places, k)
    refused, above, ties, at_chosen, at_low = threshold.found.tolist()
    if refused:
        return None
    draws = draw_distinct(ties, k - above, generator).to(device, non_blocking=True)
    return launch_write(r, c, place, starts, places, threshold, at_chosen, at_low, draws, k)
