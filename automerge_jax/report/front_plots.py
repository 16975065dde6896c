"""The front against everything else, on held-out items."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from automerge_jax.report import drawing, wording

_DASHED = (0, (4, 3))
_LETTER = 5.3  # width of small text, pixels
_BELOW = 0.12  # of the axes' height, for lines that lead further down

# Marker, colour, size and what is drawn above what.
_STYLES: dict[str, tuple[str, str, float, int]] = {
  'picked': ('D', drawing.ACCENT, 7.5, 6),
  'member': ('o', drawing.FRONT, 6, 5),
  'expert': ('s', drawing.INK, 5.5, 4),
  'other': ('^', drawing.MUTED, 6, 3),
}


class _Row(NamedTuple):
  """A model: its label, its kind, value and interval [M, 3]."""

  label: str
  kind: str
  values: np.ndarray


def front_panel(
  summary: Mapping[str, Any], width: float = 720
) -> drawing.Panel:
  """Members, parents and baselines: a scatter of two objectives, or lines.

  Args:
    summary: see `summary.build`; with a `front`.
    width: of the drawing, in pixels.
  """
  each = summary['objectives']
  scales = [100 if one['metric'] == 'accuracy' else 1 for one in each]
  axis_names = [
    one['name'] + (', %' if scale == 100 else '')
    for one, scale in zip(each, scales, strict=True)
  ]

  def values(cells: Mapping[str, Mapping[str, float]]) -> np.ndarray:
    return np.array(
      [
        [scale * cells[one['name']][key] for key in ('value', 'low', 'high')]
        for one, scale in zip(each, scales, strict=True)
      ]
    )

  rows = [
    _Row(
      row['name'].rpartition(':')[2],
      'picked' if row['picked'] else 'member',
      values(row['objectives']),
    )
    for row in summary['front']['members']
    if row['objectives']
  ]
  ours = len(rows)
  for name, cells in summary['front']['others'].items():
    kind = 'expert' if name.startswith('expert:') else 'other'
    rows.append(_Row(_label(name), kind, values(cells)))
  with drawing.style():
    figure, axes = drawing.canvas(width, 400 if width > 500 else 380)
    if len(each) == 2:
      _scatter(axes, axis_names, rows, width)
    else:
      _lines(axes, axis_names, rows, ours)
    svg = drawing.svg(figure, f'front{int(width)}')
  best = [
    f'{name} {max(row.values[i, 0] for row in rows[:ours]):.1f}'
    for i, name in enumerate(axis_names)
    if ours
  ]
  return drawing.Panel(
    'The front',
    f'{ours} members of the front and {len(rows) - ours} other models. Best of '
    f'the members: {wording.listing(best)}.',
    svg,
  )


def _label(name: str) -> str:
  text = wording.model_name(name).removeprefix('the ')
  return text.replace('task arithmetic', 'TA').removesuffix(' model')


def _scatter(
  axes: Axes, names: Sequence[str], rows: Sequence[_Row], width: float
) -> None:
  axes.grid()
  for row in reversed(rows):
    marker, color, size, order = _STYLES[row.kind]
    (x, left, right), (y, low, high) = row.values
    axes.errorbar(
      x,
      y,
      [[y - low], [high - y]],
      [[x - left], [right - x]],
      marker,
      color=color,
      markersize=size,
      markeredgewidth=0,
      elinewidth=1,
      capsize=0,
      ecolor=(color, 0.55),
      zorder=order,
    )
  axes.margins(0.08)
  axes.set_xlabel(names[0])
  axes.set_ylabel(names[1])
  size = np.array([width - 60, 330.0])
  low, high = np.transpose([axes.get_xlim(), axes.get_ylim()])
  bounds = np.array([row.values for row in rows])  # [R, 2, 3]
  at = (bounds - low[:, None]) / (high - low)[:, None] * size[:, None]
  offsets = _beside(at, [row.label for row in rows], size[0])
  for row, (dx, dy) in zip(rows, offsets, strict=True):
    axes.annotate(
      row.label,
      tuple(row.values[:, 0]),
      xytext=(dx, dy),
      textcoords='offset points',
      ha='left' if dx > 0 else 'right',
      va='center',
      fontsize=9.5,
      color=_STYLES[row.kind][1],
      zorder=7,
    )


def _beside(
  at: np.ndarray, labels: Sequence[str], width: float
) -> list[tuple[float, float]]:
  """Where each label stands from its point, clear of marks and others, pixels.

  Args:
    at: point, and ends of its interval, along both axes, [R, 2, 3].
    labels: of the points.
    width: of the plot.
  """
  taken = []
  for (x, left, right), (y, low, high) in at:
    taken.append((x - 5, y - 5, x + 5, y + 5))
    taken += [(left, y - 1, right, y + 1), (x - 1, low, x + 1, high)]
  found = []
  for (x, *_), (y, *_) in at:
    long = _LETTER * len(labels[len(found)])
    best: tuple[float, tuple[float, float], Sequence[float]] | None = None
    for rise in (8, -8, 20, -20, 32, -32, 44, -44):
      for run in (5, -5):
        start = x + run - (long if run < 0 else 0)
        box = (start, y + rise - 5, start + long, y + rise + 5)
        cost = sum(_overlap(box, other) for other in taken) + abs(rise)
        cost += 1e4 * (box[0] < 0 or box[2] > width)
        if best is None or cost < best[0]:
          best = cost, (run, rise), box
    assert best is not None
    taken.append(best[2])
    found.append(best[1])
  return found


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
  across = min(one[2], other[2]) - max(one[0], other[0])
  along = min(one[3], other[3]) - max(one[1], other[1])
  return max(across, 0) * max(along, 0)


def _lines(
  axes: Axes, names: Sequence[str], rows: Sequence[_Row], ours: int
) -> None:
  """A line a model over the objectives, each scaled to the merges' range.

  Experts and the base may be far worse than any merge in what they were not
  made for; their lines then leave the plot below.
  """
  values = np.array([row.values[:, 0] for row in rows])
  near = np.array(
    [i < ours or row.kind == 'other' for i, row in enumerate(rows)]
  )
  near &= np.array([row.label != 'base' for row in rows])
  low = values[near].min(0) if near.any() else values.min(0)
  span = values.max(0) - low
  span = np.where(span > 0, span, 1.0)
  heights = (values - low) / span
  x = np.arange(len(names))
  for row, height in zip(rows, heights, strict=True):
    marker, color, size, order = _STYLES[row.kind]
    mine = row.kind in ('picked', 'member')
    axes.plot(
      x,
      height,
      marker,
      linestyle='-' if mine else _DASHED,
      color=color,
      linewidth=2.2 if row.kind == 'picked' else 1.3 if mine else 1,
      alpha=1 if row.kind in ('picked', 'expert') else 0.75,
      markersize=0.7 * size,
      markeredgewidth=0,
      zorder=order,
    )
  for i, (bottom, top) in enumerate(zip(low, low + span, strict=True)):
    axes.axvline(i, color=drawing.LINE, linewidth=1, zorder=1)
    for value, height, side in ((bottom, 0, 'top'), (top, 1, 'bottom')):
      last = i == len(names) - 1
      axes.annotate(
        f'{value:.1f}' if abs(value) >= 10 else f'{value:.3g}',
        (i, height),
        xytext=(-3 if last else 3, -3 if side == 'top' else 3),
        textcoords='offset points',
        ha='right' if last else 'left',
        va=side,
        fontsize=9,
        color=drawing.MUTED,
      )
  axes.set_ylim(-_BELOW, 1 + _BELOW / 2)
  axes.set_xlim(-0.06 * (len(x) - 1), 1.015 * (len(x) - 1))
  axes.set_yticks([])
  axes.spines[:].set_visible(False)
  axes.set_xticks(x, [name.replace(', ', ',\n') for name in names])
  _name_lines(axes, rows, heights)


def _name_lines(axes: Axes, rows: Sequence[_Row], heights: np.ndarray) -> None:
  """Names at the right, moved apart where they would overlap.

  A line that has left the plot by then is named where it was last seen.
  """
  low, high = axes.get_ylim()
  step = 0.042 * (high - low)
  at = -np.inf
  for i in np.argsort(heights[:, -1], kind='stable'):
    seen = np.flatnonzero(heights[i] >= low)
    if not len(seen):
      continue
    look = {'fontsize': 9, 'color': _STYLES[rows[i].kind][1], 'va': 'center'}
    if seen[-1] < heights.shape[1] - 1:
      axes.annotate(
        rows[i].label,
        (seen[-1], heights[i, seen[-1]]),
        xytext=(7, 0),
        textcoords='offset points',
        **look,
      )
      continue
    at = max(heights[i, -1], at + step)
    axes.annotate(
      rows[i].label,
      (1.02, (at - low) / (high - low)),
      xycoords='axes fraction',
      annotation_clip=False,
      **look,
    )
