"""Stochastic-gradient samplers, one file each, behind one interface."""

from inference.samplers.base import Info, Sampler, Settings, take_step
from inference.samplers.sghmc import SGHMC
from inference.samplers.sghmc_adaptive import AdaptiveSGHMC
from inference.samplers.sgld import SGLD
from inference.samplers.sgnht import SGNHT

__all__ = [
    "SGHMC",
    "SGLD",
    "SGNHT",
    "AdaptiveSGHMC",
    "Info",
    "Sampler",
    "Settings",
    "take_step",
]
