"""Scatters of task scores: what one task costs another."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from automerge_jax.report import drawing
from automerge_jax.search import fronts

_PAIRED = 4  # tasks up to which every pair has its own scatter


def task_panels(
  summary: Mapping[str, Any], points: Sequence[Mapping[str, Any]]
) -> list[drawing.Panel]:
  """Task scores against each other, on the search items of the last rung.

  Up to four tasks: a scatter for each pair. More: parallel coordinates. One
  task: nothing to trade, no panel.
  """
  tasks = summary['tasks']
  top = max((point['rung'] for point in points), default=0)
  scores = np.array(
    [[p['scores'][t] for t in tasks] for p in points if p['rung'] == top]
  ).reshape(-1, len(tasks))
  front = fronts.fronts(scores) == 0
  models = {
    name: [100 * model['search']['tasks'][task]['accuracy'] for task in tasks]
    for name, model in summary['models'].items()
    if 'search' in model
  }
  if len(tasks) < 2:
    return []
  with drawing.style():
    if len(tasks) > _PAIRED:
      return [_parallel(tasks, 100 * scores[front], models)]
    return [
      _pair(tasks, a, b, 100 * scores, front, models, summary['parents'])
      for a, b in itertools.combinations(range(len(tasks)), 2)
    ]


def _pair(
  tasks: Sequence[str],
  a: int,
  b: int,
  scores: np.ndarray,
  front: np.ndarray,
  models: Mapping[str, Sequence[float]],
  parents: Mapping[str, str],
) -> drawing.Panel:
  figure, axes = drawing.canvas(330, 300)
  axes.grid()
  axes.plot(
    *scores[~front][:, [a, b]].T,
    'o',
    markersize=3.6,
    color=drawing.DOT,
    alpha=0.6,
    markeredgewidth=0,
    rasterized=len(scores) > drawing.MANY,
  )
  axes.plot(
    *scores[front][:, [a, b]].T,
    'o',
    markersize=4.2,
    color=drawing.FRONT,
    markeredgewidth=0,
  )
  for name, row in sorted(models.items()):
    marker, color, size = _marker(name)
    axes.plot(
      row[a],
      row[b],
      marker,
      color=color,
      markersize=size,
      zorder=5 if name == 'merged' else 4,
      clip_on=False,
    )
  for index in (a, b):
    name = f'expert:{parents[tasks[index]]}'
    if name in models:
      axes.annotate(
        f'{parents[tasks[index]]} expert',
        (models[name][a], models[name][b]),
        xytext=(-7, -3) if index == a else (7, -3),
        textcoords='offset points',
        ha='right' if index == a else 'left',
        fontsize=9.5,
        color=drawing.INK,
      )
  axes.margins(0.07)
  axes.set_xlabel(f'{tasks[a]}, %')
  axes.set_ylabel(f'{tasks[b]}, %')
  mine = models['merged']
  return drawing.Panel(
    f'{tasks[a]} and {tasks[b]}',
    f'The merge has {mine[a]:.1f}% on {tasks[a]} and {mine[b]:.1f}% on '
    f'{tasks[b]}; {int(front.sum())} of {len(front)} candidates are on the '
    'Pareto front.',
    drawing.svg(figure, f'pair{a}x{b}'),
  )


def _parallel(
  tasks: Sequence[str],
  front: np.ndarray,
  models: Mapping[str, Sequence[float]],
) -> drawing.Panel:
  figure, axes = drawing.canvas(max(640, 80 * len(tasks)), 340)
  x = np.arange(len(tasks))
  axes.plot(x, front.T, color=drawing.DOT, linewidth=0.8, alpha=0.6)
  for name, row in sorted(models.items()):
    marker, color, size = _marker(name)
    merged = name == 'merged'
    axes.plot(
      x,
      row,
      marker,
      linestyle='-' if merged else '',
      color=color,
      markersize=size,
      linewidth=2,
      zorder=5 if merged else 4,
    )
  axes.grid(axis='x')
  axes.set_xticks(x, tasks)
  axes.set_ylabel('accuracy, %')
  return drawing.Panel(
    'All tasks',
    f'Scores of the merge, its parents and {len(front)} candidates on the '
    f'Pareto front, over {len(tasks)} tasks.',
    drawing.svg(figure, 'parallel'),
  )


def _marker(name: str) -> tuple[str, str, float]:
  if name == 'merged':
    return 'D', drawing.ACCENT, 8
  if name.startswith('expert:'):
    return 's', drawing.INK, 5.5
  return '^', drawing.MUTED, 6
