"""Covariance functions, as GPyTorch kernels."""

from probnet.kernels.spectral import GaussianSpectralMixture, StudentTSpectralMixture

__all__ = ["GaussianSpectralMixture", "StudentTSpectralMixture"]
