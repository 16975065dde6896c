"""A token table as the few rows that an example reads of it.

The gradient of the whole table is zeros but for these rows; writing, reading
and squaring it takes a third of a small encoder's time.
"""

import dataclasses
from typing import Any

import jax.numpy as jnp

from automerge_jax import trees
from automerge_jax.types import Array, Family, Items, Params


def narrowed(
  family: Family, params: Params, row: Any
) -> tuple[Params, Any, Array | None]:
  """Parameters and an example with a table of the example's tokens alone.

  Args:
    family: of the model; its `lookup` names the table.
    params: of the model.
    row: an example, as `kinds.scores` takes it.

  Returns:
    Both, and the tokens [T] whose rows of the table the new rows are; rows of
    a token that stands at several places are read at the first of these. The
    same params and example, and None, where the whole table is wanted.
  """
  leaves, path = trees.flatten(params), family.lookup
  if path is None or path not in leaves or not isinstance(row, Items):
    return params, row, None
  ids = row.inputs['ids']
  tokens = ids.reshape(-1)
  first = jnp.argmax(tokens[:, None] == tokens[None], axis=1)
  inputs = row.inputs | {'ids': first.reshape(ids.shape).astype(ids.dtype)}
  small = leaves | {path: leaves[path][tokens]}
  return (
    trees.unflatten(small),
    dataclasses.replace(row, inputs=inputs),
    tokens,
  )
