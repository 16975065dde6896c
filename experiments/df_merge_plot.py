"""A picture of results/df_merge.json: methods, searches, ablations, cost."""

import pathlib
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from configs import df_merge

SUITES = {
  'encoder': 'MiniLM-L6, four tasks',
  'domain': 'MiniLM-L6, four domains',
  'lm': 'SmolLM2-135M, four tasks',
}
LABELS = {
  'df_merge_ei': 'DF-Merge, EI',
  'df_merge_ucb': 'DF-Merge, UCB',
  'df_merge_layerwise': 'DF-Merge, layer-wise',
  'gta_bo': 'without Fisher (GTA + BO)',
  'random_search': 'random search',
  'lfs_search': "the suite's own search (LFS)",
  'task_arithmetic': 'task arithmetic',
  'ties': 'TIES',
  'dare_ties': 'DARE-TIES',
  'tsv_m': 'TSV-Merge',
  'iso_c': 'Iso-C',
  'wudi': 'WUDI',
  'regmean': 'RegMean',
  'fisher': 'Fisher merging',
  'uniform': 'average',
}
_CEILINGS = {'experts': ('experts', '--'), 'multitask': ('multi-task', ':')}
_COLOURS = {
  'df_merge_ei': '#2f5d9b',
  'df_merge_ucb': '#6f9bd1',
  'gta_bo': '#b4552d',
  'random_search': '#667086',
}
_SEARCHED, _MADE, _INK, _GRID = '#2f5d9b', '#667086', '#1b1f2a', '#dfe3ea'
_ABLATIONS = {
  **{
    f'items_{share}': f'{share}% of the search items' for share in (5, 10, 30)
  },
  'static': "the experts' own Fisher",
  'examples_5': '5 Fisher examples',
  'examples_100': '100 Fisher examples',
}
_PARTS = {
  'fisher': ('Fisher', '#2f5d9b'),
  'merge': ('merge', '#b4552d'),
  'evaluation': ('evaluation', '#5b8c5a'),
  'gp': ('Gaussian process', '#c9a227'),
}


def draw(results: dict, path: pathlib.Path) -> None:
  """Methods and searches of every suite, ablations and cost below.

  Args:
    results: content of results/df_merge.json, of any suites.
    path: SVG or PNG.
  """
  found = [s for s in SUITES if f'{s}_df_merge_ei' in results['figures']]
  ablated = f'{df_merge.ABLATED}_static_minus_full' in results['figures']
  with matplotlib.rc_context({'font.size': 10, 'axes.edgecolor': _GRID}):
    heights = [1.5] * len(found) + [1.0] * ablated
    figure = Figure(figsize=(10.4, 3.1 * sum(heights)), layout='constrained')
    rows = figure.subplots(
      len(heights),
      2,
      squeeze=False,
      gridspec_kw={'height_ratios': heights, 'width_ratios': (1.2, 1)},
    )
    for (left, right), suite in zip(rows, found, strict=False):
      _methods(left, results, suite)
      _curves(right, results, suite)
    if ablated:
      _ablations(rows[-1][0], results, df_merge.ABLATED)
      _cost(rows[-1][1], results['figures'], found)
    figure.savefig(path, dpi=160)


def _methods(axes: Axes, results: dict, suite: str) -> None:
  """Held-out means with intervals, experts and the joint model as lines."""
  figures, names = results['figures'], []
  for name in LABELS:
    key = f'{suite}_{name}'
    if key not in figures:
      continue
    low, high = results['intervals'][key]
    colour = _SEARCHED if name in df_merge.SEARCHES else _MADE
    y = len(names)
    axes.plot([100 * low, 100 * high], [y, y], color=colour, lw=1.6)
    axes.plot(100 * figures[key], y, 'o', color=colour, ms=5)
    names.append(LABELS[name])
  for name, (label, style) in _CEILINGS.items():
    if f'{suite}_{name}' in figures:
      value = 100 * figures[f'{suite}_{name}']
      axes.axvline(value, color=_INK, lw=1, ls=style, label=label)
  axes.set_yticks(range(len(names)), names)
  axes.invert_yaxis()
  axes.set_xlabel('held-out accuracy, mean of tasks (95%)')
  axes.set_title(SUITES[suite], loc='left')
  if axes.get_legend_handles_labels()[0]:  # beside the title
    axes.legend(
      frameon=False,
      fontsize=9,
      ncols=2,
      loc='lower right',
      bbox_to_anchor=(1.02, 0.985),
      handlelength=1.4,
      columnspacing=1.0,
      handletextpad=0.4,
    )
  _clean(axes)


def _curves(axes: Axes, results: dict, suite: str) -> None:
  """Best on the search items after each full evaluation."""
  for name, values in results['curves'].get(suite, {}).items():
    axes.step(
      range(1, len(values) + 1),
      [100 * value for value in values],
      where='post',
      color=_COLOURS[name],
      lw=1.4,
      label=LABELS[name],
    )
  axes.axvline(df_merge.RANDOM + 0.5, color=_MADE, lw=0.8, ls=':')
  axes.xaxis.set_major_locator(MaxNLocator(integer=True))
  axes.set_xlabel('full evaluations; the first ten are random')
  axes.set_ylabel('best so far, search items')
  axes.legend(frameon=False, fontsize=9, loc='lower right')
  _clean(axes)


def _ablations(axes: Axes, results: dict, suite: str) -> None:
  rows = [(f'{suite}_{n}_minus_full', label) for n, label in _ABLATIONS.items()]
  labels = [label for _, label in rows]
  for y, (key, _) in enumerate(rows):
    low, high = results['intervals'][key]
    axes.plot([100 * low, 100 * high], [y, y], color=_SEARCHED, lw=1.6)
    axes.plot(100 * results['figures'][key], y, 'o', color=_SEARCHED, ms=5)
  axes.axvline(0, color=_MADE, lw=0.8, ls=':')
  axes.set_yticks(range(len(labels)), labels)
  axes.invert_yaxis()
  axes.set_xlabel('points above DF-Merge, EI (95%, held-out, one seed)')
  axes.set_title('what is changed in DF-Merge', loc='left')
  _clean(axes)


def _cost(axes: Axes, figures: dict, suites: Sequence[str]) -> None:
  """Shares of a step, by suite."""
  told = [s for s in suites if f'{s}_cost_step_s' in figures]
  begin = [0.0] * len(told)
  for part, (label, colour) in _PARTS.items():
    shares = [
      100 * figures[f'{s}_cost_{part}_s'] / figures[f'{s}_cost_step_s']
      for s in told
    ]
    axes.barh(
      range(len(told)),
      shares,
      left=begin,
      color=colour,
      label=label,
      height=0.5,
    )
    begin = [a + b for a, b in zip(begin, shares, strict=True)]
  labels = [f'{s}\n{figures[f"{s}_cost_step_s"]:.1f} s' for s in told]
  axes.set_yticks(range(len(told)), labels)
  axes.set_ylim(len(told) + 0.2, -0.6)
  axes.set_xlabel('share of a step, %')
  axes.set_title('what a step takes', loc='left')
  axes.legend(frameon=False, fontsize=9, ncols=2, loc='lower center')
  _clean(axes)


def _clean(axes: Axes) -> None:
  axes.spines[['top', 'right']].set_visible(False)
  axes.grid(axis='both', color=_GRID, lw=0.8)
  axes.set_axisbelow(True)
