"""Linear algebra of Gaussian laws: factors, covariances, distances."""

from probnet.linalg.cholesky import EquilibratedCholesky, jittered_cholesky
from probnet.linalg.covariance import shrunk_covariance
from probnet.linalg.kronecker import KroneckerSum, mode_product
from probnet.linalg.wasserstein import gaussian_w2

__all__ = [
    "EquilibratedCholesky",
    "KroneckerSum",
    "gaussian_w2",
    "jittered_cholesky",
    "mode_product",
    "shrunk_covariance",
]
