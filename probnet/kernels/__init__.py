"""Covariance functions that GPyTorch lacks, as `gpytorch.kernels.Kernel`s."""

from probnet.kernels.neural import NNGPKernel, NTKernel, conv, conv_resnet, mlp, resnet

__all__ = ["NNGPKernel", "NTKernel", "conv", "conv_resnet", "mlp", "resnet"]
