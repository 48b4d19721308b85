"""Which entries of a weight matrix a sparse delta changes, in the two orders that the kernels need."""

import torch
from torch import Tensor


class SparsePattern:
    """The positions of the active entries of a (rows, columns) matrix.

    Attributes:
        rows, columns: the matrix's shape.
        indices: (N,) flat row-major indices, strictly ascending; int32 if rows * columns fits into it, else int64. A
            pattern `without_indices` makes them anew at each use.
        crow: (rows + 1,) number of the first entry of each row, as in the CSR format; int32 if rows, columns and N fit
            into it, else int64.
        col: (N,) column of each entry, of the dtype of `crow`. A pattern `without_columns` makes them anew at each use.
    """

    def __init__(self, rows: int, columns: int, indices: Tensor | None, crow: Tensor, col: Tensor | None) -> None:
        self.rows, self.columns = rows, columns
        self.crow = crow
        self._indices, self._col = indices, col
        self._chunks: dict[int, Tensor] = {}
        self._places: tuple[int, list[int]] | None = None

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
        return cls(rows, columns, indices.to(flat_dtype), crow, _columns(indices, columns, csr_dtype))

    @property
    def indices(self) -> Tensor:
        if self._indices is not None:
            return self._indices
        fits = self.rows * self.columns <= torch.iinfo(torch.int32).max
        return self.within(0, self.rows, 0, len(self)).to(torch.int32 if fits else torch.int64)

    @property
    def col(self) -> Tensor:
        return _columns(self.indices, self.columns, self.crow.dtype) if self._col is None else self._col

    def without_indices(self) -> "SparsePattern":
        """Returns the same pattern, which holds rows and columns only: 4 bytes an entry less."""
        return SparsePattern(self.rows, self.columns, None, self.crow, self.col)

    def without_columns(self) -> "SparsePattern":
        """Returns the same pattern, which holds rows and flat indices only: 4 bytes an entry less."""
        return SparsePattern(self.rows, self.columns, self.indices, self.crow, None)

    def with_columns(self) -> "SparsePattern":
        """Returns the same pattern, which holds its columns."""
        if self._col is not None:
            return self
        return SparsePattern(self.rows, self.columns, self._indices, self.crow, self.col)

    def within(self, top: int, bottom: int, start: int, stop: int) -> Tensor:
        """Returns the places of entries in a block of rows.

        Args:
            top, bottom: the block's first row, and the row after its last.
            start, stop: number of the block's first entry, and of the one after its last.
        Returns:
            (stop - start,) int64 flat row-major indices in the (bottom - top, columns) block.
        """
        if self._indices is not None:
            return self._indices[start:stop].long() - top * self.columns
        counts = self.crow[top : bottom + 1].diff().long()
        rows = torch.arange(bottom - top, device=counts.device)
        return torch.repeat_interleave(rows, counts, output_size=stop - start) * self.columns + self.col[start:stop]

    def largest(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the largest value in each row, and in each column; zero where there is none.

        Args:
            values: (N,) of the entries, floating, at least 0.
        Returns:
            (rows,) and (columns,), of the dtype of `values`.
        """
        row = torch.repeat_interleave(self.crow.long().diff())
        rows, columns = values.new_zeros(self.rows), values.new_zeros(self.columns)
        return rows.scatter_reduce_(0, row, values, "amax"), columns.scatter_reduce_(0, self.col.long(), values, "amax")

    def to(self, device: torch.device | str) -> "SparsePattern":
        """Returns the pattern on another device."""
        indices = None if self._indices is None else self._indices.to(device)
        col = None if self._col is None else self._col.to(device)
        return SparsePattern(self.rows, self.columns, indices, self.crow.to(device), col)

    def chunks(self, most: int) -> Tensor:
        """Returns where chunks of the entries begin, each of at most `most` entries of one row.

        A chunk ends where the next begins. The result is cached for each size.

        Returns:
            (M,) ascending numbers of entries, of the dtype of `crow`.
        """
        if most not in self._chunks:
            entries = self.crow.diff().long()
            chunks = (entries + most - 1) // most
            row = torch.repeat_interleave(torch.arange(self.rows, device=chunks.device), chunks)
            first = chunks.cumsum(0) - chunks
            number = torch.arange(len(row), device=row.device) - first[row]
            self._chunks[most] = (self.crow[row] + number * most).to(self.crow.dtype)
        return self._chunks[most]

    def places(self, height: int) -> list[int]:
        """Returns where the entries of each block of `height` rows begin, and where the last one ends.

        The result for the last height is cached, so that the host need not wait for a GPU in every backward pass.
        """
        if self._places is None or self._places[0] != height:
            edges = torch.tensor([*range(0, self.rows, height), self.rows], device=self.crow.device)
            self._places = height, self.crow[edges].tolist()
        return self._places[1]

    def __len__(self) -> int:
        held = self._indices if self._col is None else self._col
        assert held is not None
        return len(held)

    def __repr__(self) -> str:
        return f"SparsePattern({len(self)} of {self.rows} x {self.columns})"


def _columns(indices: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    return (indices % max(1, columns)).to(dtype)
