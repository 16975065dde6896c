"""Layer programs: a model whose layers stand in another order or number.

A program says for each of S positions which layer stands there, if any, and by
how much what it adds to the residual stream is scaled. Everything in it may be
traced, so programs of any order and depth run in one compiled function.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from automerge_jax import trees
from automerge_jax.models import base
from automerge_jax.types import Array, Family, LayerProgram, Params


def family(family: Family, program: LayerProgram) -> Family:
  """The family of S positions that a program makes of one of L layers.

  Its params hold a layer for each position, leaves [S, ...]; scales are not
  its business, see `fold`. A position without a layer leaves the carry as it
  is, at no cost unless the program is vmapped or single tokens are generated.
  It has no key table, since how many layers are stored depends on the program.

  Args:
    family: of the sources.
    program: S positions, perhaps traced.

  Raises:
    ValueError: if the layers cannot be restacked.
  """
  check(family)
  own = jax.tree.map(
    lambda leaf: jnp.asarray(leaf)[program.layer], family.layer_info
  )
  step = family.step
  return dataclasses.replace(
    family,
    num_layers=program.layer.shape[0],
    block=_block(family.block),
    layer_info={'own': own, 'active': program.active},
    keys=(),
    cache=_cache(family.cache, program) if family.cache else None,
    step=_step(step) if step else None,
  )


def fold(family: Family, params: Params, scale: Array) -> Params:
  """Scales what each layer adds to the residual stream, by its parameters.

  Args:
    family: of the sources.
    params: a layer for each position, leaves [S, ...].
    scale: of each position, [S].

  Raises:
    ValueError: if the layers cannot be restacked.
  """
  check(family)
  leaves = trees.flatten(params)
  for path, rows in base.by_leaf(family.keys).items():
    offset = _offset(family, rows[0].stored)
    if rows[0].layer is None or offset is None:
      continue
    weight = leaves[path]
    s = scale.astype(weight.dtype).reshape(-1, *(1,) * (weight.ndim - 1))
    # s (w + offset) - offset, which of s = 1 is exactly w.
    leaves[path] = s * weight + (s - 1) * offset if offset else s * weight
  return trees.unflatten(leaves)


def check(family: Family) -> None:
  """Raises ValueError if the family's layers cannot be restacked."""
  if family.encoder is not None:
    raise ValueError(
      f'layers of {family.name!r} cannot be restacked: it has two stacks, an '
      'encoder and a decoder; expected a model of one stack'
    )
  if not family.branches:
    raise ValueError(
      f'layers of this {family.name!r} model cannot be restacked: what they '
      'compute depends on their numbers (such as '
      'scale_attn_by_inverse_layer_idx), or their family does not say what '
      'scales them; search without a layer program'
    )


def _offset(family: Family, stored: str) -> float | None:
  """The offset by which a tensor is scaled; None if it is not."""
  fitting = (offset for part, offset in family.branches if part in stored)
  return next(fitting, None)


def _block(block: Callable[..., Any]) -> Callable[..., Any]:
  def run(layer_params: Params, carry: Any, info: Any) -> Any:
    return jax.lax.cond(
      info['active'],
      lambda carry: block(layer_params, carry, info['own']),
      lambda carry: carry,
      carry,
    )

  return run


def _step(step: Callable[..., Any]) -> Callable[..., Any]:
  def many(layer_params: Params, carry: Any, info: Any, memory: Any) -> Any:
    return jax.lax.cond(
      info['active'],
      lambda carry, memory: step(layer_params, carry, info['own'], memory),
      lambda carry, memory: (carry, memory),
      carry,
      memory,
    )

  def one(layer_params: Params, carry: Any, info: Any, memory: Any) -> Any:
    slot = jnp.where(info['active'], carry['slot'], -1)  # leaves no trace
    after, memory = step(
      layer_params, dict(carry, slot=slot), info['own'], memory
    )
    after = jax.tree.map(
      lambda new, old: jnp.where(info['active'], new, old),
      dict(after, slot=carry['slot']),
      carry,
    )
    return after, memory

  def run(layer_params: Params, carry: Any, info: Any, memory: Any) -> Any:
    # A conditional copies the memory, which for one token a row is dearer than
    # the layer.
    way = one if carry['slot'].shape[-1] == 1 else many
    return way(layer_params, carry, info, memory)

  return run


def _cache(cache: Callable[..., Any], program: LayerProgram):
  def run(params: Params, inputs: Mapping[str, Array], length: int) -> Any:
    memory = cache(params, inputs, length)
    layers = jax.tree.map(lambda leaf: leaf[program.layer], memory['layers'])
    return dict(memory, layers=layers)

  return run
