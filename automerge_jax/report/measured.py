"""What item scores say of models, as `summary.json` holds it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from automerge_jax.search import statistics
from automerge_jax.types import TRUNCATED, UNPARSED

Scores = Mapping[str, Mapping[str, np.ndarray]]


def own(
  held: Scores, key: str, own: Sequence[str], tasks: np.ndarray
) -> np.ndarray:
  """Each item's score by its task's own expert, [n]."""
  rows = np.stack([held[f'expert:{name}'][key] for name in own])
  return rows[tasks, np.arange(len(tasks))]


def against_experts(
  held: Scores,
  parents: Mapping[str, str],
  task_names: Sequence[str],
  tasks: np.ndarray,
  seed: int,
) -> dict[str, Any]:
  """The merge against each task's own expert, p-values adjusted by Holm's."""
  tests = [
    statistics.paired(
      held['merged']['score'][tasks == index],
      held[f'expert:{parents[task]}']['score'][tasks == index],
      seed,
    )
    for index, task in enumerate(task_names)
  ]
  adjusted = statistics.holm([test.p for test in tests])
  return {
    task: {**test._asdict(), 'p_holm': p}
    for task, test, p in zip(task_names, tests, adjusted, strict=True)
  }


def mean(
  scores: Mapping[str, np.ndarray],
  tasks: np.ndarray,
  weights: np.ndarray,
  seed: int,
  draws: int,
) -> dict[str, Any]:
  """Means over tasks, by their weights [tasks], of one model."""
  score, likelihood = (
    statistics.by_weight(scores[key], tasks, weights)
    for key in ('score', 'log_likelihood')
  )
  accuracy = statistics.mean_bootstrap(score, tasks, seed, draws)
  return {
    'accuracy': accuracy.value,
    'low': accuracy.low,
    'high': accuracy.high,
    'log_likelihood': statistics.task_mean(likelihood, tasks),
  }


def per_task(
  scores: Mapping[str, np.ndarray],
  tasks: np.ndarray,
  task_names: Sequence[str],
  seed: int,
) -> dict[str, Any]:
  """Means of one model on each task, with what else is known of its items."""
  rows = {}
  flags = scores.get('flags')
  marks = np.zeros(len(tasks), np.uint8) if flags is None else flags
  for index, task in enumerate(task_names):
    mine = np.asarray(tasks) == index
    estimate = statistics.mean(scores['score'][mine], seed)
    rows[task] = {
      'accuracy': estimate.value,
      'low': estimate.low,
      'high': estimate.high,
      'log_likelihood': np.mean(scores['log_likelihood'][mine], dtype=float),
      'n': int(mine.sum()),
      'truncated': float(np.mean(marks[mine] & TRUNCATED > 0)),
      'unparsed': float(np.mean(marks[mine] & UNPARSED > 0)),
    }
  return rows


def difference(estimate: statistics.Estimate) -> dict[str, Any]:
  """A difference as `summary.json` holds it."""
  return {
    'difference': estimate.value,
    'low': estimate.low,
    'high': estimate.high,
  }
