"""Covariance functions that GPyTorch lacks, as subclasses of `gpytorch.kernels.Kernel`."""

from probnet.kernels.neural import NNGPKernel, NTKernel, conv, conv_resnet, mlp, resnet

__all__ = ["NNGPKernel", "NTKernel", "conv", "conv_resnet", "mlp", "resnet"]
