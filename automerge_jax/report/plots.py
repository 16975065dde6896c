"""Plots of one search: its curve and the coefficients that it chose."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, Normalize

from automerge_jax.report import drawing

_SEQUENTIAL = LinearSegmentedColormap.from_list(
  'sequential', ['#f3f5f9', '#bcd0e8', '#6f9acb', '#2f5d9b', '#16305a']
)
_DIVERGING = LinearSegmentedColormap.from_list(
  'diverging', ['#8c2f0f', '#dd8f6d', '#f6f4f2', '#6f9acb', '#16305a']
)


def search_curve(
  summary: Mapping[str, Any],
  points: Sequence[Mapping[str, Any]],
  width: float = 640,
) -> drawing.Panel:
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
  # None until the first candidate has passed the last rung.
  best = scale * np.array([row['incumbent'] for row in curve], dtype=float)
  reached = best[np.isfinite(best)]
  lines = [('best so far', value, drawing.ACCENT) for value in reached[-1:]]
  lines += [
    (name, scale * value, drawing.MUTED)
    for name, value in _references(summary, key).items()
  ]
  with drawing.style():
    figure, axes = drawing.canvas(width, 330)
    top = max((point['rung'] for point in points), default=0)
    x, y = _spread(points, curve), [scale * p['mean'] for p in points]
    for full in (False, True):
      chosen = [i for i, p in enumerate(points) if (p['rung'] == top) == full]
      _dots(axes, [x[i] for i in chosen], [y[i] for i in chosen], full)
    for name, value, color in lines:
      if name != 'best so far':
        axes.axhline(value, color=color, linewidth=1, linestyle=(0, (4, 3)))
    axes.step(
      [0.0, *cost],
      [best[0], *best],
      where='post',
      color=drawing.ACCENT,
      linewidth=2,
    )
    known = [value for _, value, _ in lines] + [*reached[:1]]
    low = min([*known, *(np.quantile(y, [0.02]) if y else [])], default=0)
    high = max([*known, *y], default=1)
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
        color=drawing.MUTED,
      )
    _label_lines(axes, lines, likelihood)
    axes.grid(axis='y')
    axes.set_xlabel('full-evaluation equivalents')
    axes.set_ylabel('mean log-likelihood' if likelihood else 'mean accuracy, %')
    svg = drawing.svg(figure, f'curve{int(width)}')
  text = 'No candidate was scored on all search items.'
  if len(reached):
    text = (
      f'The best score on search items goes from {reached[0]:.2f} to '
      f'{reached[-1]:.2f} over {cost[-1]:.0f} full-evaluation equivalents.'
    )
  return drawing.Panel('Search curve', text, svg)


def coefficient_panels(
  coefficients: Mapping[str, Any],
) -> tuple[list[drawing.Panel], str]:
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
  start = -bound if low < 0 else 0.0
  norm = Normalize(start, bound)
  panels = []
  with drawing.style():
    for index, expert in enumerate(coefficients['experts']):
      figure, axes = drawing.canvas(
        max(250, 58 * len(components)), 70 + max(150, 22 * len(layers))
      )
      _cells(axes, values[index].T, palette, norm)
      names = [name.replace(' ', '\n') for name in components]
      axes.set_xticks(np.arange(len(components)) + 0.5, names)
      every = max(1, len(layers) // 16)
      axes.set_yticks(np.arange(len(layers))[::every] + 0.5, layers[::every])
      axes.set_ylabel('layer')
      svg = drawing.svg(figure, f'heat{index}')
      rows = [
        f'{component} {np.nanmin(row):.2f} to {np.nanmax(row):.2f}'
        for component, row in zip(components, values[index], strict=True)
        if not np.isnan(row).all()
      ]
      panels.append(
        drawing.Panel(
          expert, f'{coefficients["parameter"]}: {"; ".join(rows)}.', svg
        )
      )
    figure, axes = drawing.canvas(260, 36)
    ramp = np.linspace(start, bound, 65)
    axes.pcolormesh(
      ramp, [0, 1], ramp[None, :-1], cmap=palette, norm=norm, rasterized=True
    )
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    return panels, drawing.svg(figure, 'bar')


def _references(summary: Mapping[str, Any], key: str) -> dict[str, float]:
  models, tasks = summary['models'], summary['tasks']
  found = {}
  own = [
    models[f'expert:{summary["parents"][task]}'].get('search') for task in tasks
  ]
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
  """Cost at each point: its generation's, spread evenly in given order.

  Points of a generation that the curve does not have, such as start points
  scored before the first, stand at zero.
  """
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
    if g not in ends:
      x.append(0.0)
      continue
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
    markerfacecolor=drawing.DOT if full else 'none',
    markeredgecolor='none' if full else drawing.DOT,
    markeredgewidth=0.7,
    alpha=0.85 if full else 0.6,
    rasterized=len(x) > drawing.MANY,
  )


def _cells(axes: Axes, values: np.ndarray, palette: Any, norm: Any) -> None:
  """Coloured cells [rows, columns], numbered where they are large enough."""
  masked = np.ma.masked_invalid(values)
  axes.pcolormesh(
    masked, cmap=palette, norm=norm, edgecolor=drawing.CARD, linewidth=0.6
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
