"""Soft objectives: slopes against finite differences, fallbacks, targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.merging import registry, resident
from automerge_jax.models import base as models
from automerge_jax.search import evaluate, soft
from automerge_jax.search import job as jobs
from automerge_jax.tasks import (
  choice,
  classification,
  generation,
  itemset,
  kinds,
  splits,
)
from automerge_jax.tasks.partition import Item
from automerge_jax.types import ItemScores
from tests import tiny_decoder, tiny_suite, tiny_text

LABEL = np.asarray([0, 2, 1, 0])
EXISTS = np.asarray([[1, 1, 1], [1, 1, 1], [1, 1, 0], [0, 0, 0]], bool)
TARGET = np.asarray(
  [[0.2, 0.5, 0.3, 0], [0, 0, 0, 0], [0.9, 0.1, 0, 0], [0, 0, 0, 0]]
)


def _scores(logits, text=-7.0):
  """Three items with answers, one without."""
  masked = jnp.where(EXISTS[:3], logits, -jnp.inf)
  choices = jax.nn.log_softmax(masked)
  right = jnp.take_along_axis(choices, LABEL[:3, None], 1)[:, 0]
  none = jnp.full((1, 3), -jnp.inf)
  return ItemScores(
    jnp.append(jnp.zeros(3), jnp.exp(text / 10)),
    jnp.append(right, text),
    choices=jnp.concatenate([choices, none]),
  )


def _expected(name, logits, text):
  """In numpy, item by item."""
  values = []
  for row, exists, label, target in zip(
    logits, EXISTS[:3], LABEL[:3], TARGET[:3], strict=True
  ):
    p = np.where(exists, np.exp(row), 0)
    p = p / p.sum()
    wrong = max(x for i, x in enumerate(p) if i != label and exists[i])
    values.append(
      {
        'log_likelihood': np.log(p[label]),
        'accuracy': p[label],
        'margin': np.tanh(np.log(p[label] / wrong) / 4),
        'experts': sum(
          t * np.log(q) for t, q in zip(target, p, strict=False) if t
        )
        if target.any()
        else np.log(p[label]),
      }[name]
    )
  return np.asarray(
    [*values, np.exp(text / 10) if name == 'accuracy' else text]
  )


@pytest.mark.parametrize('name', soft.OBJECTIVES)
def test_values_and_slopes(name):
  logits = np.random.default_rng(0).normal(size=(3, 3))
  logits[2, 2] = 50.0  # of an answer that the item lacks

  def value(logits, text):
    return soft.objective(
      name, _scores(logits, text), jnp.asarray(LABEL), jnp.asarray(TARGET)
    )

  found = value(jnp.float32(logits), -7.0)
  np.testing.assert_allclose(found, _expected(name, logits, -7.0), rtol=1e-4)
  weights = np.asarray([1.0, -2.0, 3.0, 0.5])
  slope, of_text = jax.grad(
    lambda *given: jnp.sum(jnp.float32(weights) * value(*given)), (0, 1)
  )(jnp.float32(logits), -7.0)
  for at in np.ndindex(3, 3):
    step = np.zeros((3, 3))
    step[at] = 1e-5
    change = _expected(name, logits + step, -7.0)
    change -= _expected(name, logits - step, -7.0)
    np.testing.assert_allclose(
      slope[at], weights @ change / 2e-5, rtol=1e-3, atol=1e-5
    )
  change = _expected(name, logits, -6.99) - _expected(name, logits, -7.01)
  np.testing.assert_allclose(of_text, weights @ change / 0.02, rtol=1e-3)


def test_no_item_dominates_a_margin():
  logits = jnp.asarray([[900.0, 0, 0], [900.0, 0, 0], [-900.0, 900, 0]])
  found = soft.objective('margin', _scores(logits), jnp.asarray(LABEL))
  assert bool((jnp.abs(found[:3]) <= 1).all())


def test_what_is_wrong_is_named():
  scores = _scores(jnp.zeros((3, 3)))
  with pytest.raises(ValueError, match="objective is 'loss'; expected one of"):
    soft.objective('loss', scores, jnp.asarray(LABEL))
  with pytest.raises(ValueError, match='needs targets'):
    soft.objective('experts', scores, jnp.asarray(LABEL))


def test_choices_are_those_that_are_scored():
  """Classes that another task has are no answers of this one."""
  rng = np.random.default_rng(0)
  heads = classification.stack_heads(
    [(rng.normal(size=(8, c)).astype('f4'), np.zeros(c, 'f4')) for c in (2, 3)]
  )
  hidden = jnp.asarray(rng.normal(size=(4, 1, 8)), jnp.float32)
  (bucket,) = classification.bucket([(1,)] * 4, [0, 1, 0, 1], [0, 2, 1, 1])
  items = jax.tree.map(lambda leaf: leaf[0], bucket)
  found = classification.score(heads, hidden, items)
  assert (np.isfinite(found.choices).sum(1) == [2, 3, 2, 3]).all()
  right = found.choices[np.arange(4), items.label]
  np.testing.assert_array_equal(right, found.log_likelihood)
  np.testing.assert_allclose(np.exp(found.choices).sum(1), 1, rtol=1e-5)


def test_texts_have_no_choices_and_nothing_is_returned_unasked(tmp_path):
  folder = tiny_text.write(tmp_path / 'base', True)
  family, _ = tiny_decoder.model()
  params = models.pack(family.keys, tiny_decoder.tensors())
  tasks = (
    choice.Task('answer', 30),
    generation.Task('write', 30, 4, stop=('.',)),
  )
  found = {
    'answer': [
      Item('a', 'the cat?', 1, (' yes', ' the cat')),
      Item('b', 'sing?', 2, (' a hat', ' no', ' yes')),
    ],
    'write': [Item('w', 'the cat:', 0, (), ('yes',))],
  }
  items = itemset.build(tasks, found, family, folder)
  data = kinds.minibatches(items, 1)

  @jax.jit
  def run(params, data):
    one = jax.tree.map(lambda leaf: leaf[0], data)
    return [kinds.scores(family, params, {}, part, True) for part in one]

  (asked, slots), (written, _) = run(params, data)
  np.testing.assert_array_equal(slots, [0, 1])
  assert (np.isfinite(asked.choices).sum(1) == [2, 3]).all()
  np.testing.assert_array_equal(
    asked.choices[[0, 1], [1, 2]], asked.log_likelihood
  )
  assert not np.isfinite(written.choices).any()
  for name in soft.OBJECTIVES:
    value = soft.objective(name, written, jnp.zeros(1, int), jnp.zeros((1, 3)))
    want = written.log_likelihood
    want = jnp.exp(want) if name == 'accuracy' else want
    np.testing.assert_allclose(value, want, rtol=1e-5)
  shape = jax.eval_shape(
    lambda p, one: kinds.scores(family, p, {}, one)[0],
    params,
    jax.tree.map(lambda leaf: leaf[0], data[0]),
  )
  assert shape.choices is None


@pytest.fixture(scope='module')
def suite(tiny):
  job = jobs.load(tiny_suite.settings(tiny))
  items = job.items({t: splits.search_items(t, 12) for t in tiny_suite.TASKS})
  return job, tiny_suite.of_one_length(items)


@pytest.mark.parametrize('name', ['linear', 'task_arithmetic'])
def test_targets_are_what_the_experts_say(suite, name):
  """Weights and task vectors alike; a task without an expert has none."""
  job, items = suite
  method = registry.get(name)
  experts = [job.tensors(task) for task in tiny_suite.TASKS]
  stack = resident.build(method, job.family, job.tensors('base'), experts)
  own = [2, None, 0]
  found = soft.targets(job.family, method, stack, job.heads, items, own)
  assert found.shape == (37, 3)
  told = soft.has_target(items, own)
  np.testing.assert_array_equal(told, items.task != 1)
  np.testing.assert_array_equal(found.sum(1) > 0, np.append(told, False))
  np.testing.assert_allclose(found[:-1][told].sum(1), 1, rtol=1e-5)
  run = evaluate.scorer(job.family)
  for task, expert in ((0, 2), (2, 0)):
    params = models.pack(job.family.keys, experts[expert])
    scores = run(params, job.heads, kinds.arrays(items), len(items))
    mine = np.flatnonzero(items.task == task)
    np.testing.assert_allclose(
      found[mine, items.label[mine]],
      np.exp(scores.log_likelihood)[mine],
      rtol=1e-3,
    )
