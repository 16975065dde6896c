"""Merge methods by name."""

from automerge_jax import trees
from automerge_jax.merging import linear, slerp, task_arithmetic, ties
from automerge_jax.types import MergeMethod

METHODS: dict[str, MergeMethod] = {
  module.METHOD.name: module.METHOD
  for module in (linear, slerp, task_arithmetic, ties)
}


def get(name: str) -> MergeMethod:
  """The method of that name.

  Raises:
    ValueError: naming the nearest valid method.
  """
  if name not in METHODS:
    raise ValueError(
      f'unknown merge method {name!r}' + trees.nearest(name, METHODS)
    )
  return METHODS[name]
