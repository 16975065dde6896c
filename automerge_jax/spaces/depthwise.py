"""Depth-wise integration (DIS): whose layers stand in which order.

After https://arxiv.org/abs/2502.04030, with bounds on the depth that every
point of the space meets. A layer of a program is a layer of one model, in the
order of the sources; layers may be skipped, stand several times in a row, and
blocks of them may be run again behind their end.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from automerge_jax.models import program as programs_lib
from automerge_jax.recipe import Recipe
from automerge_jax.spaces.stacks import designs as program_designs
from automerge_jax.spaces.stacks import dimensions, programs, restacking
from automerge_jax.spaces.stacks import layout as program_layout
from automerge_jax.spaces.stacks import plans as stacking
from automerge_jax.spaces.stacks.layout import Layout
from automerge_jax.spaces.stacks.restacking import Restacking, Values
from automerge_jax.types import (
  Array,
  Family,
  LayerProgram,
  MergePlan,
  SearchSpace,
)


def space(
  family: Family,
  experts: Sequence[str],
  base_model: str,
  *,
  min_layers: int,
  max_layers: int,
  copies: int = 2,
  repeats: int = 0,
  skips: bool = True,
  scales: tuple[float, float] | None = (0.8, 1.2),
  fixed: tuple[int, int] = (0, 0),
  with_base: bool = True,
) -> SearchSpace:
  """The space of layer programs over single models.

  Merged by the mixed method of `passthrough`. The middle of the cube is an
  unchanged model, where it is not as shallow or as deep as programs may be.

  Args:
    family: of the models, with L layers.
    experts: model names as recipes shall name them, K.
    base_model: the base's name.
    min_layers, max_layers: bounds of the depth, both included.
    copies: how often a source layer may stand in a row.
    repeats: how many blocks of layers may be run again, as in frankenmerges.
    skips: whether layers may be left out.
    scales: range of the scale of what a layer adds to the residual stream;
      None leaves it at 1.
    fixed: how many of the first and last layers stand exactly once.
    with_base: whether layers may be the base's.

  Raises:
    ValueError: if the bounds cannot be met with these options, 1 is no scale,
      nothing is left to search, or the family's layers cannot be restacked.
  """
  programs_lib.check(family)
  depth = family.num_layers
  layout = Layout(
    depth, min_layers, max_layers, copies, repeats, skips, tuple(fixed)
  )
  program_layout.check(layout)
  models = (*experts, base_model) if with_base else tuple(experts)
  slots = program_layout.slot_names(layout)

  def tidy(kept: Array, values: Values) -> Values:
    return {
      # An inserted layer is by default of the model that stands there.
      'model': programs.inherited(kept, values['model']),
      'scale': jnp.where(kept, values['scale'], 1.0),
    }

  core = restacking.make(
    layout,
    slotted={
      'model': dimensions.categories(
        [f'model/{slot}' for slot in slots], len(models)
      ),
      'scale': program_layout.scale_field(slots, scales),
    },
    constants={'model': 0.0, 'scale': 1.0},
    tidy=tidy,
    used=lambda kept, values: dict.fromkeys(values, kept),
  )

  def stacked(c: Array) -> tuple[LayerProgram, Array]:
    program, values = core.stacked(c)
    return program, jnp.where(program.active, values['model'], 0)

  def decode(c: Array) -> MergePlan:
    program, model = stacked(c)
    return stacking.picks(family, model, program)

  compiled = jax.jit(stacked)

  def describe(c) -> Recipe:
    program, model = jax.device_get(compiled(jnp.asarray(c, jnp.float32)))
    kinds = [int(index) for index in model]
    return Recipe(
      'passthrough',
      stacking.runs(family, kinds, program, stacking.single(models)),
    )

  starts = _starts(layout, core, models, len(experts))
  return restacking.space(core, decode, describe, starts)


def _starts(
  layout: Layout, core: Restacking, models: Sequence[str], num_experts: int
) -> program_designs.Starts:
  """Every single model, experts in turn, and a block that is run again."""
  make = program_designs.maker(layout, core, model=0.0, scale=1.0)
  exact = program_designs.nearest(layout) == layout.depth
  found = []
  for i, name in enumerate(models):
    kind = f'expert:{name}' if i < num_experts else 'base'
    found.append((kind if exact else f'nearly:{name}', make(model=i)))
  layer = program_layout.places(layout) // layout.copies
  part = layer * num_experts // layout.depth
  found.append(('alternating', make(model=layer % num_experts)))
  found.append(('in_turn', make(model=part)))
  again = program_designs.block(layout)
  if again is not None:
    found += [
      (f'repeat:{name}', make(model=i, **again))
      for i, name in enumerate(models[:num_experts])
    ]
  return program_designs.unique(found)
