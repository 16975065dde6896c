"""Pruning, fusing and stacking at once, and the published depth-wise layout."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax import recipe as recipes
from automerge_jax.merging import mixed, registry, streaming
from automerge_jax.spaces import both, cells, pruning, published_depthwise
from tests import tiny_stacks
from tests.tiny_stacks import BASE, EXPERTS

L, ROWS = 6, 200
BOUNDS = {
  'pruning': (4, 4),
  'pruning_range': (3, 6),
  'both': (4, 8),
  'both_own': (3, 9),
  'published': (6, 9),
  'published_fixed': (1, 8),
}
every_space = pytest.mark.parametrize('name', list(BOUNDS))


@functools.cache
def _space(name):
  family = tiny_stacks.family(L, tied=False)
  if name == 'pruning':
    return pruning.space(family, EXPERTS, BASE, keep=4)
  if name == 'pruning_range':
    return pruning.space(
      family, EXPERTS, BASE, keep=(3, 6), scales=None, fixed=(1, 0)
    )
  if name == 'published':
    return published_depthwise.space(family, EXPERTS, BASE, layers=9)
  if name == 'published_fixed':
    return published_depthwise.space(
      family,
      EXPERTS[:2],
      BASE,
      layers=8,
      repeat=2,
      remain_base=False,
      fix_layers=0,
    )
  more = {'repeats': 1, 'copies': 2} if name == 'both_own' else {}
  division = cells.layered(family, 4, 'own' if name == 'both_own' else 'coarse')
  low, high = BOUNDS[name]
  return both.space(
    family,
    EXPERTS,
    BASE,
    method=_method(name),
    cells=division,
    min_layers=low,
    max_layers=high,
    **more,
  )


def _method(name):
  if name.startswith('published'):
    return mixed.of([registry.get('passthrough')])
  return registry.get('ties' if name == 'both_own' else 'task_arithmetic')


@functools.cache
def _compiled(name):
  space = _space(name)

  def one(x):
    c = space.quantise(x)
    return {
      'c': c,
      'x': space.encode(c),
      'again': space.quantise(space.encode(c)),
      'program': space.program(c),
      'plan': space.decode(c),
      'active': space.active(c),
    }

  return jax.jit(jax.vmap(one))


def _look(name, seed=0, x=None):
  if x is None:
    shape = ROWS, len(_space(name).names)
    x = np.random.default_rng(seed).uniform(size=shape)
  return jax.tree.map(np.array, _compiled(name)(np.asarray(x, np.float32)))


def _layers(recipe):
  return [i for part in recipe.slices for i in range(*part.sources[0].layers)]


@every_space
def test_every_point_meets_the_bounds_and_has_one_spelling(name):
  found = _look(name)
  depth = found['program'].active.sum(1)
  low, high = BOUNDS[name]
  assert depth.min() >= low
  assert depth.max() <= high
  np.testing.assert_array_equal(found['again'], found['c'])
  idle = ~found['active']
  other = np.random.default_rng(1).uniform(size=idle.shape)
  moved = _look(name, x=np.where(idle, other, found['x']))
  np.testing.assert_array_equal(moved['c'], found['c'])
  assert idle.any()


@pytest.mark.parametrize(
  'name', ['pruning', 'pruning_range', 'published_fixed']
)
def test_equal_programs_are_equal_vectors(name):
  first = _look(name)
  draw = np.random.default_rng(2)
  step = draw.normal(size=first['x'].shape)
  step *= draw.uniform(size=step.shape) < 0.05
  second = _look(name, x=np.clip(first['x'] + step, 0, 1))
  spellings = {}
  for found in (first, second):
    arrays = jax.tree.leaves(
      (found['program'], found['plan']['layers/attention/query/kernel'])
    )
    for row in range(ROWS):
      # Positions without a layer say nothing.
      on = found['program'].active[row]
      effect = tuple((a[row] * on).tobytes() for a in arrays)
      spellings.setdefault(effect, set()).add(found['c'][row].tobytes())
  assert len(spellings) < 2 * ROWS
  assert all(len(c) == 1 for c in spellings.values())


@pytest.fixture(scope='module')
def stored(tmp_path_factory):
  return tiny_stacks.write(tmp_path_factory.mktemp('stacks'), L, tied=False)


@every_space
def test_the_recipe_makes_the_tensors_that_are_scored(name, stored):
  folders, tensors = stored
  space, method = _space(name), _method(name)
  family = tiny_stacks.family(L, tied=False)
  experts = EXPERTS[:2] if name == 'published_fixed' else EXPERTS
  stack = tiny_stacks.stack(method, family, tensors, experts)
  merge = tiny_stacks.merger(family, method, stack)
  found = _look(name, 3)
  for row, c in enumerate(found['c'][:3]):
    recipe = recipes.from_yaml(recipes.to_yaml(space.describe(c)))
    streamed = streaming.merge(recipe, folders)
    layer, _, active = (array[row] for array in found['program'])
    assert tiny_stacks.depth(streamed) == active.sum()
    assert _layers(recipe) == list(layer[active])
    assert not tiny_stacks.differences(streamed, merge(space, c), exact=True)


@pytest.mark.parametrize('name', ['pruning_range', 'both', 'published'])
def test_a_start_called_an_expert_is_the_expert(name, stored):
  folders, tensors = stored
  c = dict(_space(name).starts)['expert:two']
  streamed = streaming.merge(_space(name).describe(c), folders)
  assert not tiny_stacks.differences(
    streamed, tensors['two'], name == 'published'
  )


def test_pruning_has_the_published_variables():
  """Of 40 layers 30 are kept, of 3 experts: 40 (3 + 2), and which are kept."""
  space = pruning.space(tiny_stacks.family(40), EXPERTS, BASE, keep=30)
  kinds = [name.split('/')[0] for name in space.names]
  assert {kind: kinds.count(kind) for kind in kinds} == {
    'skip': 40,
    'use': 120,
    'merge_scale': 40,
    'scale': 40,
  }


def test_pruning_starts_are_what_they_are_called():
  starts = dict(_space('pruning').starts)
  left = {
    'higher_first': [0, 1, 2, 3],
    'middle_outward': [0, 1, 4, 5],
    'alternating': [0, 1, 3, 5],
  }
  assert len(starts) == 3 * (1 + 2 * (len(EXPERTS) + 1))
  for origin, c in starts.items():
    order, what = origin.split(':')
    recipe = _space('pruning').describe(c)
    assert _layers(recipe) == left[order], origin
    who, _, scale = what.partition('@')
    weight = {
      name: float(scale) if who in (name, 'all') else 0.0 for name in EXPERTS
    }
    for part in recipe.slices:
      assert part.scales == ()
      for source in part.sources:
        assert source.parameters == {'weight': weight[source.model]}


def test_a_range_starts_with_the_unpruned_experts_too():
  space = _space('pruning_range')
  starts = dict(space.starts)
  for model in EXPERTS:
    (part,) = space.describe(starts[f'expert:{model}']).slices
    assert part.sources[0].layers == (0, L)
    weights = {s.model: s.parameters['weight'] for s in part.sources}
    assert weights == {name: float(name == model) for name in EXPERTS}
  assert len(_layers(space.describe(starts['middle_outward:base']))) == 3


def test_without_experts_a_pruned_layer_is_the_bases(stored):
  folders, tensors = stored
  space = _space('pruning')
  c = dict(space.starts)['higher_first:base']
  streamed = streaming.merge(space.describe(c), folders)
  for name, tensor in streamed.items():
    np.testing.assert_array_equal(tensor, tensors[BASE][name], name)


def test_fused_layers_take_the_coefficients_of_their_source():
  space = _space('both')
  found = _look('both', 4)
  path = next(p for p in found['plan'] if p.startswith('layers/mlp'))
  weight = found['plan'][path]['weight']  # [rows, K, S]
  at = {name: i for i, name in enumerate(space.names)}
  for k, expert in enumerate(EXPERTS):
    for row in range(20):
      for s in np.flatnonzero(found['program'].active[row]):
        span = '0-4' if found['program'].layer[row, s] < 4 else '4-6'
        c = found['c'][row, at[f'weight/{expert}/{span}/mlp']]
        assert weight[row, k, s] == c


def test_fused_starts_are_the_experts_and_their_average():
  space = _space('both')
  starts = dict(space.starts)
  for origin in (*(f'expert:{name}' for name in EXPERTS), 'uniform'):
    recipe = space.describe(starts[origin])
    assert _layers(recipe) == list(range(L))
    for part in recipe.slices:
      assert part.scales == ()
      for source in part.sources:
        want = {'uniform': 0.3333}.get(
          origin, float(origin == f'expert:{source.model}')
        )
        values = {s['value'] for s in source.parameters['weight']}
        assert values == {want}, origin


def test_slerp_is_refused_with_programs():
  family = tiny_stacks.family(L)
  with pytest.raises(ValueError, match='slerp merges another pair'):
    both.space(
      family,
      EXPERTS,
      BASE,
      method=registry.get('slerp'),
      cells=cells.layered(family),
      min_layers=4,
      max_layers=8,
    )


@pytest.mark.parametrize(
  ('models', 'repeat', 'count'), [(3, 1, 200), (2, 1, 160), (1, 2, 120)]
)
def test_the_published_layout_has_the_published_variables(
  models, repeat, count
):
  space = published_depthwise.space(
    tiny_stacks.family(40), EXPERTS[:models], BASE, layers=50, repeat=repeat
  )
  assert len(space.names) == count
  assert space.names[0] == 'scale_0'
  assert 'layer_39_block_1_selection' in space.names
  orders = [n for n in space.names if n.endswith('permutation_selection')]
  assert len(orders) == (40 if models > 1 else 0)
  assert [o for o, _ in space.starts] == [
    f'expert:{name}' for name in EXPERTS[:models]
  ]


def test_published_points_are_decoded_as_published():
  """Against a plain reading of the variables, where the bound is far."""
  space = published_depthwise.space(
    tiny_stacks.family(L), EXPERTS, BASE, layers=3 * L
  )
  orders = list(itertools.permutations(range(3)))
  for seed in range(5):
    x = np.random.default_rng(seed).uniform(size=len(space.names))
    c = dict(zip(space.names, np.asarray(space.quantise(x)), strict=True))
    raw = dict(zip(space.names, x, strict=True))
    want = []
    for i in range(L):
      chosen = [
        j
        for j in orders[int(raw[f'layer_{i}_permutation_selection'] * 6)]
        if raw[f'layer_{i}_block_{j}_selection'] >= 0.5
      ]
      scales = [1.0] * (len(chosen) - 1) + [c[f'scale_{i}']]
      rows = zip(chosen, scales, strict=True) if chosen else ()
      want += [(EXPERTS[j], i, float(s)) for j, s in rows] or [(BASE, i, 1.0)]
    recipe = space.describe(space.quantise(x))
    have = [
      (part.sources[0].model, i, part.scales[0].value if part.scales else 1.0)
      for part in recipe.slices
      for i in range(*part.sources[0].layers)
    ]
    assert [row[:2] for row in have] == [row[:2] for row in want]
    np.testing.assert_allclose(
      [row[2] for row in have], [row[2] for row in want], rtol=1e-6
    )


def test_the_least_wanted_blocks_are_dropped_at_the_bound():
  space = published_depthwise.space(
    tiny_stacks.family(2), EXPERTS[:2], BASE, layers=3
  )
  x = dict.fromkeys(space.names, 0.5)
  x |= {
    'layer_0_block_0_selection': 0.9,
    'layer_0_block_1_selection': 0.7,
    'layer_1_block_0_selection': 0.6,
    'layer_1_block_1_selection': 0.8,
  }
  recipe = space.describe(space.quantise(jnp.asarray(list(x.values()))))
  assert [part.sources[0].model for part in recipe.slices] == [
    'two',
    'one',
    'two',
  ]


@pytest.mark.parametrize(
  ('make', 'text'),
  [
    (lambda f: pruning.space(f, EXPERTS, BASE, keep=7), 'programs of 7 to 7'),
    (
      lambda f: pruning.space(f, EXPERTS, BASE, keep=4, merge_scales=(1, 1)),
      'low < high',
    ),
    (
      lambda f: published_depthwise.space(f, EXPERTS, BASE, layers=5),
      'a bound of at least 6',
    ),
    (
      lambda f: published_depthwise.space(
        f, EXPERTS, BASE, layers=9, fix_layers=3
      ),
      'some that are not fixed',
    ),
    (
      lambda f: published_depthwise.space(
        f, [*EXPERTS, 'four'], BASE, layers=9, repeat=2
      ),
      'more than 1000 orders',
    ),
  ],
)
def test_what_cannot_be_met_is_refused(make, text):
  with pytest.raises(ValueError, match=text):
    make(tiny_stacks.family(L))
