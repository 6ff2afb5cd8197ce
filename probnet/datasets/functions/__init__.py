"""Streams of small regression tasks, each a few points of a function of its own."""

from probnet.datasets.functions.gaussian_process import GPTasks
from probnet.datasets.functions.tasks import PackedTasks, TaskBatch, TaskStream

__all__ = ["GPTasks", "PackedTasks", "TaskBatch", "TaskStream"]
