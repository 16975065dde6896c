"""Where dimensions stand: units that choose, columns of numbers."""

import numpy as np

from automerge_jax.spaces.cells import Cells


def units(cells: Cells, choice: str) -> list[str]:
  """The label of each cell's unit."""
  found = []
  for group, component in cells.names:
    span = 'all' if group is None else '{}-{}'.format(*cells.spans[group])
    whole = choice == 'group' and group is not None
    found.append(f'{span}/{"all" if whole else component or "all"}')
  return found


def columns(
  sites: Cells, knots: int | None
) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
  """Labels of columns, and between which of them each site lies."""
  if knots is None:
    each = np.arange(len(sites.names))
    return units(sites, 'cell'), each, each, np.zeros(len(each), np.float32)
  places = np.linspace(0, sites.depth - 1, knots)
  labels: list[str] = []
  found = []

  def column(label: str) -> int:
    if label not in labels:
      labels.append(label)
    return labels.index(label)

  for layer, component in sites.names:
    if layer is None:
      at = column(f'all/{component}')
      found.append((at, at, 0.0))
      continue
    low = min(int(np.searchsorted(places, layer, 'right')) - 1, knots - 2)
    share = (layer - places[low]) / (places[low + 1] - places[low])
    start = column(f'{places[low]:g}/{component}')
    found.append((start, column(f'{places[low + 1]:g}/{component}'), share))
  low, high, share = (np.asarray(part) for part in zip(*found, strict=True))
  return labels, low, high, share.astype(np.float32)
