"""A space of layer programs whose layers carry genes of their own."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from automerge_jax.recipe import Recipe
from automerge_jax.spaces import grid
from automerge_jax.spaces.stacks import dimensions, programs
from automerge_jax.spaces.stacks import layout as program_layout
from automerge_jax.spaces.stacks.dimensions import Field, Genes
from automerge_jax.spaces.stacks.layout import Layout
from automerge_jax.types import Array, LayerProgram, MergePlan, SearchSpace

# Values by field: of slots [L, C], of other fields [genes].
Values = dict[str, Array]


class Restacking(NamedTuple):
  """What a space of layer programs is made of.

  Attributes:
    genes: its dimensions, D.
    quantise: `x [D] -> c [D]`, the only spelling of what is meant.
    active: `c [D] -> bool [D]`.
    stacked: `c [D] -> (program, values)`, those of slots by position, [S].
  """

  genes: Genes
  quantise: Callable[[Array], Array]
  active: Callable[[Array], Array]
  stacked: Callable[[Array], tuple[LayerProgram, Values]]


def make(
  layout: Layout,
  slotted: Mapping[str, Field],
  constants: Mapping[str, float],
  tidy: Callable[[Array, Values], Values],
  used: Callable[[Array, Values], Values],
  others: Mapping[str, Field] | None = None,
) -> Restacking:
  """Joins the genes of a program with those of its layers; all jittable.

  Args:
    layout: of the programs.
    slotted: fields with a gene for each slot that a program may fill, or
      without genes; `scale` is the program's.
    constants: values of the slotted fields without genes.
    tidy: `(kept [L, C], values) -> values` of one spelling: what has no effect
      is a function of what has.
    used: `(kept [L, C], tidy values) -> bool` of the same shapes.
    others: fields that belong to no slot.
  """
  others = others or {}
  genes = dimensions.genes(
    {**program_layout.fields(layout), **slotted, **others}
  )
  at = program_layout.places(layout)

  def settled(c: Array, x: Array) -> tuple[programs.Settled, Values]:
    own = genes.split(c)
    found = programs.settle(layout, own, genes.split(x))
    values = {
      name: programs.moved(
        at, found, own.get(name, jnp.full(len(at), constants.get(name, 0.0)))
      )
      for name in slotted
    }
    rest = {name: own[name] for name in others if name in own}
    return found, tidy(found.kept, values | rest)

  def flat(values: Values) -> Values:
    return {
      name: jnp.asarray(value).reshape(-1)[at] if name in slotted else value
      for name, value in values.items()
    }

  def quantise(x: Array) -> Array:
    x = jnp.asarray(x, jnp.float32)
    found, values = settled(genes.snap(x), x)
    return genes.join(programs.spelled(layout, found) | flat(values))

  def active(c: Array) -> Array:
    found, values = settled(c, genes.encode(c))
    mask = {'slot': True, 'depth': True, 'again': True}
    mask |= {'start': found.again, 'length': found.again}
    return genes.join(mask | flat(used(found.kept, values))) > 0

  def stacked(c: Array) -> tuple[LayerProgram, Values]:
    found, values = settled(c, genes.encode(c))
    slot, is_active = programs.positions(layout, found)
    program = LayerProgram(
      layer=slot // layout.copies,
      scale=jnp.where(is_active, values['scale'].reshape(-1)[slot], 1.0),
      active=is_active,
    )
    by_position = {
      name: value.reshape(-1)[slot] if name in slotted else value
      for name, value in values.items()
    }
    return program, by_position

  return Restacking(genes, quantise, active, stacked)


def space(
  core: Restacking,
  decode: Callable[[Array], MergePlan],
  describe: Callable[[Any], Recipe],
  starts: tuple[tuple[str, Any], ...],
) -> SearchSpace:
  """The space of what `make` joined."""
  return SearchSpace(
    names=core.genes.names,
    correlation=grid.correlation(core.genes.owners),
    quantise=core.quantise,
    encode=core.genes.encode,
    decode=decode,
    describe=describe,
    choices=core.genes.choices,
    active=core.active,
    program=lambda c: core.stacked(c)[0],
    starts=starts,
  )
