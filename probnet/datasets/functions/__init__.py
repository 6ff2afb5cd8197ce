"""Streams of small regression tasks, each a few points of a function of its own."""

from probnet.datasets.functions.gaussian_process import GPTasks
from probnet.datasets.functions.images import ImageTasks
from probnet.datasets.functions.predator_prey import (
    HareLynxTasks,
    PredatorPreyTasks,
    load_hare_lynx,
    simulate_predator_prey,
)
from probnet.datasets.functions.tasks import PackedTasks, TaskBatch, TaskStream

__all__ = [
    "GPTasks",
    "HareLynxTasks",
    "ImageTasks",
    "PackedTasks",
    "PredatorPreyTasks",
    "TaskBatch",
    "TaskStream",
    "load_hare_lynx",
    "simulate_predator_prey",
]
