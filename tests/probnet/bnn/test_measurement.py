"""Measurement sets: what is in them, and their units."""

import pytest
import torch

from probnet.bnn import Grid, MeasurementSet

GENERATOR = torch.Generator().manual_seed(0)
TABLE = torch.randn(200, 3, generator=GENERATOR, dtype=torch.float64) * 50 + 300


def test_rows_and_uniform_points_in_standard_units():
    sets = MeasurementSet(TABLE, 100)
    points = sets.draw(torch.Generator().manual_seed(1))
    z = (TABLE - TABLE.mean(0)) / TABLE.std(0, correction=0)
    is_row = (points[:, None] - z[None]).abs().amax(-1).amin(1) < 1e-12
    assert sets.standardized
    assert is_row.tolist() == [True] * 70 + [False] * 30
    assert (points >= z.amin(0)).all()
    assert (points <= z.amax(0)).all()
    assert points.unique(dim=0).shape == (100, 3)


def test_few_rows_are_all_used():
    points = MeasurementSet(TABLE[:20], 100).draw(torch.Generator().manual_seed(1))
    assert points.shape == (100, 3)


def test_units():
    """A grid in the target's units is left alone; the user may insist on either."""
    x = torch.linspace(-6, 6, 50)[:, None]
    assert not MeasurementSet(x).standardized
    assert MeasurementSet(x, standardize=True).standardized
    sets = MeasurementSet(TABLE, 10, standardize=False, bounds=(0.0, 1000.0))
    assert not sets.standardized
    assert sets.draw(torch.Generator().manual_seed(0)).max() > 100


def test_a_grid_is_always_the_same():
    grid = Grid(-1, 1, 5)
    expected = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0]).double()[:, None]
    assert torch.equal(grid.draw(GENERATOR), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 1}, "`size` must be at least 2"),
        ({"size": 5000}, "`size` must be at most 2000"),
        ({"bounds": (1.0, 1.0)}, "every lower bound below"),
        ({"bounds": "test"}, "must be 'train' or"),
        ({"data_fraction": 1.5}, "`data_fraction` must lie in"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        MeasurementSet(TABLE, **arguments)


def test_bad_tables_are_refused():
    constant = TABLE.clone()
    constant[:, 1] = 5.0
    with pytest.raises(ValueError, match=r"constant columns; columns \[1\] are"):
        MeasurementSet(constant)
    with pytest.raises(ValueError, match="non-finite"):
        MeasurementSet(torch.tensor([[float("nan")], [1.0]]))
    with pytest.raises(ValueError, match="`lower` must be below"):
        Grid(1, -1)
