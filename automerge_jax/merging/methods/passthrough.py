"""One model's tensor, scaled: what stacks of layers are made of."""

from collections.abc import Mapping

from automerge_jax.types import Array, MergeMethod, Parameter


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """s θ."""
  del facts, base
  return coefficients['scale'][0] * stack[0]


METHODS = (
  MergeMethod(
    name='passthrough',
    merge=merge,
    parameters=(Parameter('scale', 1.0, True),),
    stack='weights',
    sources=(1, 1),
  ),
)
