"""The largest entries of an outer product, without the matrix.

SpIEL-MA ranks weights for growth by r_i * c_j, the product of SM3's row and column accumulators (thesis §7.3.2;
Eq. 7.7's fourth root of it, the estimate of the momentum, orders them alike).
"""

import torch
from torch import Tensor

from .select import distinct

_FEW = 1 << 14  # cells that are cheaper to list and sort than to bisect further


def outer_topk_definition(
    r: Tensor, c: Tensor, k: int, excluded: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Says what `outer_topk` returns: forms the matrix, and sorts it by product, then by a random key."""
    product = torch.outer(r.double(), c.double()).view(-1)
    keys = torch.rand(product.shape, generator=generator, dtype=torch.float64).to(product.device)
    keys[excluded.long()] = -1
    product[excluded.long()] = -1
    order = keys.argsort(descending=True, stable=True)
    order = order[product[order].argsort(descending=True, stable=True)][:k]
    chosen = order.sort().values
    return chosen, product[chosen]


@torch.no_grad()
def outer_topk(r: Tensor, c: Tensor, k: int, excluded: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns the `k` largest r_i * c_j outside the excluded cells.

    With c sorted, the cells of row i that reach a threshold are a prefix, found by bisection; so counting the cells
    above a threshold takes O(rows log columns), and the threshold itself is found by bisection over float64 bits until
    few cells are between its bounds. Those are listed. Products are float64, exact for float32 factors. Memory is
    O(k + excluded + rows + columns).

    Cells that tie at the k-th product are drawn uniformly (with SM3 and low density most products are zero: position
    must not decide what grows).

    Args:
        r: (rows,) finite, not negative.
        c: (columns,) likewise.
        k: 0 <= k <= cells that are not excluded.
        excluded: (M,) int32 or int64 flat row-major cells, strictly ascending.
        generator: of the draw among ties, on the CPU; advanced only where there is one.
    Returns:
        (k,) int64 flat cells, ascending; (k,) float64 their products.
    Raises:
        ValueError: a factor is negative or not finite, or `k` is out of range.
    """
    rows, columns = len(r), len(c)
    free = rows * columns - len(excluded)
    if not 0 <= k <= free:
        raise ValueError(f"k={k}: must be between 0 and the number of cells that are not excluded, {free}")
    for name, factor in (("r", r), ("c", c)):
        if len(factor) and not bool(((factor >= 0) & (factor < torch.inf)).all()):
            raise ValueError(f"{name}: must be finite and not negative")
    if k == 0:
        return torch.empty(0, dtype=torch.int64, device=r.device), torch.empty(0, dtype=torch.float64, device=r.device)
    if rows > columns:  # bisect the shorter side's rows: the cost is rows x log columns
        turned = excluded.long()
        turned = (turned % columns * rows + turned // columns).sort().values
        found, products = outer_topk(c, r, k, turned, generator)
        found, order = (found % rows * columns + found // rows).sort()
        return found, products[order]
    cells = _Staircase(r, c, excluded.long())
    low, high = 0, _bits(float(r.max()) * float(c.max())) + 1
    above, at_least = 0, free  # free cells of products >= high, >= low
    while high - low > 1 and at_least - above > max(k, _FEW):
        middle = (low + high) // 2
        count = cells.free(middle)
        if count >= k:
            low, at_least = middle, count
        else:
            high, above = middle, count
    chosen = cells.between(high, None)
    missing = k - above
    if high - low == 1:
        chosen = torch.cat([chosen, cells.draw(low, missing, generator)])
    else:
        chosen = torch.cat([chosen, _largest(cells.between(low, high), cells, missing, generator)])
    chosen = chosen.sort().values
    return chosen, cells.product(chosen)


class _Staircase:
    """Cells of an outer product, ordered within each row; a cell's rank runs through the rows' sorted columns."""

    def __init__(self, r: Tensor, c: Tensor, excluded: Tensor) -> None:
        self.exact = r.dtype == c.dtype == torch.float32  # then float64 holds their products without rounding
        self.r, self.c, self.columns = r.double(), c.double(), len(c)
        self.sorted, self.column = self.c.sort(descending=True, stable=True)
        self.ascending = self.sorted.flip(0)
        self.place = torch.empty_like(self.column)
        self.place[self.column] = torch.arange(len(c), device=c.device)
        self.excluded, self.excluded_products = excluded, self.product(excluded)

    def free(self, bits: int) -> int:
        """Number of cells, the excluded ones left out, of product at least float64 `bits`."""
        return int(self._reach(bits).sum() - (self.excluded_products >= _float(bits)).sum())

    def between(self, low: int, high: int | None) -> Tensor:
        """Flat cells, the excluded ones left out, of product >= `low` and < `high`."""
        begins = torch.zeros_like(self.r, dtype=torch.int64) if high is None else self._reach(high)
        counts = self._reach(low) - begins
        row = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
        first = counts.cumsum(0) - counts
        place = begins[row] + torch.arange(len(row), device=row.device) - first[row]
        cells = row * self.columns + self.column[place]
        return cells[~_among(cells, self.excluded)]

    def draw(self, bits: int, count: int, generator: torch.Generator) -> Tensor:
        """`count` flat cells drawn from those of exactly this product, the excluded ones left out."""
        begins, ends = self._reach(bits + 1), self._reach(bits)
        offsets = torch.cat([ends.new_zeros(1), (ends - begins).cumsum(0)])
        tied = self.excluded[self.excluded_products == _float(bits)]
        row = tied // self.columns
        left_out = (offsets[row] + self.place[tied % self.columns] - begins[row]).sort().values
        drawn = distinct(int(offsets[-1]) - len(left_out), count, generator).to(offsets.device)
        # The n-th tie that is not left out: past every left-out one with at most n kept before it.
        drawn += torch.searchsorted(left_out - torch.arange(len(left_out), device=drawn.device), drawn, right=True)
        row = torch.searchsorted(offsets, drawn, right=True) - 1
        return row * self.columns + self.column[begins[row] + drawn - offsets[row]]

    def product(self, cells: Tensor) -> Tensor:
        return self.r[cells // self.columns] * self.c[cells % self.columns]

    def _reach(self, bits: int) -> Tensor:
        """(rows,) how many of a row's sorted cells have a product of at least `bits`."""
        threshold = _float(bits)
        if threshold == 0:
            return torch.full((len(self.r),), self.columns, dtype=torch.int64, device=self.r.device)
        if self.exact:
            # A factor above the rounded quotient reaches the threshold, one below does not; one that equals it may.
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
    """The `k` candidates of largest product, ties drawn."""
    products = cells.product(candidates)
    if k == 0 or k == len(candidates):
        return candidates[:k]
    least = products.topk(k).values[-1]
    surely, tied = candidates[products > least], candidates[products == least]
    drawn = distinct(len(tied), k - len(surely), generator).to(tied.device)
    return torch.cat([surely, tied[drawn]])


def _among(cells: Tensor, excluded: Tensor) -> Tensor:
    """Which of `cells` are in ascending `excluded`."""
    if len(excluded) == 0:
        return torch.zeros_like(cells, dtype=torch.bool)
    at = torch.searchsorted(excluded, cells).clamp(max=len(excluded) - 1)
    return excluded[at] == cells


def _bits(value: float) -> int:
    return int(torch.tensor(value, dtype=torch.float64).view(torch.int64))


def _float(bits: int) -> float:
    return float(torch.tensor(bits, dtype=torch.int64).view(torch.float64))
