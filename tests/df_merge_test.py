"""Dynamic Fisher-weighted merging: what must hold for any information."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax import trees
from automerge_jax.merging import dynamic, layers
from automerge_jax.merging.methods import fisher
from automerge_jax.models import base as models
from automerge_jax.models import llama
from automerge_jax.statistics import dynamic as statistics
from automerge_jax.statistics import examples
from automerge_jax.tasks import choice
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.tasks.likelihood import Query
from automerge_jax.tasks.packing import Request
from automerge_jax.tasks.partition import Item
from tests import tiny_decoder

K, L = 3, 2
SHAPES = {'stem/word': (5,), 'layers/kernel': (L, 2, 3), 'final/scale': (2,)}
LAMBDA = jnp.asarray([0.3, 0.9, 0.05])


def _draw(seed, lead=(), positive=False):
  draw = np.random.default_rng(seed)
  leaves = {
    path: draw.normal(size=(*lead, *shape)).astype('f4')
    for path, shape in SHAPES.items()
  }
  if positive:  # over many orders of magnitude
    leaves = {path: np.exp(4 * leaf) for path, leaf in leaves.items()}
  return jax.tree.map(jnp.asarray, trees.unflatten(leaves))


BASE, DELTAS, FISHERS = _draw(0), _draw(1, (K,)), _draw(2, (K,), True)


def _moving(k, params, total):
  """Information that depends on expert and parameters."""
  return jax.tree.map(
    lambda t, leaf, f: t + f[k] * (0.1 + jnp.square(leaf)),
    total,
    params,
    FISHERS,
  )


def _merge(coefficients=LAMBDA, base=BASE, deltas=DELTAS, add=_moving):
  run = jax.jit(lambda *given: dynamic.df_merge(*given, add))
  return run(coefficients, base, deltas)


def _close(have, want, **tolerance):
  tolerance = {'rtol': 1e-5, 'atol': 1e-6} | tolerance
  have, want = trees.flatten(have), trees.flatten(want)
  assert set(have) == set(want)
  for path, leaf in want.items():
    np.testing.assert_allclose(have[path], leaf, err_msg=path, **tolerance)


def _scaled(base, deltas, coefficients):
  return jax.tree.map(
    lambda b, d: b + jnp.tensordot(coefficients, d, 1), base, deltas
  )


def test_is_the_formula():
  want = {}
  bases, deltas, fishers = map(trees.flatten, (BASE, DELTAS, FISHERS))
  for path, theta in bases.items():
    theta = np.asarray(theta, 'f8')
    top = bottom = 0.0
    for k in range(K):
      step = float(LAMBDA[k]) * np.asarray(deltas[path][k], 'f8')
      weight = np.asarray(fishers[path][k]) * (0.1 + (theta + step) ** 2)
      top, bottom = top + weight * step, bottom + weight
    want[path] = theta + K * top / bottom
  _close(_merge(), trees.unflatten(want))


def test_one_expert_is_scaled_whatever_its_information():
  one = jax.tree.map(lambda leaf: leaf[:1], DELTAS)
  found = _merge(LAMBDA[:1], BASE, one)
  _close(found, _scaled(BASE, one, LAMBDA[:1]), rtol=1e-6, atol=0)


def test_nothing_moves_without_coefficients_or_task_vectors():
  _close(_merge(jnp.zeros(K)), BASE, rtol=0, atol=0)
  none = jax.tree.map(jnp.zeros_like, DELTAS)
  _close(_merge(LAMBDA, BASE, none), BASE, rtol=0, atol=0)


def test_equal_information_is_generalised_task_arithmetic():
  same = jax.tree.map(lambda f: jnp.broadcast_to(f[:1], f.shape), FISHERS)
  want = _scaled(BASE, DELTAS, LAMBDA)
  _close(_merge(add=dynamic.fixed(same)), want)
  _close(_merge(add=None), want)
  mean = jax.tree.map(lambda b, d: b + d.mean(0), BASE, DELTAS)
  _close(_merge(jnp.full(K, 1 / K), add=dynamic.fixed(same)), mean)


def test_where_nobody_has_information_all_count_alike():
  first = {'stem': jax.tree.map(lambda f: f.at[:, 0].set(0), FISHERS['stem'])}
  found = _merge(add=dynamic.fixed(FISHERS | first))
  want = _scaled(BASE, DELTAS, LAMBDA)
  np.testing.assert_allclose(
    found['stem']['word'][0], want['stem']['word'][0], rtol=1e-5
  )
  _close(found['layers'], _merge(add=dynamic.fixed(FISHERS))['layers'])


@pytest.mark.parametrize('factor', [1e-6, 1e5])
def test_a_common_factor_changes_nothing(factor):
  more = jax.tree.map(lambda f: factor * f, FISHERS)
  _close(_merge(add=dynamic.fixed(more)), _merge(add=dynamic.fixed(FISHERS)))


def test_experts_come_in_any_order():
  order = jnp.asarray([2, 0, 1])

  def moved(k, params, total):
    return _moving(order[k], params, total)

  deltas = jax.tree.map(lambda leaf: leaf[order], DELTAS)
  _close(_merge(LAMBDA[order], BASE, deltas, moved), _merge())


def test_fixed_information_and_1_over_k_is_fisher_merging():
  found = _merge(jnp.full(K, 1 / K), add=dynamic.fixed(FISHERS))
  weights = {'weight': jnp.ones(K), 'lambda': jnp.float32(1)}
  want = jax.tree.map(
    lambda b, d, f: fisher.merge(weights, {'fisher': f}, b, d),
    BASE,
    DELTAS,
    FISHERS,
  )
  _close(found, want)


def test_information_of_a_linear_gaussian_model_does_not_move():
  """y = x·θ + σ z: [∇ log p]² in expectation over y is x² / σ², at any θ."""
  x = jnp.asarray(np.random.default_rng(3).normal(size=(K, 7, 5)), 'float32')
  sigma = jnp.asarray([0.5, 1.0, 3.0])

  def at(k, word):
    def log_density(word, row, y):
      return -0.5 * jnp.square((y - row @ word) / sigma[k])

    def example(row):
      y = row @ word + sigma[k] * jnp.asarray([-1.0, 1.0])  # exact quadrature
      slopes = jax.vmap(jax.grad(log_density), (None, None, 0))(word, row, y)
      return jnp.mean(jnp.square(slopes), 0)

    return jnp.mean(jax.vmap(example)(x[k]), 0)

  base, deltas = {'stem': BASE['stem']}, {'stem': DELTAS['stem']}

  def moving(k, params, total):
    found = at(k, params['stem']['word'])
    return {'stem': {'word': total['stem']['word'] + found}}

  static = {
    'stem': {
      'word': jnp.stack(
        [
          at(k, base['stem']['word'] + deltas['stem']['word'][k])
          for k in range(K)
        ]
      )
    }
  }
  want = jnp.mean(jnp.square(x), 1) / jnp.square(sigma)[:, None]
  np.testing.assert_allclose(static['stem']['word'], want, rtol=1e-4)
  _close(
    _merge(LAMBDA, base, deltas, moving),
    _merge(LAMBDA, base, deltas, dynamic.fixed(static)),
  )


def test_entries_are_within_k_times_the_hull():
  found, base, deltas = map(trees.flatten, (_merge(), BASE, DELTAS))
  for path, leaf in found.items():
    change = (leaf - base[path]) / K
    ends = LAMBDA.reshape(K, *[1] * leaf.ndim) * deltas[path]
    assert (change >= ends.min(0) - 1e-6).all()
    assert (change <= ends.max(0) + 1e-6).all()


def test_coefficients_by_leaf_and_layer():
  by_layer = jnp.asarray(np.random.default_rng(4).uniform(size=(K, L)), 'f4')
  by_leaf = dict.fromkeys(SHAPES, LAMBDA) | {'layers/kernel': by_layer}
  found = _merge(by_leaf)
  for layer in range(L):
    own = _merge(by_layer[:, layer])
    np.testing.assert_allclose(
      found['layers']['kernel'][layer],
      own['layers']['kernel'][layer],
      rtol=1e-5,
    )
  _close(found['stem'], _merge()['stem'])
  with pytest.raises(ValueError, match=r"'stem/word' have shape \(3, 2\)"):
    _merge(by_leaf | {'stem/word': by_layer})
  with pytest.raises(ValueError, match='task vectors against the base'):
    _merge(deltas=DELTAS | {'stem': {}})


@pytest.fixture(scope='module')
def language():
  """A search step of a wide Llama and two tasks: compiled, and its arguments.

  Its weights outweigh its activations, and it has many layers.
  """
  wide, depth = 128, 12
  draw = np.random.default_rng(0)
  known = {16: wide, 8: wide, 24: 2 * wide}
  tensors = {}
  for name, tensor in tiny_decoder.tensors().items():
    every = range(depth) if layers.layer_of(name) == 0 else [None]
    if layers.layer_of(name) not in (0, None):
      continue
    for layer in every:
      shape = tuple(known.get(size, size) for size in tensor.shape)
      own = name if layer is None else layers.renumber(name, layer)
      tensors[own] = (0.1 * draw.normal(size=shape)).astype('f4')
  config = tiny_decoder.CONFIG | {
    'hidden_size': wide,
    'intermediate_size': 2 * wide,
    'num_key_value_heads': 4,
    'num_hidden_layers': depth,
  }
  family = llama.family(llama.config_from_hf(config, list(tensors)))
  base = jax.tree.map(jnp.asarray, models.pack(family.keys, tensors))
  deltas = jax.tree.map(
    lambda leaf: jnp.asarray(
      0.02 * draw.normal(size=(2, *leaf.shape)), 'float32'
    ),
    base,
  )
  tasks = choice.Task('one', 8), choice.Task('two', 8)
  queries = tuple(
    Query(
      tuple((Request((5, 3 + i), (7 + c,) * 2),) for c in range(2 + i % 2)),
      (1.0,) * (2 + i % 2),
      True,
    )
    for i in range(4)
  )
  items = ItemSet(
    ('one', 'two'),
    ('a', 'b', 'c', 'd'),
    queries,
    np.asarray([0, 0, 1, 1], np.int32),
    np.zeros(4, np.int32),
    np.zeros(4, np.uint8),
    tasks,
    tuple(Item(name, '', 0) for name in 'abcd'),
  )
  given = examples.build(items, 1)

  def run(coefficients, base, deltas, given):
    def add(k, params, total):
      return statistics.information(
        family, params, {}, given, k, total=total, memory=1
      )

    return dynamic.df_merge(coefficients, base, deltas, add)

  arguments = base, deltas, given
  return (
    family,
    jax.jit(run).lower(jnp.ones(2), *arguments).compile(),
    arguments,
  )


def test_a_language_model_is_merged_without_compiling_again(language):
  family, run, (base, deltas, given) = language

  @jax.jit
  def information(own, base, deltas, k, given):
    params = jax.tree.map(lambda b, d: b + own * d[k], base, deltas)
    return statistics.information(family, params, {}, given, k)

  for value in ([0.2, 0.7], [1.0, 0.4]):
    measured = [information(value[k], base, deltas, k, given) for k in range(2)]
    fishers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *measured)
    value = jnp.asarray(value)
    want = _merge(value, base, deltas, dynamic.fixed(fishers))
    _close(run(value, base, deltas, given), want, atol=1e-5)


def test_memory_is_k_and_five_copies_of_the_model(language):
  _, compiled, (base, _, _) = language
  found = compiled.memory_analysis()
  used = (
    found.argument_size_in_bytes
    + found.output_size_in_bytes
    + found.temp_size_in_bytes
  )
  copy = sum(leaf.nbytes for leaf in jax.tree.leaves(base))
  # Beside activations, a few copies of a layer and of tied embeddings.
  assert used < (2 + 5.5) * copy
