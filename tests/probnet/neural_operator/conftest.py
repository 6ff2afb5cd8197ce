"""A small generative operator, the same wherever a test only needs one."""

import pytest

from probnet.neural_operator import Darcy2D, DenseEncoder, DGenNO, MultiONet, TwoPhase


@pytest.fixture(scope="session")
def small_model():
    """Make one for a problem, by default Darcy flow on 8 x 8 cells; options replace its own."""

    def make(pde=None, **options):
        network = MultiONet(width=24, depth=3, sum_layers=2)
        settings = {
            "input_grid": (9, 9),
            "input_likelihood": TwoPhase(5.0, 10.0),
            "latent_dim": 4,
            "encoder": DenseEncoder(hidden=(32,)),
            "decoder": network,
            "input_decoder": network,
        }
        return DGenNO(Darcy2D(mesh=(8, 8)) if pde is None else pde, **{**settings, **options})

    return make
