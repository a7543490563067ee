"""Chooses what the reports draw of a task by the task's class. Nothing else here asks which task it is."""

import functools

from utils.reporting.labels import GradesView, LabelsView, MultilabelView
from utils.reporting.numbers import View
from utils.tasks import Task
from utils.tasks.classification import Classification
from utils.tasks.labels import Multilabel
from utils.tasks.ordinal import Ordinal


@functools.singledispatch
def make_view(task: Task) -> View:
    """The view of a task. A new one is a subclass of ``View``, registered below."""
    return View(task)


make_view.register(Classification, LabelsView)
make_view.register(Ordinal, GradesView)
make_view.register(Multilabel, MultilabelView)
