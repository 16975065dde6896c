"""Merges recorded with a peer, done again here and compared."""

import json
from typing import NamedTuple

import jax
import numpy as np

from automerge_jax.merging import chunks, facts, registry, resident
from automerge_jax.types import Stored

# Methods of the second recording, and how many cases each has at least.
FURTHER = {
  'arcee_fusion': 5,
  'breadcrumbs': 140,
  'breadcrumbs_ties': 140,
  'dare_linear': 70,
  'dare_ties': 70,
  'della': 70,
  'della_linear': 70,
  'karcher': 80,
  'model_stock': 60,
  'multislerp': 190,
  'nearswap': 90,
  'nuslerp': 300,
  'passthrough': 60,
  'ram': 90,
  'ramplus_tl': 180,
  'sce': 190,
  'task_arithmetic': 30,
  'ties': 30,
}


class Keeping(NamedTuple):
  """How often entries of a delta are kept, and its L1 norm in each merge."""

  density: float
  epsilon: float | None
  repeats: int
  delta: np.ndarray
  ours: np.ndarray
  theirs: np.ndarray
  l1: float
  ours_l1: np.ndarray
  theirs_l1: np.ndarray


def keeping(recorded, i):
  """Frequencies of one recorded random mask and of ours, over as many seeds."""
  method, density, epsilon = json.loads(str(recorded['kept']))[i]
  base = recorded[f'kept/{i}/base']
  expert = recorded[f'kept/{i}/expert']
  theirs_l1 = recorded[f'kept/{i}/l1']
  stated = {'weight': (1.0,), 'density': (density,), 'normalize': False}
  if epsilon is not None:
    stated['epsilon'] = (epsilon,)
  case = {'method': method, 'parameters': stated}
  merged = np.stack(
    [
      by_tensor(case, base, expert[None], seed) - base
      for seed in range(len(theirs_l1))
    ]
  )
  return Keeping(
    density,
    epsilon,
    len(theirs_l1),
    expert - base,
    (merged != 0).mean(axis=0),
    recorded[f'kept/{i}/count'] / len(theirs_l1),
    np.abs(expert - base).sum(),
    np.abs(merged).sum(axis=(1, 2)),
    theirs_l1,
  )


def read(recorded, method, refused=False):
  """`(case, base, experts, merged)` of each recorded case of a method.

  The base is None where the peer had none. Cases that the peer refused come
  with `refused`, without a result.
  """
  left_out, start = json.loads(str(recorded['refused'])), 0
  for i, case in enumerate(json.loads(str(recorded['cases']))):
    base = recorded[f'{case["tensor"]}/base']
    stop = start if i in left_out else start + base.size
    merged = recorded['merged'][start:stop]
    start = stop
    if case['method'] == method and (i in left_out) == refused:
      experts = recorded[f'{case["tensor"]}/experts'][: case.get('count')]
      used = base if case.get('based', True) else None
      yield (
        case,
        used,
        experts,
        merged if refused else merged.reshape(base.shape),
      )


def semantics(case):
  """Whose definition a case follows."""
  return case.get('semantics', 'mergekit-0.1.5')


def parameters(case, count):
  """Every parameter of the method, defaults included."""
  return {
    name: np.float32(value) for name, value in _stated(case, count).items()
  }


def _stated(case, count):
  method = registry.get(case['method'], semantics(case))
  defaults = {
    p.name: (p.default,) * count if p.per_expert else p.default
    for p in method.parameters
  }
  return defaults | case['parameters']


def by_tensor(case, base, experts, seed=0, name=''):
  """Our merge as an export does it."""
  method = registry.get(case['method'], semantics(case))
  experts = list(experts[: method.sources[1]])
  stated = _stated(case, len(experts))
  return chunks.merge_tensor(method, stated, base, experts, name, seed)


def resident_rule(case, base, experts, jit=True, seed=0, name=''):
  """Our merge as a search does it."""
  method = registry.get(case['method'], semantics(case))
  stack = resident.tensor_stack(
    method, base, list(experts[: method.sources[1]])
  )
  rule = jax.jit(method.merge) if jit else method.merge
  fixed = facts.settings(method, case['parameters'], len(stack))
  base = np.zeros_like(stack[0]) if base is None else base
  computed = facts.compute(method, Stored(name, base, stack, fixed, seed))
  arrays = jax.tree.map(
    jax.numpy.asarray, (parameters(case, len(stack)), computed)
  )
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
    scale = np.abs(experts).max()
    if base is not None:
      scale = max(scale, np.abs(base).max())
    worst = max(worst, (np.abs(ours - theirs).max() / (scale or 1), str(case)))
    count += 1
  return count, *worst
