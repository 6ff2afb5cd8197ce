"""Kernels in files: those listed survive exactly, others are refused."""

import json

import gpytorch.kernels as gk
import pytest
import torch

from probnet.kernels import NNGPKernel, NTKernel, conv, mlp, resnet
from probnet.nngp.kernel_files import kernel_from_dict, kernel_to_dict
from probnet.nngp.solutions import gram

KERNELS = [
    NNGPKernel(mlp(2, "tanh"), w_var=[1.0, 2.0, 3.0], b_var=0.0, ard_num_dims=4),
    NTKernel(resnet(2, "erf")),
    NNGPKernel(conv(1, image_shape=(2, 2, 1))),
    gk.ScaleKernel(gk.MaternKernel(nu=1.5, ard_num_dims=4)),
    gk.RBFKernel(active_dims=(1, 2)) + gk.LinearKernel(),
    gk.PeriodicKernel() * gk.RQKernel(),
]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: type(k).__name__)
def test_round_trip(kernel):
    x = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
    again = kernel_from_dict(json.loads(json.dumps(kernel_to_dict(kernel))))
    assert torch.equal(gram(kernel.double(), x), gram(again, x))
    free = [p.requires_grad for p in kernel.parameters()]
    assert [p.requires_grad for p in again.parameters()] == free


def test_others_are_refused():
    with pytest.raises(TypeError, match=r"a PolynomialKernel cannot be written to a file"):
        kernel_to_dict(gk.PolynomialKernel(power=2))
    with pytest.raises(TypeError, match="an activation given as a function"):
        kernel_to_dict(NNGPKernel(mlp(1, torch.tanh)))
    with pytest.raises(ValueError, match="`name` must be one of"):
        kernel_from_dict({"name": "os.system"})
