"""Speed of the kernel beside the recursion written out in eager torch, and finite networks."""

import math
import time
from statistics import median

import pytest
import torch
from scipy import stats

from probnet.kernels import NNGPKernel, mlp, resnet
from probnet.nngp.solutions import gram

pytestmark = pytest.mark.benchmark


def eager(x, w, b, depth):
    """The recursion with autograd through every operation."""
    k = b + w * (x @ x.T) / x.shape[1]
    for layer in range(depth):
        q = k.diagonal()
        size = (q[:, None] * q[None]).sqrt()
        rho = (k / size).clamp(-1 + 1e-12, 1 - 1e-12)
        height = (1 - rho**2).sqrt() + rho * (math.pi - torch.acos(rho))
        a = size / (2 * math.pi) * height
        k = b + w * a if layer < depth - 1 else a
    return k


def seconds(function):
    clock = time.process_time()
    function()
    return time.process_time() - clock


@pytest.mark.parametrize("depth", [1, 4])
def test_speed(depth):
    noise = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 8, generator=noise, dtype=torch.float64)
    mixing = torch.randn(2000, 2000, generator=noise, dtype=torch.float64)
    w, b = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (2.0, 0.1))
    kernel = NNGPKernel(mlp(depth))
    error = (gram(kernel, x) - eager(x, w, b, depth)).detach().abs().max()
    ratios = []
    for _ in range(5):
        with torch.no_grad():
            forward = [seconds(lambda: eager(x, w, b, depth)), seconds(lambda: gram(kernel, x))]
        both = [
            seconds(lambda: (eager(x, w, b, depth) * mixing).sum().backward()),
            seconds(lambda: (gram(kernel, x) * mixing).sum().backward()),
        ]
        ratios.append((forward[0] / forward[1], both[0] / both[1]))
        print(
            f"\ndepth {depth}: forward eager {forward[0]:.3f} ours {forward[1]:.3f} CPU-s, "
            f"with gradient {both[0]:.3f} and {both[1]:.3f}",
            end="",
        )
    fast = [median(r[i] for r in ratios) for i in (0, 1)]
    print(
        f"\nratio forward {fast[0]:.2f}, with gradient {fast[1]:.2f}; largest gap {error:.1e}"
    )
    if depth == 4:
        assert fast[0] >= 1.8
        assert fast[1] >= 2.5


def test_residual_networks_of_width_1000():
    """2000 networks with their readouts integrated exactly, within four standard errors."""
    noise = torch.Generator().manual_seed(0)
    x = torch.tensor([[1.0, -0.4], [0.3, 0.8], [-1.2, 0.5]], dtype=torch.float64)
    width, samples = 1000, []
    for _ in range(2000):
        h, fan_in = x, 2
        for layer in range(3):
            w = torch.randn(fan_in, width, generator=noise, dtype=torch.float64)
            b = torch.randn(width, generator=noise, dtype=torch.float64)
            inner = h if layer == 0 else torch.relu(h)
            new = (1.7 / fan_in) ** 0.5 * inner @ w + 0.2**0.5 * b
            h, fan_in = (h + new if layer else new), width
        a = torch.relu(h)
        samples.append(a @ a.T / width)
    found = torch.stack(samples)
    exact = gram(NNGPKernel(resnet(2), w_var=1.7, b_var=0.2), x).detach()
    z = (found.mean(0) - exact).abs() / (found.std(0) / 2000**0.5)
    print(f"\nresidual network: largest deviation {float(z.max()):.2f} standard errors")
    assert float(z.max()) < 4


def test_outputs_of_finite_networks_are_students():
    """Three erf layers of width 512, σ² ~ IG(2, 2): t with four degrees of freedom."""
    noise = torch.Generator().manual_seed(0)
    x = torch.linspace(-math.pi, math.pi, 40, dtype=torch.float64)[21].reshape(1, 1)
    kernel = NNGPKernel(mlp(3, "erf"), w_var=64.0, b_var=0.05**2)
    draws = []
    for _ in range(4000):
        h, fan_in = x, 1
        for layer in range(3):
            w = torch.randn(fan_in, 512, generator=noise, dtype=torch.float64)
            b = torch.randn(512, generator=noise, dtype=torch.float64)
            inner = h if layer == 0 else torch.erf(h)
            h, fan_in = 8.0 / fan_in**0.5 * inner @ w + 0.05 * b, 512
        scale = 2.0 / torch._standard_gamma(torch.tensor(2.0).double(), generator=noise)
        last = torch.randn(512, generator=noise, dtype=torch.float64)
        draws.append(float(scale.sqrt() * torch.erf(h[0]) @ last / 512**0.5))
    size = float(gram(kernel, x).detach()) ** 0.5
    student = stats.kstest(draws, stats.t(4, scale=size).cdf).statistic
    normal = stats.kstest(draws, stats.norm(scale=2**0.5 * size).cdf).statistic
    print(f"\nKS against t with 4 degrees {student:.4f}, variance-matched normal {normal:.4f}")
    assert student < 0.03 < normal
