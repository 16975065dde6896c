"""Layer programs against a plain loop over layers."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.models import base, program, registry
from automerge_jax.types import LayerProgram
from tests import recorded, tiny_decoder

CASES = (
  'llama2_biases',
  'qwen3',
  'gemma2',
  'vit',
  'dinov2',
  'clip_vision',
  'bert_masked',
  'gpt2_untied',
)
S = 5
# What a layer adds, before it is added: the last module of each branch.
BRANCHES = {
  'llama': ('attention/output', 'mlp/down'),
  'gemma2': ('attention_post_norm', 'mlp_post_norm'),
}
BRANCHES['qwen3'] = BRANCHES['llama']
BRANCHES['gemma3_text'] = BRANCHES['gemma2']
OTHERS = ('attention/output', 'mlp_output')


def _model(case):
  """Family, params and inputs of a recorded or drawn tiny model."""
  if case == 'own':
    inputs = {'ids': np.arange(24).reshape(3, 8) % tiny_decoder.VOCAB}
    inputs['mask'] = np.ones((3, 8), np.int32)
    family, params = tiny_decoder.model()
  else:
    inputs, stored = recorded.inputs(case), recorded.weights(case)
    family = registry.from_config(recorded.config(case), list(stored))
    params = base.pack(family.keys, stored)
  return family, jax.tree.map(jnp.asarray, params), inputs


def _programs(family, count, seed=0):
  """Random programs with repeats and skips, leaves [count, S]."""
  draw = np.random.default_rng(seed)
  shape = count, S
  active = draw.integers(0, 2, shape).astype(bool)
  active[:, draw.integers(S)] = True
  return LayerProgram(
    jnp.asarray(draw.integers(0, family.num_layers, shape), jnp.int32),
    jnp.asarray(draw.uniform(0.3, 1.6, shape), jnp.float32),
    jnp.asarray(active),
  )


def _one(programs, i):
  return LayerProgram(*(leaf[i] for leaf in programs))


def _run(family, params, inputs, steps):
  """Outputs by a program, from the parameters of the sources' layers."""
  layers = jax.tree.map(lambda leaf: leaf[steps.layer], params['layers'])
  folded = program.fold(family, dict(params, layers=layers), steps.scale)
  return base.forward(program.family(family, steps), folded, inputs)


def _scaling(family, scale):
  """Multiplies what comes out of the last module of each branch."""
  ends = BRANCHES.get(family.name, OTHERS)

  def call(method, arguments, keywords, context):
    y = method(*arguments, **keywords)
    whole = '/'.join(context.module.path)
    return (
      y * scale if whole in ends and context.method_name == '__call__' else y
    )

  return call


def _loop(family, params, inputs, steps):
  """The same, layer after layer."""
  carry = family.embed(params, inputs)
  for layer, scale, active in zip(*map(np.asarray, steps), strict=True):
    if not active:
      continue
    own, info = jax.tree.map(
      lambda leaf, i=layer: leaf[i], (params['layers'], family.layer_info)
    )
    with nn.intercept_methods(_scaling(family, scale)):
      carry = family.block(own, carry, info)
  return family.head(params, carry)


@pytest.mark.parametrize('case', CASES)
def test_programs_equal_a_plain_loop_in_one_trace(case):
  family, params, inputs = _model(case)
  count = 2
  programs = _programs(family, count)
  traces = []

  @jax.jit
  def run(params, inputs, steps):
    traces.append(steps)
    return _run(family, params, inputs, steps)

  found = [run(params, inputs, _one(programs, i)) for i in range(count)]
  for i, outputs in enumerate(found):
    want = _loop(family, params, inputs, _one(programs, i))
    np.testing.assert_allclose(outputs, want, rtol=1e-4, atol=2e-5)
  assert len({np.asarray(outputs).tobytes() for outputs in found}) == count
  # All layers in order, and nothing behind them: the ordinary forward pass.
  ordinary = LayerProgram(
    jnp.minimum(jnp.arange(S), family.num_layers - 1),
    jnp.ones(S),
    jnp.arange(S) < family.num_layers,
  )
  np.testing.assert_allclose(
    run(params, inputs, ordinary),
    jax.jit(lambda p, x: base.forward(family, p, x))(params, inputs),
    rtol=1e-6,
    atol=1e-6,
  )
  assert len(traces) == 1


@pytest.mark.parametrize('case', CASES)
def test_a_scale_of_one_changes_no_bit(case):
  family, params, _ = _model(case)
  folded = program.fold(family, params, jnp.ones(family.num_layers))
  chex.assert_trees_all_equal(folded, params)


@pytest.mark.parametrize('case', ['gemma2'])
def test_programs_side_by_side_equal_each_alone(case):
  family, params, inputs = _model(case)
  programs = _programs(family, 4, seed=1)
  run = jax.jit(lambda steps: _run(family, params, inputs, steps))
  found = jax.jit(jax.vmap(run))(programs)
  for i in range(4):
    np.testing.assert_allclose(
      found[i], run(_one(programs, i)), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
  ('case', 'side_by_side'),
  [('own', False), ('gpt2_untied', False), ('gemma3', True)],
)
def test_a_prompt_and_single_tokens_equal_the_whole_text(case, side_by_side):
  family, params, inputs = _model(case)
  tokens = inputs['ids'].shape[1]
  inputs = {name: jnp.asarray(inputs[name]) for name in ('ids', 'mask')}
  inputs['mask'] = jnp.ones_like(inputs['mask'])
  programs = _programs(family, 2, seed=2)

  half = tokens // 2

  def told(first, last):
    at = jnp.broadcast_to(jnp.arange(tokens)[None], inputs['ids'].shape)
    every = dict(inputs, positions=at, slot=at)
    return {name: leaf[:, first:last] for name, leaf in every.items()}

  @jax.jit
  def token_by_token(params, steps):
    layers = jax.tree.map(lambda leaf: leaf[steps.layer], params['layers'])
    folded = program.fold(family, dict(params, layers=layers), steps.scale)
    own = program.family(family, steps)
    memory = own.cache(folded, inputs, tokens)
    hidden, memory = base.extend(own, folded, told(0, half), memory)

    def feed(memory, new):
      hidden, memory = base.extend(
        own, folded, {name: leaf[:, None] for name, leaf in new.items()}, memory
      )
      return memory, hidden[:, 0]

    later = {n: leaf.swapaxes(0, 1) for n, leaf in told(half, tokens).items()}
    _, more = jax.lax.scan(feed, memory, later)
    return jnp.concatenate([hidden, more.swapaxes(0, 1)], axis=1)

  if side_by_side:
    found = jax.vmap(token_by_token, (None, 0))(params, programs)
  else:
    found = [token_by_token(params, _one(programs, i)) for i in range(2)]
  for i in range(2):
    want = _loop(family, params, inputs, _one(programs, i))
    np.testing.assert_allclose(found[i], want, rtol=1e-4, atol=3e-5)


@pytest.mark.parametrize('case', ['gpt2_tied', 't5_tied'])
def test_layers_that_cannot_be_restacked_are_refused(case):
  family, params, _ = _model(case)
  with pytest.raises(ValueError, match='cannot be restacked'):
    program.family(family, _one(_programs(family, 1), 0))
  with pytest.raises(ValueError, match='cannot be restacked'):
    program.fold(family, params, jnp.ones(family.num_layers))
