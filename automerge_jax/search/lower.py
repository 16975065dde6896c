"""What comes out of the leading layers that all models share, for each item."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.models import base as models
from automerge_jax.types import Array, ExpertStack, Family, Params

MOST = 4 * 2**30  # bytes of hidden states that are kept
_CARRY = 'carry'


def depth(
  family: Family,
  base: Mapping[str, np.ndarray],
  experts: Sequence[Mapping[str, np.ndarray]],
) -> int:
  """How many leading layers, with the stem, are the base's in every expert.

  0 for models of two stacks, and where all layers are shared.
  """
  if family.encoder is not None:
    return 0
  count = family.num_layers
  for key in family.keys:
    stem = key.path.startswith('stem/')
    layer = 0 if stem else key.layer
    if layer is None or layer >= count:
      continue
    if not all(
      np.array_equal(e[key.stored], base[key.stored]) for e in experts
    ):
      count = layer
  return 0 if count == family.num_layers else count


def lowest(
  family: Family, base: Mapping[str, np.ndarray], count: int
) -> Params:
  """Stem and leading layers, see `ExpertStack.below`."""
  params = models.pack(family.keys, base)
  layers = jax.tree.map(lambda leaf: leaf[:count], params['layers'])
  below = {'stem': params['stem'], 'layers': layers}
  return jax.tree.map(jnp.asarray, below)


def upper(family: Family, count: int) -> Family:
  """What follows the first `count` layers, on hidden states instead of ids.

  Its keys leave out the stem, which its params must hold nevertheless.
  """
  keys = tuple(
    key if key.layer is None else key._replace(layer=key.layer - count)
    for key in family.keys
    if not key.path.startswith('stem/')
    and (key.layer is None or key.layer >= count)
  )
  return dataclasses.replace(
    family,
    num_layers=family.num_layers - count,
    embed=lambda params, inputs: inputs[_CARRY],
    layer_info=jax.tree.map(lambda leaf: leaf[count:], family.layer_info),
    keys=keys,
  )


def carried(family: Family, stack: ExpertStack, data: Any, dtype: str) -> Any:
  """Data whose inputs also hold what comes out of the shared layers.

  Args:
    family: of the models.
    stack: what `build` made.
    data: arrays of items, or inputs; what does not read all tokens at once,
      such as queues of prompts, is left as it is, as is what would need more
      than `MOST` bytes.
    dtype: in which models compute.
  """
  if stack.below is None:
    return data
  count = count_of(stack.below)
  info = jax.tree.map(lambda leaf: leaf[:count], family.layer_info)

  def run_lowest(below: Params, inputs: Mapping[str, Array]) -> Any:
    params = cast(below, dtype)

    def step(carry, layer):
      return family.block(layer[0], carry, layer[1]), None

    carry = family.embed(params, inputs)
    carry, _ = jax.lax.scan(step, carry, (params['layers'], info))
    return carry

  run = jax.jit(
    lambda below, x: jax.lax.map(lambda one: run_lowest(below, one), x)
  )

  def of_inputs(inputs: Mapping[str, Array]) -> dict[str, Any]:
    first = next(iter(inputs.values()))
    lead = first.shape[: first.ndim - (4 if 'pixels' in inputs else 2)]
    flat = jax.tree.map(
      lambda leaf: leaf.reshape(-1, *leaf.shape[len(lead) :]), dict(inputs)
    )
    shapes = jax.tree.leaves(jax.eval_shape(run, stack.below, flat))
    if sum(s.size * s.dtype.itemsize for s in shapes) > MOST:
      return dict(inputs)
    carry = jax.tree.map(
      lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), run(stack.below, flat)
    )
    return dict(inputs, **{_CARRY: carry})

  def of_part(part: Any) -> Any:
    if isinstance(part, Mapping):
      return of_inputs(part)
    if hasattr(part, 'packed'):
      return dataclasses.replace(part, packed=of_part(part.packed))
    if hasattr(part, 'inputs'):
      return dataclasses.replace(part, inputs=of_inputs(part.inputs))
    return part

  return tuple(map(of_part, data)) if isinstance(data, tuple) else of_part(data)


def is_carried(part: Any) -> bool:
  """Whether arrays or inputs hold hidden states of the shared layers."""
  holder = getattr(part, 'packed', part)
  inputs = (
    holder if isinstance(holder, Mapping) else holder.__dict__.get('inputs', {})
  )
  return _CARRY in inputs


def count_of(below: Params) -> int:
  """Number of shared layers, of what `lowest` gave."""
  return jax.tree.leaves(below['layers'])[0].shape[0]


def cast(params: Params, dtype: str) -> Params:
  """Parameters in the type in which the model shall compute."""
  return jax.tree.map(lambda leaf: leaf.astype(dtype), params)
