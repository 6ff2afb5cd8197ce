"""GPyTorch's own battery of kernel tests."""

import unittest
from typing import Any

import torch
from gpytorch.kernels import Kernel
from gpytorch.test.base_kernel_test_case import BaseKernelTestCase

from probnet.kernels import NNGPKernel, NTKernel, mlp


class _Battery(BaseKernelTestCase):
    """GPyTorch's own battery, under the double precision that these kernels have."""

    kind: Any

    def setUp(self):
        super().setUp()
        self._state = torch.get_rng_state()
        torch.set_default_dtype(torch.float64)
        torch.manual_seed(0)

    def tearDown(self):
        torch.set_default_dtype(torch.float32)
        super().tearDown()
        torch.set_rng_state(self._state)

    def create_kernel_no_ard(self, **kwargs: Any) -> Kernel:
        return self.kind(mlp(2, "relu"), **kwargs)

    def create_kernel_ard(self, num_dims: int, **kwargs: Any) -> Kernel:
        return self.kind(mlp(2, "relu"), ard_num_dims=num_dims, **kwargs)


class TestNNGPBattery(_Battery, unittest.TestCase):
    kind = NNGPKernel


class TestNTBattery(_Battery, unittest.TestCase):
    kind = NTKernel
