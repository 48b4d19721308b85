"""Which entries of a weight matrix a sparse delta changes, in the two orders that the kernels need."""

import torch
from torch import Tensor


class SparsePattern:
    """The positions of the active entries of a (rows, columns) matrix.

    Attributes:
        rows, columns: the matrix's shape.
        indices: (N,) flat row-major indices, strictly ascending; int32 if rows * columns fits into it, else int64.
        crow: (rows + 1,) number of the first entry of each row, as in the CSR format; int32 if rows, columns and N fit
            into it, else int64.
        col: (N,) column of each entry, of the dtype of `crow`.
    """

    def __init__(self, rows: int, columns: int, indices: Tensor, crow: Tensor, col: Tensor) -> None:
        self.rows, self.columns = rows, columns
        self.indices, self.crow, self.col = indices, crow, col
        self._borders: dict[int, Tensor] = {}

    @classmethod
    def from_indices(cls, indices: Tensor, rows: int, columns: int) -> "SparsePattern":
        """Builds the pattern from flat indices.

        Args:
            indices: (N,) int32 or int64 flat row-major indices, strictly ascending.
            rows, columns: shape of the weight.
        Raises:
            ValueError: `indices` has another shape or dtype, is not strictly ascending, or leaves the matrix.
        """
        if indices.dim() != 1 or indices.dtype not in (torch.int32, torch.int64):
            raise ValueError(
                f"indices have dtype {indices.dtype} and shape {tuple(indices.shape)}: must be (N,) int32 or int64"
            )
        if len(indices):
            if not bool((indices[1:] > indices[:-1]).all()):
                raise ValueError("indices repeat or are out of order: they must be strictly ascending")
            if int(indices[0]) < 0 or int(indices[-1]) >= rows * columns:
                raise ValueError(
                    f"indices go from {int(indices[0])} to {int(indices[-1])}: a {rows} x {columns} matrix has "
                    f"entries 0 to {rows * columns - 1}"
                )
        fits = torch.iinfo(torch.int32).max
        flat_dtype = torch.int32 if rows * columns <= fits else torch.int64
        csr_dtype = torch.int32 if max(rows, columns, len(indices)) <= fits else torch.int64
        starts = torch.arange(rows + 1, dtype=torch.int64, device=indices.device) * columns
        crow = torch.searchsorted(indices.long(), starts).to(csr_dtype)
        col = (indices % max(1, columns)).to(csr_dtype)
        return cls(rows, columns, indices.to(flat_dtype), crow, col)

    def to(self, device: torch.device | str) -> "SparsePattern":
        """Returns the pattern on another device."""
        return SparsePattern(
            self.rows, self.columns, self.indices.to(device), self.crow.to(device), self.col.to(device)
        )

    def borders(self, width: int) -> Tensor:
        """Returns where the entries of each piece of a row begin, if rows are cut into pieces of equal width.

        The result is cached for each width.

        Args:
            width: columns of a piece; the last piece of a row may be narrower.
        Returns:
            (rows * (pieces + 1),) numbers of entries, of the dtype of `crow`: for each row where each piece begins and
            where the last one ends.
        """
        if width not in self._borders:
            pieces = -(-self.columns // width)
            edges = torch.arange(pieces + 1, dtype=torch.int64, device=self.indices.device) * width
            edges[-1] = self.columns
            starts = torch.arange(self.rows, dtype=torch.int64, device=self.indices.device) * self.columns
            flat = (starts[:, None] + edges).view(-1)
            self._borders[width] = torch.searchsorted(self.indices.long(), flat).to(self.crow.dtype)
        return self._borders[width]

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"SparsePattern({len(self)} of {self.rows} x {self.columns})"
