"""Merging on the device: an ExpertStack, and plans applied to it.

Everything that depends on the checkpoints alone is on the device once; a merge
is one pure function of (plan, stack), a map over leaves that never sees a disk.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax import trees
from automerge_jax.merging import facts as facts_lib
from automerge_jax.merging import measured, threads
from automerge_jax.models import base as models
from automerge_jax.types import (
  Array,
  ExpertStack,
  Family,
  MergeMethod,
  MergePlan,
  Params,
  Stored,
)


def build(
  method: MergeMethod,
  family: Family,
  base: Mapping[str, np.ndarray],
  experts: Sequence[Mapping[str, np.ndarray]],
  settings: Mapping[str, Any] | None = None,
  seed: int = 0,
  statistics: Sequence[Mapping[str, Mapping[str, np.ndarray]]] = (),
) -> ExpertStack:
  """Stacks experts (or their task vectors) and computes the method's facts.

  Args:
    method: says what the stack holds and which facts it needs.
    family: whose key table lays the tensors out.
    base: stored tensors by name.
    experts: stored tensors of each expert.
    settings: values of the method's settings; where silent, the defaults.
    seed: of random masks.
    statistics: of each expert, `{statistic: {stored name: array}}`.

  Raises:
    ValueError: if an expert's tensors differ from the base's in name or shape.
  """
  for k, expert in enumerate(experts):
    trees.check_same(expert, base, f'expert {k} against the base')
  fixed = facts_lib.settings(method, settings or {}, len(experts))

  def stacks():
    for key in family.keys:
      name = key.stored
      yield name, tensor_stack(method, base[name], [e[name] for e in experts])

  whole = method.whole(stacks, fixed) if method.whole else {}

  def prepared(name: str) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    stored = Stored(
      name,
      np.asarray(base[name], np.float32),
      tensor_stack(method, base[name], [e[name] for e in experts]),
      fixed,
      seed,
      measured.of_tensor(method, statistics, name),
      whole,
    )
    return stored.stack, facts_lib.compute(method, stored)

  names = [key.stored for key in family.keys]
  with threads.pool() as pool:
    ready = dict(zip(names, pool.map(prepared, names), strict=True))
  stacked = {name: stack for name, (stack, _) in ready.items()}
  computed = {name: facts for name, (_, facts) in ready.items()}
  return ExpertStack(
    base=_to_device(models.pack(family.keys, base)),
    stack=_to_device(models.pack(family.keys, stacked, lead=1)),
    facts=_pack_facts(family, method, computed),
  )


def tensor_stack(
  method: MergeMethod, base: np.ndarray | None, experts: Sequence[np.ndarray]
) -> np.ndarray:
  """Float32 stack [K, ...] of one stored tensor, as the method wants it."""
  stack = np.empty((len(experts), *experts[0].shape), np.float32)
  for k, expert in enumerate(experts):
    stack[k] = expert
  if base is not None and method.stack != 'weights':
    stack -= np.asarray(base, np.float32)[None]
  return stack


def merge(
  method: MergeMethod,
  plan: MergePlan,
  stack: ExpertStack,
  layer: Array | None = None,
) -> Params:
  """Merged Params; pure and jittable.

  Pass `stack` as an argument of the jitted function, never by closure: as a
  constant it recompiles, and some CPU versions of XLA fold it wrongly.

  Args:
    method: the merge method.
    plan: coefficients by leaf, per expert [K, L] or [K], shared [L] or [].
    stack: base, experts and facts.
    layer: the source layer at each position, int32 [S], -1 for none, which
      leaves zeros; layers of the result, and of the plan, are then by position.
      They are gathered and merged one by one, as they also are for a method
      that switches.
  """
  bases, stacks = trees.flatten(stack.base), trees.flatten(stack.stack)
  shared = {p.name for p in method.parameters if not p.per_expert}
  layer_axis = {f.name: f.lead if f.elementwise else 0 for f in method.facts}
  merged = {}
  for path, base in bases.items():
    given = plan[path], stack.facts[path], base, stacks[path]
    if not path.startswith('layers/'):
      rule = _again(method.merge) if method.switch else method.merge
      merged[path] = rule(*given)
      continue
    axes = {name: 0 if name in shared else 1 for name in plan[path]}
    if layer is None and not method.switch:
      rule = jax.vmap(method.merge, in_axes=(axes, layer_axis, 0, 1))
      merged[path] = rule(*given)
    else:
      each = jnp.arange(len(base)) if layer is None else layer
      merged[path] = _by_position(method, axes, layer_axis, each, *given)
  return trees.unflatten(merged)


def _by_position(
  method: MergeMethod,
  axes: Mapping[str, int],
  layer_axis: Mapping[str, int],
  layer: Array,
  plan: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """One leaf [S, ...], so that no more than one layer of K is gathered.

  Args:
    method: the merge method.
    axes: the positions' axis of each coefficient.
    layer_axis: the layers' axis of each fact.
    layer: the source layer at each position, [S], -1 for none.
    plan: coefficients of the leaf.
    facts: facts of the leaf.
    base: [L, ...].
    stack: [K, L, ...].
  """

  def merged(source: Array, coefficients: dict[str, Array]) -> Array:
    def of(array: Array, axis: int) -> Array:
      return jax.lax.dynamic_index_in_dim(array, source, axis, keepdims=False)

    own = {name: of(fact, layer_axis[name]) for name, fact in facts.items()}
    return method.merge(coefficients, own, of(base, 0), of(stack, 1))

  @_again
  def one(at: tuple[Array, dict[str, Array]]) -> Array:
    shape = jax.eval_shape(merged, *at)
    none = jnp.zeros(shape.shape, shape.dtype)
    return jax.lax.cond(at[0] >= 0, merged, lambda *_: none, *at)

  by_position = {
    name: jnp.moveaxis(value, axes[name], 0) for name, value in plan.items()
  }
  return jax.lax.map(one, (layer, by_position))


def _again(function: Callable[..., Array]) -> Callable[..., Array]:
  """Computed again for gradients: middle values of all branches are large."""
  return jax.checkpoint(function, prevent_cse=False)


def _pack_facts(
  family: Family,
  method: MergeMethod,
  computed: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, dict[str, Array]]:
  """Facts by stored name -> facts by leaf, layers behind the leading axes."""
  packed: dict[str, dict[str, Array]] = {}
  for path, rows in models.by_leaf(family.keys).items():
    packed[path] = {}
    for fact in method.facts:
      arrays = [
        computed[row.stored][fact.name].swapaxes(-1, -2)
        if row.transpose and fact.elementwise
        else computed[row.stored][fact.name]
        for row in rows
      ]
      packed[path][fact.name] = jnp.asarray(
        arrays[0]
        if rows[0].layer is None
        else np.stack(arrays, axis=fact.lead if fact.elementwise else 0)
      )
  return packed


def _to_device(params: Params) -> Params:
  return jax.tree.map(jnp.asarray, params)
