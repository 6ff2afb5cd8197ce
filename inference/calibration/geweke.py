"""Geweke's joint distribution test of a Markov transition."""
# pyright: basic
# SciPy and pandas are only partly typed.

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyro
import torch
from scipy import stats
from torch import Tensor

from inference import export
from inference._checks import check_choice, check_integer, check_nonnegative
from inference.calibration.joint import PriorSample, Simulate, joint_model
from inference.calibration.methods import build_sampler, check_method
from inference.calibration.result import FALSE_ALARM
from inference.calibration.simulators import Sampling, Simulators, Step
from inference.gradients import CHAIN_METHODS
from inference.log_density import LogDensity
from inference.rng import Stream, scoped_seed, stream_seed
from inference.sampling import SAMPLERS

if TYPE_CHECKING:
    import pandas as pd
    import xarray

Transition = Callable[[Any, Any], Mapping[str, Tensor]]
"""`transition(params, data) -> params`, all with a leading axis of chains."""


@dataclass(frozen=True, eq=False)
class Geweke:
    """Moments of parameters and data under both simulators.

    Attributes:
        moments: what each entry of the arrays is the mean of; parameters are unconstrained.
        marginal: means under the marginal-conditional simulator, (moment,).
        successive: means under the successive-conditional simulator, (moment,).
        standard_error: of their difference, (moment,).
        num_chains: successive simulators, which the standard error comes from.
        attrs: method and seed.
    """

    moments: tuple[str, ...]
    marginal: np.ndarray
    successive: np.ndarray
    standard_error: np.ndarray
    num_chains: int
    attrs: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def z_scores(self) -> np.ndarray:
        """Differences of the means in standard errors, (moment,)."""
        return (self.successive - self.marginal) / self.standard_error

    @property
    def p_values(self) -> np.ndarray:
        """Two-sided, (moment,): Student's t with a degree of freedom less than chains."""
        return 2 * stats.t.sf(np.abs(self.z_scores), self.num_chains - 1)

    @property
    def passed(self) -> bool:
        """Whether the smallest p-value exceeds 0.001 / (number of moments)."""
        return bool(self.p_values.min() > FALSE_ALARM / len(self.moments))

    def summary(self) -> pd.DataFrame:
        """One row a moment: both means, z and p."""
        import pandas

        columns = {
            "marginal": self.marginal,
            "successive": self.successive,
            "z": self.z_scores,
            "p": self.p_values,
        }
        return pandas.DataFrame(columns, index=list(self.moments))

    def to_datatree(self) -> xarray.DataTree:
        """Group `moments`, with dimension `moment`, as an `xarray.DataTree`."""
        arrays = {str(name): column.to_numpy() for name, column in self.summary().items()}
        return export.build_datatree(
            {"moments": arrays},
            coords={"moment": list(self.moments)},
            dims={},
            attrs={**self.attrs, "passed": self.passed},
        )

    def to_arviz(self) -> Any:
        """What the installed ArviZ reads: `InferenceData` (0.x) or a DataTree (1.x)."""
        return export.to_arviz(self.to_datatree())


def geweke(
    target: LogDensity | Callable[..., Any],
    data: Any = None,
    *,
    prior_sample: PriorSample | None = None,
    simulate: Simulate | None = None,
    method: str | Transition = "sghmc",
    num_chains: int = 200,
    num_samples: int = 100,
    num_steps: int = 10,
    batch_size: int | None = None,
    temperature: float = 1.0,
    dtype: torch.dtype | None = None,
    chain_method: str = "vectorized",
    seed: int = 0,
    progress: bool = True,
    **method_options: Any,
) -> Geweke:
    """Compare two simulators of parameters and data that agree if the transition is right.

    The marginal-conditional one draws parameters from the prior and data given them. The
    successive-conditional one starts there, then moves the parameters by the sampler given
    the data and draws new data, again and again. A transition that leaves the posterior of
    every data set invariant keeps their joint law. Compared are the means of every
    unconstrained parameter and of every simulated array's average, their squares, and the
    products of parameters with averages.

    Chains are independent and start from the prior, so the spread of their means over time is
    a standard error that needs no estimate of autocorrelation.

    Source: Geweke (JASA 2004).

    Args:
        target: as for `sbc`.
        data: as for `sbc`.
        prior_sample: as for `sbc`.
        simulate: as for `sbc`.
        method: a stochastic-gradient method without adaptation, or a function
            `transition(params, data) -> params` of constrained parameters and data of all
            chains.
        num_chains: successive simulators side by side, at least 20.
        num_samples: pairs of parameters and data that each makes.
        num_steps: of the sampler for each data set. The momentum is kept when data change, to
            which it is not quite stationary between steps: several steps wash that out.
        batch_size: rows per gradient; None: all rows.
        temperature: T; anything but 1 must fail.
        dtype: of parameters and data.
        chain_method: `"sequential"` for models that branch on values.
        seed: of everything random.
        progress: show a progress bar on a terminal.
        method_options: of the method, such as `step_size`.

    Raises:
        ValueError: on arguments out of range, a model that cannot simulate, or a transition
            to a value that is not finite.
        TypeError: on an unknown option.
    """
    check_integer("num_chains", num_chains, 20)
    check_integer("num_samples", num_samples, 1)
    check_integer("num_steps", num_steps, 1)
    check_integer("seed", seed, 0)
    check_nonnegative("temperature", temperature)
    check_choice("chain_method", chain_method, CHAIN_METHODS)
    options = bool(method_options) or batch_size is not None or temperature != 1
    check_method(method, SAMPLERS, options=options)
    with pyro.validation_enabled(False), scoped_seed(stream_seed(seed, Stream.PYRO)):
        joint = joint_model(target, data, prior_sample, simulate, dtype)
        simulators = Simulators(joint, num_chains, chain_method)
        marginal = simulators.marginal(num_samples)
        if isinstance(method, str):
            step: Step = Sampling(
                joint.bind(batch_size),
                build_sampler(method, method_options),
                temperature=temperature,
                num_steps=num_steps,
                seed=seed,
                chain_method=chain_method,
            )
        else:
            step = simulators.own(method)
        successive = simulators.successive(step, num_samples, progress=progress)
    means = successive.mean(0)
    error = successive.var(0) / num_chains + marginal.var(0) / len(marginal)
    return Geweke(
        moments=simulators.names,
        marginal=marginal.mean(0).numpy(),
        successive=means.numpy(),
        standard_error=error.sqrt().numpy(),
        num_chains=num_chains,
        attrs={"method": method if isinstance(method, str) else "callable", "seed": seed},
    )
