"""The law of the data given latent function values, p(y | f): one set for all families.

Latent values `f` have the shape of y behind any batch axes (chains, draws); a likelihood that
takes several latent values per target (`num_outputs` > 1) takes them on one more, last axis.

A parameter such as `noise_sd` is a number, then fixed, or a distribution, then learned with
that distribution as its prior. Learned parameters are passed by name, one value or one per
leading batch axes of f: `likelihood.log_prob(f, y, noise_sd=s)`. In a Pyro model::

    parameters = likelihood.sample_parameters()
    with pyro.plate("data", len(x)):
        likelihood.observe("y", f, y, **parameters)

Checks of values need concrete numbers, which `torch.func.vmap` has not; therefore `log_prob`
checks shapes only, and `check_targets`, called once before inference, checks the values of y.
"""

from probnet.likelihoods.base import Likelihood, Parameter
from probnet.likelihoods.continuous import Gaussian, HeteroscedasticGaussian, StudentT
from probnet.likelihoods.discrete import Bernoulli, Categorical, NegativeBinomial, Poisson
from probnet.likelihoods.registry import likelihood_from_dict

__all__ = [
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "HeteroscedasticGaussian",
    "Likelihood",
    "NegativeBinomial",
    "Parameter",
    "Poisson",
    "StudentT",
    "likelihood_from_dict",
]
