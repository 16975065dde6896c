"""Rotary position embedding: https://arxiv.org/abs/2104.09864.

Scaled for longer texts by factors ('linear') or as Llama 3.1 does ('llama3').
Pairs are a head's first and second half, as Hugging Face stores them.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from automerge_jax.types import Array

KINDS = ('default', 'linear', 'llama3')


def check(parameters: Mapping[str, Any]) -> None:
  """Refuses what is not implemented.

  Args:
    parameters: `rope_type`, `rope_theta` and what the type needs.

  Raises:
    ValueError: naming it.
  """
  kind = parameters.get('rope_type', 'default')
  if kind not in KINDS or parameters.get('type', kind) != kind:
    raise ValueError(
      f'config has rope_type={kind!r} in {dict(parameters)}; implemented: '
      f'{list(KINDS)}'
    )
  part = parameters.get('partial_rotary_factor') or 1.0
  if part != 1.0:
    raise ValueError(
      f'config has partial_rotary_factor={part}; only 1.0 is implemented'
    )


def frequencies(parameters: Mapping[str, Any], size: int) -> np.ndarray:
  """Angle a position and pair, radians, float32 [size / 2].

  Args:
    parameters: as `check` takes them.
    size: of a head.
  """
  check(parameters)
  theta = float(parameters['rope_theta'])
  plain = theta ** -(np.arange(0, size, 2) / size)
  kind = parameters.get('rope_type', 'default')
  if kind == 'linear':
    plain = plain / parameters['factor']
  if kind == 'llama3':
    plain = _llama3(plain, parameters)
  return plain.astype(np.float32)


def angles(frequency: np.ndarray, positions: Array) -> tuple[Array, Array]:
  """Cosines and sines of the rotation, float32 [B, 1, T, size / 2]."""
  turned = positions.astype(jnp.float32)[..., None] * frequency[None, None]
  return jnp.cos(turned)[:, None], jnp.sin(turned)[:, None]


def rotate(x: Array, rotation: tuple[Array, Array]) -> Array:
  """Rotates heads [B, H, T, size], in float32."""
  cos, sin = rotation
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return turned.astype(x.dtype)


def _llama3(plain: np.ndarray, parameters: Mapping[str, Any]) -> np.ndarray:
  """Slow pairs divided by `factor`, fast ones kept, a ramp between."""
  low, high = parameters['low_freq_factor'], parameters['high_freq_factor']
  turns = parameters['original_max_position_embeddings'] * plain / (2 * np.pi)
  kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
  return (1 - kept) * plain / parameters['factor'] + kept * plain
