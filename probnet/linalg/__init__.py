"""Linear algebra of Gaussian processes: Cholesky factors and Kronecker sums."""

from probnet.linalg.cholesky import EquilibratedCholesky, jittered_cholesky
from probnet.linalg.kronecker import KroneckerSum, mode_product

__all__ = ["EquilibratedCholesky", "KroneckerSum", "jittered_cholesky", "mode_product"]
