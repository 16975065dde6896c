"""Cells: which tensors share their coefficients, and where in a recipe.

A cell is a group of layers and a component. Cells are found from stored names
with the same filters that recipes use, so what is searched is what can be
written.
"""

from typing import NamedTuple

import numpy as np

from automerge_jax.merging.layers import layer_of
from automerge_jax.models import base as models
from automerge_jax.types import Family


class Cells(NamedTuple):
  """A division of a model's tensors.

  Attributes:
    names: (layer group, component) of each cell; (None, None) when there is
      one cell for everything.
    spans: layers [start, end) of each layer group.
    filters: (component, filter) pairs in the order in which they are tried.
    of_leaf: cell of each leaf, int [L] or [].
  """

  names: tuple[tuple[int | None, str | None], ...]
  spans: tuple[tuple[int, int], ...]
  filters: tuple[tuple[str, str | None], ...]
  of_leaf: dict[str, np.ndarray]


def whole(family: Family) -> Cells:
  """One cell: every tensor shares its coefficients (model-wise)."""
  return Cells(
    names=((None, None),),
    spans=((0, family.num_layers),),
    filters=(),
    of_leaf={
      path: np.zeros(_shape(rows), np.int32)
      for path, rows in models.by_leaf(family.keys).items()
    },
  )


def layered(
  family: Family, layers_per_group: int = 1, components: str = 'coarse'
) -> Cells:
  """Groups of layers times components, the stem on its own (layer-wise).

  Args:
    family: gives depth, tensors and components.
    layers_per_group: layers that share coefficients; the last group may be
      smaller.
    components: which of the family's divisions of a layer, 'coarse' or 'fine'.

  Raises:
    ValueError: if `layers_per_group` is not between 1 and L, or the family has
      no such division.
  """
  if components not in family.components:
    raise ValueError(
      f'components is {components!r}; {family.name} has '
      f'{sorted(family.components)}'
    )
  filters = family.components[components]
  depth = family.num_layers
  if not 1 <= layers_per_group <= depth:
    raise ValueError(
      f'layers_per_group is {layers_per_group}; expected 1 to {depth}'
    )
  starts = range(0, depth, layers_per_group)
  spans = tuple((i, min(i + layers_per_group, depth)) for i in starts)
  kinds = dict.fromkeys(c for c, _ in filters if c != 'stem')
  names: list[tuple[int | None, str | None]] = [(None, 'stem')]
  names += [(group, kind) for group in range(len(spans)) for kind in kinds]
  index = {name: i for i, name in enumerate(names)}

  def cell(stored: str) -> int:
    component = next(c for c, f in filters if f is None or f in stored)
    if component == 'stem':
      return index[None, 'stem']
    layer = layer_of(stored)
    # What follows the layers goes with the last of them, as in a recipe.
    group = len(spans) - 1 if layer is None else layer // layers_per_group
    return index[group, component]

  of_leaf = {
    # Outside the layers several rows are copies of one tensor.
    path: np.resize(
      np.asarray([cell(row.stored) for row in rows], np.int32), _shape(rows)
    )
    for path, rows in models.by_leaf(family.keys).items()
  }
  used = {int(i) for cells in of_leaf.values() for i in np.ravel(cells)}
  assert used == set(range(len(names))), (used, names)
  return Cells(tuple(names), spans, filters, of_leaf)


def _shape(rows) -> tuple[int, ...]:
  return () if rows[0].layer is None else (len(rows),)
