"""Depth-wise spaces: bounds, spelling, locality, and the recipe's tensors."""

import dataclasses
import functools

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies

from automerge_jax import recipe as recipes
from automerge_jax.merging import mixed, registry, streaming
from automerge_jax.spaces import depthwise
from tests import tiny_stacks
from tests.tiny_stacks import BASE, EXPERTS

L = 6
OPTIONS = {
  'plain': {'min_layers': 4, 'max_layers': 8},
  'repeats': {'min_layers': 4, 'max_layers': 9, 'repeats': 2},
  'shallow': {'min_layers': 4, 'max_layers': 6, 'copies': 1},
  'deep': {'min_layers': 8, 'max_layers': 10, 'copies': 2},
  'fixed': {'min_layers': 3, 'max_layers': 9, 'fixed': (1, 2), 'copies': 3},
  'unscaled': {
    'min_layers': 6,
    'max_layers': 9,
    'skips': False,
    'scales': None,
  },
}
every_option = pytest.mark.parametrize('name', list(OPTIONS))


@functools.cache
def _space(name):
  return depthwise.space(tiny_stacks.family(L), EXPERTS, BASE, **OPTIONS[name])


ROWS = 300  # points that are looked at at once, so that one shape is compiled


@functools.cache
def _compiled(name):
  space = _space(name)

  def one(x):
    c = space.quantise(x)
    model = space.decode(c)['layers/attention/query/kernel']
    return {
      'c': c,
      'x': space.encode(c),
      'again': space.quantise(space.encode(c)),
      'program': space.program(c),
      'model': model['passthrough/first'],
      'active': space.active(c),
    }

  return jax.jit(jax.vmap(one))


def _look(name, x):
  """All that a space says of points [ROWS, D], on the host."""
  found = _compiled(name)(x)
  return jax.tree.map(np.array, found)


def _points(name, seed):
  shape = ROWS, len(_space(name).names)
  return np.random.default_rng(seed).uniform(size=shape).astype(np.float32)


def _listed(space, c):
  """(model, layer, scale) of each layer of a recipe."""
  return [
    (source.model, layer, part.scales)
    for part in space.describe(c).slices
    for source in part.sources
    for layer in range(*source.layers)
  ]


@every_option
@hypothesis.given(seed=strategies.integers(0, 2**32 - 1))
@hypothesis.settings(max_examples=5, deadline=None)
def test_every_point_meets_the_bounds_and_has_one_spelling(name, seed):
  found = _look(name, _points(name, seed))
  depth = found['program'].active.sum(1)
  assert depth.min() >= OPTIONS[name]['min_layers']
  assert depth.max() <= OPTIONS[name]['max_layers']
  np.testing.assert_array_equal(found['again'], found['c'])


@every_option
def test_active_positions_come_first_and_hold_layers(name):
  found = _look(name, _points(name, 1))['program']
  depth = found.active.sum(1, keepdims=True)
  positions = np.arange(found.active.shape[1])
  np.testing.assert_array_equal(found.active, positions < depth)
  assert ((found.layer >= 0) & (found.layer < L)).all()
  assert (found.scale[~found.active] == 1).all()
  if not OPTIONS[name].get('repeats'):  # then layers stay in their order
    steps = np.diff(found.layer, axis=1)[found.active[:, 1:]]
    assert (steps >= 0).all()


@pytest.mark.parametrize('name', ['plain', 'shallow', 'deep', 'fixed'])
def test_random_points_are_of_every_depth(name):
  depth = _look(name, _points(name, 2))['program'].active.sum(1)
  low, high = OPTIONS[name]['min_layers'], OPTIONS[name]['max_layers']
  share = np.bincount(depth, minlength=high + 1)[low:] / len(depth)
  assert share.min() > 0.4 / len(share), share


@every_option
def test_what_is_inactive_changes_nothing(name):
  found = _look(name, _points(name, 3))
  idle = ~found['active']
  moved = np.where(idle, _points(name, 4), found['x'])
  np.testing.assert_array_equal(_look(name, moved)['c'], found['c'])
  if name != 'unscaled':
    assert idle.any(axis=1).mean() > 0.3
  names = _space(name).names
  assert len(set(names)) == len(names)


@pytest.mark.parametrize('name', [n for n in OPTIONS if n != 'repeats'])
def test_equal_programs_are_equal_vectors(name):
  first = _look(name, _points(name, 5))
  # Many of the points nearby are equal in effect.
  draw = np.random.default_rng(6)
  near = first['x'] + np.where(
    draw.uniform(size=first['x'].shape) < 0.05,
    draw.normal(size=first['x'].shape),
    0,
  )
  second = _look(name, np.clip(near, 0, 1).astype(np.float32))
  spellings = {}
  for found in (first, second):
    for row in range(ROWS):
      effect = (
        *(f[row].tobytes() for f in found['program']),
        *found['model'][row],
      )
      spellings.setdefault(effect, set()).add(found['c'][row].tobytes())
  assert len(spellings) < 2 * ROWS
  assert all(len(c) == 1 for c in spellings.values())


@every_option
def test_the_middle_is_an_unchanged_model_where_bounds_allow(name):
  space, options = _space(name), OPTIONS[name]
  c = _look(name, np.full((ROWS, len(space.names)), 0.5, np.float32))['c'][0]
  listed = _listed(space, c)
  assert len({model for model, *_ in listed}) == 1
  assert all(scales == () for *_, scales in listed)
  if options['min_layers'] < L < options['max_layers']:
    assert [layer for _, layer, _ in listed] == list(range(L))


def test_a_small_step_is_a_small_change():
  """One gene drawn anew edits less than one layer on average."""
  space = _space('plain')
  found = _look('plain', _points('plain', 7))
  draw = np.random.default_rng(8)
  stepped = found['x'].copy()
  dimension = draw.integers(stepped.shape[1], size=ROWS)
  stepped[np.arange(ROWS), dimension] = draw.uniform(size=ROWS)
  near = _look('plain', stepped)['c']
  far = _look('plain', _points('plain', 9))['c']
  listed, near, far = (
    [_listed(space, c) for c in rows[:60]] for rows in (found['c'], near, far)
  )
  steps = [_edits(a, b) for a, b in zip(listed, near, strict=True)]
  jumps = [_edits(a, b) for a, b in zip(listed, far, strict=True)]
  assert 0.3 < np.mean(steps) < 1.0, np.mean(steps)
  assert np.mean(np.asarray(steps) <= 1) > 0.8, steps
  assert np.mean(jumps) > 5 * np.mean(steps), np.mean(jumps)


def _edits(one, other):
  """Layers to insert, remove or replace: Levenshtein's distance."""
  row = list(range(len(other) + 1))
  for i, a in enumerate(one, 1):
    before, row[0] = row[0], i
    for j, b in enumerate(other, 1):
      before, row[j] = (
        row[j],
        min(row[j] + 1, row[j - 1] + 1, before + (a != b)),
      )
  return row[-1]


def test_a_block_is_run_again_behind_its_end():
  space = _space('repeats')
  c = dict(space.starts)['repeat:one']
  parts = [s.sources[0] for s in space.describe(c).slices]
  assert [(s.model, s.layers) for s in parts] == [
    ('one', (0, 4)),
    ('one', (1, 6)),
  ]


@every_option
def test_starts_are_what_they_are_called(name):
  space, options = _space(name), OPTIONS[name]
  exact = options['min_layers'] <= L <= options['max_layers']
  starts = dict(space.starts)
  assert len(starts) == len(space.starts)
  for model in (*EXPERTS, BASE):
    origin = f'expert:{model}' if model in EXPERTS else BASE
    origin = origin if exact else f'nearly:{model}'
    listed = _listed(space, starts[origin])
    assert {m for m, *_ in listed} == {model}
    assert all(scales == () for *_, scales in listed)
    if exact:
      assert [layer for _, layer, _ in listed] == list(range(L))
    else:
      assert len(listed) == options['min_layers']
  alternating = _listed(space, starts['alternating'])
  assert all(m == EXPERTS[layer % 3] for m, layer, _ in alternating)
  spelled = np.stack(list(starts.values()))
  x = np.zeros((ROWS, len(space.names)), np.float32)
  x[: len(spelled)] = jax.vmap(space.encode)(spelled)
  np.testing.assert_array_equal(_look(name, x)['c'][: len(spelled)], spelled)


@pytest.fixture(scope='module', params=[True, False], ids=['tied', 'untied'])
def merged(request, tmp_path_factory):
  """`(space, c) -> (streamed, resident)` tensors, compiled once for a space."""
  folders, tensors = tiny_stacks.write(
    tmp_path_factory.mktemp('stacks'), L, request.param
  )
  family = tiny_stacks.family(L, request.param)
  method = mixed.of([registry.get('passthrough')])
  stack = tiny_stacks.stack(method, family, tensors)
  merge = tiny_stacks.merger(family, method, stack)

  def run(space, c):
    written = recipes.to_yaml(space.describe(c))
    streamed = streaming.merge(recipes.from_yaml(written), folders)
    return streamed, merge(space, c)

  return family, run


def test_the_recipe_makes_the_tensors_that_are_scored(merged):
  family, run = merged
  space = depthwise.space(family, EXPERTS, BASE, **OPTIONS['repeats'])
  found = _look('repeats', _points('repeats', 10))
  depths = found['program'].active.sum(1)
  points = [*found['c'][:5], dict(space.starts)['alternating']]
  for c, depth in zip(points, [*depths[:5], L], strict=True):
    streamed, resident_ = run(space, c)
    assert tiny_stacks.depth(streamed) == depth
    assert not tiny_stacks.differences(streamed, resident_, exact=True)


def test_without_the_base_no_layer_is_the_bases():
  space = depthwise.space(
    tiny_stacks.family(L), EXPERTS, BASE, with_base=False, **OPTIONS['plain']
  )
  assert BASE not in dict(space.starts)
  quantise = jax.jit(space.quantise)
  for x in np.random.default_rng(0).uniform(size=(20, len(space.names))):
    listed = _listed(space, quantise(x))
    assert {model for model, *_ in listed} <= set(EXPERTS)


def test_candidates_share_one_compilation():
  space, traces = _space('repeats'), []

  @jax.jit
  def run(x):
    traces.append(x)
    c = space.quantise(x)
    return space.program(c), space.decode(c)

  for x in _points('repeats', 11)[:20]:
    run(x)
  assert len(traces) == 1


@pytest.mark.parametrize(
  ('options', 'text'),
  [
    ({'min_layers': 3, 'max_layers': 13}, 'programs of 3 to 13'),
    ({'min_layers': 5, 'max_layers': 4}, 'programs of 5 to 4'),
    ({'min_layers': 4, 'max_layers': 8, 'skips': False}, 'programs of 4 to 8'),
    ({'min_layers': 0, 'max_layers': 8}, 'programs of 0 to 8'),
    ({'min_layers': 4, 'max_layers': 8, 'copies': 0}, 'copies is 0'),
    ({'min_layers': 4, 'max_layers': 8, 'fixed': (4, 3)}, 'fixed is'),
    ({'min_layers': 4, 'max_layers': 8, 'scales': (1.1, 2.0)}, 'around 1'),
  ],
)
def test_what_cannot_be_met_is_refused(options, text):
  with pytest.raises(ValueError, match=text):
    depthwise.space(tiny_stacks.family(L), EXPERTS, BASE, **options)


def test_layers_that_cannot_be_restacked_are_refused():
  family = dataclasses.replace(tiny_stacks.family(L), branches=())
  with pytest.raises(ValueError, match='cannot be restacked'):
    depthwise.space(family, EXPERTS, BASE, **OPTIONS['plain'])
