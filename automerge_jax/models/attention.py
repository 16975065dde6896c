"""Attention in head-major layout, its mask rule, and memory of past tokens.

Every token has a place: its position in its text, the number of its text in
the row (0 for padding) and its branch. The rule of who sees whom is a function
of places alone, so packed rows, shared prompts and memory all use it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from automerge_jax.types import Array

METADATA = ('positions', 'mask', 'branch')


class Places(NamedTuple):
  """Where tokens are, each int32 [B, T]."""

  positions: Array
  mask: Array
  branch: Array


def places(inputs: Mapping[str, Array], prefix: str = '') -> Places:
  """Places of a family's inputs, with the defaults of what is left out.

  Args:
    inputs: `mask` [B, T], perhaps `positions` and `branch`.
    prefix: of these names, such as `decoder_`.
  """
  mask = jnp.asarray(inputs[f'{prefix}mask'], jnp.int32)
  count = jnp.arange(mask.shape[-1], dtype=jnp.int32)[None]
  default = {
    'positions': jnp.broadcast_to(count, mask.shape),
    'branch': jnp.zeros_like(mask),
  }
  given = {
    name: jnp.asarray(inputs.get(f'{prefix}{name}', value), jnp.int32)
    for name, value in default.items()
  }
  return Places(given['positions'], mask, given['branch'])


def allowed(
  q_mask: Array,
  k_mask: Array,
  q_positions: Array,
  k_positions: Array,
  q_branch: Array,
  k_branch: Array,
  causal: bool = True,
  window: Array | int | None = None,
) -> Array:
  """Whether each of T tokens sees each of S, bool [B, T, S].

  It must be no padding, of the same text, of branch 0 or the same branch, at
  no later position if `causal`, and less than `window` positions before.
  Padding queries see every text, so that what they compute is finite.

  Args:
    q_mask, q_positions, q_branch: int32 [B, T], of those who look.
    k_mask, k_positions, k_branch: int32 [B, S], of those who are seen.
    causal: whether later positions are hidden.
    window: None for no limit.
  """
  q_mask, q_positions, q_branch = (
    x[:, :, None] for x in (q_mask, q_positions, q_branch)
  )
  k_mask, k_positions, k_branch = (
    x[:, None, :] for x in (k_mask, k_positions, k_branch)
  )
  seen = (k_mask > 0) & ((k_mask == q_mask) | (q_mask == 0))
  seen &= (k_branch == 0) | (k_branch == q_branch)
  if causal:
    seen &= k_positions <= q_positions
  if window is not None:
    seen &= q_positions - k_positions < window
  return seen


def sees(
  query: Places,
  key: Places,
  causal: bool = True,
  window: Array | int | None = None,
) -> Array:
  """`allowed` of places."""
  return allowed(
    query.mask,
    key.mask,
    query.positions,
    key.positions,
    query.branch,
    key.branch,
    causal,
    window,
  )


def split_heads(x: Array, heads: int) -> Array:
  """[B, T, H * d] -> [B, H, T, d], over which matmuls run contiguously."""
  x = x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)
  return x.swapaxes(-2, -3)


def join_heads(x: Array) -> Array:
  """[B, H, T, d] -> [B, T, H * d]."""
  x = x.swapaxes(-2, -3)
  return x.reshape(*x.shape[:-2], -1)


def attend(
  query: Array,
  key: Array,
  value: Array,
  seen: Array,
  scale: float,
  cap: float | None = None,
  bias: Array | None = None,
) -> Array:
  """Grouped-query attention; keys and values are not repeated.

  Scores and softmax are float32, whatever the rest.

  Args:
    query: [B, H, T, d], H a multiple of G.
    key: [B, G, S, d].
    value: [B, G, S, d].
    seen: bool [B, T, S].
    scale: of the scores.
    cap: scores go through cap * tanh(score / cap); None for no cap.
    bias: added to the scores, [B or 1, H, T, S].

  Returns:
    [B, H, T, d].
  """
  batch, heads, tokens, size = query.shape
  groups, slots = key.shape[1], key.shape[2]
  grouped = query.reshape(batch, groups, -1, size)
  scores = jnp.matmul(
    grouped, key.swapaxes(-1, -2), preferred_element_type=jnp.float32
  )
  scores = scores.reshape(batch, heads, tokens, slots) * scale
  if cap is not None:
    scores = cap * jnp.tanh(scores / cap)
  if bias is not None:
    scores = scores + bias.astype(scores.dtype)
  hidden = jnp.finfo(scores.dtype).min
  weights = jax.nn.softmax(jnp.where(seen[:, None], scores, hidden), axis=-1)
  weights = weights.astype(value.dtype).reshape(batch, groups, -1, slots)
  return (weights @ value).reshape(batch, heads, tokens, value.shape[-1])


def empty(
  layers: int, batch: int, heads: int, length: int, size: int, dtype: Any
) -> dict[str, Any]:
  """Memory of `length` free slots a row: see `Family.cache`."""
  shape = (layers, batch, heads, length, size)
  metadata = {name: jnp.zeros((batch, length), jnp.int32) for name in METADATA}
  layer = {'key': jnp.zeros(shape, dtype), 'value': jnp.zeros(shape, dtype)}
  return metadata | {'layers': layer}


def occupy(memory: Mapping[str, Any], slot: Array, new: Places) -> dict:
  """Metadata of a memory after new tokens [B, T] took their slots."""
  rows, slot = _where(slot, memory['mask'].shape[-1])
  return {
    name: memory[name].at[rows, slot].set(getattr(new, name), mode='drop')
    for name in METADATA
  }


def held(metadata: Mapping[str, Array]) -> Places:
  """Places [B, S] of what a memory's slots hold."""
  return Places(*(metadata[name] for name in METADATA))


def write(
  memory: Mapping[str, Array], slot: Array, key: Array, value: Array
) -> dict[str, Array]:
  """One layer's memory [B, H, S, d] with new keys and values [B, H, T, d]."""
  rows, slot = _where(slot, memory['key'].shape[-2])
  new = {'key': key, 'value': value}
  return {
    name: memory[name]
    .at[rows, :, slot]
    .set(new[name].swapaxes(1, 2).astype(memory[name].dtype), mode='drop')
    for name in new
  }


def _where(slot: Array, length: int) -> tuple[Array, Array]:
  """Rows [B, 1], slots [B, T]; a negative one must not count from behind."""
  rows = jnp.arange(slot.shape[0])[:, None]
  return rows, jnp.where(slot < 0, length, slot)
