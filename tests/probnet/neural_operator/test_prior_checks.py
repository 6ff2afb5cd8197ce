"""Statistics of fields against values known by hand."""

import pytest
import torch

from probnet.datasets.fields import LevelSetGRF
from probnet.neural_operator.prior_checks import (
    compare_inputs,
    interface_length,
    two_point_correlation,
    volume_fraction,
)


def test_a_half_plane():
    phases = torch.zeros(1, 9, 9)
    phases[:, :4] = 1
    assert float(volume_fraction(phases)) == pytest.approx(4 / 9)
    # one row of 9 unlike neighbours, each crossing a face of length 1/8
    assert float(interface_length(phases)) == pytest.approx(9 / 8)


def test_correlation_of_an_independent_and_of_an_alternating_field():
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(200, 10, 10, generator=generator)
    correlation = two_point_correlation(white, 3)
    assert correlation[0] == 1
    assert correlation[1:].abs().max() < 5 / 18_000**0.5
    stripes = torch.arange(10).remainder(2).double().expand(1, 10, 10)
    found = two_point_correlation(stripes, 2)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64))


def test_the_same_law_is_alike_and_another_is_not():
    media = LevelSetGRF(num_nodes=17)
    same = compare_inputs(media.sample(300, seed=0), media.sample(300, seed=1), 7.5)
    assert abs(same["volume_fraction_z"]) < 4
    assert abs(same["interface_length_z"]) < 4
    finer = LevelSetGRF(num_nodes=17, tau=9.0).sample(300, seed=2)
    other = compare_inputs(finer, media.sample(300, seed=1), 7.5)
    assert other["interface_length_z"] > 10
    assert other["correlation_error"] > 3 * same["correlation_error"]
    continuous = compare_inputs(finer, finer + 1, None)
    assert continuous["mean_z"] < -10
