"""Layer-wise fusion and depth-wise integration at once.

Every layer of a program is merged from the experts' layer with the coefficients
of its source layer's group, component by component; layers that stand several
times are merged alike, and scaled each by itself.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.merging import layers
from automerge_jax.models import base as models
from automerge_jax.models import program as programs_lib
from automerge_jax.recipe import Recipe, Slice, Source
from automerge_jax.spaces import fusion, grid
from automerge_jax.spaces.cells import Cells
from automerge_jax.spaces.stacks import designs as program_designs
from automerge_jax.spaces.stacks import layout as program_layout
from automerge_jax.spaces.stacks import plans as stacking
from automerge_jax.spaces.stacks import restacking
from automerge_jax.spaces.stacks.dimensions import Field
from automerge_jax.spaces.stacks.layout import Layout
from automerge_jax.spaces.stacks.restacking import Values
from automerge_jax.types import (
  Array,
  Family,
  MergeMethod,
  MergePlan,
  SearchSpace,
)


def space(
  family: Family,
  experts: Sequence[str],
  base_model: str,
  *,
  method: MergeMethod,
  cells: Cells,
  min_layers: int,
  max_layers: int,
  copies: int = 2,
  repeats: int = 0,
  skips: bool = True,
  scales: tuple[float, float] | None = (0.8, 1.2),
  fixed: tuple[int, int] = (0, 0),
  ranges: Mapping[str, tuple[float, float]] | None = None,
) -> SearchSpace:
  """The space of layer programs over merged layers.

  Args:
    family: of the models, with L layers.
    experts: model names as recipes shall name them, K.
    base_model: the base's name.
    method: how layers are merged.
    cells: which tensors of the sources share coefficients.
    min_layers, max_layers, copies, repeats, skips, scales, fixed: as in
      `depthwise.space`.
    ranges: other (low, high) than the method's, by parameter.

  Raises:
    ValueError: as `depthwise.space` and `fusion.space`, and for SLERP, whose
      models differ from group to group.
  """
  programs_lib.check(family)
  if method.name == 'slerp':
    raise ValueError(
      'slerp merges another pair of models in each group of layers; expected '
      'a method that merges all experts, such as task_arithmetic'
    )
  layout = Layout(
    family.num_layers,
    min_layers,
    max_layers,
    copies,
    repeats,
    skips,
    tuple(fixed),
  )
  program_layout.check(layout)
  slots = program_layout.slot_names(layout)
  merged = fusion.space(method, cells, experts, base_model, ranges)
  fields = _fields(merged)
  group = np.repeat(
    np.arange(len(cells.spans)), [end - start for start, end in cells.spans]
  )
  index = {name: i for i, name in enumerate(cells.names)}
  rows = models.by_leaf(family.keys)

  def is_used(kept: Array) -> Array:
    """Which cells have a tensor in the result, [cells]."""
    left = jnp.zeros(len(cells.spans), bool).at[group].max(kept.any(1))
    owner = np.asarray([-1 if g is None else g for g, _ in cells.names])
    return jnp.where(owner < 0, True, left[owner])

  def tidy(kept: Array, values: Values) -> Values:
    found = {'scale': jnp.where(kept, values['scale'], 1.0)}
    mask = is_used(kept)
    for name, field in fields.items():
      usual = grid.shortest((field.low + field.high) / 2)
      found[name] = jnp.where(mask, values[name], usual)
    return found

  def used(kept: Array, values: Values) -> Values:
    mask = is_used(kept)
    return dict.fromkeys(values, mask) | {'scale': kept}

  core = restacking.make(
    layout,
    slotted={'scale': program_layout.scale_field(slots, scales)},
    constants={'scale': 1.0},
    tidy=tidy,
    used=used,
    others=fields,
  )

  # Cells by source layer, also of what is outside: it goes with the first or
  # the last layer of a program, whichever that is.
  of_layer = {
    path: np.asarray(
      [
        cell if owner is None else index[group[layer], component]
        for layer in range(layout.depth)
      ]
    )
    if not np.ndim(cell)
    else cell
    for path, cell in cells.of_leaf.items()
    for owner, component in [cells.names[np.ravel(cell)[0]]]
  }
  by_layer = fusion.space(
    method, cells._replace(of_leaf=of_layer), experts, base_model, ranges
  ).decode

  def decode(c: Array) -> MergePlan:
    program, values = core.stacked(c)
    plan = by_layer(jnp.concatenate([values[name] for name in fields]))
    last = program.active.sum() - 1

    def at(path: str) -> Array:
      if rows[path][0].layer is not None:
        return program.layer
      before = layers.is_before(rows[path][0].stored)
      return program.layer[0 if before else last]

    return {
      path: {name: value[..., at(path)] for name, value in of_leaf.items()}
      for path, of_leaf in plan.items()
    }

  compiled = jax.jit(core.stacked)

  def describe(c) -> Recipe:
    program, values = jax.device_get(compiled(jnp.asarray(c, jnp.float32)))

    def setting(name: str, owner: str, of_group: int) -> Any:
      row = values[f'{name}/{owner}']
      if not cells.filters:
        return grid.shortest(row[0])
      cell = [
        index.get((of_group, kind), index.get((None, kind)))
        for kind, _ in cells.filters
      ]
      return [
        ({} if part is None else {'filter': part})
        | {'value': grid.shortest(row[i])}
        for i, (_, part) in zip(cell, cells.filters, strict=True)
        if i is not None
      ]

    def part(of_group: int, span: tuple[int, int]) -> Slice:
      def stated(owner: str) -> dict[str, Any]:
        return {
          p.name: setting(p.name, owner, of_group)
          for p in method.parameters
          if f'{p.name}/{owner}' in fields
        }

      sources = tuple(Source(e, stated(e), span) for e in experts)
      return Slice(sources, parameters=stated('all'))

    kinds = [int(group[layer]) for layer in program.layer]
    return Recipe(
      method.name,
      stacking.runs(family, kinds, program, part),
      base_model=None if method.stack == 'weights' else base_model,
      semantics=method.semantics,
    )

  starts = program_designs.fused(layout, core, experts, fields)
  return restacking.space(core, decode, describe, starts)


def _fields(merged: SearchSpace) -> dict[str, Field]:
  """The coefficients of a fusion space: a field for each parameter and owner.

  Their order is that of the space's dimensions.
  """
  size = len(merged.names)
  low, high = (np.asarray(merged.quantise(jnp.full(size, x))) for x in (0, 1))
  owners = [name.rsplit('/', 2)[0] for name in merged.names]
  return {
    owner: Field(
      tuple(n for n, o in zip(merged.names, owners, strict=True) if o == owner),
      grid.shortest(low[owners.index(owner)]),
      grid.shortest(high[owners.index(owner)]),
    )
    for owner in dict.fromkeys(owners)
  }
