"""Layers that all models share are computed once, and nothing changes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.merging import calibration, registry, resident
from automerge_jax.search import evaluate, gradient, lower, sanity, shared
from automerge_jax.spaces import cells, fusion
from automerge_jax.statistics import examples
from automerge_jax.tasks import choice, generation, itemset
from automerge_jax.tasks.partition import Item
from tests import tiny_decoder, tiny_text

EXPERTS = ('one', 'two')


@pytest.fixture(scope='module')
def parts(tmp_path_factory):
  """Experts that differ from the base from the second layer on."""
  folder = tiny_text.write(tmp_path_factory.mktemp('shared') / 'base', True)
  family, _ = tiny_decoder.model()
  base = tiny_decoder.tensors()
  experts = []
  for seed in range(2):
    rng = np.random.default_rng(seed)
    experts.append(
      {
        name: value + rng.normal(0, 0.1, value.shape).astype(np.float32)
        if 'layers.1.' in name or 'layers.2.' in name
        else value
        for name, value in base.items()
      }
    )
  tasks = (
    choice.Task('answer', 30),
    generation.Task('write', 30, 4, stop=('.',)),
  )
  words = ('the cat', 'sing', 'a hat on', 'yes', 'no. is it there')
  items = {
    'answer': [
      Item(f'a{i}', f'{w}?', i % 2, (' yes', ' the cat'))
      for i, w in enumerate(words)
    ],
    'write': [
      Item(f'w{i}', f'{w}:', 0, (), ('yes',)) for i, w in enumerate(words)
    ],
  }
  return family, base, experts, itemset.build(tasks, items, family, folder)


def test_the_shared_layers_are_found(parts):
  family, base, experts, _ = parts
  assert lower.depth(family, base, experts) == 1
  assert lower.depth(family, base, [base, base]) == 0
  other = dict(base)
  other['model.embed_tokens.weight'] = base['model.embed_tokens.weight'] + 1
  assert lower.depth(family, base, [base, other]) == 0


@pytest.mark.parametrize('name', ['task_arithmetic', 'ties', 'linear'])
def test_candidates_score_as_whole_models_do(parts, name):
  family, base, experts, items = parts
  method = registry.get(name)
  space = fusion.space(method, cells.layered(family), EXPERTS, 'base')
  stack = shared.build(method, family, base, experts)
  assert stack.below is not None
  assert jax.tree.leaves(stack.stack['layers'])[0].shape[:2] == (2, 2)
  x = np.random.default_rng(3).uniform(size=(2, len(space.names)))
  c = jax.vmap(space.quantise)(jnp.asarray(x, jnp.float32))
  data = evaluate.kinds.arrays(items)
  kept = lower.carried(family, stack, data, 'float32')
  inputs = {'ids': jnp.ones((2, 5), jnp.int32), 'mask': jnp.ones((2, 5), int)}
  limits = sanity.Vitals(jnp.float32(1e6), jnp.float32(1e6))
  gate = sanity.Gate(lower.carried(family, stack, inputs, 'float32'), limits)
  assert 'carry' in gate.inputs and 'carry' in kept[0].packed.inputs
  run = evaluate.population_scorer(family, method, space.decode, 1)
  found, vitals = run(c, jnp.ones(2, bool), stack, {}, gate, kept, len(items))
  alone = evaluate.scorer(family)
  whole = resident.build(method, family, base, experts)
  for i in range(2):
    params = resident.merge(method, space.decode(c[i]), whole)
    want = alone(params, {}, data, len(items))
    np.testing.assert_allclose(
      found.log_likelihood[i], want.log_likelihood, atol=2e-5
    )
    np.testing.assert_array_equal(found.answer[i], want.answer)
    measured = sanity.vitals(family, params, inputs)
    np.testing.assert_allclose(vitals.rms[i], measured.rms, rtol=1e-5)
    np.testing.assert_allclose(vitals.nll[i], measured.nll, rtol=1e-5)


def test_gradients_are_those_of_whole_models(parts):
  family, base, experts, items = parts
  method = registry.get('task_arithmetic')
  space = fusion.space(method, cells.layered(family), EXPERTS, 'base')
  batches = gradient.batches(items, 2)
  rise = gradient.ascent(family, method, space, 'log_likelihood', item_sets=2)
  weights = np.full(2, 0.5, np.float32)
  values = []
  for build in (resident.build, shared.build):
    stack = build(method, family, base, experts)
    state = rise.init(space.quantise(jnp.full(len(space.names), 0.4)))
    data = batches._replace(
      data=lower.carried(family, stack, batches.data, 'float32')
    )
    for i in range(3):
      state, value = rise.step(
        i, np.float32(0.05), state, stack, {}, data, weights
      )
    values.append((float(value), np.asarray(state.x)))
  np.testing.assert_allclose(values[0][0], values[1][0], rtol=1e-5)
  moved = np.asarray(
    [not n.endswith('stem') and '/0/' not in n for n in space.names]
  )
  np.testing.assert_allclose(
    values[0][1][moved], values[1][1][moved], atol=1e-3
  )


def test_what_would_not_fit_is_not_kept(parts, monkeypatch):
  family, base, experts, items = parts
  stack = shared.build(registry.get('linear'), family, base, experts)
  monkeypatch.setattr(lower, 'MOST', 10)
  data = evaluate.kinds.arrays(items)
  kept = lower.carried(family, stack, data, 'float32')
  assert 'carry' not in kept[0].packed.inputs


@pytest.mark.parametrize('static', [False, True])
def test_information_is_that_of_whole_models(parts, static):
  family, base, experts, items = parts
  method = registry.get('df_merge')
  space = fusion.space(method, cells.layered(family), EXPERTS, 'base')
  answers = itemset.subset(items, np.flatnonzero(items.task == 0))
  answers = dataclasses.replace(
    answers, tasks=('answer',), definitions=items.definitions[:1]
  )
  given = calibration.Calibration(
    examples=examples.build(answers),
    heads={},
    task=jnp.zeros(2, jnp.int32),
    key=jax.random.key(0),
    estimate='exact',
    normalisation='none',
  )
  stack = shared.build(method, family, base, experts, given, static)
  assert stack.below is not None
  plain = dataclasses.replace(method, facts=(), statistics=())
  whole = dataclasses.replace(
    resident.build(plain, family, base, experts), calibration=given
  )
  if static:
    whole = calibration.of_experts(family, whole)
  c = space.quantise(jnp.linspace(0.1, 0.9, len(space.names)))

  @jax.jit
  def merged(stack):
    made = shared.merged(family, method, space.decode(c), stack, 'float32')
    return made({})[1]

  have, want = merged(stack), merged(whole)
  # Shared layers are the base's, whatever information weights them with.
  for name in ('layers', 'final'):
    for a, b in zip(
      *map(jax.tree.leaves, (have[name], want[name])), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
