"""Plots as SVG: text stays text, colours follow the page's CSS variables."""

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure

# Written as these values; the page's variables override them (light and dark).
_INK, _MUTED, _LINE = '#1b1f2a', '#667086', '#dfe3ea'
_DOT, _FRONT, _ACCENT = '#8ba6c9', '#2f5d9b', '#b3431d'
_CARD = '#fefefe'
_VARIABLES = {
  _INK: '--ink',
  _MUTED: '--muted',
  _LINE: '--line',
  _DOT: '--dot',
  _FRONT: '--front',
  _ACCENT: '--accent',
  _CARD: '--card',
}
_STYLE = {
  'svg.fonttype': 'none',
  'svg.hashsalt': 'automerge_jax',
  'text.parse_math': False,
  'font.size': 11,
  'axes.edgecolor': _LINE,
  'axes.labelcolor': _MUTED,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.axisbelow': True,
  'xtick.color': _MUTED,
  'ytick.color': _MUTED,
  'xtick.labelsize': 10,
  'ytick.labelsize': 10,
  'xtick.major.size': 0,
  'ytick.major.size': 0,
  'grid.color': _LINE,
  'grid.linewidth': 0.8,
  'text.color': _INK,
}
_SEQUENTIAL = LinearSegmentedColormap.from_list(
  'sequential', ['#f3f5f9', '#bcd0e8', '#6f9acb', '#2f5d9b', '#16305a']
)
_DIVERGING = LinearSegmentedColormap.from_list(
  'diverging', ['#8c2f0f', '#dd8f6d', '#f6f4f2', '#6f9acb', '#16305a']
)
_MANY = 1500  # dots beyond this become one image, to keep the page small
_PAIRED = 4  # tasks up to which every pair has its own scatter


class Panel(NamedTuple):
  """One plot: its title, a sentence for those who cannot see it, its SVG."""

  title: str
  description: str
  svg: str


def search_curve(
  summary: Mapping[str, Any],
  points: Sequence[Mapping[str, Any]],
  width: float = 640,
) -> Panel:
  """Scores of all candidates over what they cost, on the search items.

  Args:
    summary: see `summary.build`; scores of its curve are log-likelihoods where
      the objective's name says so, else accuracies.
    points: one row a candidate and rung: `generation`, `rung`, `items`,
      `scores` (`{task: accuracy}`) and `mean`, in the objective's units.
    width: of the drawing, in pixels.
  """
  curve = summary['search']['curve']
  likelihood = 'likelihood' in summary['objective']
  key, scale = ('log_likelihood', 1) if likelihood else ('accuracy', 100)
  cost = [row['full_evaluations'] for row in curve]
  lines = [('best so far', scale * curve[-1]['incumbent'], _ACCENT)]
  lines += [
    (name, scale * value, _MUTED)
    for name, value in _references(summary, key).items()
  ]
  with matplotlib.rc_context(_STYLE):
    figure, axes = _canvas(width, 330)
    top = max((point['rung'] for point in points), default=0)
    x, y = _spread(points, curve), [scale * p['mean'] for p in points]
    for full in (False, True):
      chosen = [i for i, p in enumerate(points) if (p['rung'] == top) == full]
      _dots(axes, [x[i] for i in chosen], [y[i] for i in chosen], full)
    for _, value, color in lines[1:]:
      axes.axhline(value, color=color, linewidth=1, linestyle=(0, (4, 3)))
    axes.step(
      [0.0, *cost],
      [scale * row['incumbent'] for row in (curve[0], *curve)],
      where='post',
      color=_ACCENT,
      linewidth=2,
    )
    known = [value for _, value, _ in lines] + [scale * curve[0]['incumbent']]
    low = min([*known, *np.quantile(y, [0.02])] if y else known)
    high = max([*known, *y])
    pad = 0.06 * (high - low) or 1.0
    axes.set_ylim(low - pad, high + pad)
    axes.set_xlim(0, cost[-1])
    below = sum(value < low - pad for value in y)
    if below:
      axes.text(
        0.995,
        0.02,
        f'{below} of {len(y)} scores are below the plot',
        transform=axes.transAxes,
        ha='right',
        fontsize=9.5,
        color=_MUTED,
      )
    _label_lines(axes, lines, likelihood)
    axes.grid(axis='y')
    axes.set_xlabel('full-evaluation equivalents')
    axes.set_ylabel('mean log-likelihood' if likelihood else 'mean accuracy, %')
    svg = _svg(figure, f'curve{int(width)}')
  first, last = curve[0]['incumbent'], curve[-1]['incumbent']
  return Panel(
    'Search curve',
    f'The best score on search items rises from {scale * first:.2f} to '
    f'{scale * last:.2f} over {cost[-1]:.0f} full-evaluation equivalents.',
    svg,
  )


def coefficient_panels(
  coefficients: Mapping[str, Any],
) -> tuple[list[Panel], str]:
  """One heat map an expert, layers by components, and their colour bar.

  Args:
    coefficients: `parameter`, `experts`, `components`, `layers` and `values`
      [expert][component][layer], null where a component has none.
  """
  values = np.array(coefficients['values'], dtype=float)  # None becomes NaN
  layers, components = coefficients['layers'], coefficients['components']
  low, high = np.nanmin(values), np.nanmax(values)
  bound = max(abs(low), abs(high)) or 1.0
  palette = _DIVERGING if low < 0 else _SEQUENTIAL
  norm = Normalize(-bound if low < 0 else 0, bound)
  panels = []
  with matplotlib.rc_context(_STYLE):
    for index, expert in enumerate(coefficients['experts']):
      figure, axes = _canvas(
        max(250, 58 * len(components)), 70 + max(150, 22 * len(layers))
      )
      _cells(axes, values[index].T, palette, norm)
      axes.set_xticks(np.arange(len(components)) + 0.5, components)
      every = max(1, len(layers) // 16)
      axes.set_yticks(np.arange(len(layers))[::every] + 0.5, layers[::every])
      axes.set_ylabel('layer')
      svg = _svg(figure, f'heat{index}')
      rows = [
        f'{component} {np.nanmin(row):.2f} to {np.nanmax(row):.2f}'
        for component, row in zip(components, values[index], strict=True)
        if not np.isnan(row).all()
      ]
      panels.append(
        Panel(expert, f'{coefficients["parameter"]}: {"; ".join(rows)}.', svg)
      )
    figure = Figure(figsize=(3.6, 0.5), dpi=72, layout='constrained')
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    ramp = np.linspace(norm.vmin, norm.vmax, 65)
    axes.pcolormesh(
      ramp, [0, 1], ramp[None, :-1], cmap=palette, norm=norm, rasterized=True
    )
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return panels, _svg(figure, 'bar')


def task_panels(
  summary: Mapping[str, Any], points: Sequence[Mapping[str, Any]]
) -> list[Panel]:
  """Task scores against each other, on the search items of the last rung.

  Up to four tasks: a scatter for each pair. More: parallel coordinates. One
  task: nothing to trade, no panel.
  """
  tasks = summary['tasks']
  top = max((point['rung'] for point in points), default=0)
  scores = np.array(
    [[p['scores'][t] for t in tasks] for p in points if p['rung'] == top]
  ).reshape(-1, len(tasks))
  front = nondominated(scores)
  models = {
    name: [100 * model['search']['tasks'][task]['accuracy'] for task in tasks]
    for name, model in summary['models'].items()
    if 'search' in model
  }
  if len(tasks) < 2:
    return []
  with matplotlib.rc_context(_STYLE):
    if len(tasks) > _PAIRED:
      return [_parallel(tasks, 100 * scores[front], models)]
    return [
      _pair(tasks, a, b, 100 * scores, front, models)
      for a, b in itertools.combinations(range(len(tasks)), 2)
    ]


def nondominated(scores: np.ndarray) -> np.ndarray:
  """Which rows of [N, M] no other row matches everywhere and beats once."""
  keep = np.ones(len(scores), bool)
  for index, row in enumerate(scores):
    as_good, better = (scores >= row).all(1), (scores > row).any(1)
    keep[index] = not (as_good & better).any()
  return keep


def _references(summary: Mapping[str, Any], key: str) -> dict[str, float]:
  models, tasks = summary['models'], summary['tasks']
  found = {}
  own = [models[f'expert:{task}'].get('search') for task in tasks]
  if all(own):
    found['experts, own task'] = float(
      np.mean([o['tasks'][t][key] for o, t in zip(own, tasks, strict=True)])
    )
  if 'search' in models['task_arithmetic']:
    mean = models['task_arithmetic']['search']['mean']
    found['tuned task arithmetic'] = mean[key]
  return found


def _spread(
  points: Sequence[Mapping[str, Any]], curve: Sequence[Mapping[str, Any]]
) -> list[float]:
  """Cost at each point: its generation's, spread evenly in given order."""
  ends = {row['generation']: row['full_evaluations'] for row in curve}
  order = sorted(ends)
  starts = {g: ends.get(p, 0.0) for p, g in itertools.pairwise([None, *order])}
  total: dict[int, int] = {}
  for point in points:
    total[point['generation']] = total.get(point['generation'], 0) + 1
  seen: dict[int, int] = {}
  x = []
  for point in points:
    g = point['generation']
    seen[g] = seen.get(g, 0) + 1
    x.append(starts[g] + (ends[g] - starts[g]) * seen[g] / (total[g] + 1))
  return x


def _label_lines(
  axes: Axes, lines: Sequence[tuple[str, float, str]], likelihood: bool
) -> None:
  """Names of the lines at the right, moved apart where they would overlap."""
  low, high = axes.get_ylim()
  at = -np.inf
  for name, value, color in sorted(lines, key=lambda line: line[1]):
    at = max(value, at + 0.105 * (high - low))
    number = f'{value:.3f}' if likelihood else f'{value:.1f}'
    # Two short lines leave more of a narrow page to the plot.
    axes.annotate(
      f'{name.replace("task arithmetic", "TA")}\n{number}',
      (1.015, (at - low) / (high - low)),
      xycoords='axes fraction',
      va='center',
      fontsize=10,
      linespacing=1.1,
      color=color,
    )


def _dots(axes: Axes, x: Any, y: Any, full: bool) -> None:
  axes.plot(
    x,
    y,
    'o',
    markersize=4 if full else 3.4,
    markerfacecolor=_DOT if full else 'none',
    markeredgecolor='none' if full else _DOT,
    markeredgewidth=0.7,
    alpha=0.85 if full else 0.6,
    rasterized=len(x) > _MANY,
  )


def _cells(axes: Axes, values: np.ndarray, palette: Any, norm: Any) -> None:
  """Coloured cells [rows, columns], numbered where they are large enough."""
  masked = np.ma.masked_invalid(values)
  axes.pcolormesh(
    masked, cmap=palette, norm=norm, edgecolor=_CARD, linewidth=0.6
  )
  axes.invert_yaxis()
  axes.spines[:].set_visible(False)
  if len(values) > 16:
    return
  for row, column in np.argwhere(~np.isnan(values)):
    red, green, blue, _ = palette(norm(values[row, column]))
    dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.55
    axes.text(
      column + 0.5,
      row + 0.5,
      f'{values[row, column]:.2f}'.replace('-', '−'),
      ha='center',
      va='center',
      fontsize=10,
      color='#ffffff' if dark else '#10131a',
    )


def _pair(
  tasks: Sequence[str],
  a: int,
  b: int,
  scores: np.ndarray,
  front: np.ndarray,
  models: Mapping[str, Sequence[float]],
) -> Panel:
  figure, axes = _canvas(330, 300)
  axes.grid()
  axes.plot(
    *scores[~front][:, [a, b]].T,
    'o',
    markersize=3.6,
    color=_DOT,
    alpha=0.6,
    markeredgewidth=0,
    rasterized=len(scores) > _MANY,
  )
  axes.plot(
    *scores[front][:, [a, b]].T,
    'o',
    markersize=4.2,
    color=_FRONT,
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
    name = f'expert:{tasks[index]}'
    if name in models:
      axes.annotate(
        f'{tasks[index]} expert',
        (models[name][a], models[name][b]),
        xytext=(-7, -3) if index == a else (7, -3),
        textcoords='offset points',
        ha='right' if index == a else 'left',
        fontsize=9.5,
        color=_INK,
      )
  axes.margins(0.07)
  axes.set_xlabel(f'{tasks[a]}, %')
  axes.set_ylabel(f'{tasks[b]}, %')
  mine = models['merged']
  return Panel(
    f'{tasks[a]} and {tasks[b]}',
    f'The merge has {mine[a]:.1f}% on {tasks[a]} and {mine[b]:.1f}% on '
    f'{tasks[b]}; {int(front.sum())} of {len(front)} candidates are on the '
    'Pareto front.',
    _svg(figure, f'pair{a}x{b}'),
  )


def _parallel(
  tasks: Sequence[str],
  front: np.ndarray,
  models: Mapping[str, Sequence[float]],
) -> Panel:
  figure, axes = _canvas(max(640, 80 * len(tasks)), 340)
  x = np.arange(len(tasks))
  axes.plot(x, front.T, color=_DOT, linewidth=0.8, alpha=0.6)
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
  return Panel(
    'All tasks',
    f'Scores of the merge, its parents and {len(front)} candidates on the '
    f'Pareto front, over {len(tasks)} tasks.',
    _svg(figure, 'parallel'),
  )


def _marker(name: str) -> tuple[str, str, float]:
  if name == 'merged':
    return 'D', _ACCENT, 8
  if name.startswith('expert:'):
    return 's', _INK, 5.5
  return '^', _MUTED, 6


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
  figure = Figure(
    figsize=(width / 72, height / 72), dpi=72, layout='constrained'
  )
  figure.patch.set_alpha(0)
  axes = figure.add_subplot()
  axes.patch.set_alpha(0)
  return figure, axes


def _svg(figure: Figure, name: str) -> str:
  """The figure as one compact <svg> element with ids that no other has."""
  file = io.StringIO()
  figure.savefig(file, format='svg', metadata={'Date': None})
  text = file.getvalue()
  text = text[text.index('<svg') :]
  text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.S)
  text = re.sub(r' width="[\d.]+pt"| height="[\d.]+pt"', '', text, count=2)
  text = text.replace(' xmlns:xlink="http://www.w3.org/1999/xlink"', '')
  text = text.replace('xlink:href', 'href')
  # Its style would hold for the whole page.
  text = re.sub(r'<defs>\s*<style.*?</style>\s*</defs>', '', text, flags=re.S)
  text = text.replace('<svg', '<svg stroke-linejoin="round"', 1)
  inside = '(?=[^<>]*>)'  # of a tag, never of a name that is shown
  text = re.sub(rf'(?<=\s)id="{inside}', f'id="{name}-', text)
  text = re.sub(rf'(url\(#|\bhref="#){inside}', rf'\g<1>{name}-', text)
  text = re.sub(rf"'DejaVu Sans'[^;\"]*sans-serif{inside}", 'sans-serif', text)
  text = re.sub(rf'(\d\.\d\d)\d+{inside}', r'\1', text)
  for color, variable in _VARIABLES.items():
    text = text.replace(f': {color}', f': var({variable}, {color})')
  return re.sub(r'>\s+<', '><', text).strip()
