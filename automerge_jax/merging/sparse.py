"""Sparsify, elect signs, mix: what TIES, DARE, DELLA and Breadcrumbs share.

Each drops entries of the task vectors by a mask of its own; the rest is one
function with options, as mergekit first laid it out.
"""

from collections.abc import Callable, Mapping

import jax.numpy as jnp

from automerge_jax.merging import linear, masks
from automerge_jax.types import Array, Fact, MergeMethod, Parameter


def rule(consensus: bool) -> Callable[..., Array]:
  """The leaf function: θ₀ + λ Σ w τ̂ (over Σ w with `normalize`).

  Args:
    consensus: whether only entries count that agree with the elected sign, that
      of Σ w τ̂, where a zero sum counts as +; the divisor is then the weight
      that agrees.
  """

  def merge(
    coefficients: Mapping[str, Array],
    facts: Mapping[str, Array],
    base: Array,
    stack: Array,
  ) -> Array:
    axes = (slice(None),) + (None,) * (stack.ndim - 1)
    density, weights = coefficients['density'], coefficients['weight']
    at = masks.index(density)
    scale = jnp.take_along_axis(facts['scale'], at[:, None], 1)[:, 0]
    mask = masks.keeps(facts['level'], density)
    weighted = jnp.where(mask, weights[axes] * (stack * scale[axes]), 0.0)
    if consensus:
      elected = jnp.where(linear.total_weight(weighted) >= 0, 1.0, -1.0)
      agrees = jnp.sign(weighted) == elected[None]
      mixed = linear.total_weight(jnp.where(agrees, weighted, 0.0))
      divisor = linear.total_weight(jnp.where(agrees, weights[axes], 0.0))
      divisor = jnp.where(divisor == 0, 1.0, divisor)
    else:
      mixed = linear.total_weight(weighted)
      divisor = linear.total_weight(weights)
      divisor = jnp.where(jnp.abs(divisor) < 1e-8, 1.0, divisor)
    mixed = linear.normalised(mixed, divisor, coefficients['normalize'])
    return base + coefficients['lambda'] * mixed

  return merge


PLAIN, ELECTED = rule(consensus=False), rule(consensus=True)


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
    semantics: see `MergeMethod`.
  """
  return MergeMethod(
    name=name,
    merge=ELECTED if consensus else PLAIN,
    parameters=(
      Parameter('weight', None, True, 0.0, 1.0),
      Parameter('density', 1.0, True, *densities),
      Parameter('lambda', 1.0, False),
      Parameter('normalize', float(normalize), False),
      Parameter('rescale', float(rescale), False, setting=True),
      *further,
    ),
    stack='deltas',
    facts=(level, scale),
    semantics=semantics,
  )
