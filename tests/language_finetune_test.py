"""Fine-tuning of upper layers on a small random Llama: exact, resumable."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax import trees
from automerge_jax.io import checkpoints, orbax
from automerge_jax.models import adapted, base, registry
from automerge_jax.tasks import (
  adapters,
  classification,
  language_finetune,
)
from automerge_jax.tasks.language_finetune import Example, Options
from tests import tiny_language

LENGTHS = (12,)
OPTIONS = Options(
  epochs=2,
  batch_size=8,
  learning_rate=1e-2,
  weight_decay=0.0,
  lengths=LENGTHS,
  checkpoint_every=2,
  rank=3,
  alpha=6.0,
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tiny_language.write(tmp_path_factory.mktemp('language') / 'base')


@pytest.fixture(scope='module')
def model(folder):
  family, params = registry.load(folder)
  return family, jax.tree.map(jnp.asarray, params)


@pytest.fixture(scope='module')
def examples():
  """The answer is the prompt's first token, then one that ends it."""
  rng = np.random.default_rng(0)
  made = []
  for _ in range(44):
    prompt = rng.integers(3, 99, rng.integers(2, 10)).tolist()
    answer = [3 + prompt[0] % 2, *([2] * (prompt[0] % 3))]
    made.append(Example((*prompt, *answer), len(prompt)))
  return made


def _random_adapter(params, rank=3, scale=0.1):
  layers = jax.tree.map(lambda leaf: leaf[1:], params['layers'])
  adapter = adapted.init_adapter(layers, rank, seed=1)
  rng = np.random.default_rng(2)
  return jax.tree.map(
    lambda leaf: rng.normal(scale=scale, size=leaf.shape).astype(np.float32),
    adapter,
  )


def _whole_loss(family, params, examples):
  """Through the whole model, all answers' tokens, by log-softmax over all."""
  rows = [example.ids for example in examples]
  inputs = classification.pad(rows, max(map(len, rows)))
  hidden = base.forward(family, params, inputs)
  log_p = jax.nn.log_softmax(family.logits(params, hidden))
  told = [
    (row, place - 1, ids[place])
    for row, (ids, start) in enumerate(examples)
    for place in range(start, len(ids))
  ]
  return -log_p[tuple(np.array(told).T)].mean()


def _split_loss(family, base_params, trained, examples, options=OPTIONS):
  hidden = language_finetune.hidden_states(
    family, base_params, examples, 1, LENGTHS
  )
  batch = language_finetune.batch(
    examples, hidden, np.arange(len(examples)), LENGTHS[-1], 3
  )
  upper = dict(
    base_params,
    layers=jax.tree.map(lambda leaf: leaf[1:], base_params['layers']),
  )
  adapter = trained
  if not options.rank:
    upper, adapter = dict(upper, layers=trained), None
  outputs = adapted.upper(
    family, upper, batch.inputs, batch.hidden, 1, adapter, options.scale
  )
  return language_finetune.loss(family, upper, outputs, batch)


def _with_layers(params, upper):
  layers = jax.tree.map(
    lambda leaf, high: jnp.concatenate([leaf[:1], high]),
    params['layers'],
    upper,
  )
  return dict(params, layers=layers)


@pytest.mark.parametrize('rank', [0, 3])
def test_loss_and_gradient_are_those_of_the_whole_model(model, examples, rank):
  family, params = model
  options = dataclasses.replace(OPTIONS, rank=rank)
  upper = jax.tree.map(lambda leaf: leaf[1:], params['layers'])
  some = examples[:6]
  trained = _random_adapter(params) if rank else upper

  def whole(trained):
    layers = trained
    if rank:
      layers = adapted.merged(upper, trained, options.scale)
    return _whole_loss(family, _with_layers(params, layers), some)

  def split(trained):
    return _split_loss(family, params, trained, some, options)

  want, want_grad = jax.jit(jax.value_and_grad(whole))(trained)
  have, have_grad = jax.value_and_grad(split)(trained)
  np.testing.assert_allclose(have, want, rtol=1e-5)
  for name, leaf in trees.flatten(want_grad).items():
    size = np.abs(leaf).max()
    assert size > 0
    np.testing.assert_allclose(
      trees.flatten(have_grad)[name], leaf, atol=2e-5 * size, err_msg=name
    )


def test_an_adapter_begins_as_the_base(model, examples):
  family, params = model
  layers = jax.tree.map(lambda leaf: leaf[1:], params['layers'])
  adapter = adapted.init_adapter(layers, 3, seed=0)
  assert len(adapter) == 7  # all linear layers
  assert all(np.abs(pair['a']).max() > 0 for pair in adapter.values())
  np.testing.assert_allclose(
    _split_loss(family, params, adapter, examples),
    _whole_loss(family, params, examples),
    rtol=1e-5,
  )
  merged = adapted.merged(layers, adapter, 2.0)
  jax.tree.map(np.testing.assert_array_equal, merged, layers)


def test_padding_changes_nothing(model, examples):
  family, params = model
  hidden = language_finetune.hidden_states(family, params, examples, 1, LENGTHS)

  def loss(slots, length):
    batch = language_finetune.batch(
      examples, hidden, np.array(slots), length, 3
    )
    upper = jax.tree.map(lambda leaf: leaf[1:], params['layers'])
    outputs = adapted.upper(
      family, dict(params, layers=upper), batch.inputs, batch.hidden, 1
    )
    return language_finetune.loss(family, params, outputs, batch)

  np.testing.assert_allclose(
    loss([3, -1, 5, -1], 12), loss([3, 5], 16), rtol=1e-5
  )


@pytest.mark.parametrize('rank', [0, 3])
def test_training_fits_and_leaves_the_rest_alone(model, examples, rank):
  family, params = model
  options = dataclasses.replace(OPTIONS, rank=rank, epochs=12)
  trained = language_finetune.train(family, params, examples, options)
  before = _whole_loss(family, params, examples)
  after = _split_loss(family, params, trained, examples, options)
  assert after < 0.5 * before


def test_an_adapter_depends_on_the_seed_alone(model):
  layers = model[1]['layers']
  draws = [adapted.init_adapter(layers, 2, seed) for seed in (0, 0, 1)]
  one, same, other = (draw['mlp/up']['a'] for draw in draws)
  np.testing.assert_array_equal(one, same)
  assert not np.array_equal(one, other)


def test_one_step_is_adamw(model, examples):
  """A step by hand: the gradient of the batch, clipped, and decayed kernels."""
  family, params = model
  options = dataclasses.replace(
    OPTIONS, epochs=1, batch_size=8, rank=0, weight_decay=0.1, warmup=0.0
  )
  some = examples[:8]
  upper = jax.tree.map(lambda leaf: leaf[1:], params['layers'])
  grad = jax.jit(
    jax.grad(
      lambda layers: _whole_loss(family, _with_layers(params, layers), some)
    )
  )(upper)
  norm = sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(grad)) ** 0.5
  trained = language_finetune.train(family, params, some, options)
  for name, leaf in trees.flatten(upper).items():
    g = trees.flatten(grad)[name] / max(float(norm), 1.0)
    decay = 0.1 * leaf if name.endswith('kernel') else 0.0
    want = leaf - 1e-2 * (g / (jnp.abs(g) + 1e-8) + decay)
    have = trees.flatten(trained)[name]
    sure = np.abs(g) > 1e-4  # elsewhere the sign hangs on rounding
    np.testing.assert_allclose(have[sure], want[sure], atol=2e-5, err_msg=name)


def test_a_killed_run_continues_to_the_same_end(
  model, examples, tmp_path, monkeypatch
):
  family, params = model
  whole = language_finetune.train(family, params, examples, OPTIONS)
  save = orbax.save_step

  def save_then_die(folder, step, state):
    save(folder, step, state)
    if step == 6:
      raise KeyboardInterrupt

  monkeypatch.setattr(orbax, 'save_step', save_then_die)
  with pytest.raises(KeyboardInterrupt):
    language_finetune.train(
      family, params, examples, OPTIONS, checkpoints=tmp_path / 'c'
    )
  steps = []
  monkeypatch.setattr(
    orbax, 'save_step', lambda folder, step, state: steps.append(step)
  )
  resumed = language_finetune.train(
    family, params, examples, OPTIONS, checkpoints=tmp_path / 'c'
  )
  assert steps == [8, 10]  # it did not start again
  jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_adapter_folder_is_the_merged_weights(model, folder, tmp_path):
  family, params = model
  adapter = _random_adapter(params)
  half = jax.tree.map(
    lambda leaf: leaf.astype(np.float16).astype(np.float32), adapter
  )
  out = tmp_path / 'adapter'
  adapters.write_adapter(out, family, adapter, OPTIONS)
  with checkpoints.open_checkpoint(f'{folder}+{out}') as opened:
    have = base.pack(
      family.keys, {name: opened.get(name) for name in opened.names()}
    )
  layers = jax.tree.map(lambda leaf: leaf[1:], params['layers'])
  want = _with_layers(params, adapted.merged(layers, half, OPTIONS.scale))
  for name, leaf in trees.flatten(want).items():
    np.testing.assert_allclose(
      trees.flatten(have)[name], leaf, atol=1e-6, err_msg=name
    )
  config = json.loads((out / 'adapter_config.json').read_text())
  assert config['layers_to_transform'] == [1]
  assert config['target_modules'] == sorted(
    f'{part}_proj' for part in ('q', 'k', 'v', 'o', 'gate', 'up', 'down')
  )


def test_what_float16_does_not_hold_is_named(model, tmp_path):
  family, params = model
  adapter = _random_adapter(params, scale=1e6)
  with pytest.raises(ValueError, match=r'layers\.1\..*float16'):
    adapters.write_adapter(tmp_path / 'a', family, adapter, OPTIONS)
  assert not (tmp_path / 'a').exists()


def test_loss_that_is_not_finite_is_named(model, examples):
  options = dataclasses.replace(
    OPTIONS, learning_rate=1e30, warmup=0.0, clip=1e30
  )
  with pytest.raises(FloatingPointError, match='step'):
    language_finetune.train(model[0], model[1], examples, options)


def test_models_that_say_nothing_are_refused(model, examples):
  family = dataclasses.replace(model[0], logits=None)
  with pytest.raises(ValueError, match='vocabulary head'):
    language_finetune.train(family, model[1], examples, OPTIONS)


@pytest.mark.parametrize(
  'example', [Example((5, 6), 0), Example(tuple(range(3, 17)), 13)]
)
def test_prompts_that_do_not_fit_are_refused(model, example):
  with pytest.raises(ValueError, match='expected 1 to 12'):
    language_finetune.train(model[0], model[1], [example], OPTIONS)
