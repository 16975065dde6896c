"""Dynamic Fisher-weighted merging: https://arxiv.org/abs/2504.18992.

θ₀ + K Σ F_k λ_k τ_k / Σ F_k, entry by entry, where F_k is the diagonal Fisher
information of task k at θ₀ + λ_k τ_k and not at the expert itself.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from automerge_jax import trees
from automerge_jax.types import Array, Params

# Each task's share in entries that nobody has any information of.
_LEAST = 1e-30
# `(k, params, total) -> total + F_k at these params`, leaves like `params`.
AddFisher = Callable[[Array, Params, Params], Params]
# [K], or by leaf [K] or, in `layers`, [K, L].
Coefficients = Array | Mapping[str, Array]


def df_merge(
  coefficients: Coefficients,
  base: Params,
  deltas: Params,
  add_fisher: AddFisher | None = None,
) -> Params:
  """Merged parameters, float32; pure and jittable.

  Experts come one by one. Beside base and deltas there are two accumulators,
  the parameters that Fisher information is measured at, and the result: K + 5
  copies of the model in all.

  Args:
    coefficients: λ, of each expert [K], or by leaf name [K] or [K, L].
    base: θ₀, leaves [...], in `layers` [L, ...].
    deltas: task vectors τ, leaves [K, ...].
    add_fisher: adds the information of task k, which is traced; see
      `statistics.dynamic.information` and `fixed`. None stands for equal
      information, which makes it generalised task arithmetic: θ₀ + Σ λ_k τ_k.

  Returns:
    Params like `base`. Entries of which no task has any information are those
    of generalised task arithmetic.

  Raises:
    ValueError: if deltas or coefficients do not fit the base.
  """
  bases, stacks = trees.flatten(base), trees.flatten(deltas)
  values = _by_leaf(coefficients, bases, stacks)
  experts = len(next(iter(stacks.values())))

  def scaled(k: Array | int) -> dict[str, Array]:
    return {
      path: values[path][k] * stack[k].astype(jnp.float32)
      for path, stack in stacks.items()
    }

  if add_fisher is None:
    each = [scaled(k) for k in range(experts)]
    return trees.unflatten(
      {
        path: leaf + sum(own[path] for own in each)
        for path, leaf in bases.items()
      }
    )

  def step(k: Array, carry):
    mass, change = carry
    own = scaled(k)
    params = {path: bases[path] + own[path] for path in bases}
    floored = {path: leaf + _LEAST for path, leaf in mass.items()}
    mass = trees.flatten(
      add_fisher(k, trees.unflatten(params), trees.unflatten(floored))
    )
    # Σ F_k x_k = M_K x_K + Σ M_k (x_k - x_{k+1}), the sum below K, of the sums
    # M_k = F_1 + ... + F_k: no F_k has to be kept apart from the mass.
    following = scaled(jnp.minimum(k + 1, experts - 1))
    change = {
      path: change[path] + mass[path] * (own[path] - following[path])
      for path in bases
    }
    return mass, change

  zeros = {path: jnp.zeros(leaf.shape) for path, leaf in bases.items()}
  mass, change = jax.lax.fori_loop(0, experts, step, (zeros, zeros))
  last = scaled(experts - 1)

  return trees.unflatten(
    {
      path: base + experts * (last[path] + change[path] / mass[path])
      for path, base in bases.items()
    }
  )


def fixed(fishers: Params) -> AddFisher:
  """Information that was measured before, leaves [K, ...]: static weights."""

  def add(k: Array, params: Params, total: Params) -> Params:
    del params
    return jax.tree.map(lambda sum_, leaf: sum_ + leaf[k], total, fishers)

  return add


def _by_leaf(
  coefficients: Coefficients,
  bases: Mapping[str, Array],
  stacks: Mapping[str, Array],
) -> dict[str, Array]:
  """Coefficients by leaf, with axes of length 1 up to the deltas'."""
  trees.check_same(
    {path: stack[0] for path, stack in stacks.items()},
    bases,
    'task vectors against the base',
  )
  values = {}
  for path, stack in stacks.items():
    value = (
      coefficients[path] if isinstance(coefficients, Mapping) else coefficients
    )
    value = jnp.asarray(value, jnp.float32)
    layered = path.startswith('layers/') and value.ndim == 2
    if value.shape != stack.shape[: 1 + layered]:
      raise ValueError(
        f'coefficients of {path!r} have shape {value.shape}; expected '
        f'{stack.shape[:1]}, one an expert'
        + (f', or {stack.shape[:2]}' if path.startswith('layers/') else '')
      )
    values[path] = value.reshape(value.shape + (1,) * (stack.ndim - value.ndim))
  return values
