"""T5's learned bias of relative positions: https://arxiv.org/abs/1910.10683.

Near distances have a bucket each, further ones share buckets whose width grows
with the logarithm; all beyond `max_distance` share the last.
"""

import jax.numpy as jnp
import numpy as np

from automerge_jax.types import Array


def bias(
  table: Array,
  query: Array,
  key: Array,
  max_distance: int,
  both: bool,
) -> Array:
  """What is added to the scores, [B, H, T, S].

  Args:
    table: learned values of each bucket and head, [buckets, H].
    query: positions, int32 [B, T].
    key: positions, int32 [B, S].
    max_distance: from which on all share a bucket.
    both: whether later keys have buckets of their own; else they are never
      seen.
  """
  apart = key[:, None, :] - query[:, :, None]
  apart = jnp.clip(apart, -max_distance, max_distance) + max_distance
  of_distance = table[buckets(table.shape[0], max_distance, both)]
  return jnp.moveaxis(of_distance[apart], -1, 1)


def buckets(count: int, max_distance: int, both: bool) -> np.ndarray:
  """Bucket of each key position minus query position, int32 [2 * max + 1].

  From -max_distance to max_distance. The steps are those of float32, in which
  the models were trained: a rounding decides for distances on an edge.
  """
  apart = np.arange(-max_distance, max_distance + 1)
  later = 0
  if both:
    count //= 2
    later = count * (apart > 0)
    distance = np.abs(apart)
  else:
    distance = np.maximum(-apart, 0)
  exact = count // 2
  ratio = np.maximum(distance, 1).astype(np.float32) / np.float32(exact)
  full = np.float32(np.log(max_distance / exact))
  far = exact + (np.log(ratio) / full * np.float32(count - exact)).astype(int)
  near = np.where(distance < exact, distance, np.minimum(far, count - 1))
  return (later + near).astype(np.int32)
