"""Bilinear elements on a mesh of rectangles, solved by banded Cholesky."""

from __future__ import annotations

import numpy as np
from scipy.linalg import get_lapack_funcs

(_SOLVE,) = get_lapack_funcs(("pbsv",), dtype=np.float64)
_AT_ONCE = 1 << 22  # matrix entries assembled together: 32 MB


def solve_stiffness(coefficients: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve A(a)u = right at inner nodes, u zero on the boundary, along the shorter axis.

    Args:
        coefficients: a > 0 in each cell of the unit square, shape (B, nx, ny), float64.
        right: shape (B, nx - 1, ny - 1), float64.

    Raises:
        numpy.linalg.LinAlgError: if a matrix is not positive definite.
    """
    nx, ny = coefficients.shape[1:]
    if ny > nx:
        a, b = (np.swapaxes(part, 1, 2) for part in (coefficients, right))
        return np.swapaxes(solve_stiffness(a, b), 1, 2)
    solution = np.empty(right.shape)
    count = max(1, _AT_ONCE // ((nx - 1) * (ny - 1) * (ny + 1)))
    for first in range(0, len(right), count):
        bands = _lower_bands(coefficients[first : first + count])
        for k, matrix in enumerate(bands, first):
            _, u, info = _SOLVE(matrix.T, right[k].reshape(-1), lower=1, overwrite_ab=1)
            if info:
                raise np.linalg.LinAlgError(
                    f"the stiffness matrix of input {k} is not positive definite: its "
                    f"coefficients span {coefficients[k].min():.3g} to "
                    f"{coefficients[k].max():.3g}."
                )
            solution[k] = u.reshape(nx - 1, ny - 1)
    return solution


def _lower_bands(a: np.ndarray) -> np.ndarray:
    """Rows of A from the diagonal down, (B, num_inner, ny + 1): Fortran bands, transposed.

    A node couples with itself and with its four neighbours that come later. Of a width of 1 or
    2 some of these bands coincide, in entries that do not.
    """
    count, nx, ny = a.shape
    ratio, width = nx / ny, ny - 1
    before, after = a[:, :-1], a[:, 1:]  # cells on both sides of a node along the first axis
    bands = np.zeros((count, nx - 1, width, width + 2))
    around = before[..., :-1] + before[..., 1:] + after[..., :-1] + after[..., 1:]
    bands[..., 0] = around * ((ratio + 1 / ratio) / 3)
    beside = (before + after)[..., 1:] * (ratio / 6 - 1 / (3 * ratio))
    ahead = (after[..., :-1] + after[..., 1:]) * (1 / (6 * ratio) - ratio / 3)
    corner = -(ratio + 1 / ratio) / 6 * after
    bands[:, :, :-1, 1] = beside[..., :-1]
    bands[:, :-1, 1:, width - 1] += corner[:, :-1, 1:-1]
    bands[:, :-1, :, width] += ahead[:, :-1]
    bands[:, :-1, :-1, width + 1] += corner[:, :-1, 1:-1]
    return bands.reshape(count, -1, width + 2)
