"""The stages as Lightning modules: maximum likelihood, distillation from a frozen teacher, and text to mel."""

from wavflow.training.distillation import DistillationTask
from wavflow.training.likelihood import LikelihoodTask
from wavflow.training.task import Task
from wavflow.training.text import TextTask

__all__ = ["DistillationTask", "LikelihoodTask", "Task", "TextTask"]
