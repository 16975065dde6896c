"""Rotary position embedding: https://arxiv.org/abs/2104.09864.

Scaled for longer texts by a factor ('linear'), as Llama 3.1 does ('llama3') or
by YaRN (https://arxiv.org/abs/2309.00071). Pairs are a head's first and second
half, as Hugging Face stores them.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from automerge_jax.types import Array

_NEEDED = {
  'default': ('rope_theta',),
  'linear': ('rope_theta', 'factor'),
  'llama3': (
    'rope_theta',
    'factor',
    'low_freq_factor',
    'high_freq_factor',
    'original_max_position_embeddings',
  ),
  'yarn': ('rope_theta', 'factor', 'original_max_position_embeddings'),
}


class Table(NamedTuple):
  """A rotary embedding.

  Attributes:
    frequency: radians a position, of each pair, float32 [size / 2].
    amplitude: what cosines and sines are multiplied by.
  """

  frequency: np.ndarray
  amplitude: float


def check(parameters: Mapping[str, Any]) -> None:
  """Refuses what is not implemented.

  Args:
    parameters: `rope_type`, `rope_theta` and what the type needs, as in the
      `rope_parameters` of a Hugging Face config.

  Raises:
    ValueError: naming it.
  """
  kind = parameters.get('rope_type')
  if kind not in _NEEDED or parameters.get('type', kind) != kind:
    raise ValueError(
      f'config has rope_type={kind!r} in {dict(parameters)}; implemented: '
      f'{list(_NEEDED)}'
    )
  part = parameters.get('partial_rotary_factor') or 1.0
  if part != 1.0:
    raise ValueError(
      f'config has partial_rotary_factor={part}; only 1.0 is implemented'
    )
  missing = [n for n in _NEEDED[kind] if parameters.get(n) is None]
  if missing:
    raise ValueError(
      f'config has rope_type={kind!r} and lacks {missing} in {dict(parameters)}'
    )


def table(parameters: Mapping[str, Any], size: int) -> Table:
  """The rotary embedding of heads of some size.

  Args:
    parameters: as `check` takes them.
    size: of a head, even.

  Raises:
    ValueError: as `check` does.
  """
  check(parameters)
  plain = float(parameters['rope_theta']) ** -(np.arange(0, size, 2) / size)
  scaled, amplitude = {
    'default': lambda: (plain, 1.0),
    'linear': lambda: (plain / parameters['factor'], 1.0),
    'llama3': lambda: (_llama3(plain, parameters), 1.0),
    'yarn': lambda: _yarn(plain, parameters, size),
  }[parameters['rope_type']]()
  return Table(scaled.astype(np.float32), amplitude)


def angles(rope: Table, positions: Array) -> tuple[Array, Array]:
  """Cosines and sines of the rotation, float32 [B, 1, T, size / 2]."""
  turned = positions.astype(jnp.float32)[:, None, :, None]
  turned = turned * rope.frequency[None, None, None]
  return rope.amplitude * jnp.cos(turned), rope.amplitude * jnp.sin(turned)


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


def _yarn(
  plain: np.ndarray, parameters: Mapping[str, Any], size: int
) -> tuple[np.ndarray, float]:
  """A ramp over the pair's index, and the amplitude of section 3.4."""
  context = parameters['original_max_position_embeddings']
  factor = parameters['factor']

  def pair(turns: float) -> float:  # that turns so often in the context
    ratio = math.log(context / (turns * 2 * math.pi))
    return size * ratio / (2 * math.log(parameters['rope_theta']))

  low = pair(parameters.get('beta_fast') or 32)
  high = pair(parameters.get('beta_slow') or 1)
  if parameters.get('truncate', True):
    low, high = math.floor(low), math.ceil(high)
  low, high = max(low, 0), min(high, size - 1)
  width = high - low if high != low else 0.001
  slow = np.clip((np.arange(size // 2) - low) / width, 0.0, 1.0)

  def amplitude(weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

  given = parameters.get('attention_factor')
  part, whole = (parameters.get(n) for n in ('mscale', 'mscale_all_dim'))
  if given is None:
    both = part and whole
    given = amplitude(part) / amplitude(whole) if both else amplitude(1.0)
  return slow * plain / factor + (1 - slow) * plain, float(given)
