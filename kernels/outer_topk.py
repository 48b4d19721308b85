"""Finds the largest entries of an outer product without computing the matrix.

SpIEL-MA ranks weights for growth by r_i * c_j, the product of SM3's row and column accumulators (thesis §7.3.2).
Eq. 7.7 estimates the momentum by the fourth root of this product, which gives the same order.
"""

import torch
from torch import Tensor

from .devices import uses_triton
from .select import draw_distinct

_LISTABLE_CELLS = 1 << 14  # up to this many cells, listing and sorting them is cheaper than further bisection


def outer_topk_definition(
    r: Tensor, c: Tensor, k: int, excluded: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Defines `outer_topk` in plain torch: computes the matrix and sorts it by product, then by a random key."""
    product = torch.outer(r.double(), c.double()).view(-1)
    keys = torch.rand(product.shape, generator=generator, dtype=torch.float64).to(product.device)
    keys[excluded.long()] = -1
    product[excluded.long()] = -1
    order = keys.argsort(descending=True, stable=True)
    order = order[product[order].argsort(descending=True, stable=True)][:k]
    selection = order.sort().values
    return selection, product[selection]


@torch.no_grad()
def outer_topk(r: Tensor, c: Tensor, k: int, excluded: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns the `k` largest r_i * c_j among the cells that are not excluded.

    With c sorted in descending order, the cells of row i whose product reaches a threshold are a prefix, whose end
    bisection finds. So counting the cells above a threshold takes O(rows log columns). A second bisection, over the
    bits of a float64, narrows the threshold down until few cells lie between its bounds; these are listed and sorted.
    Products are computed in float64, which is exact for float32 factors. Memory is O(k + excluded + rows + columns).

    If several cells tie at the k-th product, a uniform draw decides among them. With SM3 and a low density most
    products are zero, and a cell's position must not decide whether it grows.

    On a GPU two Triton kernels do the same with the same result, and the host waits for the device once.

    Args:
        r: (rows,) finite, not negative.
        c: (columns,) finite, not negative.
        k: 0 <= k <= number of cells that are not excluded.
        excluded: (M,) int32 or int64 flat row-major cells, strictly ascending.
        generator: a CPU generator for the draw among ties; it advances only if there is such a draw.
    Returns:
        (k,) int64 flat row-major cells, ascending; (k,) float64 their products.
    Raises:
        ValueError: a factor is negative or not finite, or `k` is out of range.
    """
    free = len(r) * len(c) - len(excluded)
    if not 0 <= k <= free:
        raise ValueError(f"k={k}: it must be between 0 and the number of cells that are not excluded, {free}")
    on_gpu = k > 0 and uses_triton(r)
    if not on_gpu:  # the kernels check the factors themselves, so that the host waits for the device only once
        _check_factors(r, c)
    if k == 0:
        return torch.empty(0, dtype=torch.int64, device=r.device), torch.empty(0, dtype=torch.float64, device=r.device)
    select, transposed = _launch if on_gpu else _bisect, len(r) > len(c)
    if transposed:  # the cost is rows x log columns, so the shorter side takes the part of the rows
        found = select(c, r, k, _transpose(excluded.long(), len(c), len(r)).sort().values, generator)
    else:
        found = select(r, c, k, excluded.long(), generator)
    if found is None:
        _check_factors(r, c)
        raise AssertionError("the kernel refused factors that are finite and not negative")
    if not transposed:
        return found
    selection, order = _transpose(found[0], len(r), len(c)).sort()
    return selection, found[1][order]


def _check_factors(r: Tensor, c: Tensor) -> None:
    for name, factor in (("r", r), ("c", c)):
        if len(factor) and not bool(((factor >= 0) & (factor < torch.inf)).all()):
            raise ValueError(f"the factor {name} has negative or infinite entries or NaN: all must be finite and >= 0")


def _transpose(cells: Tensor, columns: int, rows: int) -> Tensor:
    """Converts flat cells of a (rows, columns) matrix to those of its transpose."""
    return cells % columns * rows + cells // columns


def _launch(r: Tensor, c: Tensor, k: int, excluded: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor] | None:
    from .outer_topk_triton import select_cells

    return select_cells(r, c, k, excluded, generator)


def _bisect(r: Tensor, c: Tensor, k: int, excluded: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Does what `outer_topk` does in plain torch, for k >= 1 and checked factors."""
    cells = _Staircase(r, c, excluded)
    low, high = 0, _bits(float(cells.r.max()) * float(cells.c.max())) + 1
    above, at_least = 0, len(r) * len(c) - len(excluded)  # number of free cells with a product >= high, and >= low
    while high - low > 1 and at_least - above > max(k, _LISTABLE_CELLS):
        middle = (low + high) // 2
        count = cells.free(middle)
        if count >= k:
            low, at_least = middle, count
        else:
            high, above = middle, count
    selection = cells.between(high, None)
    missing = k - above
    if high - low == 1:
        selection = torch.cat([selection, cells.draw(low, missing, generator)])
    else:
        selection = torch.cat([selection, _largest(cells.between(low, high), cells, missing, generator)])
    selection = selection.sort().values
    return selection, cells.product(selection)


class _Staircase:
    """The cells of an outer product in the order of their products within each row.

    A row's cells are numbered along the sorted columns, so that the cells above a threshold are each row's first ones.
    Thresholds are the bits of a float64 as an integer; non-negative floats order like their bits.
    """

    def __init__(self, r: Tensor, c: Tensor, excluded: Tensor) -> None:
        self.exact = r.dtype == c.dtype == torch.float32  # then a float64 holds each product without rounding
        self.r, self.c, self.columns = r.double() + 0.0, c.double() + 0.0, len(c)  # a zero without a sign
        self.sorted, self.column = self.c.sort(descending=True, stable=True)
        self.ascending = self.sorted.flip(0)
        self.place = torch.empty_like(self.column)
        self.place[self.column] = torch.arange(len(c), device=c.device)
        self.excluded, self.excluded_products = excluded, self.product(excluded)

    def free(self, bits: int) -> int:
        """Counts the cells that are not excluded and whose product is at least the threshold `bits`."""
        return int(self._reach(bits).sum() - (self.excluded_products >= _float(bits)).sum())

    def between(self, low: int, high: int | None) -> Tensor:
        """Lists the flat cells that are not excluded and whose product is >= `low` and < `high` (None: no limit)."""
        begins = torch.zeros_like(self.r, dtype=torch.int64) if high is None else self._reach(high)
        counts = self._reach(low) - begins
        row = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        first = counts.cumsum(0) - counts
        place = begins[row] + torch.arange(len(row), device=row.device) - first[row]
        cells = row * self.columns + self.column[place]
        return cells[~_is_in(cells, self.excluded)]

    def draw(self, bits: int, count: int, generator: torch.Generator) -> Tensor:
        """Draws `count` flat cells from those that are not excluded and whose product is exactly `bits`."""
        begins, ends = self._reach(bits + 1), self._reach(bits)
        offsets = torch.cat([ends.new_zeros(1), (ends - begins).cumsum(0)])
        excluded_cells = self.excluded[self.excluded_products == _float(bits)]
        row = excluded_cells // self.columns
        excluded_ties = (offsets[row] + self.place[excluded_cells % self.columns] - begins[row]).sort().values
        draws = draw_distinct(int(offsets[-1]) - len(excluded_ties), count, generator).to(offsets.device)
        # Converts the number n of a free tie to its number among all ties: adds the excluded ties that precede it.
        draws += torch.searchsorted(
            excluded_ties - torch.arange(len(excluded_ties), device=draws.device), draws, right=True
        )
        row = torch.searchsorted(offsets, draws, right=True) - 1
        return row * self.columns + self.column[begins[row] + draws - offsets[row]]

    def product(self, cells: Tensor) -> Tensor:
        return self.r[cells // self.columns] * self.c[cells % self.columns]

    def _reach(self, bits: int) -> Tensor:
        """Returns for each row how many of its sorted cells have a product of at least `bits`, (rows,) int64."""
        threshold = _float(bits)
        if threshold == 0:
            return torch.full((len(self.r),), self.columns, dtype=torch.int64, device=self.r.device)
        if self.exact:
            # Factors above the rounded quotient reach the threshold and factors below do not. For factors equal to it
            # the product decides.
            quotient = threshold / self.r
            first = torch.searchsorted(self.ascending, quotient, right=False)
            past = torch.searchsorted(self.ascending, quotient, right=True)
            return self.columns - torch.where(self.r * quotient >= threshold, first, past)
        begin = torch.zeros(len(self.r), dtype=torch.int64, device=self.r.device)
        end = torch.full_like(begin, self.columns)
        for _ in range(self.columns.bit_length()):
            middle = (begin + end) // 2
            reaches = (self.r * self.sorted[middle.clamp(max=self.columns - 1)] >= threshold) & (middle < end)
            begin, end = torch.where(reaches, middle + 1, begin), torch.where(reaches, end, middle)
        return begin


def _largest(candidates: Tensor, cells: _Staircase, k: int, generator: torch.Generator) -> Tensor:
    """Returns the `k` candidates with the largest products; a draw decides among ties."""
    products = cells.product(candidates)
    if k == 0 or k == len(candidates):
        return candidates[:k]
    least = products.topk(k).values[-1]
    above, ties = candidates[products > least], candidates[products == least]
    draws = draw_distinct(len(ties), k - len(above), generator).to(ties.device)
    return torch.cat([above, ties[draws]])


def _is_in(cells: Tensor, excluded: Tensor) -> Tensor:
    """Returns a bool mask of the `cells` that are in `excluded`, which is ascending."""
    if len(excluded) == 0:
        return torch.zeros_like(cells, dtype=torch.bool)
    at = torch.searchsorted(excluded, cells).clamp(max=len(excluded) - 1)
    return excluded[at] == cells


def _bits(value: float) -> int:
    return int(torch.tensor(value, dtype=torch.float64).view(torch.int64))


def _float(bits: int) -> float:
    return float(torch.tensor(bits, dtype=torch.int64).view(torch.float64))
