"""What spaces of layer programs share: plans by position, and their recipes."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from automerge_jax.merging import layers
from automerge_jax.models import base as models
from automerge_jax.recipe import Slice, Source
from automerge_jax.recipes.document import Scale
from automerge_jax.spaces import grid
from automerge_jax.types import Array, Family, LayerProgram, MergePlan


def plan(
  family: Family, values: Mapping[str, Array], program: LayerProgram
) -> MergePlan:
  """A plan of values by position, equal for all tensors of a layer.

  What comes before the layers is made as the first layer, what comes after
  them as the last.

  Args:
    family: gives the leaves.
    values: coefficients, [K, S] or [S].
    program: tells where the last layer stands.
  """
  last = program.active.sum() - 1
  first_values = {name: value[..., 0] for name, value in values.items()}
  last_values = {name: value[..., last] for name, value in values.items()}
  return {
    path: dict(
      values
      if rows[0].layer is not None
      else first_values
      if layers.is_before(rows[0].stored)
      else last_values
    )
    for path, rows in models.by_leaf(family.keys).items()
  }


def picks(family: Family, model: Array, program: LayerProgram) -> MergePlan:
  """A plan of the mixed method that takes one model at each position, [S]."""
  model = jnp.asarray(model, jnp.float32)
  values = {
    'method': jnp.zeros_like(model),
    'passthrough/first': model,
    'passthrough/scale': jnp.ones_like(model),
  }
  return plan(family, values, program)


def scales(family: Family, scale: float) -> tuple[Scale, ...]:
  """What scales a layer's branches in a recipe; nothing where it is 1."""
  value = grid.shortest(scale)
  if value == 1.0:
    return ()
  return tuple(Scale(part, value, offset) for part, offset in family.branches)


def runs(
  family: Family, names: Sequence[str], picked: Sequence[int], program
) -> tuple[Slice, ...]:
  """Slices of single models; layers that follow each other are one slice.

  Args:
    family: of the models.
    names: of the models.
    picked: model at each position, [S].
    program: a LayerProgram on the host.
  """
  found: list[tuple[int, int, int, float]] = []  # model, start, end, scale
  for s in np.flatnonzero(program.active):
    model, layer = int(picked[s]), int(program.layer[s])
    scale = float(program.scale[s])
    if found and (model, layer, scale) == (*found[-1][::2][:2], found[-1][3]):
      model, start, end, _ = found.pop()
      found.append((model, start, end + 1, scale))
    else:
      found.append((model, layer, layer + 1, scale))
  return tuple(
    Slice(
      (Source(names[model], layers=(start, end)),),
      scales=scales(family, scale),
    )
    for model, start, end, scale in found
  )
