"""Cells: which tensors share their coefficients, and where in a recipe.

A cell is a group of layers and a component. Cells are found from stored names
with the same filters that recipes use, so what is searched is what can be
written.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from automerge_jax import trees
from automerge_jax.merging import layers
from automerge_jax.models import base as models
from automerge_jax.types import Family

# (component, filter) pairs, of which the first counts whose filter is part of
# a stored name; the last filter is None and takes the rest.
Filters = tuple[tuple[str, str | None], ...]


class Cells(NamedTuple):
  """A division of a model's tensors.

  Attributes:
    names: (layer group, component) of each cell; (None, component) of what is
      in no layer and a cell of its own, (None, None) when there is one cell for
      everything.
    spans: layers [start, end) of each layer group.
    filters: (component, filter) pairs in the order in which they are tried.
    of_leaf: cell of each leaf, int [L] or [].
    stored: names of each leaf's tensors; of one without layers, of its copies.
  """

  names: tuple[tuple[int | None, str | None], ...]
  spans: tuple[tuple[int, int], ...]
  filters: Filters
  of_leaf: dict[str, np.ndarray]
  stored: Mapping[str, tuple[str, ...]]

  @property
  def depth(self) -> int:
    """Number of layers."""
    return self.spans[-1][1]

  @property
  def of_name(self) -> dict[str, int]:
    """Cell of each stored tensor."""
    return {
      name: int(cell)
      for path, names in self.stored.items()
      for name, cell in zip(
        names, np.resize(self.of_leaf[path], len(names)), strict=True
      )
    }


def whole(family: Family) -> Cells:
  """One cell: every tensor shares its coefficients (model-wise)."""
  stored = _stored(family)
  return Cells(
    names=((None, None),),
    spans=((0, family.num_layers),),
    filters=(),
    of_leaf={
      path: np.zeros(_shape(path, names), np.int32)
      for path, names in stored.items()
    },
    stored=stored,
  )


def layered(
  family: Family,
  layers_per_group: int | Sequence[int] = 1,
  components: str | Sequence[tuple[str, str | None]] = 'coarse',
) -> Cells:
  """Groups of layers times components (layer-wise).

  A component that is in no layer, such as the stem, is one cell. Other tensors
  outside the layers go with the first group if they come before the layers,
  else with the last, as in a recipe.

  Args:
    family: gives depth, tensors and components.
    layers_per_group: layers that share coefficients; the last group may be
      smaller. Or the first layer of every group, from 0, ascending.
    components: which of the family's divisions of a layer, 'coarse' or 'fine';
      'own' is the coarse one with what follows the layers (final norm, pooler,
      untied output head) as a cell `head`; with 'tensor' every stored tensor
      of a layer, and every one outside the layers, is a cell. Or (name, filter)
      pairs, of which the first counts whose filter is part of a stored name;
      the last filter is None and takes the rest.

  Raises:
    ValueError: if the groups do not begin within the L layers, the family has
      no such division, or a pair takes no tensor.
  """
  spans = _spans(layers_per_group, family.num_layers)
  stored = _stored(family)
  if not isinstance(components, str):
    filters = tuple((name, part) for name, part in components)
    _check(filters, stored)
  elif components == 'own':
    filters = _with_head(family)
  elif components == 'tensor':
    filters = _by_tensor(stored)
  elif components in family.components:
    filters = family.components[components]
  else:
    known = [*sorted(family.components), 'own', 'tensor']
    raise ValueError(
      f'components is {components!r}; {family.name} has {known}'
      + trees.nearest(components, known)
    )
  return _divide(stored, spans, filters)


def by_layer(cells: Cells) -> Cells:
  """The same components in groups of one layer."""
  spans = tuple((i, i + 1) for i in range(cells.depth))
  return _divide(cells.stored, spans, cells.filters or (('all', None),))


def in_slice(cells: Cells, group: int) -> list[tuple[str | None, int]]:
  """(filter, cell) of what a recipe's slice of a layer group makes, in order.

  The first slice also makes what comes before the layers, the last what comes
  after them. The last filter is None: it may take what no family reads.
  """
  if not cells.filters:
    return [(None, 0)]
  present = {
    cell
    for name, cell in cells.of_name.items()
    if _group(name, cells.spans) == group
  }
  by_component = {cells.names[cell][1]: cell for cell in present}
  found = [
    (part, by_component[component])
    for component, part in cells.filters
    if component in by_component
  ]
  return [*found[:-1], (None, found[-1][1])]


def outside(
  family: Family, before: bool | None = None
) -> tuple[tuple[str, str], ...]:
  """(path, filter) for what is in no layer, filters that no layer matches.

  Args:
    family: whose tensors.
    before: only what comes before the layers, or after them; None: both.

  Raises:
    ValueError: if there is no such filter for a tensor.
  """
  stored = _stored(family)
  inner = [
    name
    for path, names in stored.items()
    if path.startswith('layers/')
    for name in names
  ]
  found = {}
  for path, names in stored.items():
    for name in names:
      if path.startswith('layers/') or layers.layer_of(name) is not None:
        continue
      if before is not None and layers.is_before(name) != before:
        continue
      module = name.rpartition('.')[0] + '.'
      options = [part for part in (module, name) if len(part) > 1]
      free = [part for part in options if not any(part in n for n in inner)]
      if not free:
        raise ValueError(
          f'the name of {name!r}, which is in no layer, is part of the name of '
          'a tensor in a layer; give `components` as (name, filter) pairs'
        )
      found[free[0]] = path
  return tuple((path, part) for part, path in found.items())


def _with_head(family: Family) -> Filters:
  head = tuple(
    ('head', part)
    for path, part in outside(family, before=False)
    if not path.startswith('stem/')
  )
  return (*head, *family.components['coarse'])


def _by_tensor(stored: Mapping[str, tuple[str, ...]]) -> Filters:
  """A component for each stored tensor, called by what follows its layer.

  What is called alike in two stacks of layers, is one component. Copies of one
  tensor are, too.
  """
  inner: dict[str, str] = {}
  outer: dict[str, str] = {}
  for names in stored.values():
    for name in names:
      part = layers.behind(name)
      if part is None:
        outer[name] = names[0]
      else:
        inner[part] = part.strip('./')
  for name in outer:
    if any(name in part for part in inner):
      raise ValueError(
        f'the name of {name!r}, which is in no layer, is part of the name of '
        'a tensor in a layer; give `components` as (name, filter) pairs'
      )
  # A filter that is part of another comes behind it.
  pairs = [
    (component, part)
    for found in (outer, inner)
    for part, component in sorted(found.items(), key=lambda one: -len(one[0]))
  ]
  return (*pairs[:-1], (pairs[-1][0], None))


def _divide(
  stored: Mapping[str, tuple[str, ...]],
  spans: tuple[tuple[int, int], ...],
  filters: Filters,
) -> Cells:
  component = {
    name: next(c for c, part in filters if part is None or part in name)
    for names in stored.values()
    for name in names
  }
  inner = {
    component[name]
    for path, names in stored.items()
    if path.startswith('layers/')
    for name in names
  }

  def cell(name: str) -> tuple[int | None, str]:
    kind = component[name]
    return (_group(name, spans) if kind in inner else None), kind

  used = {cell(name) for names in stored.values() for name in names}
  kinds = list(dict.fromkeys(c for c, _ in filters))
  order: list[tuple[int | None, str]] = [(None, kind) for kind in kinds]
  order += [(group, kind) for group in range(len(spans)) for kind in kinds]
  names = tuple(name for name in order if name in used)
  index = {name: i for i, name in enumerate(names)}
  of_leaf = {}
  for path, copies in stored.items():
    found = [index[cell(name)] for name in copies]
    shape = _shape(path, copies)
    if not shape and len(set(found)) > 1:
      raise ValueError(
        f'{list(copies)} are copies of one tensor but belong to the components '
        f'{[component[name] for name in copies]}; put them into one'
      )
    of_leaf[path] = np.resize(np.asarray(found, np.int32), shape)
  return Cells(names, spans, filters, of_leaf, stored)


def _group(name: str, spans: Sequence[tuple[int, int]]) -> int:
  layer = layers.layer_of(name)
  if layer is None:
    return 0 if layers.is_before(name) else len(spans) - 1
  return next(i for i, (_, end) in enumerate(spans) if layer < end)


def _spans(
  groups: int | Sequence[int], depth: int
) -> tuple[tuple[int, int], ...]:
  if isinstance(groups, int):
    if not 1 <= groups <= depth:
      raise ValueError(f'layers_per_group is {groups}; expected 1 to {depth}')
    starts = list(range(0, depth, groups))
  else:
    starts = list(groups)
    if starts != sorted({0, *starts}) or starts[-1] >= depth:
      raise ValueError(
        f'layer groups begin at {starts}; expected 0 first, then ascending '
        f'numbers below {depth}'
      )
  return tuple(zip(starts, [*starts[1:], depth], strict=True))


def _check(filters: Filters, stored: Mapping[str, tuple[str, ...]]) -> None:
  parts = [part for _, part in filters]
  if not filters or parts[-1] is not None or not all(parts[:-1]):
    raise ValueError(
      f'components are {list(filters)}; expected (name, filter) pairs of which '
      'the last filter, and no other, is None'
    )
  taken = {
    next(i for i, part in enumerate(parts) if part is None or part in name)
    for names in stored.values()
    for name in names
  }
  for i, pair in enumerate(filters):
    if i not in taken:
      raise ValueError(
        f'the component {pair} takes no tensor: no stored name that is left '
        f'by those before it contains {pair[1] or ""!r}'
      )


def _stored(family: Family) -> dict[str, tuple[str, ...]]:
  leaves = models.by_leaf(family.keys)
  return {path: tuple(r.stored for r in rows) for path, rows in leaves.items()}


def _shape(path: str, names: Sequence[str]) -> tuple[int, ...]:
  return (len(names),) if path.startswith('layers/') else ()
