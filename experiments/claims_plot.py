"""A picture of results/claims.json: merges against experts, task by task."""

import pathlib
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from configs import claims

_SUITES = {'encoder': 'MiniLM-L6', 'lm': 'SmolLM2-135M'}
_KINDS = {
  'lfs': ('layer-wise (LFS)', '#2f5d9b'),
  'dis': ('depth-wise (DIS)', '#b4552d'),
  'lfs_dis': ('LFS, then DIS', '#5b8c5a'),
}
_OTHERS, _INK, _GRID = '#667086', '#1b1f2a', '#dfe3ea'
_SOURCES = ('amazon', 'tweets', 'nyt')
_STEP = 0.22  # between rows of one task


def draw(results: dict, path: pathlib.Path) -> None:
  """What each search gains over the task's expert, and the fronts.

  Args:
    results: content of results/claims.json, of any suites.
    path: SVG or PNG.
  """
  figures = results['figures']
  found = [s for s in _SUITES if f'{s}_front_members' in figures]
  with matplotlib.rc_context({'font.size': 10, 'axes.edgecolor': _GRID}):
    figure = Figure(figsize=(10.4, 4.0 * len(found)), layout='constrained')
    rows = figure.subplots(len(found), 2, squeeze=False)
    for (left, right), suite in zip(rows, found, strict=True):
      _gains(left, results, suite)
      _front(right, figures, suite)
    handles, labels = rows[0][0].get_legend_handles_labels()
    figure.legend(
      handles, labels, loc='outside upper left', ncols=3, frameon=False
    )
    figure.savefig(path, dpi=160)


def _gains(axes: Axes, results: dict, suite: str) -> None:
  tasks = claims.SUITES[suite].TASKS
  rows = [(f'{suite}_{task}_{{kind}}_minus_expert', task) for task in tasks]
  for source in _SOURCES:
    name = f'{suite}_movie_{{kind}}_{source}_minus_expert'
    if name.format(kind='lfs') in results['figures']:
      rows.append((name, f'movie,\non {source}'))
  for index, (kind, (label, colour)) in enumerate(_KINDS.items()):
    for y, (name, _) in enumerate(rows):
      key = name.format(kind=kind)
      if key not in results['figures']:
        continue
      low, high = results['intervals'][key]
      at = y + (index - 1) * _STEP
      axes.plot([100 * low, 100 * high], [at, at], color=colour, lw=1.6)
      axes.plot(
        100 * results['figures'][key],
        at,
        'o',
        color=colour,
        ms=5,
        label=None if y else label,
      )
  axes.axvline(0, color=_OTHERS, lw=0.8, ls=':')
  axes.set_yticks(range(len(rows)), [_told(label) for _, label in rows])
  axes.invert_yaxis()
  axes.set_xlabel("points above the task's expert (95%, held-out)")
  axes.set_title(f'{_SUITES[suite]}: searched for one task', loc='left')
  _clean(axes)


def _front(axes: Axes, figures: dict, suite: str) -> None:
  tasks = sorted(claims.SUITES[suite].TASKS)

  def line(model: str, label: str, **style) -> None:
    y = [
      100
      * (
        figures[f'{suite}_{model}_heldout_{task}']
        - figures[f'{suite}_expert_{task}_heldout_{task}']
      )
      for task in tasks
    ]
    axes.plot(range(len(tasks)), y, marker='o', ms=3, label=label, **style)

  for member in range(figures[f'{suite}_front_members']):
    label = '_' if member else 'members of the front'
    line(f'front_{member}', label, color=_KINDS['lfs'][1], alpha=0.4, lw=1)
  for index, model in enumerate(_hand_made(figures, suite)):
    line(model, '_' if index else 'hand-made merges', color=_INK, lw=1, ls='--')
  axes.axhline(0, color=_OTHERS, lw=0.8, ls=':')
  axes.set_xticks(range(len(tasks)), [_told(task) for task in tasks])
  axes.set_xlim(-0.2, len(tasks) - 0.8)
  axes.set_ylabel("points above the task's expert")
  axes.set_title('four objectives: the front', loc='left')
  axes.legend(frameon=False, fontsize=9, loc='lower left')
  _clean(axes)


def _hand_made(figures: dict, suite: str) -> Sequence[str]:
  task = claims.SUITES[suite].TASKS[0]
  names = ('task_arithmetic', 'ties', 'tsv_m', 'uniform')
  return [n for n in names if f'{suite}_{n}_heldout_{task}' in figures]


def _told(task: str) -> str:
  return task.removeprefix('lm_')


def _clean(axes: Axes) -> None:
  axes.spines[['top', 'right']].set_visible(False)
  axes.grid(axis='both', color=_GRID, lw=0.8)
  axes.set_axisbelow(True)
