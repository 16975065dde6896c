"""Fine-tuning on a small random BERT: batches, resume, masks, folders."""

import collections
import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

from automerge_jax.io import orbax, safetensors, tokenizers
from automerge_jax.models import base, registry
from automerge_jax.tasks import (
  classification,
  experts,
  finetune,
  inference,
  probe,
  sealed,
  splits,
  suite,
)
from configs import encoder_suite
from experiments import finetune as entry
from tests import tiny_encoder

OPTIONS = finetune.Options(
  epochs=2, batch_size=8, learning_rate=1e-2, lengths=(32,)
)
LENGTHS = (16, 32, 48)
HEAD = {
  'kernel': np.random.default_rng(0)
  .normal(0, 0.01, (16, 2))
  .astype(np.float32),
  'bias': np.zeros(2, np.float32),
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tiny_encoder.write(tmp_path_factory.mktemp('base') / 'tiny')


@pytest.fixture(scope='module')
def model(folder):
  return registry.load(folder)


@pytest.fixture(scope='module')
def items(folder):
  chosen = splits.train_items('sarcasm', 44)
  tokens = tokenizers.encode(
    tokenizers.load(folder), [item.text for item in chosen], 32
  )
  return tokens, np.array([item.label for item in chosen])


def _train(model, items, options=OPTIONS, **more):
  return finetune.train(
    model.family, model.params, HEAD, *items, options, **more
  )


def _assert_identical(one, two):
  jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize('count', [1, 8, 44, 101])
def test_plan_visits_each_item_once_an_epoch(count):
  sizes = np.random.default_rng(0).integers(1, 49, count)
  options = dataclasses.replace(OPTIONS, lengths=LENGTHS)
  batches = finetune.plan(sizes, options)
  steps = -(-count // 8)
  assert len(batches) == 2 * steps
  for epoch in (batches[:steps], batches[steps:]):
    slots = np.concatenate([batch.slots for batch in epoch])
    seen = collections.Counter(slots.tolist())
    assert seen.pop(-1, 0) == 8 * steps - count
    assert seen == dict.fromkeys(range(count), 1)
    for batch in epoch:
      assert sizes[batch.slots[batch.slots >= 0]].max() <= batch.length
  if count == 101:
    assert {batch.length for batch in batches} == set(LENGTHS)


def test_plan_depends_on_seed_and_epoch():
  sizes = [5] * 64
  one = finetune.plan(sizes, OPTIONS)
  two = finetune.plan(sizes, dataclasses.replace(OPTIONS, seed=1))
  assert [b.slots.tolist() for b in one] != [b.slots.tolist() for b in two]
  assert [b.slots.tolist() for b in one[:8]] != [
    b.slots.tolist() for b in one[8:]
  ]


@pytest.mark.parametrize('steps', [1, 20])
def test_schedule_rises_then_falls(steps):
  options = dataclasses.replace(OPTIONS, learning_rate=2.0, warmup=0.2)
  rates = [finetune.schedule(options, steps)(i) for i in range(steps)]
  warm = steps // 5
  np.testing.assert_allclose(
    rates[:warm], 2.0 * np.arange(1, warm + 1) / (warm + 1), rtol=1e-6
  )
  angles = np.pi * np.arange(steps - warm) / (steps - warm)
  np.testing.assert_allclose(rates[warm:], 1 + np.cos(angles), rtol=1e-5)


def test_training_fits_and_leaves_the_pooler_alone(model, items):
  options = dataclasses.replace(OPTIONS, epochs=12)
  trained = _train(model, items, options)
  buckets = classification.bucket(items[0], [0] * 44, items[1])
  heads = classification.stack_heads(
    [(trained['head']['kernel'], trained['head']['bias'])]
  )
  scores = inference.scores_fn(model.family)
  correct = inference.in_order(
    [scores(trained['trunk'], heads, b).score for b in buckets], buckets, 44
  )
  assert correct.mean() > 0.95
  _assert_identical(trained['trunk']['final'], model.params['final'])
  changed = trained['trunk']['layers']['attention']['query']['kernel']
  assert not np.array_equal(
    changed, model.params['layers']['attention']['query']['kernel']
  )


def test_weight_decay_touches_kernels_only(model, items):
  """With all gradients clipped to nothing, decay is all that is left."""
  trained = _train(
    model, items, dataclasses.replace(OPTIONS, weight_decay=0.5, clip=1e-30)
  )
  kernel = model.params['layers']['mlp_input']['kernel']
  ratio = trained['trunk']['layers']['mlp_input']['kernel'] / kernel
  assert 0.9 < ratio.min() <= ratio.max() < 1.0
  np.testing.assert_allclose(ratio, ratio.mean(), rtol=1e-4)
  for name in ('stem', 'final'):
    _assert_identical(trained['trunk'][name], model.params[name])
  for name in ('attention_norm', 'mlp_norm'):
    _assert_identical(
      trained['trunk']['layers'][name], model.params['layers'][name]
    )


def test_a_head_that_is_not_trained_stays(model, items):
  trained = _train(model, items, dataclasses.replace(OPTIONS, train_head=False))
  usual = _train(model, items)
  query = ('layers', 'attention', 'query', 'kernel')
  for name, value in HEAD.items():
    np.testing.assert_array_equal(trained['head'][name], value)
    assert (usual['head'][name] != value).any()
  at = trained['trunk'], model.params
  for key in query:
    at = at[0][key], at[1][key]
  assert (at[0] != at[1]).any()


def test_a_killed_run_continues_to_the_same_end(
  model, items, tmp_path, monkeypatch
):
  options = dataclasses.replace(OPTIONS, checkpoint_every=3)
  whole = _train(model, items, options)
  save = orbax.save_step

  def save_then_die(folder, step, state):
    save(folder, step, state)
    if step == 6:
      raise KeyboardInterrupt

  monkeypatch.setattr(orbax, 'save_step', save_then_die)
  with pytest.raises(KeyboardInterrupt):
    _train(model, items, options, checkpoints=tmp_path / 'c')
  steps = []
  monkeypatch.setattr(
    orbax, 'save_step', lambda folder, step, state: steps.append(step)
  )
  resumed = _train(model, items, options, checkpoints=tmp_path / 'c')
  assert steps == [9]  # it did not start again
  _assert_identical(resumed, whole)


def test_loss_that_is_not_finite_is_named(model, items):
  with pytest.raises(FloatingPointError, match='step'):
    _train(
      model,
      items,
      dataclasses.replace(OPTIONS, learning_rate=1e30, warmup=0.0, clip=1e30),
    )


def test_probe_is_the_penalised_optimum():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(60, 5)).astype(np.float32)
  y = (x @ rng.normal(size=(5, 3)) + rng.normal(size=(60, 3))).argmax(1)
  kernel, bias = map(np.asarray, probe.fit(x, y, num_classes=3, l2=2.0))
  values = x @ kernel + bias
  p = np.exp(values - values.max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  error = p - np.eye(3)[y]
  np.testing.assert_allclose(x.T @ error + 2.0 * kernel, 0, atol=2e-3)
  np.testing.assert_allclose(error.sum(0), 0, atol=2e-3)


def test_make_expert_writes_a_whole_folder_and_is_skipped(
  folder, model, tmp_path
):
  task = suite.make_task('sarcasm', 32)
  sizes = {'examples': 40, 'select': 20, 'heldout': 30}
  report = suite.make_expert(
    tmp_path / 'x', folder, task, OPTIONS, progress=False, **sizes
  )
  have = safetensors.read(tmp_path / 'x')
  want = safetensors.read(folder)
  assert {k: (v.shape, v.dtype) for k, v in have.items()} == {
    k: (v.shape, v.dtype) for k, v in want.items()
  }
  np.testing.assert_array_equal(
    have['embeddings.position_ids'], want['embeddings.position_ids']
  )
  expert = registry.load(tmp_path / 'x')
  _assert_identical(expert.params['final'], model.params['final'])
  head = experts.read_head(tmp_path / 'x')
  assert head.task == task
  assert head.kernel.shape == (16, 2)
  files = sorted(path.name for path in (tmp_path / 'x').iterdir())
  assert files == [
    'config.json',
    'head.json',
    'head.safetensors',
    'model.safetensors',
    'tokenizer.json',
    'train.json',
  ]
  assert json.loads((tmp_path / 'x' / 'train.json').read_text()) == report
  assert report['expert']['heldout']['n'] == 30
  before = (tmp_path / 'x' / 'model.safetensors').stat().st_mtime_ns
  again = suite.make_expert(
    tmp_path / 'x', folder, task, OPTIONS, progress=False, **sizes
  )
  assert again == report
  assert (tmp_path / 'x' / 'model.safetensors').stat().st_mtime_ns == before
  with pytest.raises(ValueError, match='examples: 40, asked for 39'):
    suite.make_expert(
      tmp_path / 'x', folder, task, OPTIONS, **(sizes | {'examples': 39})
    )


def test_reported_accuracy_is_that_of_the_written_files(folder, tmp_path):
  """What train.json says is found again from the folder alone."""
  task = suite.make_task('sarcasm', 32)
  options = dataclasses.replace(OPTIONS, lengths=LENGTHS)
  report = suite.make_expert(
    tmp_path / 'x',
    folder,
    task,
    options,
    examples=40,
    select=20,
    heldout=30,
    progress=False,
  )
  model, head = registry.load(tmp_path / 'x'), experts.read_head(tmp_path / 'x')
  forward = jax.jit(functools.partial(base.forward, model.family))
  tokenizer = tokenizers.load(tmp_path / 'x')
  right, nats = [], []
  for item in sealed.heldout_items('sarcasm', 30):
    (ids,) = tokenizers.encode(tokenizer, [item.text], head.task.max_tokens)
    hidden = forward(model.params, classification.pad([ids], 32))
    features = np.asarray(hidden)[0, : len(ids)].mean(0)
    features /= np.sqrt(np.mean(features**2))
    values = features @ head.kernel + head.bias
    right.append(values.argmax() == item.label)
    nats.append(values[item.label] - np.log(np.exp(values).sum()))
  said = report['expert']['heldout']
  assert said['accuracy'] == pytest.approx(np.mean(right), abs=1e-6)
  assert said['log_likelihood'] == pytest.approx(np.mean(nats), abs=1e-4)


def test_missing_experts_name_the_command(tmp_path):
  with pytest.raises(FileNotFoundError, match='python -m'):
    experts.check_finished(tmp_path, ['movie'], 'python -m something')


def test_entry_point_makes_the_experts_of_a_config(folder, tmp_path):
  config = encoder_suite.get_config('runlocal')
  config.base = str(folder)
  config.tasks = {'reuters': {'max_tokens': 16}}
  config.train.update(examples=30, select=10, heldout=10, lengths=(16,))
  reports = entry.run(config.lock(), tmp_path)
  assert list(reports) == ['reuters']
  head = experts.read_head(tmp_path / 'experts' / 'reuters')
  assert head.task.max_tokens == 16
  assert head.bias.shape == (8,)


def test_config_argument_is_checked():
  with pytest.raises(ValueError, match='runlocal'):
    encoder_suite.get_config('runlocl')
