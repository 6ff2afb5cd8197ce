"""Linear algebra of Gaussian laws: Cholesky factors, Kronecker sums, Wasserstein."""

from probnet.linalg.cholesky import EquilibratedCholesky, jittered_cholesky
from probnet.linalg.kronecker import KroneckerSum, mode_product
from probnet.linalg.wasserstein import gaussian_w2

__all__ = [
    "EquilibratedCholesky",
    "KroneckerSum",
    "gaussian_w2",
    "jittered_cholesky",
    "mode_product",
]
