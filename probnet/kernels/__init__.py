"""Covariance functions that GPyTorch lacks, as subclasses of `gpytorch.kernels.Kernel`."""

from probnet.kernels.neural import NNGPKernel, NTKernel, conv, conv_resnet, mlp, resnet
from probnet.kernels.spectral import GaussianSpectralMixture, StudentTSpectralMixture

__all__ = [
    "GaussianSpectralMixture",
    "NNGPKernel",
    "NTKernel",
    "StudentTSpectralMixture",
    "conv",
    "conv_resnet",
    "mlp",
    "resnet",
]
