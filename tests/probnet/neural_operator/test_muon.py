"""Muon: orthogonal steps, and a quadratic that it solves."""

import torch

from probnet.neural_operator.muon import Muon, orthogonalize


def _matrices(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_steps_are_nearly_orthogonal_with_the_singular_vectors_of_the_gradient():
    for shape in ((3, 8, 8), (3, 5, 9), (3, 9, 5)):
        g = _matrices(*shape)
        left, _, right = torch.linalg.svd(g, full_matrices=False)
        found = orthogonalize(g)
        core = left.mT @ found @ right.mT
        values = core.diagonal(dim1=-2, dim2=-1)
        assert (core - torch.diag_embed(values)).abs().max() < 1e-10
        # The quintic's fixed band; singular values below 1e-3 of the norm are still rising.
        assert (values < 1.25).all()
        assert values.median() > 0.65


def test_matrices_of_one_shape_are_stepped_as_each_would_be_alone():
    weights = [torch.nn.Parameter(w.clone()) for w in _matrices(2, 6, 6)]
    alone = [torch.nn.Parameter(w.detach().clone()) for w in weights]
    together = Muon(weights, lr=0.1)
    apart = [Muon([w], lr=0.1) for w in alone]
    for _ in range(3):
        for parameters, optimizers in ((weights, [together]), (alone, apart)):
            loss = sum((w.square().sum() + w.sum()) for w in parameters)
            for optimizer in optimizers:
                optimizer.zero_grad()
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
    for w, v in zip(weights, alone, strict=True):
        torch.testing.assert_close(w, v)


def test_a_badly_scaled_quadratic_is_solved():
    target = _matrices(6, 6)
    scales = torch.logspace(0, -1, 6, dtype=torch.float64)
    weight = torch.nn.Parameter(torch.zeros(6, 6, dtype=torch.float64))
    optimizer = Muon([weight], lr=0.1)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        optimizer.zero_grad()
        (scales[:, None] * (weight - target)).square().sum().backward()
        optimizer.step()
    assert (weight - target).abs().max() < 0.1
