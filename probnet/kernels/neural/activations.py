"""Activations and the duals that belong to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from inference._checks import check_choice
from probnet.kernels.neural.duals import Dual, Erf, PiecewiseLinear, Wave
from probnet.kernels.neural.hermite import Hermite
from probnet.networks import ACTIVATIONS, Activation

_CLOSED_FORMS: Mapping[str, Dual] = MappingProxyType(
    {
        "abs": PiecewiseLinear(-1.0, 1.0),
        "cos": Wave(odd=False),
        "erf": Erf(),
        "identity": PiecewiseLinear(1.0, 1.0),
        "leaky_relu": PiecewiseLinear(0.01, 1.0),
        "relu": PiecewiseLinear(0.0, 1.0),
        "sin": Wave(odd=True),
    }
)

NAMES = frozenset({*ACTIVATIONS, *_CLOSED_FORMS})
"""Activations that have a name."""


def dual_activation(activation: str | Activation | Dual) -> Dual:
    """The dual of an activation: a closed form where there is one, else a Hermite series.

    Args:
        activation: a name (those of `probnet.networks.ACTIVATIONS`, and `"abs"`), an
            elementwise torch function, or a dual such as `PiecewiseLinear(0.2, 1.0)`.

    Raises:
        ValueError: on an unknown name.
        TypeError: on anything else that cannot be called.
    """
    if isinstance(activation, Dual):
        return activation
    if isinstance(activation, str):
        check_choice("activation", activation, NAMES)
        return _CLOSED_FORMS.get(activation) or Hermite(ACTIVATIONS[activation])
    if not isinstance(activation, Callable):
        raise TypeError(
            f"`activation` must be a name, an elementwise torch function or a dual; got "
            f"{activation!r}."
        )
    return Hermite(activation)
