"""The k largest r_i * c_j: against the whole matrix, and by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from xlt_kernels import outer_topk as module
from xlt_kernels.outer_topk import outer_topk, outer_topk_definition


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _factors(rows: int, columns: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = _generator(rows + columns)
    return tuple(torch.rand(n, generator=generator, dtype=torch.float64).exp().to(dtype) ** 7 for n in (rows, columns))


def _excluded(rows: int, columns: int, count: int) -> Tensor:
    return torch.randperm(rows * columns, generator=_generator(count))[:count].sort().values


@pytest.fixture(params=["bisect to the end", "list the last"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LISTABLE_CELLS", 0 if request.param == "bisect to the end" else 1 << 14)


def test_on_paper() -> None:
    """r = (2, 0, 1), c = (3, 1, 5): products 6 2 10 / 0 0 0 / 3 1 5; without the 10 the largest three are 6, 5, 3."""
    cells, products = outer_topk(
        torch.tensor([2.0, 0, 1]), torch.tensor([3.0, 1, 5]), 3, torch.tensor([2]), _generator()
    )
    assert cells.tolist() == [0, 6, 8]
    assert products.tolist() == [6.0, 3.0, 5.0]


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 37), (37, 1), (41, 130), (130, 41), (64, 64)])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("excluded_share", [0.0, 0.2])
def test_the_set_is_that_of_the_formed_matrix(
    dtype: torch.dtype, rows: int, columns: int, share: float, excluded_share: float
) -> None:
    r, c = _factors(rows, columns, dtype)
    excluded = _excluded(rows, columns, int(excluded_share * rows * columns))
    k = int(share * (rows * columns - len(excluded)))
    cells, products = outer_topk(r, c, k, excluded, _generator())
    expected, expected_products = outer_topk_definition(r, c, k, excluded, _generator())
    assert torch.equal(cells, expected)
    assert torch.equal(products, expected_products)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize(("rows", "columns"), [(20, 50), (50, 20)])
@pytest.mark.parametrize("k", [1, 37, 150, 500, 800])
def test_with_ties_the_products_are_the_largest_and_no_excluded_cell_is_drawn(rows: int, columns: int, k: int) -> None:
    """Most factors are zero and the others have few values, as in SM3's accumulators at a low density."""
    generator = _generator(k)
    r = torch.randint(3, (rows,), generator=generator).float()
    c = torch.randint(3, (columns,), generator=generator).float()
    excluded = _excluded(rows, columns, 200)
    cells, products = outer_topk(r, c, k, excluded, _generator())
    _, expected = outer_topk_definition(r, c, k, excluded, _generator())
    assert len(cells.unique()) == k
    assert not torch.isin(cells, excluded).any()
    assert torch.equal(products, torch.outer(r, c).view(-1)[cells].double())
    assert torch.equal(products.sort().values, expected.sort().values)


@pytest.mark.usefixtures("way")
def test_ties_are_drawn_uniformly_whatever_their_position() -> None:
    r, c = torch.tensor([1.0, 0, 2, 0]), torch.tensor([0.0, 3, 0])
    excluded = torch.tensor([3, 10])  # two of the ten zeros
    counts = torch.zeros(12)
    generator, trials = _generator(), 1000
    for _ in range(trials):
        cells, _ = outer_topk(r, c, 4, excluded, generator)
        counts[cells] += 1
    assert counts[[1, 7]].tolist() == [trials, trials]
    assert counts[excluded].tolist() == [0, 0]
    ties = [cell for cell in range(12) if cell not in (1, 7, 3, 10)]
    # Two of eight: 250 expected, standard deviation 14.
    assert all(abs(float(counts[cell]) - trials / 4) < 5 * 14 for cell in ties)


def test_the_draw_depends_on_the_seed_alone() -> None:
    r, c, none = torch.zeros(30), torch.zeros(40), torch.empty(0, dtype=torch.int32)
    first, again, other = (outer_topk(r, c, 25, none, _generator(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_everything_free_and_nothing() -> None:
    r, c = _factors(3, 5)
    excluded = torch.tensor([0, 7])
    assert outer_topk(r, c, 13, excluded, _generator())[0].tolist() == [n for n in range(15) if n not in (0, 7)]
    cells, products = outer_topk(r, c, 0, excluded, _generator())
    assert (len(cells), len(products), cells.dtype) == (0, 0, torch.int64)


def test_cells_past_two_to_the_31() -> None:
    """The factors have 70,000 entries each, so that the matrix would take 39 GB."""
    r, c = torch.zeros(70_000), torch.zeros(70_000)
    r[[69_999, 3]], c[[69_998, 0]] = torch.tensor([3.0, 2.0]), torch.tensor([5.0, 1.0])
    cells, products = outer_topk(r, c, 3, torch.tensor([69_999 * 70_000]), _generator())
    assert cells.tolist() == [3 * 70_000, 3 * 70_000 + 69_998, 69_999 * 70_000 + 69_998]
    assert products.tolist() == [2.0, 10.0, 15.0]
    drawn, _ = outer_topk(r, c, 1000, torch.tensor([69_999 * 70_000]), _generator())
    assert len(drawn.unique()) == 1000
    assert int(drawn.max()) > 2**31


@pytest.mark.parametrize(
    ("r", "k", "message"),
    [
        ([-1.0, 1], 1, r"\br\b.*finite"),
        ([float("nan"), 1], 1, r"\br\b.*NaN"),
        ([1.0, 1], 4, "k=4"),
        ([1.0], -1, "k="),
    ],
)
def test_wrong_arguments_are_refused(r: list[float], k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        outer_topk(torch.tensor(r), torch.ones(2), k, torch.tensor([0]), _generator())
