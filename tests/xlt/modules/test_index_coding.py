import pytest
import torch

from xlt.modules.index_coding import decode_indices, encode_indices


def test_a_worked_example_is_coded_as_on_paper() -> None:
    # 4 to 6 follow at once; 255 entries are skipped before 262, 253 before 516, 256 before 775. The mark is 255,
    # so 255 and 256 escape: 10 bytes and 2 escapes of 4, against 20 bytes as uint16.
    indices = [3, 4, 5, 6, 262, 516, 517, 518, 775, 776]
    gaps, escapes = encode_indices(torch.tensor(indices, dtype=torch.int32))
    assert gaps.dtype == torch.uint8
    assert gaps.tolist() == [3, 0, 0, 0, 255, 253, 0, 0, 255, 0]
    assert escapes.tolist() == [255, 256]
    assert decode_indices(gaps, escapes).tolist() == indices


@pytest.mark.parametrize("density", [0.0005, 0.002, 0.04, 0.5, 1.0])
def test_random_indices_come_back_at_every_density(density: float) -> None:
    chosen = torch.rand(200_000, generator=torch.Generator().manual_seed(1)) < density
    indices = chosen.nonzero().flatten()
    gaps, escapes = encode_indices(indices)
    assert torch.equal(decode_indices(gaps, escapes), indices)


@pytest.mark.parametrize(
    ("step", "dtype"), [(20, torch.uint8), (5_000, torch.uint16), (10_000_000, torch.int32), (2**33, torch.int64)]
)
def test_the_smallest_coding_is_chosen(step: int, dtype: torch.dtype) -> None:
    indices = torch.arange(1, 101) * step
    gaps, escapes = encode_indices(indices)
    assert gaps.dtype == dtype
    assert torch.equal(decode_indices(gaps, escapes), indices)


@pytest.mark.parametrize("gap", [254, 255, 256, 65534, 65535, 65536, 2**31 - 2, 2**31 - 1, 2**31, 2**40])
def test_gaps_at_the_borders_of_the_codes_come_back(gap: int) -> None:
    indices = torch.tensor([*range(600), 599 + gap, 600 + gap, 600 + 2 * gap])
    assert torch.equal(decode_indices(*encode_indices(indices)), indices)


def test_no_indices_are_coded_as_nothing() -> None:
    gaps, escapes = encode_indices(torch.empty(0, dtype=torch.int32))
    assert gaps.numel() == escapes.numel() == 0
    assert decode_indices(gaps, escapes).tolist() == []


def test_escapes_that_are_missing_or_too_many_are_refused() -> None:
    gaps = torch.tensor([3, 255], dtype=torch.uint8)
    for escapes in ([], [300, 400]):
        with pytest.raises(ValueError, match="escapes for 1 marks"):
            decode_indices(gaps, torch.tensor(escapes, dtype=torch.int32))


def test_unknown_codings_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown"):
        decode_indices(torch.tensor([1.0]), torch.empty(0, dtype=torch.int32))
    with pytest.raises(ValueError, match="one dimension"):
        decode_indices(torch.zeros(1, 1, dtype=torch.uint8), torch.empty(0, dtype=torch.int32))


def test_indices_of_a_tensor_that_int32_can_count_are_decoded_in_int32() -> None:
    indices = torch.arange(1, 101) * 20
    found = decode_indices(*encode_indices(indices), total=2001)
    assert found.dtype == torch.int32 and found.tolist() == indices.tolist()


def test_indices_that_are_too_large_for_the_tensor_come_back_out_of_range_or_out_of_order() -> None:
    mark = torch.tensor([3, 255, 255], dtype=torch.uint8)
    wrapped = decode_indices(mark, torch.tensor([2**31 - 1, 2**31 - 1], dtype=torch.int32), total=1000)
    assert not bool((wrapped[1:] > wrapped[:-1]).all())
    cut = decode_indices(mark, torch.tensor([2**32 + 5, 7]), total=1000)  # 5 in int32, which would be in range
    assert cut.tolist() == [3, 2**32 + 9, 2**32 + 17]
