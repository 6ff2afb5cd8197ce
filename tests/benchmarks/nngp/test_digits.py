"""Classification of the 8x8 digits: 1000 to learn from, 797 to test, ReLU with three layers.

Pixels are scaled to [-1, 1]."""

import math
import warnings

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from probnet import metrics
from probnet.kernels import NNGPKernel, mlp
from probnet.nngp import InverseGamma, PointMass, ScaleMixtureClassifier
from probnet.nngp.solutions import gram, variances

pytestmark = pytest.mark.benchmark


def digits():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[:1000], order[1000:]
    x = (x / 16 - 0.5) / 0.5
    return x[train], y[train], x[test], y[test]


def classifier(**options):
    kernel = NNGPKernel(mlp(3), w_var=2.0, b_var=0.1, last_w_var=2.0)
    return ScaleMixtureClassifier(kernel, noise_ratio=0.01, **options)


def scores(posterior, x, y):
    p = posterior.predict(x).probs
    return metrics.accuracy(y, p), metrics.nll_categorical(y, p)


def test_label_regression():
    x, y, x_new, y_new = digits()
    accuracy, nll = scores(classifier().fit(x, y), x_new, y_new)
    print(f"\nlabel regression: accuracy {accuracy:.4f}, NLL {nll:.4f}")
    assert accuracy >= 0.985
    assert nll <= 0.06


def diagonal_unwhitened(x, y, *, num_steps, num_inducing=200, batch_size=100, num_draws=20):
    """The authors' family for the Gaussian process: q(u_c) = N(μ_c, diag), unwhitened."""
    x, labels = torch.from_numpy(x), torch.from_numpy(y)
    kernel = NNGPKernel(mlp(3), w_var=2.0, b_var=0.1, last_w_var=2.0)
    noise = torch.Generator().manual_seed(0)
    z = x[:num_inducing]
    with torch.no_grad():
        k = gram(kernel, z) + 1e-6 * torch.eye(num_inducing, dtype=torch.float64)
        root = torch.linalg.cholesky(k)
        a = torch.cholesky_solve(gram(kernel, z, x), root)
        rest = (variances(kernel, x) - (a * gram(kernel, z, x)).sum(0)).clamp_min(0)
        inverse = torch.cholesky_inverse(root).diagonal()
    mean = torch.zeros(num_inducing, 10, dtype=torch.float64, requires_grad=True)
    log_var = torch.zeros(num_inducing, 10, dtype=torch.float64, requires_grad=True)
    log_amplitude = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([mean, log_var, log_amplitude], lr=0.01)

    def bound(rows, draws):
        scale = log_amplitude.exp()
        f = a[:, rows].T @ mean
        v = (a[:, rows] ** 2).T @ log_var.exp() + scale * rest[rows, None]
        eps = torch.randn(draws, *f.shape, generator=noise, dtype=torch.float64)
        logits = (f + v.sqrt() * eps).log_softmax(-1)
        fit = logits.gather(-1, labels[rows].expand(draws, -1)[..., None]).mean()
        log_det = 2 * root.diagonal().log().sum() + num_inducing * log_amplitude
        quadratic = (mean * torch.cholesky_solve(mean, root)).sum() / scale
        trace = (inverse[:, None] * log_var.exp()).sum() / scale
        kl = (10 * log_det - log_var.sum() - 10 * num_inducing + trace + quadratic) / 2
        return fit - kl / len(x)

    for _ in range(num_steps):
        rows = torch.randperm(len(x), generator=noise)[:batch_size]
        optimizer.zero_grad()
        (-bound(rows, num_draws)).backward()
        optimizer.step()
    with torch.no_grad():
        return float(bound(torch.arange(len(x)), 100))


def test_whitened_inference_against_the_diagonal_family():
    x, y, x_new, y_new = digits()
    print()
    ours = classifier(scale_prior=PointMass(1.0)).fit(
        x, y, method="svi", num_steps=400, progress=False
    )
    accuracy, nll = scores(ours, x_new, y_new)
    theirs = diagonal_unwhitened(x, y, num_steps=400)
    negative = -ours.diagnostics["elbo_per_case"]
    print(f"whitened, full: -ELBO/N {negative:.3f}, accuracy {accuracy:.4f}, NLL {nll:.4f}")
    print(f"diagonal, unwhitened: -ELBO/N {-theirs:.3f}")
    assert negative <= 0.55
    assert negative <= -theirs - 0.4


def test_shared_scale_on_clean_and_corrupted_digits():
    """No mark to pass: both laws side by side."""
    x, y, x_new, y_new = digits()
    noise = np.random.default_rng(1).normal(size=x_new.shape)
    print()
    for name, prior in {
        "point mass": PointMass(1.0),
        "IG(2, 2)": InverseGamma(2.0, 2.0),
    }.items():
        with warnings.catch_warnings():
            posterior = classifier(scale_prior=prior).fit(
                x, y, method="svi", num_steps=400, progress=False
            )
        clean, noisy = (scores(posterior, v, y_new)[1] for v in (x_new, x_new + noise))
        bound = -posterior.diagnostics["elbo_per_case"]
        print(f"{name:10} -ELBO/N {bound:.3f}  NLL clean {clean:.4f}, with noise {noisy:.4f}")
        assert math.isfinite(clean)
        assert math.isfinite(noisy)
