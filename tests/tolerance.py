"""How far two right results of one computation may differ: processors add the same terms in different orders.

Some switches make a processor compute as an older one would: `MKL_CBWR=COMPATIBLE` (matrix products; `AVX`, `AVX2`),
`ATEN_CPU_CAPABILITY=default` (everything else; `avx2`) and `ONEDNN_MAX_CPU_ISA=SSE41` (bfloat16; `AVX2`). The suite
is meant to pass under each of them.
"""

from __future__ import annotations

import torch


def summation_tolerance(terms: int, dtype: torch.dtype) -> float:
    """The difference allowed between two sums of the same terms, as a multiple of the largest term's magnitude.

    `terms * eps`, where eps is the distance from 1 to the next number of the dtype. An addition rounds its result by
    at most eps / 2 of it, and the roundings of n additions behave as a random walk. If the terms' signs are random,
    two orders differ by 0.1 n eps of the largest term (measured for 10 to 1000 terms in float32; 0.6 n eps at most in
    2000 trials). If all signs are equal, the sum is larger than its terms: then two orders differ by at most
    0.7 sqrt(n) eps of the sum, so give the factor as `rtol`. What a test must notice, a missing term or a wrong
    factor, is larger by orders of magnitude.

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
