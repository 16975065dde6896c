"""Pruning: fewer layers than the base has, those that are left merged.

After GPTailor, https://arxiv.org/abs/2506.20480: which layers go, and for each
that stays the experts that enter it, by how much, and the scale of what it
adds. Layers are removed by how little they are wanted, so no two removals
collide, and a layer is merged with the base's layer of the same number.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.models import program as programs_lib
from automerge_jax.recipe import Recipe, Slice, Source
from automerge_jax.spaces import grid
from automerge_jax.spaces.stacks import designs as program_designs
from automerge_jax.spaces.stacks import dimensions, programs, restacking
from automerge_jax.spaces.stacks import layout as program_layout
from automerge_jax.spaces.stacks import plans as stacking
from automerge_jax.spaces.stacks.dimensions import Field
from automerge_jax.spaces.stacks.layout import Layout
from automerge_jax.spaces.stacks.restacking import Restacking, Values
from automerge_jax.types import (
  Array,
  Family,
  LayerProgram,
  MergePlan,
  SearchSpace,
)

_ORDERS = ('higher_first', 'middle_outward', 'alternating')


def space(
  family: Family,
  experts: Sequence[str],
  base_model: str,
  *,
  keep: int | tuple[int, int],
  merge_scales: tuple[float, float] = (0.0, 1.0),
  scales: tuple[float, float] | None = (0.0, 2.0),
  fixed: tuple[int, int] = (0, 0),
  start_scales: Sequence[float] = (0.5, 1.0),
) -> SearchSpace:
  """The space of pruned merges, base + s Σ (expert - base) in each layer.

  Merged by task arithmetic. What stands outside the layers is merged as the
  first or the last layer that is left.

  Args:
    family: of the models, with L layers.
    experts: model names as recipes shall name them, K.
    base_model: the base's name.
    keep: number of layers that are left, or (least, most).
    merge_scales: range of s.
    scales: range of the scale of what a layer adds to the residual stream;
      None leaves it at 1.
    fixed: how many of the first and last layers are always kept.
    start_scales: s of the start designs: three orders of removal with the base,
      and for each s with every expert and with all.

  Raises:
    ValueError: if so many layers cannot be kept, a range is empty, or the
      family's layers cannot be restacked.
  """
  programs_lib.check(family)
  least, most = (keep, keep) if isinstance(keep, int) else keep
  layout = Layout(family.num_layers, least, most, fixed=tuple(fixed))
  program_layout.check(layout)
  low, high = merge_scales
  if not low < high:
    raise ValueError(
      f'merge_scales are {merge_scales}; expected (low, high) with low < high'
    )
  slots = program_layout.slot_names(layout)
  uses = [f'use/{name}' for name in experts]
  usual = grid.shortest((low + high) / 2)

  def tidy(kept: Array, values: Values) -> Values:
    counts = values['merge'] != 0
    chosen = [jnp.where(counts, values[name], 0.0) for name in uses]
    merges = sum(chosen) > 0
    return {
      name: programs.inherited(kept, value)
      for name, value in zip(uses, chosen, strict=True)
    } | {
      'merge': programs.inherited(
        kept, jnp.where(merges, values['merge'], usual)
      ),
      'scale': jnp.where(kept, values['scale'], 1.0),
    }

  def used(kept: Array, values: Values) -> Values:
    merges = sum(values[name] for name in uses) > 0
    return dict.fromkeys(values, kept) | {'merge': kept & merges}

  core = restacking.make(
    layout,
    slotted={
      name: dimensions.categories([f'{name}/{slot}' for slot in slots], 2)
      for name in uses
    }
    | {
      'merge': Field(
        tuple(f'merge_scale/{slot}' for slot in slots), low, high, middle=usual
      ),
      'scale': program_layout.scale_field(slots, scales),
    },
    constants={'scale': 1.0},
    tidy=tidy,
    used=used,
  )

  def stacked(c: Array) -> tuple[LayerProgram, Array]:
    program, values = core.stacked(c)
    chosen = jnp.stack([values[name] for name in uses])
    return program, chosen * values['merge'][None]

  def decode(c: Array) -> MergePlan:
    program, weight = stacked(c)
    one = jnp.ones_like(weight[0])
    values = {'weight': weight, 'lambda': one, 'normalize': 0 * one}
    return stacking.plan(family, values, program)

  compiled = jax.jit(stacked)

  def part(kind: tuple[float, ...], span: tuple[int, int]) -> Slice:
    return Slice(
      tuple(
        Source(name, {'weight': weight}, span)
        for name, weight in zip(experts, kind, strict=True)
      )
    )

  def describe(c) -> Recipe:
    program, weight = jax.device_get(compiled(jnp.asarray(c, jnp.float32)))
    kinds = [tuple(map(grid.shortest, column)) for column in weight.T]
    slices = stacking.runs(family, kinds, program, part)
    return Recipe('task_arithmetic', slices, base_model=base_model)

  starts = _starts(layout, core, experts, np.clip(start_scales, low, high))
  return restacking.space(core, decode, describe, starts)


def _starts(
  layout: Layout,
  core: Restacking,
  experts: Sequence[str],
  merge_scales: Sequence[float],
) -> program_designs.Starts:
  """With the base, every expert and all: unpruned, and by order of removal."""
  nobody = {f'use/{name}': 0.0 for name in experts}
  everyone = dict.fromkeys(nobody, 1.0)
  make = program_designs.maker(layout, core, **nobody, merge=1.0, scale=1.0)
  depth, pruned = layout.depth, layout.most
  found = []
  if layout.most == depth:
    pruned = layout.least
    found.append(('base', make()))
    for s in merge_scales:
      for name in experts:
        label = f'expert:{name}' if s == 1 else f'whole:{name}@{s:g}'
        use = nobody | {f'use/{name}': 1.0}
        found.append((label, make(**use, merge=s)))
      found.append((f'whole:all@{s:g}', make(**everyone, merge=s)))
  for order in _ORDERS:
    removed = getattr(program_designs, order)(depth)
    at: dict[str, Any] = {'removed': removed, 'number': pruned}
    found.append((f'{order}:base', make(**at)))
    for s in merge_scales:
      for name in experts:
        use = nobody | {f'use/{name}': 1.0}
        found.append((f'{order}:{name}@{s:g}', make(**at, **use, merge=s)))
      found.append((f'{order}:all@{s:g}', make(**at, **everyone, merge=s)))
  return program_designs.unique(found)
