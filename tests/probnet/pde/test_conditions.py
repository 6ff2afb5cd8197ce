"""Conditions face by face."""

import pytest
import torch
from torch.distributions import Normal

from probnet.pde import Dirichlet, Inflow, Initial, Neumann, Observations, Periodic
from probnet.pde.conditions import face_points, face_values, resolve

GRID = [torch.linspace(0, 1, 3).double(), torch.linspace(0, 2, 4).double()]
NAMES = ("x", "t")


def where(faces):
    return {(f.axis, f.upper, f.order) for f in faces}


def test_all_means_the_faces_that_nothing_else_claims():
    faces, periodic = resolve([Initial(0.0), Dirichlet(0.0)], NAMES)
    assert where(faces) == {(1, False, 0), (0, False, 0), (0, True, 0)}
    assert periodic == set()
    faces, periodic = resolve([Periodic("x"), Dirichlet(1.0)], NAMES)
    assert where(faces) == {(1, False, 0), (1, True, 0)}
    assert periodic == {0}


def test_neumann_is_along_the_outward_normal():
    faces, _ = resolve(Neumann(2.0, ["x_min", "x_max"]), NAMES)
    values = {f.upper: float(face_values(f, GRID)[0]) for f in faces}
    assert values == {False: -2.0, True: 2.0}


def test_values_come_from_functions_and_arrays_alike():
    (face,), _ = resolve(Dirichlet(lambda x, t: x + 10 * t, "x_max"), NAMES)
    expected = 1 + 10 * GRID[1]
    torch.testing.assert_close(face_values(face, GRID), expected)
    whole = GRID[0][:, None] + 10 * GRID[1]
    for array in (whole, expected):
        (face,), _ = resolve(Dirichlet(array, "x_max"), NAMES)
        torch.testing.assert_close(face_values(face, GRID), expected)
    torch.testing.assert_close(face_points(face, GRID)[:, 1], GRID[1])


def test_contradictions_and_unknown_names_are_refused():
    with pytest.raises(ValueError, match="say twice"):
        resolve([Dirichlet(0.0, "x_min"), Dirichlet(1.0, "x_min")], NAMES)
    with pytest.raises(ValueError, match=r"`faces` must be 'all' or names among"):
        resolve(Dirichlet(0.0, "left"), NAMES)
    with pytest.raises(ValueError, match="`axes` must name axes"):
        resolve(Periodic("y"), NAMES)
    with pytest.raises(TypeError, match="must be Dirichlet"):
        resolve([3.0], NAMES)
    with pytest.raises(ValueError, match="Inflow must name the faces"):
        Inflow(0.0)
    with pytest.raises(ValueError, match="noise_sd"):
        Dirichlet(0.0, noise_sd=-1.0)


def test_observations_are_checked():
    assert isinstance(Observations([[0.5]], [1.0], Normal(0.0, 1.0)).noise_sd, Normal)
    with pytest.raises(ValueError, match="`y` must have shape"):
        Observations([[0.5]], [1.0, 2.0], 0.1)
    with pytest.raises(ValueError, match="noise_sd"):
        Observations([[0.5]], [1.0], 0.0)
