"""Likelihoods from their saved descriptions; only the classes listed here are ever built."""

from __future__ import annotations

from typing import Any

from inference._checks import check_choice
from probnet.likelihoods.base import Likelihood
from probnet.likelihoods.continuous import Gaussian, HeteroscedasticGaussian, StudentT
from probnet.likelihoods.discrete import Bernoulli, Categorical, NegativeBinomial, Poisson
from probnet.likelihoods.priors import prior_from_dict

_KNOWN: dict[str, type[Likelihood]] = {
    cls.__name__: cls
    for cls in (
        Bernoulli,
        Categorical,
        Gaussian,
        HeteroscedasticGaussian,
        NegativeBinomial,
        Poisson,
        StudentT,
    )
}


def likelihood_from_dict(described: dict[str, Any]) -> Likelihood:
    """Rebuild the likelihood that `Likelihood.to_dict` described.

    Raises:
        ValueError: on a name that is not a likelihood of this package.
    """
    arguments = dict(described)
    name = check_choice("name", arguments.pop("name"), _KNOWN)
    built = {
        key: prior_from_dict(value) if isinstance(value, dict) else value
        for key, value in arguments.items()
    }
    return _KNOWN[name](**built)
