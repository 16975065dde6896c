"""Merging by position, and scoring candidates that are layer programs."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax import trees
from automerge_jax.merging import mixed, registry, resident
from automerge_jax.models import llama
from automerge_jax.models import program as programs
from automerge_jax.search import evaluate, gradient, sanity, shared
from automerge_jax.tasks import choice, generation, itemset, kinds
from automerge_jax.tasks.partition import Item
from automerge_jax.types import LayerProgram, SearchSpace
from tests import tiny_decoder, tiny_text

K, L, S = 2, 3, 4
METHODS = {
  'linear': registry.get('linear'),
  'task_arithmetic': registry.get('task_arithmetic'),
  'slerp': registry.get('slerp'),
  'ties_paper': registry.get('ties', 'paper'),
  'della_paper': registry.get('della', 'paper'),
  'sce': registry.get('sce'),
  'mixed': mixed.of(
    [registry.get(name) for name in ('linear', 'ties', 'passthrough')]
  ),
}


@pytest.fixture(scope='module')
def stored():
  family, _ = tiny_decoder.model()
  base = tiny_decoder.tensors()
  experts = []
  for seed in range(K):
    draw = np.random.default_rng(seed)
    experts.append(
      {
        name: value + draw.normal(0, 0.1, value.shape).astype(np.float32)
        for name, value in base.items()
      }
    )
  return family, base, experts


def _plan(method, stack, positions, seed=0):
  """Random coefficients, of layers by position."""
  draw = np.random.default_rng(seed)

  def value(p, lead):
    if p.name == mixed.METHOD:
      return draw.integers(0, 3, lead)
    if p.name.endswith(('first', 'second')):
      return np.full(lead, float(p.name.endswith('second')))
    if p.name.rpartition('/')[2] in ('weight', 'density', 'lambda', 't'):
      return draw.uniform(0.2, 0.8, lead)
    return np.full(lead, p.default)

  return {
    path: {
      p.name: jnp.asarray(
        value(
          p,
          (*(K,) * p.per_expert, *(positions,) * path.startswith('layers/')),
        ),
        jnp.float32,
      )
      for p in method.parameters
    }
    for path in trees.flatten(stack.base)
  }


def _merge(method):
  return jax.jit(
    lambda plan, stack, layer=None: resident.merge(method, plan, stack, layer)
  )


@pytest.mark.parametrize('name', sorted({*METHODS} - {'task_arithmetic'}))
def test_layers_one_by_one_are_those_side_by_side(stored, name):
  method = METHODS[name]
  stack = resident.build(method, *stored)
  plan = _plan(method, stack, L)
  run = _merge(method)
  want = run(plan, stack)
  chex.assert_trees_all_equal(run(plan, stack, jnp.arange(L)), want)
  layer = np.array([2, 0, -1, 2])
  moved = {
    path: {name: value[..., layer] for name, value in own.items()}
    if path.startswith('layers/')
    else own
    for path, own in plan.items()
  }
  found = run(moved, stack, jnp.asarray(layer))
  for path, leaf in trees.flatten(found).items():
    at_source = trees.flatten(want)[path]
    if path.startswith('layers/'):
      at_source = at_source[layer].at[2].set(0.0)
    np.testing.assert_array_equal(leaf, at_source, path)


def test_one_layer_has_other_coefficients_at_each_position(stored):
  method = METHODS['linear']
  stack = resident.build(method, *stored)
  plan = _plan(method, stack, 2)
  found = trees.flatten(_merge(method)(plan, stack, jnp.array([1, 1])))
  stacks = trees.flatten(stack.stack)
  for path, leaf in found.items():
    if path.startswith('layers/'):
      for s in range(2):
        weight = np.asarray(plan[path]['weight'][:, s])
        want = np.tensordot(
          weight / weight.sum(), np.asarray(stacks[path][:, 1]), 1
        )
        np.testing.assert_allclose(leaf[s], want, atol=1e-6)


@pytest.fixture(scope='module')
def items(stored, tmp_path_factory):
  folder = tiny_text.write(tmp_path_factory.mktemp('program') / 'base', True)
  tasks = (
    choice.Task('answer', 30),
    generation.Task('write', 30, 4, stop=('.',)),
  )
  words = ('the cat', 'sing', 'a hat on')
  told = {
    'answer': [
      Item(f'a{i}', f'{w}?', i % 2, (' yes', ' the cat'))
      for i, w in enumerate(words)
    ],
    'write': [
      Item(f'w{i}', f'{w}:', 0, (), ('yes',)) for i, w in enumerate(words)
    ],
  }
  return {
    chosen: itemset.build(
      [t for t in tasks if t.name in chosen],
      {name: told[name] for name in chosen},
      stored[0],
      folder,
    )
    for chosen in (('answer',), ('answer', 'write'))
  }


def _space(method, stack):
  """One weight, which also chooses the method, then S scales and S layers."""

  def decode(c):
    of = {'weight': c[0], mixed.METHOD: jnp.floor(4 * c[0])}
    return {
      path: {
        name: jnp.broadcast_to(
          of.get(name.rpartition('/')[2], value), value.shape
        )
        for name, value in own.items()
      }
      for path, own in _plan(method, stack, S).items()
    }

  def program(c):
    layer = jnp.round(c[1 + S :]).astype(jnp.int32)
    return LayerProgram(jnp.maximum(layer, 0), c[1 : 1 + S], layer >= 0)

  return SearchSpace(
    names=tuple(map(str, range(1 + 2 * S))),
    correlation=None,
    quantise=lambda x: x,
    encode=lambda c: c,
    decode=decode,
    describe=lambda c: None,
    program=program,
  )


CANDIDATES = np.array(
  [
    [0.4, 1, 1, 1, 1, 0, 1, 2, -1],
    [0.3, 0.7, 1.2, 0.5, 1, 2, 0, -1, 2],
    [0.6, 1.1, 0.9, 1, 0.8, -1, 1, 1, 0],
  ],
  np.float32,
)


@pytest.mark.parametrize(
  ('name', 'batch_size'), [('task_arithmetic', None), ('mixed', 2)]
)
def test_candidates_score_as_their_restacked_models_do(
  stored, items, name, batch_size
):
  family, base, experts = stored
  method = METHODS[name]
  stack = resident.build(method, family, base, experts)
  space = _space(method, stack)
  # Texts are generated one candidate at a time.
  items = items[('answer',) if batch_size else ('answer', 'write')]
  data = kinds.arrays(items)
  inputs = {'ids': jnp.ones((2, 5), jnp.int32), 'mask': jnp.ones((2, 5), int)}
  limits = sanity.Vitals(jnp.float32(1e6), jnp.float32(1e6))
  run = evaluate.population_scorer(
    family, method, space.decode, 1, batch_size, program=space.program
  )
  c = jnp.asarray(CANDIDATES)
  gate = sanity.Gate(inputs, limits)
  for order in (slice(None), slice(None, None, -1)):  # raises if traced again
    found, vitals = run(
      c[order], jnp.ones(3, bool), stack, {}, gate, data, len(items)
    )
  merge = _merge(method)
  # The same models as checkpoints have them: only their own layers, numbered.
  config = dict(tiny_decoder.CONFIG, num_hidden_layers=3)
  own = llama.family(llama.config_from_hf(config, ['model.norm.weight']))
  alone = evaluate.scorer(own)
  for i, one in enumerate(c[::-1]):
    steps = space.program(one)
    whole = merge(space.decode(one), stack, steps.layer)
    whole = programs.fold(family, whole, steps.scale)
    there = np.flatnonzero(steps.active)
    params = dict(
      whole, layers=jax.tree.map(lambda x, n=there: x[n], whole['layers'])
    )
    want = alone(params, {}, data, len(items))
    np.testing.assert_allclose(
      found.log_likelihood[i], want.log_likelihood, rtol=1e-5, atol=2e-5
    )
    chex.assert_trees_all_equal(
      jax.tree.map(lambda leaf, i=i: leaf[i], found.answer), want.answer
    )
    measured = sanity.vitals(own, params, inputs)
    np.testing.assert_allclose(vitals.rms[i], measured.rms, rtol=1e-5)
    np.testing.assert_allclose(vitals.nll[i], measured.nll, rtol=1e-5)


def test_a_switch_under_vmap_takes_one_branch(stored):
  """Its branches stay a conditional, and do not become a selection."""
  family, base, experts = stored
  method = METHODS['mixed']
  stack = resident.build(method, family, base, experts)
  space = _space(method, stack)

  def merged(c, stack, apart):
    model = shared.merged(
      family,
      method,
      space.decode(c),
      stack,
      'float32',
      space.program(c),
      apart=apart,
    )
    return model(None)[1]

  def conditionals(apart):
    run = jax.vmap(lambda c, stack: merged(c, stack, apart), (0, None))
    return str(jax.make_jaxpr(run)(jnp.asarray(CANDIDATES), stack)).count(
      ' cond['
    )

  assert conditionals(False) == 0
  assert conditionals(True) > 0


def test_the_ascent_follows_coefficients_and_leaves_scales(stored, items):
  family, base, experts = stored
  method = METHODS['task_arithmetic']
  stack = resident.build(method, family, base, experts)
  space = _space(method, stack)
  fixed = jnp.asarray(CANDIDATES[0])

  def of(x):  # a weight and S scales, about the first candidate
    return fixed.at[: 1 + S].set(0.5 + x)

  climbed = space._replace(
    names=('weight/all', *(f'scale/{i}' for i in range(S))),
    decode=lambda x: space.decode(of(x)),
    program=lambda x: space.program(of(x)),
  )
  climb = gradient.ascent(family, method, climbed, 'log_likelihood')
  batches = gradient.batches(items[('answer',)], 1)

  def step(state, i=0):
    given = jnp.int32(i), 0.05, state, stack, {}, batches, jnp.ones(1)
    return climb.step(*given)

  c = np.full(1 + S, 0.45, np.float32)
  moved = climb.c(step(climb.init(c))[0].x) - c
  far = np.eye(1 + S, dtype=np.float32)[0] * 0.02
  up, down = (float(step(climb.init(c + d))[1]) for d in (far, -far))
  # Adam's first step goes the whole rate up or down.
  np.testing.assert_allclose(moved[0], 0.05 * np.sign(up - down), atol=1e-3)
  assert (moved[1:] == 0).all()
  state, values = climb.init(c), []
  for i in range(6):
    state, objective = step(state, i)
    values.append(float(objective))
  assert values[-1] > values[0], values
