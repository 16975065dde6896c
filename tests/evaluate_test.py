"""Scoring a population in one call, and each merged model alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.io import safetensors
from automerge_jax.merging import registry, resident
from automerge_jax.models import registry as families
from automerge_jax.search import evaluate, sanity
from automerge_jax.spaces import cells, fusion
from automerge_jax.tasks import classification, experts, itemset, kinds
from tests import tiny_items, tiny_suite

TASKS = tiny_suite.TASKS
P = 4
ACTIVE = jnp.asarray([True, False, True, True])


def _items(n, seed):
  """Items of two length buckets, tasks mixed."""
  rng = np.random.default_rng(seed)
  tokens = [tuple(rng.integers(2, 30, rng.integers(3, 30))) for _ in range(n)]
  task = rng.integers(0, len(TASKS), n).astype(np.int32)
  label = np.asarray(
    [rng.integers(len(tiny_suite.CUES[TASKS[t]])) for t in task]
  )
  ids = tuple(f'{seed}-{i}' for i in range(n))
  return tiny_items.classified(TASKS, ids, tokens, task, label)


@pytest.fixture(scope='module')
def parts(tiny):
  """Family, method, space, stack, heads."""
  family = families.load(tiny / 'base').family
  method = registry.get('task_arithmetic')
  space = fusion.space(method, cells.layered(family), TASKS, 'base')
  folders = [tiny / 'experts' / task for task in TASKS]
  stack = resident.build(
    method,
    family,
    safetensors.read(tiny / 'base'),
    [safetensors.read(folder) for folder in folders],
  )
  found = [experts.read_head(folder) for folder in folders]
  heads = classification.stack_heads([(h.kernel, h.bias) for h in found])
  return family, method, space, stack, jax.tree.map(jnp.asarray, heads)


@pytest.fixture(scope='module')
def gate(tiny, parts):
  family, _, _, stack, _ = parts
  inputs = sanity.lines(tiny / 'base', family)
  parents = [
    sanity.vitals(family, jax.tree.map(np.add, stack.base, delta), inputs)
    for delta in (
      jax.tree.map(lambda leaf, k=k: leaf[k], stack.stack)
      for k in range(len(TASKS))
    )
  ]
  return sanity.Gate(inputs, sanity.limits(parents))


def _population(space, seed=0):
  x = np.random.default_rng(seed).uniform(size=(P, len(space.names)))
  return jax.vmap(space.quantise)(jnp.asarray(x, jnp.float32))


def _scorer(parts, rungs=1, batch_size=None):
  family, method, space, _, _ = parts
  return evaluate.population_scorer(
    family, method, space.decode, rungs, batch_size
  )


@pytest.mark.parametrize('batch_size', [None, 2])
def test_each_candidate_scores_like_its_merged_model_alone(
  parts, gate, batch_size
):
  family, method, space, stack, heads = parts
  items = _items(40, 0)
  data = kinds.arrays(items, tokens_per_chunk=128)
  assert len(data) == 4 and data[-1].task.shape[0] > 1
  c = _population(space)
  scores, _ = _scorer(parts, 1, batch_size)(
    c, ACTIVE, stack, heads, gate, data, 40
  )
  assert scores.score.shape == scores.log_likelihood.shape == (P, 40)
  alone = evaluate.scorer(family)
  merge = jax.jit(lambda plan, stack: resident.merge(method, plan, stack))
  for i in range(P):
    if not ACTIVE[i]:
      assert np.isnan(scores.log_likelihood[i]).all()
      assert np.isnan(scores.score[i]).all()
      continue
    want = alone(merge(space.decode(c[i]), stack), heads, data, 40)
    np.testing.assert_allclose(
      scores.log_likelihood[i], want.log_likelihood, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_array_equal(scores.score[i], want.score)
  live = np.asarray(scores.log_likelihood)[np.asarray(ACTIVE)]
  assert (live < 0).all() and len({row.tobytes() for row in live}) == 3


def test_scores_stand_at_their_items_however_they_are_chunked(parts):
  """One item at a time, in another order, gives each item the same score."""
  family, _, _, stack, heads = parts
  items = _items(12, 1)
  run = evaluate.scorer(family)
  params = stack.base
  want = run(params, heads, kinds.arrays(items), 12)
  small = run(params, heads, kinds.arrays(items, 64), 12)
  np.testing.assert_allclose(
    small.log_likelihood, want.log_likelihood, rtol=1e-5, atol=1e-5
  )
  order = np.random.default_rng(0).permutation(12)
  mixed = run(params, heads, kinds.arrays(itemset.subset(items, order)), 12)
  np.testing.assert_allclose(
    mixed.log_likelihood, want.log_likelihood[order], rtol=1e-5, atol=1e-5
  )


def test_one_trace_a_rung_and_no_more(parts, gate):
  _, _, space, stack, heads = parts
  run = _scorer(parts, rungs=2)
  rungs = [(kinds.arrays(_items(n, n)), n) for n in (10, 24)]
  for seed in range(5):
    for data, n in rungs:
      for active in (ACTIVE, ~ACTIVE, jnp.zeros(P, bool)):
        run(_population(space, seed), active, stack, heads, gate, data, n)
  assert run._cache_size() == 2
  other = kinds.arrays(_items(17, 17))
  with pytest.raises(RuntimeError, match='2 item sets was traced 3 times'):
    run(_population(space), ACTIVE, stack, heads, gate, other, 17)


def test_a_model_that_overflows_is_a_failure(parts):
  family, _, _, stack, heads = parts
  params = jax.tree.map(lambda leaf: leaf * 1e30, stack.base)
  items = _items(6, 3)
  scores = evaluate.scorer(family)(params, heads, kinds.arrays(items), 6)
  found = evaluate.finish(items, jax.device_get(scores))
  assert found.failure == 'log-likelihood is not finite'
  assert found.score is None


def test_what_does_not_pass_the_gate_is_not_scored(parts, gate):
  """A stricter gate stops the candidates whose hidden states are largest."""
  _, _, space, stack, heads = parts
  data, c = kinds.arrays(_items(6, 3)), _population(space)
  scores, vitals = _scorer(parts)(c, ACTIVE, stack, heads, gate, data, 6)
  rms = np.asarray(vitals.rms)
  limit = np.sort(rms[np.asarray(ACTIVE)])[1]
  strict = gate._replace(limits=gate.limits._replace(rms=jnp.float32(limit)))
  again, _ = _scorer(parts)(c, ACTIVE, stack, heads, strict, data, 6)
  kept = np.isfinite(np.asarray(again.score)).all(-1)
  assert kept.tolist() == (np.asarray(ACTIVE) & (rms <= limit)).tolist()
  np.testing.assert_array_equal(again.score[kept], scores.score[kept])


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16'])
def test_half_precision_stays_near(parts, dtype):
  family, _, _, stack, heads = parts
  items = _items(40, 5)
  data = kinds.arrays(items)
  exact = evaluate.scorer(family)(stack.base, heads, data, 40)
  half = evaluate.scorer(family, dtype)(stack.base, heads, data, 40)
  far = np.abs(np.asarray(half.log_likelihood - exact.log_likelihood))
  assert 0 < far.max() < {'bfloat16': 0.3, 'float16': 0.05}[dtype]
