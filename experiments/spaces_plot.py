"""A picture of results/spaces.json: what each kind of search reaches."""

import pathlib

import matplotlib
import numpy as np
from matplotlib.figure import Figure

MODELS = {
  'experts': 'experts, each on its own task',
  'layerwise': 'layer-wise (LFS)',
  'layerwise_depthwise': 'LFS, then depth-wise',
  'depthwise': 'depth-wise (DIS)',
  'front': 'front of four tasks, its knee',
  'pruning': 'pruned to 4 of 6 layers',
  'task_arithmetic': 'task arithmetic, tuned',
  'ties': 'TIES, tuned',
  'uniform': 'uniform average',
  'base': 'base',
}
_OURS, _OTHERS, _INK = '#2f5d9b', '#667086', '#1b1f2a'
_HAND_MADE = ('experts', 'task_arithmetic', 'ties', 'uniform', 'base')


def draw(results: dict, path: pathlib.Path) -> None:
  """Held-out means with 95% intervals, and the front's members task by task."""
  figures, intervals = results['figures'], results['intervals']
  names = [n for n in MODELS if f'{n}_heldout_mean' in figures]
  with matplotlib.rc_context({'font.size': 10, 'axes.edgecolor': '#dfe3ea'}):
    figure = Figure(figsize=(9.6, 4.2), layout='constrained')
    left, right = figure.subplots(1, 2, width_ratios=(1, 1))
    _means(left, names, figures, intervals)
    _front(right, figures)
    figure.savefig(path, dpi=160)


def _means(axes, names, figures, intervals) -> None:
  for y, name in enumerate(reversed(names)):
    key = f'{name}_heldout_mean'
    value, (low, high) = figures[key], intervals[key]
    colour = _OTHERS if name in _HAND_MADE else _OURS
    axes.plot([100 * low, 100 * high], [y, y], color=colour, lw=1.6)
    axes.plot(100 * value, y, 'o', color=colour, ms=6)
  axes.set_yticks(range(len(names)), [MODELS[n] for n in reversed(names)])
  axes.set_xlabel('held-out accuracy, mean of four tasks, % (95%)')
  _clean(axes)


def _front(axes, figures) -> None:
  tasks = [
    key.removeprefix('base_heldout_')
    for key in figures
    if key.startswith('base_heldout_') and not key.endswith('_mean')
  ]
  x = np.arange(len(tasks))

  def line(prefix: str, **style) -> None:
    y = [
      100
      * (
        figures[f'{prefix}_heldout_{task}'] - figures[f'experts_heldout_{task}']
      )
      for task in tasks
    ]
    axes.plot(x, y, marker='o', ms=4, **style)

  for member in range(int(figures.get('front_members', 0))):
    label = 'members of the front' if member == 0 else None
    line(f'front_{member}', color=_OURS, alpha=0.45, lw=1, label=label)
  line('layerwise', color=_INK, lw=1.4, ls='--', label='layer-wise (LFS)')
  line('task_arithmetic', color=_OTHERS, lw=1.6, label='task arithmetic, tuned')
  axes.set_xticks(x, tasks)
  axes.axhline(0, color=_OTHERS, lw=0.8, ls=':')
  axes.set_xlim(-0.2, len(tasks) - 0.8)
  axes.set_ylabel("held-out accuracy, points above the task's expert")
  axes.legend(
    frameon=False,
    fontsize=9,
    ncols=3,
    loc='lower left',
    bbox_to_anchor=(-0.1, 1.0),
  )
  _clean(axes)


def _clean(axes) -> None:
  axes.spines[['top', 'right']].set_visible(False)
  axes.grid(axis='both', color='#dfe3ea', lw=0.8)
  axes.set_axisbelow(True)
