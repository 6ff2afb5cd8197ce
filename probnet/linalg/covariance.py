"""Covariances of few draws."""

from __future__ import annotations

import torch
from torch import Tensor


def shrunk_covariance(centred: Tensor) -> tuple[Tensor, float]:
    """The covariance of rows, shrunk towards a multiple of I as their number asks for.

    Source: Ledoit & Wolf (J. Multivariate Anal. 88, 2004); implemented by scikit-learn.

    Args:
        centred: rows without their mean, `(N, M)`.

    Returns:
        The covariance `(M, M)`, float64, and the shrinkage in [0, 1].
    """
    from sklearn.covariance import ledoit_wolf  # half a second: only where it is needed

    covariance, shrinkage = ledoit_wolf(centred.double().numpy(), assume_centered=True)
    return torch.from_numpy(covariance), float(shrinkage)
