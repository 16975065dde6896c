"""Plots of what a surrogate foresaw, and of overfitting by rung."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from automerge_jax.report import drawing


def screening_panel(
  rows: Sequence[Mapping[str, Any]], width: float = 720
) -> drawing.Panel:
  """Rank correlation by generation.

  Args:
    rows: `generation`, `correlation`, and `on`: whether the surrogate chose.
    width: of the drawing, in pixels.
  """
  x = np.array([row['generation'] for row in rows])
  y = np.array([row['correlation'] for row in rows], float)
  on = np.array([row['on'] for row in rows], bool)
  with drawing.style():
    figure, axes = drawing.canvas(width, 220)
    axes.axhline(0, color=drawing.MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(x, y, color=drawing.LINE, linewidth=1.2)
    for chosen in (True, False):
      axes.plot(
        x[on == chosen],
        y[on == chosen],
        'o',
        markersize=5,
        markerfacecolor=drawing.FRONT if chosen else drawing.CARD,
        markeredgecolor=drawing.FRONT,
        markeredgewidth=1,
      )
    axes.set_ylim(min(-0.25, y.min() - 0.08), 1.05)
    axes.grid(axis='y')
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel('generation')
    axes.set_ylabel('rank correlation')
    svg = drawing.svg(figure, f'screening{int(width)}')
  return drawing.Panel(
    'Screening',
    f'Rank correlations over {len(rows)} generations, from {y.min():.2f} to '
    f'{y.max():.2f}, median {np.median(y):.2f}; the surrogate chose in '
    f'{int(on.sum())} of them.',
    svg,
  )


def gap_panel(
  told: Mapping[str, Any], scale: float, unit: str, width: float = 720
) -> drawing.Panel:
  """Search score minus score on unseen items, by rung.

  Args:
    told: see `finalists.gaps`.
    scale: by which scores are multiplied.
    unit: of the products.
    width: of the drawing, in pixels.
  """
  chosen = told['chosen']
  x = np.arange(len(chosen))
  gap = scale * np.array([row['gap'] for row in chosen])
  low = scale * np.array([row['low'] for row in chosen])
  high = scale * np.array([row['high'] for row in chosen])
  others = [row for row in told['finalists'] if not row['chosen']]
  with drawing.style():
    figure, axes = drawing.canvas(width, 260)
    axes.axhline(0, color=drawing.MUTED, linewidth=1, linestyle=(0, (4, 3)))
    # Side by side, so that lines of equal gaps can be told apart.
    beside = np.linspace(-0.12, 0.12, len(others) + 1)[1:]
    for row, shift in zip(others, beside, strict=True):
      axes.plot(
        x + shift,
        [scale * one['gap'] for one in row['rungs']],
        'o-',
        color=drawing.DOT,
        markersize=4,
        linewidth=1,
        alpha=0.8,
      )
    axes.errorbar(
      x - 0.12,
      gap,
      [gap - low, high - gap],
      color=drawing.ACCENT,
      marker='D',
      markersize=6,
      linewidth=2,
      elinewidth=1.4,
      zorder=5,
    )
    axes.set_xticks(x, [f'{row["items"]:,} items' for row in chosen])
    axes.set_xlim(-0.4, len(chosen) - 0.6)
    axes.grid(axis='y')
    axes.set_ylabel(f'search minus unseen, {unit}')
    svg = drawing.svg(figure, f'gaps{int(width)}')
  each = ', '.join(
    f'{value:+.2f} at {row["items"]} items'
    for value, row in zip(gap, chosen, strict=True)
  )
  return drawing.Panel(
    'Overfitting by rung',
    f'The merge on search minus held-out items, {unit}: {each}; '
    f'{len(others)} other finalists on search minus select items.',
    svg,
  )
