"""Which layers a merge is stacked of, in which order."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from automerge_jax.report import drawing, wording

# Legible on light and on dark ground.
_COLORS = (
  '#3d78bd',
  '#d0622f',
  '#3f9264',
  '#9a68b8',
  '#b98a1e',
  '#3598a5',
  '#c25b84',
  '#7b8a3a',
)
_MARKERS = 'so^DvpP*'
_SEVERAL = 'several'
_DENSE = 26  # positions in 720 pixels beyond which scales are left out


def program_panel(
  program: Mapping[str, Any], width: float = 720
) -> drawing.Panel:
  """Source layer at each position of the merge, by the model it is from.

  Args:
    program: see `history.coefficients`.
    width: of the drawing, in pixels.
  """
  rows = program['layers']
  owners = [
    row['models'][0] if len(row['models']) == 1 else _SEVERAL for row in rows
  ]
  names = sorted(set(owners) - {_SEVERAL, 'base'})
  looks = {
    name: (_MARKERS[i % len(_MARKERS)], _COLORS[i % len(_COLORS)])
    for i, name in enumerate(names)
  }
  looks |= {'base': ('^', drawing.MUTED), _SEVERAL: ('h', drawing.INK)}
  with drawing.style():
    figure, axes = drawing.canvas(width, 320)
    axes.grid()
    end = max(program['depth'], program['of'])
    axes.plot(
      [0, end - 1], [0, end - 1], color=drawing.LINE, linewidth=1, zorder=1
    )
    middle = [np.mean(row['sources']) for row in rows]
    axes.plot(middle, color=drawing.DOT, linewidth=1, alpha=0.6, zorder=2)
    size = float(np.clip(0.35 * width / len(rows), 3.5, 9))
    for position, (row, owner) in enumerate(zip(rows, owners, strict=True)):
      marker, color = looks[owner]
      axes.plot(
        [position] * len(row['sources']),
        row['sources'],
        marker,
        color=color,
        markersize=size,
        markeredgewidth=0,
        zorder=3,
      )
    if len(rows) * 720 <= _DENSE * width:
      _scales(axes, rows)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.set_ylim(-0.9, program['of'] - 0.1)
    axes.xaxis.set_major_locator(MaxNLocator('auto', integer=True))
    axes.yaxis.set_major_locator(MaxNLocator('auto', integer=True))
    axes.set_xlabel('layer of the merge')
    axes.set_ylabel('layer it comes from')
    shown = [name for name in (*names, 'base', _SEVERAL) if name in owners]
    figure.legend(
      handles=[
        Line2D(
          [],
          [],
          marker=looks[name][0],
          color=looks[name][1],
          linestyle='',
          markersize=7,
          markeredgewidth=0,
          label=_owner(name),
        )
        for name in shown
      ],
      loc='outside upper left',
      ncols=4 if width > 500 else 2,
      frameon=False,
      fontsize=10,
      handletextpad=0.1,
    )
    svg = drawing.svg(figure, f'program{int(width)}')
  counts = [f'{owners.count(name)} from {_owner(name)}' for name in shown]
  return drawing.Panel(
    'Layers of the merge',
    f'{wording.depth(program)[:1].upper()}{wording.depth(program)[1:]}: '
    f'{wording.listing(counts)}.',
    svg,
  )


def _owner(name: str) -> str:
  if name == _SEVERAL:
    return 'several models, merged'
  return 'the base' if name == 'base' else name


def _scales(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
  """What each layer adds to the residual stream is multiplied by."""
  for position, row in enumerate(rows):
    if row['scales']:
      ends = dict.fromkeys((row['scales'][0], row['scales'][-1]))
      axes.annotate(
        '\n'.join(f'×{end:.3g}' for end in ends),
        (position, max(row['sources'])),
        xytext=(0, 7),
        textcoords='offset points',
        ha='center',
        fontsize=9,
        color=drawing.INK,
      )
