"""Pictures of a comparison: what each search has, by what it spent."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np

from experiments.bench.compare import curves

_TITLES = {
  'layerwise': 'tiny, layer-wise: the default',
  'published': 'tiny, published 112 variables',
  'depthwise': 'tiny, depth-wise',
  'encoder': 'MiniLM, layer-wise: the default',
  'front': 'tiny, two objectives',
}
_SOLVERS = {
  'ours': ('ours', '#b3261e', '-'),
  'ours_evolution': ('ours without gradients', '#e08a1e', '-'),
  'smac': ('SMAC3', '#1f5fa8', '--'),
  'parego': ('SMAC3, ParEGO', '#1f5fa8', '--'),
  'pycma': ('pycma', '#3a7d44', '--'),
  'pymoo': ('pymoo, NSGA-II', '#7a4fa3', '--'),
  'random': ('random', '#777777', ':'),
}


def draw(
  found: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
  path: pathlib.Path,
) -> None:
  """Medians and quartiles of seeds over the share of the budget, by scene."""
  figure, axes = plt.subplots(2, 3, figsize=(11, 6.4), layout='constrained')
  for axis, (scene, by_solver) in zip(axes.flat, found.items(), strict=False):
    kind = 'hypervolume' if scene == 'front' else 'heldout'
    for solver, rows in by_solver.items():
      label, colour, dashes = _SOLVERS[solver]
      shares = rows[0]['shares']
      axis.plot(
        shares, curves.medians(rows, kind), dashes, color=colour, label=label
      )
      low, high = np.nanquantile([row[kind] for row in rows], (0.25, 0.75), 0)
      axis.fill_between(shares, low, high, color=colour, alpha=0.1, lw=0)
    axis.set_title(f'{_TITLES[scene]} ({len(rows)} seeds)', fontsize=9)
    axis.set_xlabel('share of the budget', fontsize=8)
    axis.set_ylabel(
      'held-out hypervolume' if scene == 'front' else 'held-out accuracy',
      fontsize=8,
    )
    axis.tick_params(labelsize=7)
    axis.grid(alpha=0.25)
  last = axes.flat[-1]
  last.axis('off')
  last.legend(
    handles=[
      plt.Line2D([], [], color=colour, ls=dashes, label=label)
      for label, colour, dashes in _SOLVERS.values()
    ],
    loc='center',
    fontsize=9,
    frameon=False,
    title='median and quartiles of seeds',
  )
  with plt.rc_context({'svg.hashsalt': path.name}):
    figure.savefig(path, metadata={'Date': None})
  plt.close(figure)
