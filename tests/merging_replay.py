"""Merges recorded with a peer, done again here and compared."""

import json

import jax
import numpy as np

from automerge_jax.merging import facts, registry, resident, streaming
from automerge_jax.merging.resolve import Resolved


def read(recorded, method):
  """`(case, base, experts, merged)` of each recorded case of a method."""
  for i, case in enumerate(json.loads(str(recorded['cases']))):
    if case['method'] == method:
      base = recorded[f'{case["tensor"]}/base']
      experts = recorded[f'{case["tensor"]}/experts']
      yield case, base, experts, recorded[f'merged/{i}']


def parameters(case):
  """Every parameter of the method, defaults included."""
  method = registry.get(case['method'])
  stated = {p.name: p.default for p in method.parameters} | case['parameters']
  return {name: np.float32(value) for name, value in stated.items()}


def by_tensor(case, base, experts):
  """Our merge as an export does it."""
  method = registry.get(case['method'])
  experts = list(experts[: method.sources[1]])
  names = tuple(f'expert{k}' for k in range(len(experts)))
  stated = {p.name: p.default for p in method.parameters} | case['parameters']
  resolved = Resolved(names, 'base', stated)
  return streaming.merge_tensor(method, resolved, base, experts)


def resident_rule(case, base, experts, jit=True):
  """Our merge as a search does it."""
  method = registry.get(case['method'])
  stack = resident.tensor_stack(
    method, base, list(experts[: method.sources[1]])
  )
  rule = jax.jit(method.merge) if jit else method.merge
  computed = facts.compute(method.facts, stack)
  arrays = jax.tree.map(jax.numpy.asarray, (parameters(case), computed))
  return np.asarray(rule(*arrays, jax.numpy.asarray(base), stack))


def on_grid(case):
  """Whether a search can express the case: densities in thousandths."""
  density = np.array(case['parameters'].get('density', 1.0))
  return np.array_equal(np.round(density, 3), density)


def has_free_order(case):
  """Whether mergekit's unstable sort decides which equal magnitudes stay."""
  partly = any(0 < d < 1 for d in case['parameters'].get('density', []))
  return case['tensor'] == 'tied' and partly


def largest_difference(recorded, method):
  """Worst |ours - theirs| relative to the tensor's largest entry.

  Also demands that both of our ways give the same bits. Where the order of
  equal magnitudes is free, sorted magnitudes are compared.
  """
  worst, count = (0.0, ''), 0
  for case, base, experts, theirs in read(recorded, method):
    ours = by_tensor(case, base, experts)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape, case
    if on_grid(case):
      same = resident_rule(case, base, experts)
      np.testing.assert_array_equal(same, ours, err_msg=str(case))
    assert np.isfinite(ours).all() and np.isfinite(theirs).all(), case
    if has_free_order(case):
      ours, theirs = (np.sort(np.abs(m), axis=None) for m in (ours, theirs))
    scale = max(np.abs(experts).max(), np.abs(base).max()) or 1.0
    worst = max(worst, (np.abs(ours - theirs).max() / scale, str(case)))
    count += 1
  return count, *worst
