import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from xlt_kernels import select
from xlt_kernels.select import (
    select_at_random,
    select_largest,
    select_most_changed,
    select_most_changed_definition,
    select_with_overlap,
)

Tensors = dict[str, Tensor]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every tensor of these tests consist of many chunks, of which the last is shorter."""
    monkeypatch.setattr(select, "_CHUNK_ENTRIES", 37)


def naive(after: Tensors, before: Tensors, k: int) -> dict[str, list[int]]:
    """Selects with Python's own sort over (change, tensor, index)."""
    entries = []
    for place, name in enumerate(after):
        differences = (after[name].double() - before[name].double()).abs().float().reshape(-1).tolist()
        entries += [(-change, place, index) for index, change in enumerate(differences)]
    chosen = sorted(entries)[:k]
    return {name: sorted(i for _, p, i in chosen if p == place) for place, name in enumerate(after)}


def check(after: Tensors, before: Tensors, k: int) -> None:
    found = select_most_changed(after, before, k)
    defined = select_most_changed_definition(after, before, k)
    assert list(found) == list(after)
    assert {n: i.tolist() for n, i in found.items()} == naive(after, before, k)
    assert {n: i.tolist() for n, i in defined.items()} == naive(after, before, k)
    assert all(i.dtype == torch.int64 for i in found.values())


def pairs(seed: int, dtype: torch.dtype = torch.float32, scale: float = 1e-3) -> tuple[Tensors, Tensors]:
    g = torch.Generator().manual_seed(seed)
    shapes = {"odd": (9, 41), "none": (0, 5), "scalar": (), "vector": (257,), "deep": (3, 5, 7)}
    before = {n: (torch.randn(s, generator=g) * 0.02).to(dtype) for n, s in shapes.items()}
    after = {n: b + (torch.randn(b.shape, generator=g) * scale).to(dtype) for n, b in before.items()}
    return after, before


def test_a_hand_worked_example() -> None:
    before = {"a": torch.zeros(2, 2), "b": torch.ones(3)}
    after = {"a": torch.tensor([[0.5, -2.0], [0.0, 1.0]]), "b": torch.tensor([1.0, 4.0, 0.0])}
    # changes: a 0.5 2 0 1, b 0 3 1; the third place is a tie of 1 between a[1, 1] and b[2]
    found = select_most_changed(after, before, 3)
    assert found["a"].tolist() == [1, 3]
    assert found["b"].tolist() == [1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k", [0, 1, 2, 50, 369, 730, 731, 732])
def test_it_equals_a_sort_for_every_dtype_and_k(dtype: torch.dtype, k: int) -> None:
    # In 16 bits most changes are equal: the tie rule decides.
    check(*pairs(0, dtype), k)


@pytest.mark.parametrize("k", [1, 100, 400, 732])
def test_ties_go_to_the_lower_tensor_then_the_lower_index(k: int) -> None:
    _, before = pairs(1)
    g = torch.Generator().manual_seed(2)
    check({n: b + torch.randint(0, 3, b.shape, generator=g) for n, b in before.items()}, before, k)


@pytest.mark.parametrize("k", [1, 36, 37, 38, 500])
def test_when_nothing_changed_the_first_k_are_chosen(k: int) -> None:
    _, before = pairs(3)
    check(before, before, k)
    chosen = torch.cat(list(select_most_changed(before, before, k).values()))
    assert len(chosen) == k


def test_k_beyond_the_changed_entries_is_filled_with_unchanged_ones() -> None:
    _, before = pairs(4)
    after = {n: b.clone() for n, b in before.items()}
    after["vector"][200:205] += 1.0
    check(after, before, 20)
    assert select_most_changed(after, before, 20)["vector"].tolist() == [200, 201, 202, 203, 204]


def test_neighbouring_floats_subnormals_and_infinities_are_told_apart() -> None:
    steps = torch.arange(120, dtype=torch.int32)
    around = torch.cat([steps, steps + 0x00800000 - 60, steps + 0x3F800000, steps + 0x3F80FFC0])
    values = around.view(torch.float32)[torch.randperm(480, generator=torch.Generator().manual_seed(0))].clone()
    values[7] = math.inf
    values[100] = -math.inf
    after, before = {"w": values}, {"w": torch.zeros(480)}
    for k in (1, 2, 3, 60, 121, 240, 241, 361, 479):
        check(after, before, k)


def test_sixteen_bit_differences_are_formed_in_float32() -> None:
    # 1 - 1/512 is no bfloat16: rounded to it the two would tie, and the lower index win.
    after = {"w": torch.tensor([1.0, 1.0], dtype=torch.bfloat16)}
    before = {"w": torch.tensor([2.0**-9, 0.0], dtype=torch.bfloat16)}
    assert select_most_changed(after, before, 1)["w"].tolist() == [1]


def test_dtypes_may_differ_between_before_and_after() -> None:
    after, before = pairs(5)
    for first, second in [(torch.bfloat16, torch.float32), (torch.float64, torch.bfloat16), (torch.float16,) * 2]:
        check({n: a.to(first) for n, a in after.items()}, {n: b.to(second) for n, b in before.items()}, 111)


def test_transposed_and_strided_tensors_are_indexed_in_row_major_order() -> None:
    g = torch.Generator().manual_seed(6)
    after = {"t": torch.randn(11, 23, generator=g).t(), "s": torch.randn(40, 6, generator=g)[::2, 1::2]}
    before = {n: torch.zeros(a.shape) for n, a in after.items()}
    check(after, before, 77)
    check(before, after, 77)


def test_flat_indices_pass_two_to_the_31(monkeypatch: pytest.MonkeyPatch) -> None:
    within = select._change_bits

    def far(after: Tensor, before: Tensor) -> Iterator[tuple[int, Tensor]]:
        for start, bits in within(after, before):
            yield start + 2**33, bits

    monkeypatch.setattr(select, "_change_bits", far)
    found = select_most_changed({"w": torch.arange(100.0)}, {"w": torch.zeros(100)}, 3)
    assert found["w"].tolist() == [2**33 + 97, 2**33 + 98, 2**33 + 99]


def test_the_inputs_are_left_alone() -> None:
    after, before = pairs(7)
    kept = {n: (after[n].clone(), before[n].clone()) for n in after}
    select_most_changed({n: a.requires_grad_() for n, a in after.items()}, before, 99)
    assert all(torch.equal(after[n], a) and torch.equal(before[n], b) for n, (a, b) in kept.items())


def test_a_nan_is_refused_with_its_place() -> None:
    after, before = pairs(8)
    after["vector"][123] = math.nan
    with pytest.raises(ValueError, match=r"vector.* 123 .*NaN"):
        select_most_changed(after, before, 5)
    after["vector"][123] = before["vector"][123] = math.inf  # inf - inf
    with pytest.raises(ValueError, match="flat index 123"):
        select_most_changed(after, before, 5)


def test_mismatches_and_an_impossible_k_are_refused() -> None:
    after, before = pairs(9)
    with pytest.raises(ValueError, match=r"k=733\b.*\b732"):
        select_most_changed(after, before, 733)
    with pytest.raises(ValueError, match="k=-1"):
        select_most_changed(after, before, -1)
    with pytest.raises(ValueError, match=r"odd .*shape"):
        select_most_changed(after, before | {"odd": before["odd"].t()}, 1)
    with pytest.raises(ValueError, match="extra "):
        select_most_changed(after, before | {"extra": torch.zeros(1)}, 1)
    with pytest.raises(ValueError, match=r"vector .*torch\.int64"):
        select_most_changed(after | {"vector": torch.zeros(257, dtype=torch.int64)}, before, 1)


SHAPES = {"a": torch.Size((3, 4)), "none": torch.Size((0,)), "b": torch.Size((8,))}


@pytest.mark.parametrize("k", [0, 1, 9, 10, 11, 19, 20])
def test_a_random_choice_has_exactly_k_distinct_sorted_entries(k: int) -> None:
    for seed in range(20):
        chosen = select_at_random(SHAPES, k, torch.Generator().manual_seed(seed))
        assert list(chosen) == list(SHAPES)
        assert sum(map(len, chosen.values())) == k
        for name, indices in chosen.items():
            assert indices.dtype == torch.int64
            assert indices.tolist() == sorted(set(indices.tolist()))
            assert all(0 <= i < SHAPES[name].numel() for i in indices.tolist())


@pytest.mark.parametrize("k", [3, 13])
def test_a_random_choice_is_uniform_over_entries_and_pairs(k: int) -> None:
    draws, generator = 4000, torch.Generator().manual_seed(0)
    together = torch.zeros(20, 20)
    for _ in range(draws):
        chosen = select_at_random(SHAPES, k, generator)
        flat = torch.cat([chosen["a"], chosen["b"] + 12])
        together[flat[:, None], flat[None, :]] += 1
    once, twice = k / 20, k * (k - 1) / (20 * 19)
    single, pair = together.diagonal(), together[torch.ones(20, 20).triu(1).bool()]
    # Five standard deviations of a binomial: 210 counts, one chance in 10^4 of failing for another seed.
    assert (single - draws * once).abs().max() < 5 * math.sqrt(draws * once * (1 - once))
    assert (pair - draws * twice).abs().max() < 5 * math.sqrt(draws * twice * (1 - twice))


def test_a_random_choice_repeats_with_its_seed_and_advances_the_generator() -> None:
    generator = torch.Generator().manual_seed(1)
    shapes = {"w": torch.Size((100, 100))}
    first, second = (select_at_random(shapes, 500, generator)["w"] for _ in range(2))
    assert not torch.equal(first, second)
    assert torch.equal(first, select_at_random(shapes, 500, torch.Generator().manual_seed(1))["w"])


def test_a_random_choice_reaches_past_two_to_the_31_without_the_model_in_memory() -> None:
    shapes = {"small": torch.Size((5,)), "huge": torch.Size((2**20, 2**13))}
    chosen = select_at_random(shapes, 1000, torch.Generator().manual_seed(0))
    assert sum(map(len, chosen.values())) == 1000
    beyond = (chosen["huge"] >= 2**31).float().mean().item()
    assert 0.68 < beyond < 0.82  # three quarters of 2^33 lie beyond; five standard deviations
    assert int(chosen["huge"].max()) < 2**33


def test_a_random_choice_of_too_many_is_refused() -> None:
    with pytest.raises(ValueError, match=r"k=21\b.*\b20"):
        select_at_random(SHAPES, 21, torch.Generator())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("excluded_share", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_the_largest_of_one_tensor_without_the_excluded(
    dtype: torch.dtype, excluded_share: float, share: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(23, 31, generator=generator).to(dtype)
    order = torch.randperm(values.numel(), generator=generator)
    excluded = order[: int(excluded_share * values.numel())].sort().values
    k = int(share * (values.numel() - len(excluded)))
    left_out = set(excluded.tolist())
    ranked = sorted((-abs(v), n) for n, v in enumerate(values.float().view(-1).tolist()) if n not in left_out)
    chosen = select_largest(values.clone(), k, excluded, generator)
    assert chosen.tolist() == sorted(n for _, n in ranked[:k])


def test_entries_without_a_value_are_drawn_not_taken_by_position() -> None:
    values, excluded = torch.zeros(10), torch.tensor([0, 9])
    values[4] = -2.0
    generator, counts = torch.Generator().manual_seed(1), torch.zeros(10)
    for _ in range(2000):
        chosen = select_largest(values.clone(), 3, excluded, generator)
        assert chosen.tolist() == sorted(set(chosen.tolist()))
        counts[chosen] += 1
    assert counts[[0, 9]].tolist() == [0, 0]
    assert counts[4] == 2000
    # Two of seven: 571 expected, standard deviation 20.
    assert all(abs(float(counts[n]) - 571) < 5 * 20 for n in (1, 2, 3, 5, 6, 7, 8))


def test_more_entries_than_are_free_are_refused() -> None:
    with pytest.raises(ValueError, match=r"k=9\b.*\b8"):
        select_largest(torch.ones(10), 9, torch.tensor([0, 1]), torch.Generator())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("expanded", [False, True])
@pytest.mark.parametrize("entries", [0, 1, 5000])
def test_the_triton_kernel_counts_the_same_bits(dtype: torch.dtype, expanded: bool, entries: int) -> None:
    pytest.importorskip("triton", reason="Triton is not installed")
    from xlt_kernels.select_triton import launch_counts

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(1)
    after = torch.randn(entries, generator=generator).to(device, dtype)
    before = torch.randn(entries, generator=generator).to(device, dtype)
    if expanded:
        before = after.new_zeros(1).expand_as(after)
    bits = (after.float() - before.float()).abs().cpu().view(torch.int32).long()
    high = torch.bincount(bits >> 16, minlength=1 << 15)
    assert torch.equal(launch_counts(after, before, 0, 16, 1 << 15).cpu(), high)
    upper = int(high.argmax())
    low = torch.bincount(bits[bits >> 16 == upper] & 0xFFFF, minlength=1 << 16)
    assert torch.equal(launch_counts(after, before, upper << 16, 0, 1 << 16).cpu(), low)


def naive_with_overlap(
    after: Tensors, before: Tensors, k: int, shared: int, others: dict[str, Tensor | None]
) -> dict[str, list[int]]:
    """Selects inside and outside of `others` with Python's own sort."""
    entries: tuple[list[tuple[float, int, int]], list[tuple[float, int, int]]] = ([], [])
    for place, name in enumerate(after):
        changes = (after[name].double() - before[name].double()).abs().float().reshape(-1).tolist()
        given = others.get(name, torch.empty(0))
        own = set(range(len(changes))) if given is None else set(given.tolist())
        for index, change in enumerate(changes):
            entries[index not in own].append((-change, place, index))
    chosen = sorted(entries[0])[:shared] + sorted(entries[1])[: k - shared]
    return {name: sorted(i for _, p, i in chosen if p == place) for place, name in enumerate(after)}


def some_entries(tensors: Tensors, share: float, seed: int) -> dict[str, Tensor | None]:
    """A mask with an entry in some tensors, every entry in one, and a name that is in no tensor."""
    g = torch.Generator().manual_seed(seed)
    drawn = {n: (torch.rand(t.numel(), generator=g) < share).nonzero().view(-1) for n, t in tensors.items()}
    return {"odd": drawn["odd"].int(), "deep": None, "vector": drawn["vector"], "elsewhere": torch.tensor([3])}


@pytest.mark.parametrize("changed", [1.0, 0.1, 0.0])
@pytest.mark.parametrize(("k", "shared"), [(0, 0), (1, 0), (1, 1), (60, 0), (60, 21), (60, 60), (300, 150), (500, 60)])
def test_exactly_so_many_of_the_selected_entries_are_among_others(k: int, shared: int, changed: float) -> None:
    """Also where fewer entries changed than are selected, and where most changes are equal."""
    for dtype in (torch.float32, torch.bfloat16):
        after, before = pairs(8, dtype)
        g = torch.Generator().manual_seed(9)
        for name, a in after.items():
            still = torch.rand(a.shape, generator=g) >= changed
            after[name] = torch.where(still, before[name], a)
        others = some_entries(after, 0.25, 10)
        expected = naive_with_overlap(after, before, k, shared, others)
        found = select_with_overlap({n: a.clone() for n, a in after.items()}, before, k, shared, others)
        assert {n: i.tolist() for n, i in found.items()} == expected
        assert all(i.dtype == torch.int64 for i in found.values())


def test_a_selection_that_the_others_do_not_allow_is_refused() -> None:
    after, before = pairs(11)
    others = some_entries(after, 0.25, 12)
    members = sum(105 if own is None else len(own) for name, own in others.items() if name in after)
    total = sum(a.numel() for a in after.values())
    for k, shared in ((10, 11), (total, members - 1), (members + 1, members + 1), (5, -1)):
        with pytest.raises(ValueError, match=f"there are {members} entries of `others` and {total - members} outside"):
            select_with_overlap(after, before, k, shared, others)
    with pytest.raises(ValueError, match="they must be equal"):
        select_with_overlap(after, {n: b.double() for n, b in before.items()}, 1, 0, others)
    place = int(others["odd"][0])  # type: ignore[index]
    after["odd"].view(-1)[place] = math.nan
    with pytest.raises(ValueError, match="tensor odd: a difference is NaN"):
        select_with_overlap(after, before, 1, 0, others)
