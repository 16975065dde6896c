"""Coefficients on a decimal grid: what is scored can be written down."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.types import Array

UNIT = 10_000  # coefficients are whole numbers of 1 / UNIT ...
_STEPS = {'density': 10}  # ... and densities of so many of these
_PRIOR = 0.5  # correlation between the cells of one expert


def quantiser(
  parameters: Sequence[str],
  low: Sequence[float],
  high: Sequence[float],
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]]:
  """`quantise` and `encode` of a search space.

  Args:
    parameters: the parameter that each dimension sets, D.
    low, high: ranges [D].
  """
  low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
  snap = snapper(parameters, low, high)

  def quantise(x: Array) -> Array:
    return snap(low + jnp.clip(x, 0.0, 1.0) * (high - low))

  def encode(c: Array) -> Array:
    return (jnp.asarray(c) - low) / (high - low)

  return quantise, encode


def snapper(
  parameters: Sequence[str],
  low: Sequence[float] | np.ndarray,
  high: Sequence[float] | np.ndarray,
) -> Callable[[Array], Array]:
  """`c [..., D] -> c` on the grid, within the lowest and the highest of all.

  Args:
    parameters: the parameter that each dimension sets, D (or one for all).
    low, high: ranges [D].
  """
  step = np.asarray([_STEPS.get(name, 1) for name in parameters], np.float32)
  if len(step) == 1:
    step = step[0]
  bottom, top = (round(float(x) * UNIT) for x in (np.min(low), np.max(high)))
  table = decimals(bottom, top)

  @jax.custom_jvp
  def snap(c: Array) -> Array:
    whole = jnp.rint(c * (UNIT / step)) * step
    index = jnp.clip(whole.astype(jnp.int32), bottom, top) - bottom
    return jnp.asarray(table)[index]

  # Gradients pass through the rounding: its steps are far below what matters.
  snap.defjvp(lambda primals, tangents: (snap(*primals), *tangents))
  return snap


def nearest(parameters: Sequence[str], values: np.ndarray) -> np.ndarray:
  """The grid's numbers next to these, float32 [D], on the host."""
  step = np.asarray([_STEPS.get(name, 1) for name in parameters])
  whole = np.rint(np.asarray(values, np.float64) * (UNIT / step)) * step
  return (whole / UNIT).astype(np.float32)


def decimals(bottom: int, top: int) -> np.ndarray:
  """Float32 of bottom / UNIT to top / UNIT.

  A table, because a compiled division by a constant is a multiplication by its
  reciprocal, which misses a third of these decimals by a bit.
  """
  return (np.arange(bottom, top + 1) / UNIT).astype(np.float32)


def shortest(number: float) -> float:
  """The shortest decimal that float32 rounds back to the number."""
  return float(str(np.float32(number)))


def correlation(owners: Sequence[str]) -> np.ndarray:
  """Prior correlation [D, D]: dimensions of one owner belong together."""
  same = np.asarray(owners)[:, None] == np.asarray(owners)[None]
  prior = np.where(same, _PRIOR, 0.0)
  np.fill_diagonal(prior, 1.0)
  return prior
