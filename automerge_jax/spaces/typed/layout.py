"""Dimensions of typed layer-wise fusion, and what they set.

Sites are the finest divisions: all tensors of one have the same numbers. Units
choose a method, and for some a model or a pair of them. Columns hold numbers;
a site takes those of one column, or interpolates between two.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from automerge_jax.merging import mixed
from automerge_jax.spaces import cells as divisions
from automerge_jax.spaces.cells import Cells
from automerge_jax.spaces.typed import columns as typed_columns
from automerge_jax.spaces.typed import parameters as typed_parameters
from automerge_jax.spaces.typed.parameters import PAIR, PICK
from automerge_jax.types import MergeMethod

_NORMALISES = ('normalize', 'normalize_weights')


class Block(NamedTuple):
  """Dimensions of one parameter, owner by owner.

  Attributes:
    method: index of the method, None for the choice of it.
    parameter: what it sets.
    start, shape: of its dimensions: [owners, columns] or, of a category, [1,
      units].
    per_expert: whether each expert owns a row.
    choices: options of a category, 0 for a number.
    low, high: range of a number.
  """

  method: int | None
  parameter: str
  start: int
  shape: tuple[int, int]
  per_expert: bool
  choices: int
  low: float = 0.0
  high: float = 1.0

  @property
  def dims(self) -> slice:
    return slice(self.start, self.start + self.shape[0] * self.shape[1])


@dataclasses.dataclass(frozen=True)
class Layout:
  """What the dimensions of a typed space are.

  Attributes:
    methods: to choose from.
    experts: names, K.
    base_model: the base's name.
    sites: cells whose tensors have the same numbers.
    unit_of: unit of each site, [sites].
    units, columns: how many there are.
    low_of, high_of, share: columns of each site, [sites], and how much of the
      second it takes.
    knotted: whether a site may take of two columns.
    blocks: dimensions, in order.
    names: of the dimensions, D.
    fixed: `METHOD/PARAMETER` that is no dimension: value.
    stated: parameters of each method that recipes state.
    scale_free: indices of methods whose weights count only by their ratios.
  """

  methods: tuple[MergeMethod, ...]
  experts: tuple[str, ...]
  base_model: str
  sites: Cells
  unit_of: np.ndarray
  units: int
  columns: int
  low_of: np.ndarray
  high_of: np.ndarray
  share: np.ndarray
  knotted: bool
  blocks: tuple[Block, ...]
  names: tuple[str, ...]
  fixed: Mapping[str, float]
  stated: tuple[tuple[str, ...], ...]
  scale_free: tuple[int, ...]

  @property
  def pairs(self) -> np.ndarray:
    """Pairs of experts by number, int [K (K - 1) / 2, 2]."""
    count = len(self.experts)
    return np.asarray(list(itertools.combinations(range(count), 2)), np.int32)

  def block(self, method: int | None, parameter: str) -> Block | None:
    """The dimensions of a parameter, None if it is fixed."""
    return next(
      (
        b
        for b in self.blocks
        if b.method == method and b.parameter == parameter
      ),
      None,
    )

  def index(self, name: str) -> int | None:
    """The place of a method, None if it is none of them."""
    names = [m.name for m in self.methods]
    return names.index(name) if name in names else None


def layout(
  methods: Sequence[MergeMethod],
  cells: Cells,
  experts: Sequence[str],
  base_model: str,
  *,
  ranges: Mapping[str, tuple[float, float]] | None = None,
  shared: Sequence[str] = (),
  choice: str = 'group',
  knots: int | None = None,
) -> Layout:
  """The dimensions; arguments and errors are those of `layerwise.space`."""
  mixed.of(methods)  # raises for what cannot be mixed
  if len(set(experts)) < max(1, len(experts)) or base_model in experts:
    raise ValueError(
      f'experts are {list(experts)} of {base_model!r}; expected different ones'
    )
  for method in methods:
    typed_parameters.check(method, len(experts))
  if choice not in ('group', 'cell'):
    raise ValueError(f"choice is {choice!r}; expected 'group' or 'cell'")
  if knots is not None and not 2 <= knots <= cells.depth:
    raise ValueError(
      f'knots is {knots}; expected 2 to {cells.depth}, the number of layers'
    )
  searched = typed_parameters.searched(methods, ranges or {}, shared)
  sites = cells if knots is None else divisions.by_layer(cells)
  cell_of = np.zeros(len(sites.names), np.int32)
  of_cell = cells.of_name
  for name, site in sites.of_name.items():
    cell_of[site] = of_cell[name]
  units = typed_columns.units(cells, choice)
  unit_labels = list(dict.fromkeys(units))
  unit_of = np.asarray([unit_labels.index(units[cell]) for cell in cell_of])
  columns, low_of, high_of, share = typed_columns.columns(sites, knots)

  blocks: list[Block] = []
  names: list[str] = []

  def add(method, parameter, owners, labels, choices, low=0.0, high=1.0):
    start = len(names)
    title = parameter
    if method is not None:
      title = f'{methods[method].name}.{parameter}'
    names.extend(
      f'{title}/{owner}/{label}' for owner in owners for label in labels
    )
    shape = (len(owners), len(labels))
    blocks.append(
      Block(
        method,
        parameter,
        start,
        shape,
        tuple(owners) != ('all',),
        choices,
        low,
        high,
      )
    )

  everyone = ('all',)
  if len(methods) > 1:
    add(None, mixed.METHOD, everyone, unit_labels, len(methods))
  count = len(experts)
  for m, method in enumerate(methods):
    if method.name == PAIR and count > 2:
      add(m, 'pair', everyone, unit_labels, count * (count - 1) // 2)
    if method.name == PICK:
      add(m, 'model', everyone, unit_labels, count + 1)
  fixed: dict[str, float] = {}
  stated: list[tuple[str, ...]] = []
  scale_free = []
  for m, method in enumerate(methods):
    said = []
    values = {p.name: p.default for p in method.parameters}
    found = {p.name: r for p, r in searched[m]}
    values |= {n: r[0] for n, r in found.items() if r[0] == r[1]}
    free = any((values.get(name) or 0.0) > 0 for name in _NORMALISES) and not (
      set(_NORMALISES) & {n for n, r in found.items() if r[0] < r[1]}
    )
    if free:
      scale_free.append(m)
    for parameter in method.parameters:
      name = parameter.name
      low, high = found.get(name, (0.0, 0.0))
      own = parameter.per_expert and not typed_parameters.is_shared(
        method, name, shared
      )
      idle = name == 'weight' and free and (not own or count == 1)
      if low < high and not idle:
        owners = tuple(experts) if own else everyone
        add(m, name, owners, columns, 0, low, high)
      else:
        value = values[name]
        fixed[f'{method.name}/{name}'] = 1.0 if value is None else value
      if name in found or parameter.default is None:
        said.append(name)
    stated.append(tuple(said))
  return Layout(
    tuple(methods),
    tuple(experts),
    base_model,
    sites,
    unit_of,
    len(unit_labels),
    len(columns),
    low_of,
    high_of,
    share,
    knots is not None,
    tuple(blocks),
    tuple(names),
    fixed,
    tuple(stated),
    tuple(scale_free),
  )
