"""How far two right results of one computation may differ: processors add the same terms in different orders."""

from __future__ import annotations

import torch


def summation_tolerance(terms: int, dtype: torch.dtype) -> float:
    """The difference allowed between two sums of the same terms, as a multiple of the largest term's magnitude.

    `terms * eps`, where eps is the distance from 1 to the next number of the dtype. An addition rounds its result by
    at most eps / 2 of it. The roundings of n additions behave as a random walk: if the terms' signs are random, the
    partial sums grow as sqrt(n) and the difference of two orders as 0.1 n eps; if all signs are equal, the difference
    is below sqrt(n) eps of the sum. So the bound leaves a factor of about ten, and what a test must notice (a missing
    term, a wrong factor) is larger by orders of magnitude.

    A processor decides the order: by the width of its vectors, by whether it fuses products and sums, by the number of
    threads. Results that are computed without a sum, or in the same order by contract, are compared exactly.

    Args:
        terms: how many terms a result has; of results computed from one another (layers, steps), all of them together.
            1: each result is rounded once, perhaps to the other neighbour.
        dtype: in which the terms are added, or to which the result is rounded if that is coarser.
    Returns:
        A factor: as `rtol`; times the largest magnitude of a term, or of a result that is as large, as `atol`.
    """
    return terms * torch.finfo(dtype).eps
