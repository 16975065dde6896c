"""Sparsify, elect signs, mix: what TIES, DARE, DELLA and Breadcrumbs share.

Each drops entries of the task vectors by a mask of its own; the rest is one
function with options, as mergekit first laid it out.
"""

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from automerge_jax.merging.methods import linear, masks
from automerge_jax.types import Array, Fact, MergeMethod, Parameter


@functools.cache
def rule(consensus: bool, of_entry: str | None = None) -> Callable[..., Array]:
  """The leaf function: θ₀ + λ Σ w τ̂ (over Σ w with `normalize`).

  Args:
    consensus: whether only entries count that agree with the elected sign, that
      of Σ w τ̂, where a zero sum counts as +; the divisor is then the weight
      that agrees.
    of_entry: name of a fact [K, ...]; density less that is the probability by
      which each survivor is divided, in place of a factor a tensor.
  """

  def merge(
    coefficients: Mapping[str, Array],
    facts: Mapping[str, Array],
    base: Array,
    stack: Array,
  ) -> Array:
    density, weights = coefficients['density'], coefficients['weight']
    at = masks.index(density)
    scale = jnp.take_along_axis(facts['scale'], at[:, None], 1)[:, 0]
    factors = weights * scale
    total = agreeing = weight = jnp.zeros(stack.shape[1:], stack.dtype)
    entries, kept = [], []
    for k in range(stack.shape[0]):
      entry = factors[k] * stack[k]
      if of_entry is not None:
        probability = jnp.minimum(density[k] - facts[of_entry][k], 1.0)
        divides = (density[k] < 1.0) & (probability > 0.0)
        entry = entry / jnp.where(divides, probability, 1.0)
      kept.append(masks.keeps(facts['level'][k], density[k]))
      entries.append(entry * masks.one(kept[k]))
      total = total + entries[k]
    if consensus:
      for k, entry in enumerate(entries):
        agrees = masks.one(kept[k] & ~_other_sign(entry, total))
        agreeing = agreeing + entry * agrees
        weight = weight + weights[k] * agrees
      mixed, divisor = agreeing, jnp.where(weight == 0, 1.0, weight)
    else:
      mixed = total
      divisor = linear.total_weight(weights)
      divisor = jnp.where(jnp.abs(divisor) < 1e-8, 1.0, divisor)
    mixed = linear.normalised(mixed, divisor, coefficients['normalize'])
    # Times one (zero where nothing is kept, so of zero): with an exact product
    # in front of the sum, a compiler may fuse the two or not, to the same bits.
    step = coefficients['lambda'] * mixed
    return base + step * masks.one(functools.reduce(operator.or_, kept))

  return merge


def _other_sign(one: Array, other: Array) -> Array:
  """All bits where the signs differ, none where they agree, int32."""
  bits = (jax.lax.bitcast_convert_type(x, jnp.int32) for x in (one, other))
  return jnp.bitwise_xor(*bits) >> 31


def method(
  name: str,
  level: Fact,
  scale: Fact,
  consensus: bool,
  normalize: bool,
  rescale: bool,
  densities: tuple[float, float],
  further: tuple[Parameter, ...] = (),
  semantics: str = 'mergekit-0.1.5',
  weight: float | None = None,
  of_entry: Fact | None = None,
  whole: Callable[..., Mapping[str, Any]] | None = None,
) -> MergeMethod:
  """Declares a method of this family.

  Args:
    name: as in recipes.
    level: the fact that says which entries a density keeps.
    scale: the fact that makes up for what was dropped.
    consensus: see `rule`.
    normalize, rescale: the parameters' defaults.
    densities: range that searches explore.
    further: parameters of the sparsifier.
    semantics, whole: see `MergeMethod`.
    of_entry: see `rule`.
    weight: the parameter's default; None makes it required, as in mergekit.
  """
  return MergeMethod(
    name=name,
    merge=rule(consensus, of_entry and of_entry.name),
    parameters=(
      Parameter('weight', weight, True, 0.0, 1.0),
      Parameter('density', 1.0, True, *densities),
      Parameter('lambda', 1.0, False),
      Parameter('normalize', float(normalize), False),
      Parameter('rescale', float(rescale), False, setting=True),
      *further,
    ),
    stack='deltas',
    facts=(level, scale, *([of_entry] if of_entry else [])),
    semantics=semantics,
    whole=whole,
  )
