"""What is merged how in a slice: the slice itself, or each of its parts."""

from collections.abc import Mapping
from typing import NamedTuple

from automerge_jax.merging import registry
from automerge_jax.merging import roles as roles_lib
from automerge_jax.merging.roles import Roles
from automerge_jax.recipes.document import (
  Module,
  Recipe,
  Setting,
  Slice,
  Source,
)
from automerge_jax.types import MergeMethod


class Leaf(NamedTuple):
  """A slice, or a part of one: what is merged how.

  Attributes:
    part: as `Slice.leaves` gives it.
    method: of this leaf.
    who: its experts and base.
    everyone: the experts, and the base where it is none of them.
    levels: what is stated for all experts, the nearest first.
    plain: all that is stated are numbers, the same for every tensor.
  """

  part: Slice
  method: MergeMethod
  who: Roles
  everyone: tuple[Source, ...]
  levels: tuple[Mapping[str, Setting], ...]
  plain: bool


def of(recipe: Recipe, module: Module, part: Slice) -> list[Leaf]:
  """The leaves of a slice, in order.

  Raises:
    ValueError: if a method is unknown, needs a base or other experts.
  """
  return [_leaf(recipe, module, part, leaf) for leaf in part.leaves]


def everyone(who: Roles) -> tuple[Source, ...]:
  """The experts, and the base where it is none of them."""
  if who.base is None or who.base in who.experts:
    return who.experts
  return (*who.experts, who.base)


def _leaf(recipe: Recipe, module: Module, part: Slice, leaf: Slice) -> Leaf:
  method = registry.get(
    leaf.merge_method or recipe.merge_method, recipe.semantics
  )
  who = roles_lib.roles(method, recipe, module, leaf)
  levels = roles_lib.levels(recipe, module, part, leaf)
  stated = [*levels, *(s.parameters for s in who.experts)]
  plain = all(
    isinstance(value, int | float)
    for level in stated
    for value in level.values()
  )
  return Leaf(leaf, method, who, everyone(who), levels, plain)
