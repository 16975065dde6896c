"""Typed layer-wise fusion: dimensions, one vector an effect, and its merges."""

import dataclasses
import functools

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from automerge_jax import recipe as recipes
from automerge_jax import trees
from automerge_jax.io import safetensors
from automerge_jax.merging import mixed, registry, resident, resolve, streaming
from automerge_jax.merging.layers import layer_of
from automerge_jax.models import base as models_lib
from automerge_jax.models import bert
from automerge_jax.spaces import cells, layerwise
from automerge_jax.spaces.typed import designs as typed_designs
from automerge_jax.spaces.typed import layout as typed_layout
from tests import tiny_encoder

L, K = 3, 3
EXPERTS = ('a', 'b', 'c')
CONFIG = tiny_encoder.CONFIG | {'vocab_size': 11, 'num_hidden_layers': L}
COMMON = ('linear', 'task_arithmetic', 'ties', 'slerp')
MIXTURE = (*COMMON, 'passthrough', 'della', 'karcher')
EVERY = tuple(
  name
  for name in sorted(registry.METHODS)
  for m in [registry.get(name)]
  if not m.whole
  and not m.statistics
  and (name in ('slerp', 'passthrough') or m.sources[1] is None)
)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
  """A base and what differs from it a little."""
  top = tmp_path_factory.mktemp('models')
  (top / 'base').mkdir()
  whole = safetensors.read(tiny_encoder.write(top / 'whole', 0, CONFIG, '{}'))
  tensors = {key.stored: whole[key.stored] for key in _family().keys}
  safetensors.write(top / 'base', tensors)
  for seed, name in enumerate(EXPERTS):
    draw = np.random.default_rng(seed + 1)
    (top / name).mkdir()
    moved = {
      n: t + np.asarray(draw.normal(0, 0.1, t.shape), t.dtype)
      if t.dtype.kind == 'f'
      else t
      for n, t in tensors.items()
    }
    safetensors.write(top / name, moved)
  return {name: top / name for name in ('base', *EXPERTS)}


# A leaf of each component; the others would say the same.
LEAVES = (
  'stem/word/embedding',
  'layers/attention/query/kernel',
  'layers/mlp_norm/scale',
  'layers/mlp_input/bias',
  'final/pooler/kernel',
)


@functools.cache
def _family(depth=L):
  config = bert.config_from_hf(CONFIG | {'num_hidden_layers': depth})
  family = bert.family(config)
  keys = tuple(key for key in family.keys if key.path in LEAVES)
  return dataclasses.replace(family, keys=keys)


@functools.cache
def _methods(names):
  return tuple(registry.get(name) for name in names)


def _layout(names=COMMON, groups=2, components='own', depth=L, **options):
  division = cells.layered(_family(depth), groups, components)
  return typed_layout.layout(
    _methods(names), division, EXPERTS, 'base', **options
  )


@functools.cache
def _space(names=COMMON, knots=None, **options):
  return layerwise.from_layout(_layout(names, knots=knots, **options))


def _hash(recipe):
  names = {key.stored: layer_of(key.stored) for key in _family().keys}
  return resolve.effective_hash(recipe, names, L)


def _draw(space, seed):
  x = np.random.default_rng(seed).uniform(-0.05, 1.05, len(space.names))
  return space.quantise(jnp.asarray(x, jnp.float32))


# -- dimensions


@pytest.mark.parametrize(
  ('names', 'options', 'expected'),
  [
    # 2 layer groups of 3 components, the stem and the head: 8 cells, 4 units.
    (('linear',), {}, 8 * K),
    (('linear', 'task_arithmetic'), {}, 4 + 2 * 8 * K),
    (('linear', 'task_arithmetic'), {'choice': 'cell'}, 8 + 2 * 8 * K),
    (('slerp',), {}, 4 + 8),
    (COMMON, {}, 4 + 8 * K + 8 * K + 2 * 8 * K + 4 + 8),
    (COMMON, {'groups': (0, 1, 2)}, 5 + 11 * (4 * K + 1) + 5),
    (COMMON, {'groups': L, 'components': 'coarse'}, 2 + 4 * (4 * K + 1) + 2),
    # Of normalised weights that all experts share nothing is left.
    (COMMON, {'shared': ('weight', 'density')}, 4 + 8 + 8 + 4 + 8),
    (('ties',), {'ranges': {'lambda': (0, 2), 'weight': (1, 1)}}, 8 + 8 * K),
    # 2 knots of 3 components, the stem and the head.
    (('linear',), {'knots': 2}, 8 * K),
    (('linear', 'slerp'), {'knots': 3, 'groups': L}, 3 + 3 + 11 * (K + 1)),
    (('passthrough',), {}, 4),
    (('karcher', 'model_stock'), {}, 4),
  ],
)
def test_dimensions_are_those_that_are_needed(names, options, expected):
  layout = _layout(names, **options)
  assert len(layout.names) == expected == len(set(layout.names))
  space = layerwise.from_layout(layout)
  assert space.correlation.shape == (expected, expected)
  np.testing.assert_array_equal(
    space.choices > 0,
    [
      name.split('/')[0].endswith(('method', '.pair', '.model'))
      for name in space.names
    ],
  )


def test_names_say_method_owner_layers_and_component():
  names = _space().names
  assert names[:4] == (
    'method/all/all/head',
    'method/all/all/stem',
    'method/all/0-2/all',
    'method/all/2-3/all',
  )
  for name in (
    'ties.density/b/0-2/attention',
    'slerp.pair/all/2-3/all',
    'slerp.t/all/2-3/mlp',
    'linear.weight/a/all/head',
  ):
    assert name in names
  by_knot = _layout(('linear',), knots=2, depth=4).names
  assert {n.split('/')[2] for n in by_knot} == {'all', '0', '3'}


# -- vectors


points = st.integers(0, 2**32 - 1)


def _x(space, seed):
  """Points with many ends and equal coordinates among them."""
  draw = np.random.default_rng(seed)
  x = draw.uniform(size=len(space.names))
  ends = draw.choice([0.0, 1.0, 0.5], len(x))
  x = np.where(draw.random(len(x)) < draw.random(), ends, x)
  return jnp.asarray(x, jnp.float32)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(seed=points)
@pytest.mark.parametrize('knots', [None, 2])
def test_the_grid_is_kept_and_inactive_dimensions_say_nothing(knots, seed):
  space = _space(knots=knots)
  quantise = space.quantise
  x = _x(space, seed)
  c = quantise(x)
  np.testing.assert_array_equal(c, quantise(space.encode(c)))
  active = np.asarray(space.active(c))
  noise = np.random.default_rng(seed).uniform(size=len(x))
  other = jnp.where(active, space.encode(c), noise.astype(np.float32))
  np.testing.assert_array_equal(quantise(other), c)


@hypothesis.settings(max_examples=12, deadline=None)
@hypothesis.given(seed=points)
@pytest.mark.parametrize('knots', [None, 2])
def test_active_dimensions_change_the_recipe(knots, seed):
  space = _space(knots=knots)
  draw = np.random.default_rng(seed)
  # Off the ends, where an effect can be that of other numbers too.
  x = draw.uniform(0.1, 0.9, len(space.names)).astype(np.float32)
  c = space.quantise(x)
  before = _hash(space.describe(c))
  active = np.flatnonzero(space.active(c))
  for i in draw.choice(active, 6, replace=False):
    options = int(space.choices[i])
    if options:
      moved = (c[i] + 1) % options
    else:
      moved = c[i] + (0.1 if c[i] < 0.5 else -0.1)
    after = space.quantise(space.encode(c.at[i].set(moved)))
    assert _hash(space.describe(after)) != before, space.names[i]


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(seed=points, method=st.integers(0, 3))
def test_equal_effects_are_equal_vectors(seed, method):
  """Few numbers and one method, so that effects are often equal."""
  space = _space(groups=L, components=(('all', None),))
  draw = np.random.default_rng(seed)
  found = {}
  for _ in range(12):
    x = draw.choice([0.0, 0.5, 1.0], len(space.names)).astype(np.float32)
    x[0] = (method + 0.5) / 4
    c = np.asarray(space.quantise(jnp.asarray(x)))
    found.setdefault(_hash(space.describe(c)), []).append(c)
  for vectors in found.values():
    for c in vectors:
      np.testing.assert_array_equal(c, vectors[0])


def test_weights_count_by_their_ratio_where_they_do():
  space = _space(('linear',), groups=L, components=(('all', None),))
  for given, want in (
    ([0.2, 0.4, 0.0], [0.5, 1.0, 0.0]),
    ([0.0, 0.0, 0.0], [1.0, 1.0, 1.0]),
    ([0.3, 0.9, 0.1], [0.3333, 1.0, 0.1111]),
  ):
    np.testing.assert_array_equal(
      space.quantise(jnp.asarray(given)), np.asarray(want, np.float32)
    )


# -- merges


@pytest.fixture(scope='module')
def merged(folders):
  """`(names, plan) -> Params`: one compiled merge a set of methods."""
  tensors = {name: safetensors.read(folder) for name, folder in folders.items()}

  @functools.cache
  def prepared(names):
    method = mixed.of(_methods(names))
    experts = [tensors[e] for e in EXPERTS]
    stack = resident.build(method, _family(), tensors['base'], experts)
    traces = []

    @jax.jit
    def run(plan, stack):
      traces.append(1)
      return resident.merge(method, plan, stack)

    return stack, run, traces

  def run(names, plan):
    stack, compiled, traces = prepared(names)
    found = compiled(plan, stack)
    assert len(traces) == 1
    return trees.flatten(found)

  return run


def _compare(space, names, c, folders, merged):
  written = recipes.to_yaml(space.describe(c))
  streamed = streaming.merge(recipes.from_yaml(written), folders)
  packed = trees.flatten(models_lib.pack(_family().keys, streamed))
  found = merged(names, jax.jit(space.decode)(c))
  assert set(packed) == set(found)
  for path, leaf in packed.items():
    np.testing.assert_allclose(
      found[path], leaf, rtol=2e-7, atol=3e-8, err_msg=path
    )


@pytest.mark.parametrize('index', range(len(EVERY)), ids=EVERY)
def test_every_method_is_merged_as_the_recipe_says(index, folders, merged):
  space = _space(EVERY)
  x = np.random.default_rng(index).uniform(size=len(space.names))
  x[: len(space.names)][[n.startswith('method') for n in space.names]] = (
    index + 0.5
  ) / len(EVERY)
  c = space.quantise(jnp.asarray(x, jnp.float32))
  _compare(space, EVERY, c, folders, merged)


@pytest.mark.parametrize(
  'options',
  [
    {},
    {'choice': 'cell'},
    {'knots': 2},
    {'groups': (0, 1)},
    {'groups': L, 'components': 'coarse'},
  ],
  ids=repr,
)
def test_mixtures_are_merged_as_the_recipe_says(options, folders, merged):
  space = _space(MIXTURE, **options)
  for seed in range(3):
    _compare(space, MIXTURE, _draw(space, seed), folders, merged)


def test_starts_are_the_models_they_are_called_after(folders, merged):
  space = _space(MIXTURE)
  starts, missed = typed_designs.starts(_layout(MIXTURE), space, ())
  assert not missed
  for origin, c in starts:
    kind, _, name = origin.partition(':')
    found = merged(MIXTURE, space.decode(jnp.asarray(c)))
    if kind == 'uniform':
      models = [safetensors.read(folders[e]) for e in EXPERTS]
    else:
      models = [safetensors.read(folders[name or 'base'])]
    stored = {n: np.mean([m[n] for m in models], axis=0) for n in models[0]}
    for path, leaf in trees.flatten(
      models_lib.pack(_family().keys, stored)
    ).items():
      np.testing.assert_allclose(found[path], leaf, rtol=1e-6, atol=1e-7)


def test_one_method_is_written_as_others_read_it(folders):
  space = _space(('task_arithmetic',))
  recipe = space.describe(_draw(space, 0))
  assert recipe.merge_method == 'task_arithmetic'
  for part in recipe.slices:
    assert not part.parts and part.merge_method is None


def test_gradients_reach_the_active_numbers():
  space = _space()
  x = jnp.full(len(space.names), 0.4)

  def total(x):
    plan = space.decode(space.quantise(x))
    return sum(jnp.sum(v) for leaf in plan.values() for v in leaf.values())

  slope = np.asarray(jax.jit(jax.grad(total))(x))
  assert np.isfinite(slope).all()
  moves = np.asarray(space.active(space.quantise(x))) & (space.choices == 0)
  np.testing.assert_array_equal(slope[~moves], 0)
  # The largest of weights that count by ratios is fixed at 1.
  assert (slope[moves] != 0).mean() > 0.5
