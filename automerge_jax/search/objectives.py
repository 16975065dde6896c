"""What is to be maximised, and what must not fall.

An objective is `mean` (over tasks) or a task's name, with an optional metric
behind a colon: `movie`, `movie:log_likelihood`, `mean:accuracy`. A constraint
says by how much a task may fall below a reference model, item for item.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from automerge_jax import trees

METRICS = ('accuracy', 'log_likelihood')
MEAN = 'mean'
EVERY = '*'


class Objective(NamedTuple):
  """One objective: a metric's mean over tasks, by their weights [tasks]."""

  name: str
  metric: str
  weights: np.ndarray


class Objectives(NamedTuple):
  """All objectives and constraints of a search.

  Attributes:
    each: M objectives.
    most: how far each task may fall below the reference, score [tasks]; inf
      where it may fall as it likes.
    reference: name of the model that constraints are relative to.
    drawn: whether candidates are ranked by likely values, see `estimates`.
  """

  each: tuple[Objective, ...]
  most: np.ndarray
  reference: str
  drawn: bool = True

  @property
  def constrained(self) -> bool:
    return bool(np.isfinite(self.most).any())

  def values(self, by_task: Mapping[str, np.ndarray]) -> np.ndarray:
    """Objectives [M] of means over items, `{metric: [tasks]}`."""
    return np.asarray(
      [one.weights @ by_task[one.metric] for one in self.each], np.float64
    )

  def violation(
    self, by_task: Mapping[str, np.ndarray], reference: np.ndarray | None
  ) -> float:
    """By how much constraints are broken in all, score; 0 if they are kept.

    Args:
      by_task: means of a candidate.
      reference: the reference's scores on the same items, [tasks].
    """
    if reference is None:
      return 0.0
    fallen = reference - by_task['accuracy'] - self.most
    # What is left of a difference of means is rounding.
    return float(np.maximum(fallen - 1e-9, 0.0).sum())


def read(
  tasks: Sequence[str],
  metric: str,
  objectives: Sequence[str] = (),
  constraints: Mapping[str, float] | None = None,
  reference: str = 'base',
  task_weights: Mapping[str, float] | None = None,
) -> Objectives:
  """Objectives and constraints as settings state them.

  Args:
    tasks: names of the search's tasks.
    metric: of objectives that name none.
    objectives: see above; empty is `mean`.
    constraints: how far each task may fall, score; `*` is every other task
      that is no objective.
    reference: the model that it may fall below.
    task_weights: of the tasks in `mean`, 1 where nothing is stated.

  Raises:
    ValueError: for an unknown task or metric, an objective that stands twice,
      or a weight that is not positive.
  """

  def index(task: str, what: str) -> int:
    if task not in tasks:
      raise ValueError(
        f'{what} {task!r} is no task of this search'
        + trees.nearest(task, [*tasks, MEAN])
      )
    return list(tasks).index(task)

  mean = np.ones(len(tasks))
  for task, weight in (task_weights or {}).items():
    if weight <= 0:
      raise ValueError(f'task_weights of {task!r} is {weight}; expected > 0')
    mean[index(task, 'task_weights:')] = weight
  each = []
  for text in objectives or (MEAN,):
    name, _, stated = text.partition(':')
    if stated and stated not in METRICS:
      raise ValueError(
        f'objective {text!r}: unknown metric {stated!r}; expected one of '
        f'{METRICS}'
      )
    weights = mean / mean.sum()
    if name != MEAN:
      weights = np.zeros(len(tasks))
      weights[index(name, 'objective')] = 1.0
    each.append(Objective(text, stated or metric, weights))
  names = [one.name for one in each]
  if len(set(names)) < len(names):
    raise ValueError(f'objectives {names}: one stands twice')
  most = np.full(len(tasks), np.inf)
  for task, fall in (constraints or {}).items():
    if task != EVERY:
      most[index(task, 'constraint on')] = fall
  if EVERY in (constraints or {}):
    named = {text.partition(':')[0] for text in objectives}
    for i, task in enumerate(tasks):
      if task not in named and np.isinf(most[i]):
        most[i] = (constraints or {})[EVERY]
  return Objectives(tuple(each), most, reference)
