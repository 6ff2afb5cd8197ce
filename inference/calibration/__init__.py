"""Checks that draws come from the posterior they claim: SBC, coverage, Geweke's joint test.

Both tests need a model that can be run forwards: a Pyro model, or a `LogDensity` with
functions that draw parameters from the prior and data given parameters. Data sets are a batch
axis: all of them are sampled at once.
"""

from inference.calibration.geweke import Geweke, geweke
from inference.calibration.sbc import Calibration, sbc

__all__ = ["Calibration", "Geweke", "geweke", "sbc"]
