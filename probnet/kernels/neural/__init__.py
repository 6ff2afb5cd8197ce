"""Kernels of infinitely wide neural networks.

An architecture, `mlp(depth=2, activation="relu")`, says which network; `NNGPKernel` is the
covariance of its outputs under the prior of its weights, `NTKernel` its tangent kernel.
"""

from probnet.kernels.neural.architectures import Architecture, conv, conv_resnet, mlp, resnet
from probnet.kernels.neural.kernels import NeuralKernel, NNGPKernel, NTKernel

__all__ = [
    "Architecture",
    "NNGPKernel",
    "NTKernel",
    "NeuralKernel",
    "conv",
    "conv_resnet",
    "mlp",
    "resnet",
]
