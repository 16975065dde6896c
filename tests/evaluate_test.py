"""Scoring a population in one call, and each merged model alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.io import safetensors
from automerge_jax.merging import registry, resident
from automerge_jax.models import registry as families
from automerge_jax.search import evaluate
from automerge_jax.spaces import cells, fusion
from automerge_jax.tasks import classification, experts, itemset
from automerge_jax.tasks.itemset import ItemSet
from tests import tiny_suite

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
  return ItemSet(TASKS, ids, tuple(tokens), task, label.astype(np.int32))


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


def _population(space, seed=0):
  x = np.random.default_rng(seed).uniform(size=(P, len(space.names)))
  return jax.vmap(space.quantise)(jnp.asarray(x, jnp.float32))


def _scorer(parts, rungs=1, batch_size=None):
  family, method, space, _, _ = parts
  return evaluate.population_scorer(
    family, method, space.decode, rungs, batch_size
  )


@pytest.mark.parametrize('batch_size', [None, 2])
def test_each_candidate_scores_like_its_merged_model_alone(parts, batch_size):
  family, method, space, stack, heads = parts
  items = _items(40, 0)
  data = evaluate.buckets(items, tokens_per_chunk=128)
  assert len(data) == 2 and data[0].task.shape[0] > 1
  c = _population(space)
  scores = _scorer(parts, 1, batch_size)(c, ACTIVE, stack, heads, data, 40)
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
  assert evaluate.failures(scores) == [
    None,
    'log-likelihood is not finite',
    None,
    None,
  ]


def test_scores_stand_at_their_items_however_they_are_chunked(parts):
  """One item at a time, in another order, gives each item the same score."""
  family, _, _, stack, heads = parts
  items = _items(12, 1)
  run = evaluate.scorer(family)
  params = stack.base
  want = run(params, heads, evaluate.buckets(items), 12)
  small = run(params, heads, evaluate.buckets(items, 64), 12)
  np.testing.assert_allclose(
    small.log_likelihood, want.log_likelihood, rtol=1e-5, atol=1e-5
  )
  order = np.random.default_rng(0).permutation(12)
  mixed = run(params, heads, evaluate.buckets(itemset.subset(items, order)), 12)
  np.testing.assert_allclose(
    mixed.log_likelihood, want.log_likelihood[order], rtol=1e-5, atol=1e-5
  )


def test_one_trace_a_rung_and_no_more(parts):
  _, _, space, stack, heads = parts
  run = _scorer(parts, rungs=2)
  rungs = [(evaluate.buckets(_items(n, n)), n) for n in (10, 24)]
  for seed in range(5):
    for data, n in rungs:
      for active in (ACTIVE, ~ACTIVE, jnp.zeros(P, bool)):
        run(_population(space, seed), active, stack, heads, data, n)
  assert run._cache_size() == 2
  other = evaluate.buckets(_items(17, 17))
  with pytest.raises(RuntimeError, match='2 item sets was traced 3 times'):
    run(_population(space), ACTIVE, stack, heads, other, 17)


def test_a_model_that_overflows_is_a_failure(parts):
  family, _, _, stack, heads = parts
  params = jax.tree.map(lambda leaf: leaf * 1e30, stack.base)
  data = evaluate.buckets(_items(6, 3))
  scores = evaluate.scorer(family)(params, heads, data, 6)
  (reason,) = evaluate.failures(jax.tree.map(lambda x: x[None], scores))
  assert reason == 'log-likelihood is not finite'
