"""What spaces of layer programs share: plans by position, and their recipes."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

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
  }
  return plan(family, values, program)


def scales(family: Family, scale: float) -> tuple[Scale, ...]:
  """What scales a layer's branches in a recipe; nothing where it is 1."""
  value = grid.shortest(scale)
  if value == 1.0:
    return ()
  return tuple(Scale(part, value, offset) for part, offset in family.branches)


def runs(
  family: Family,
  kinds: Sequence[Hashable],
  program: LayerProgram,
  made: Callable[[Any, tuple[int, int]], Slice],
) -> tuple[Slice, ...]:
  """Slices of a program; like layers that follow each other are one slice.

  Args:
    family: of the models.
    kinds: how the layer at each position is made, [S].
    program: on the host.
    made: `(kind, layers [start, end)) -> slice`, not scaled yet.
  """
  found: list[tuple[Any, float, int, int]] = []  # kind, scale, start, end
  for s in np.flatnonzero(program.active):
    layer = int(program.layer[s])
    one = kinds[s], float(program.scale[s])
    if found and (*one, layer) == (*found[-1][:2], found[-1][3]):
      layer = found.pop()[2]
    found.append((*one, layer, int(program.layer[s]) + 1))
  return tuple(
    dataclasses.replace(made(kind, (start, end)), scales=scales(family, scale))
    for kind, scale, start, end in found
  )


def single(names: Sequence[str]) -> Callable[..., Slice]:
  """Slices where a kind is the index of the only model."""
  return lambda kind, span: Slice((Source(names[kind], layers=span),))
