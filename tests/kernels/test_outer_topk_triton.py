"""The kernels of `outer_topk`: the cells of a definition and of the bisection in plain torch, ties drawn alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from xlt_kernels import outer_topk as module
from xlt_kernels.outer_topk import outer_topk
from xlt_kernels.select import draw_distinct

pytest.importorskip("triton", reason="Triton is not installed")
from triton.runtime.interpreter import interpreter_builder
from xlt_kernels import outer_topk_triton as kernels

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Case = tuple[Tensor, Tensor, int, Tensor]


@pytest.fixture
def by_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "uses_triton", lambda tensor: True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def factors(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    drawn = (torch.rand(n, generator=generator(n), dtype=torch.float64) for n in (rows, columns))
    return tuple(values.exp().to(dtype) ** 7 for values in drawn)


def some(count: int, cells: int) -> Tensor:
    return torch.randperm(cells, generator=generator(count))[:count].sort().values


def few_values(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Most products are zero or equal, as with SM3 at a low density."""
    return tuple(torch.randint(3, (n,), generator=generator(n)).float() for n in (rows, columns))


def defined(r: Tensor, c: Tensor, k: int, excluded: Tensor, draw: torch.Generator) -> Tensor:
    """The flat cells, by the whole matrix in float64.

    Ties are numbered along the shorter side (the rows, if both are equal) and then along the sorted longer one.
    """
    if len(r) > len(c):
        excluded = excluded.long() % len(c) * len(r) + excluded.long() // len(c)
        cells = defined(c, r, k, excluded, draw)
        return (cells % len(r) * len(c) + cells // len(r)).sort().values
    product = r.double()[:, None] * c.double()[None, :]
    free = torch.ones(product.numel(), dtype=torch.bool)
    free[excluded.long()] = False
    free = free.view_as(product)
    least = product[free].sort(descending=True).values[k - 1]
    above = (free & (product > least)).view(-1).nonzero().view(-1)
    order = sorted(range(len(c)), key=lambda column: (-float(c[column]), column))
    ties = [i * len(c) + j for i in range(len(r)) for j in order if free[i, j] and product[i, j] == least]
    drawn = torch.tensor(ties)[draw_distinct(len(ties), k - len(above), draw)]
    return torch.cat([above, drawn]).sort().values


CASES: dict[str, Callable[[], Case]] = {
    "all products differ": lambda: (*factors(9, 33), 60, some(70, 9 * 33)),
    "taller than wide": lambda: (*factors(33, 9), 60, some(70, 9 * 33).int()),
    "factors in float64": lambda: (*factors(7, 20, torch.float64), 31, some(40, 140)),
    "one cell": lambda: (*factors(1, 1), 1, some(0, 1)),
    "one row": lambda: (*factors(1, 60), 30, some(10, 60)),
    "one column": lambda: (*factors(37, 1), 5, some(9, 37)),
    "all that are free": lambda: (*factors(6, 11), 66 - 13, some(13, 66)),
    "a row is excluded, and the largest products": lambda: (
        torch.tensor([1.0, 5, 2]), torch.tensor([3.0, 9, 1, 4]), 3, torch.tensor([1, 4, 5, 6, 7, 9])
    ),
    "more ties than places": lambda: (*few_values(8, 21), 90, some(30, 168)),
    "more ties than places, taller than wide": lambda: (*few_values(21, 8), 41, some(30, 168)),
    "ties at a product that is not zero": lambda: (*few_values(8, 21), 11, some(30, 168)),
    "every factor is zero": lambda: (torch.zeros(5), -torch.zeros(9), 7, some(10, 45)),
    "rows are zero": lambda: (torch.zeros(5), factors(5, 9)[1], 7, some(10, 45)),
    "columns are zero": lambda: (factors(5, 9)[0], torch.zeros(9), 7, some(10, 45)),
    "the least floats": lambda: (torch.arange(6) * 2.0**-149, torch.arange(9) * 2.0**-149, 13, some(5, 54)),
    "products that round to few values": lambda: (
        torch.arange(6).double() * 1e-162, torch.arange(9).double() * 1e-162, 13, some(5, 54)
    ),
    "products that overflow": lambda: (
        torch.tensor([1e200, 1, 2e200], dtype=torch.float64), torch.tensor([1e200, 1e150, 3], dtype=torch.float64), 2,
        some(0, 9),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize(
    ("case", "block"), [*((case, 1024) for case in CASES), ("all products differ", 4), ("more ties than places", 4)]
)
def test_the_cells_are_those_of_the_definition_and_of_plain_torch(
    case: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "_BLOCK_ROWS", block)
    monkeypatch.setattr(kernels, "_BLOCK_COLUMNS", 4 * block)
    r, c, k, excluded = CASES[case]()
    draws = [generator(3) for _ in range(3)]
    in_torch, products = outer_topk(r, c, k, excluded, draws[0])
    monkeypatch.setattr(module, "uses_triton", lambda tensor: True)
    found, found_products = outer_topk(r.to(DEVICE), c.to(DEVICE), k, excluded.to(DEVICE), draws[1])
    assert torch.equal(found.cpu(), defined(r, c, k, excluded, draws[2]))
    assert torch.equal(found.cpu(), in_torch) and torch.equal(found_products.cpu(), products)
    assert all(torch.equal(draw.get_state(), draws[0].get_state()) for draw in draws)


def test_cells_past_two_to_the_31(by_kernels: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix has 46,400 x 46,400 cells; interpreted, only the two rows are run in which cells are chosen."""
    size = 46_400
    r, c = torch.zeros(size), torch.zeros(size)
    r[[size - 1, 3]], c[[size - 2, 0]] = torch.tensor([3.0, 2.0]), torch.tensor([5.0, 1.0])
    if DEVICE == "cpu":
        kernel, builder, rows = kernels._cells_kernel, interpreter_builder, (3, size - 1)
        monkeypatch.setattr(kernels, "_cells_kernel", {(size,): kernel[(len(rows),)]})
        monkeypatch.setattr(builder, "set_grid_idx", lambda x, y, z: setattr(builder, "grid_idx", (rows[x], y, z)))
    excluded = torch.tensor([(size - 1) * size])
    cells, products = outer_topk(r.to(DEVICE), c.to(DEVICE), 3, excluded.to(DEVICE), generator())
    assert cells.tolist() == [3 * size, 4 * size - 2, size * size - 2]
    assert products.tolist() == [2.0, 10.0, 15.0]


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("sizes", [(2, 3), (3, 2)])
def test_wrong_factors_are_refused_by_name(wrong: float, sizes: tuple[int, int], by_kernels: None) -> None:
    for name in ("r", "c"):
        r, c = torch.ones(sizes[0], device=DEVICE), torch.ones(sizes[1], device=DEVICE)
        (r if name == "r" else c)[1] = wrong
        with pytest.raises(ValueError, match=rf"the factor {name} has"):
            outer_topk(r, c, 1, torch.tensor([0], device=DEVICE), generator())


class Operations(TorchDispatchMode):
    """Counts what would be launched on a GPU, and how often the host would wait for it."""

    def __init__(self) -> None:
        super().__init__()
        self.launches = self.waits = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        name = function.overloadpacket.__name__
        by_mask = name == "index" and any(i is not None and i.dtype == torch.bool for i in arguments[1])
        self.waits += by_mask or name in ("_local_scalar_dense", "nonzero", "repeat_interleave", "masked_select")
        self.launches += not function.is_view and not name.startswith(("empty", "new_empty", "_local_scalar"))
        return function(*arguments, **(named or {}))


class CountedKernel:
    """A kernel whose launches are counted; what the interpreter does inside is not."""

    def __init__(self, kernel: Any, operations: Operations) -> None:
        self.kernel, self.operations, self.launches = kernel, operations, 0

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, **named: Any) -> None:
            self.launches += 1
            self.operations.launches += 1
            with _disable_current_modes():
                self.kernel[grid](*arguments, **named)

        return launch


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Operations, list[CountedKernel]]]:
    operations = Operations()
    found = [CountedKernel(getattr(kernels, name), operations) for name in ("_threshold_kernel", "_cells_kernel")]
    to_list, draw = Tensor.tolist, draw_distinct

    def listed(tensor: Tensor) -> Any:
        operations.waits += 1
        return to_list(tensor)

    def drawn(*arguments: Any) -> Tensor:  # on the host, on every way
        with _disable_current_modes():
            return draw(*arguments)

    with monkeypatch.context() as patched, operations:
        patched.setattr(kernels, "_threshold_kernel", found[0])
        patched.setattr(kernels, "_cells_kernel", found[1])
        patched.setattr(Tensor, "tolist", listed)
        patched.setattr(module, "draw_distinct", drawn)
        patched.setattr(kernels, "draw_distinct", drawn)
        yield operations, found


@pytest.mark.parametrize("case", ["all products differ", "more ties than places"])
def test_two_kernels_and_the_host_waits_once(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LISTABLE_CELLS", 0)
    r, c, k, excluded = CASES[case]()
    with counted(monkeypatch) as (in_torch, _):
        outer_topk(r, c, k, excluded, generator())
    monkeypatch.setattr(module, "uses_triton", lambda tensor: True)
    with counted(monkeypatch) as (ours, launched):
        outer_topk(r, c, k, excluded, generator())
    assert [kernel.launches for kernel in launched] == [1, 1]
    assert ours.waits == 1 and ours.launches <= 25
    assert in_torch.waits > 20
