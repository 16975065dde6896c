"""Fisher information and Gram matrices of small models, by other means."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from automerge_jax import trees
from automerge_jax.io import safetensors
from automerge_jax.merging import registry as methods
from automerge_jax.merging import resident
from automerge_jax.models import base, registry
from automerge_jax.statistics import folder, grams, information
from automerge_jax.tasks import classification, experts
from experiments import statistics
from tests import tiny_suite

TASKS = tiny_suite.TASKS


@pytest.fixture(scope='module')
def expert(tiny):
  """Family, params and head of an expert of three classes."""
  where = tiny / 'experts' / 'tiny_animal'
  loaded = registry.load(where)
  head = experts.read_head(where)
  params = jax.tree.map(jnp.asarray, loaded.params)
  return loaded.family, params, (head.kernel, head.bias)


def tokens_of(count, seed=0, most=28):
  draw = np.random.default_rng(seed)
  return [
    draw.integers(2, 30, draw.integers(3, most)).tolist() for _ in range(count)
  ]


def buckets(tokens):
  zeros = [0] * len(tokens)
  lengths = (16, 32)  # longer than some texts, so that there is padding
  return classification.bucket(tokens, zeros, zeros, lengths, 64)


def close(have, want, tolerance):
  assert set(have) == set(want)
  for name, tensor in want.items():
    # Biases of keys change nothing: there is nothing but rounding.
    atol = max(tolerance * np.abs(tensor).max(), 1e-10)
    np.testing.assert_allclose(have[name], tensor, rtol=0, atol=atol)


def test_information_of_logistic_regression_in_closed_form():
  draw = np.random.default_rng(0)
  x = draw.normal(size=(9, 4)).astype('f4')
  kernel = draw.normal(size=(4, 3)).astype('f4')
  table = jnp.concatenate([jnp.zeros((1, 4)), x])

  def log_probabilities(params, head, inputs):
    del head
    return jax.nn.log_softmax(table[inputs['ids'][:, 0]] @ params['kernel'])

  data = buckets([[i] for i in range(1, 10)])
  found = information.diagonal(
    log_probabilities, {'kernel': jnp.asarray(kernel)}, None, data, 9
  )
  # ∇ of log p_y by kernel[i, c] is x_i (1[y = c] - p_c), whose mean square over
  # y is x_i² p_c (1 - p_c).
  p = scipy.special.softmax(x.astype('f8') @ kernel, axis=1)
  want = np.einsum('ni,nc->ic', np.square(x), p * (1 - p)) / 9
  np.testing.assert_allclose(found['kernel'], want, rtol=1e-5)


def test_information_is_the_expected_square_of_single_gradients(expert):
  family, params, head = expert
  tokens = [list(range(2, 2 + length)) for length in (9, 20)]
  tokens += [tokens[0][shift:] + tokens[0][:shift] for shift in (1, 3, 5, 7)]
  data = buckets(tokens)
  assert len(data) > 1 and sum(b.slot.size for b in data) > 6  # padded
  classify = information.classifier(family)
  found = information.diagonal(classify, params, head, data, 6)

  @jax.jit
  def gradient_of(p, y, inputs):
    return jax.value_and_grad(lambda q: classify(q, head, inputs)[0, y])(p)

  want = jax.tree.map(np.zeros_like, params)
  for row in tokens:  # one at a time, without padding, class by class
    inputs = {'ids': np.array([row]), 'mask': np.ones((1, len(row)), int)}
    for y in range(3):
      value, gradient = gradient_of(params, y, inputs)
      share = np.exp(value) / 6
      want = jax.tree.map(
        lambda w, g, s=share: w + s * np.square(g), want, gradient
      )
  close(trees.flatten(found), trees.flatten(want), 1e-4)
  assert (trees.flatten(found)['final/pooler/kernel'] == 0).all()
  assert (trees.flatten(found)['layers/mlp_input/kernel'] > 0).all()


def test_information_of_no_items_is_refused(expert):
  family, params, head = expert
  with pytest.raises(ValueError, match='at least one item'):
    information.diagonal(information.classifier(family), params, head, (), 0)


def numpy_inputs(tensors, tokens, num_heads):
  """Inputs of every linear layer for one unpadded text, in float64 numpy."""
  t = {name: value.astype('f8') for name, value in tensors.items()}
  found = {}

  def linear(x, name):
    found[name + '.weight'] = x
    return x @ t[name + '.weight'].T + t[name + '.bias']

  def norm(x, name):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(
      x.var(-1, keepdims=True) + 1e-12
    )
    return x * t[name + '.weight'] + t[name + '.bias']

  table = 'embeddings.{}_embeddings.weight'.format
  x = t[table('word')][tokens] + t[table('position')][: len(tokens)]
  x = norm(x + t[table('token_type')][0], 'embeddings.LayerNorm')
  layer = 0
  while f'encoder.layer.{layer}.output.dense.weight' in t:
    at = f'encoder.layer.{layer}.'
    q, k, v = (
      linear(x, at + f'attention.self.{n}')
      .reshape(len(tokens), num_heads, -1)
      .swapaxes(0, 1)
      for n in ('query', 'key', 'value')
    )
    scores = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1])
    y = scipy.special.softmax(scores, -1) @ v
    y = linear(y.swapaxes(0, 1).reshape(x.shape), at + 'attention.output.dense')
    x = norm(x + y, at + 'attention.output.LayerNorm')
    y = linear(x, at + 'intermediate.dense')
    y = y * scipy.special.ndtr(y)
    x = norm(x + linear(y, at + 'output.dense'), at + 'output.LayerNorm')
    layer += 1
  return found


def test_grams_are_those_of_the_inputs_of_each_layer(expert):
  family, params, _ = expert
  tokens = tokens_of(7, seed=1)
  found = grams.measure(family, params, buckets(tokens), 7)
  tensors = base.unpack(family.keys, params)
  want = {}
  for row in tokens:
    heads = tiny_suite.CONFIG['num_attention_heads']
    for name, x in numpy_inputs(tensors, row, heads).items():
      want[name] = want.get(name, 0) + x.T @ x / sum(map(len, tokens))
  close(found, want, 1e-4)


def test_regmean_of_measured_grams_minimises_the_output_error(expert, tiny):
  family, params, _ = expert
  other = registry.load(tiny / 'experts' / 'tiny_number').params
  models = [params, jax.tree.map(jnp.asarray, other)]
  tokens = tokens_of(30, seed=2)
  stored = [base.unpack(family.keys, p) for p in models]
  measured = [
    {'gram': grams.measure(family, p, buckets(tokens), 30)} for p in models
  ]
  method = methods.get('regmean')
  settings = {'reduction': 1.0, 'ridge': 0.0}
  start = safetensors.read(tiny / 'base')
  start = {key.stored: start[key.stored] for key in family.keys}
  stack = resident.build(
    method, family, start, stored, settings, statistics=measured
  )
  plan = {
    path: {'lambda': jnp.ones(leaf.shape[:1] if 'layers' in path else ())}
    for path, leaf in trees.flatten(stack.base).items()
  }
  merged = base.unpack(family.keys, resident.merge(method, plan, stack))
  name = 'encoder.layer.0.attention.self.query.weight'
  inputs = [
    np.concatenate([numpy_inputs(s, row, 2)[name] for row in tokens])
    for s in stored
  ]

  def error(matrix):
    return sum(
      np.square(x @ (matrix - s[name]).T.astype('f8')).mean()
      for x, s in zip(inputs, stored, strict=True)
    )

  best = error(merged[name])
  assert best < 0.98 * error((stored[0][name] + stored[1][name]) / 2)
  nudge = np.random.default_rng(0).normal(size=merged[name].shape)
  for sign in (-0.02, 0.02):
    assert error(merged[name] + sign * nudge) > best
  bias = 'encoder.layer.0.output.dense.bias'
  mean = (stored[0][bias] + stored[1][bias]) / 2
  np.testing.assert_allclose(merged[bias], mean, atol=1e-6)


def test_measured_saved_and_loaded(tiny, tmp_path):
  model = tiny / 'experts' / TASKS[0]
  told = statistics.run(model, TASKS[0], tmp_path / 'out', n=6)
  assert told['n'] == 6 and told['task'] == TASKS[0]
  assert told['model'] == safetensors.fingerprint(model)
  found = folder.load(tmp_path / 'out', told['model'])
  tensors = safetensors.read(model)
  floating = {n: t for n, t in tensors.items() if t.dtype.kind == 'f'}
  assert set(found['fisher']) == set(found['fisher_norm']) == set(floating)
  total = sum(np.square(f, dtype='f8').sum() for f in found['fisher'].values())
  assert found['fisher_norm'][next(iter(floating))] ** 2 == pytest.approx(total)
  for name, tensor in floating.items():
    assert found['fisher'][name].shape == tensor.shape
    has_gram = 'encoder' in name and tensor.ndim == 2
    assert (name in found['gram']) == has_gram, name
    if has_gram:
      gram = found['gram'][name]
      assert gram.shape == (tensor.shape[1],) * 2
      assert np.linalg.eigvalsh(gram).min() > -1e-5 * np.trace(gram)
  with pytest.raises(KeyError):
    found['gram']['none']
  with pytest.raises(ValueError, match='not other; measure this model'):
    folder.load(tmp_path / 'out', 'other')
  with pytest.raises(FileExistsError):
    statistics.run(model, TASKS[0], tmp_path / 'out', n=6)


def test_one_kind_alone_and_wrong_requests(tiny, tmp_path):
  model = tiny / 'experts' / TASKS[0]
  statistics.run(model, TASKS[0], tmp_path / 'g', kinds=['regmean'], n=4)
  assert set(folder.load(tmp_path / 'g')) == {'gram'}
  with pytest.raises(ValueError, match="did you mean 'fisher'"):
    statistics.run(model, TASKS[0], tmp_path / 'f', kinds=['fischer'], n=4)
  with pytest.raises(ValueError, match=f'is for the task {TASKS[0]!r}'):
    statistics.run(model, TASKS[1], tmp_path / 'f', n=4)
  with pytest.raises(FileNotFoundError, match='expected a folder made by'):
    folder.load(model)
  with pytest.raises(ValueError, match='to save'):
    folder.save(tmp_path / 'none', {})
  assert sorted(p.name for p in pathlib.Path(tmp_path).iterdir()) == ['g']
