"""Uniform draws of random masks: the same wherever and however a merge runs.

A draw belongs to (seed, expert, tensor, entry) and to nothing else: neither
sharding nor chunks nor threads nor devices change a mask.
"""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

BITS = 16
BLOCK = 1 << 16  # entries that share a key
_BATCH = 16  # blocks drawn at once


def uniform(seed: int, expert: int, name: str, size: int) -> np.ndarray:
  """Draws from 0 to 65,535 for each entry of a stored tensor, uint16 [size].

  Args:
    seed: of the recipe.
    expert: position among the experts.
    name: stored name of the tensor.
    size: number of entries, in stored order.
  """
  drawn = np.empty(size, np.uint16)
  code = np.uint32(zlib.crc32(name.encode()))
  span = BLOCK * _BATCH
  for start in range(0, size, span):
    blocks = min(_BATCH, -(-(size - start) // BLOCK))
    # Powers of two: few shapes to compile.
    batch = 1 << (blocks - 1).bit_length()
    first = start // BLOCK
    bits = _blocks(seed, expert, code, np.uint32(first), batch)
    part = np.asarray(bits).reshape(-1)
    drawn[start : start + span] = part[: size - start]
  return drawn


@functools.partial(jax.jit, static_argnums=4)
def _blocks(seed, expert, code, first, batch: int):
  # A counter-based generator, named: a default may change between versions.
  key = jax.random.key(seed, impl='threefry2x32')
  key = jax.random.fold_in(jax.random.fold_in(key, expert), code)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(
    key, first + jnp.arange(batch, dtype=jnp.uint32)
  )
  return jax.vmap(lambda k: jax.random.bits(k, (BLOCK,), jnp.uint16))(keys)
