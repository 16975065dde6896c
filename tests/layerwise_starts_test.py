"""Where typed layer-wise searches start."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.merging import registry, resolve
from automerge_jax.merging.layers import layer_of
from automerge_jax.models import bert
from automerge_jax.recipe import Recipe, Slice, Source
from automerge_jax.search import baselines
from automerge_jax.spaces import cells, layerwise
from automerge_jax.spaces.typed import designs as typed_designs
from automerge_jax.spaces.typed import layout as typed_layout
from tests import tiny_encoder

EXPERTS = ('a', 'b', 'c')
L = 2


@functools.cache
def _family():
  return bert.family(bert.config_from_hf(tiny_encoder.CONFIG))


def _layout(names, components='own', **options):
  methods = [registry.get(name) for name in names]
  division = cells.layered(_family(), 1, components)
  return typed_layout.layout(methods, division, EXPERTS, 'base', **options)


def _starts(names, designs=(), **options):
  layout = _layout(names, **options)
  space = layerwise.from_layout(layout)
  found, missed = typed_designs.starts(layout, space, designs)
  return space, dict(found), missed


def _hash(recipe):
  names = {key.stored: layer_of(key.stored) for key in _family().keys}
  return resolve.effective_hash(recipe, names, L)


def _alone(model):
  return Recipe('passthrough', (Slice((Source(model, layers=(0, L)),)),))


GRID = [
  *baselines.task_arithmetic(EXPERTS, 'base', (0.3, 0.7)),
  *baselines.ties(EXPERTS, 'base', (1.0, 0.7), (0.2,)),
]
DESIGNS = [(f'design:{i}', recipe) for i, recipe in enumerate(GRID)]


@pytest.mark.parametrize(
  ('names', 'options', 'singles', 'others'),
  [
    (('linear',), {}, 'expert', ['uniform']),
    (('slerp',), {}, 'expert', []),
    (('slerp',), {'knots': 2}, 'expert', []),
    (('passthrough',), {}, 'expert', ['base']),
    (('breadcrumbs',), {}, 'nearly', ['base']),
    (('della',), {}, 'nearly', ['base']),
    (
      ('task_arithmetic',),
      {},
      'expert',
      ['base', 'uniform', 'design:0', 'design:1'],
    ),
    (('ties',), {}, 'expert', ['base', 'design:2']),
    (
      ('linear', 'task_arithmetic', 'ties', 'slerp'),
      {'ranges': {'ties.lambda': (0, 1.5)}, 'shared': ('density',)},
      'expert',
      ['base', 'uniform', *(origin for origin, _ in DESIGNS)],
    ),
    (
      ('linear', 'ties'),
      {'knots': 2},
      'expert',
      ['base', 'uniform', 'design:2'],
    ),
  ],
)
def test_starts_are_what_they_are_called(names, options, singles, others):
  space, found, missed = _starts(names, DESIGNS, **options)
  assert list(found) == [f'{singles}:{e}' for e in EXPERTS] + others
  everything = {'base', 'uniform', *(origin for origin, _ in DESIGNS)}
  assert set(missed) == everything - set(others)
  wanted = {f'expert:{e}': _alone(e) for e in EXPERTS}
  wanted |= dict(DESIGNS) | {'base': _alone('base')}
  hashes = set()
  for origin, c in found.items():
    np.testing.assert_array_equal(space.quantise(space.encode(c)), c)
    hashes.add(_hash(space.describe(c)))
    if origin in wanted:
      assert _hash(space.describe(c)) == _hash(wanted[origin]), origin
  assert len(hashes) == len(found)


@pytest.mark.parametrize(
  'options', [{}, {'choice': 'cell'}, {'knots': 2}], ids=repr
)
def test_what_was_described_is_placed_again(options):
  names = ('linear', 'task_arithmetic', 'dare_ties', 'slerp', 'passthrough')
  layout = _layout(names, **options)
  space = layerwise.from_layout(layout)
  for seed in range(4):
    x = np.random.default_rng(seed).uniform(size=len(space.names))
    c = space.quantise(jnp.asarray(x, jnp.float32))
    recipe = space.describe(c)
    again = typed_designs.place(layout, space, recipe)
    assert _hash(space.describe(again)) == _hash(recipe)
    if not options.get('knots'):
      np.testing.assert_array_equal(again, c)


def _all(method='task_arithmetic', models=EXPERTS, **more):
  sources = tuple(Source(m, {'weight': 0.5}, (0, L)) for m in models)
  return Recipe(method, (Slice(sources),), base_model='base', **more)


def _moved():
  first, second = (
    Slice(tuple(Source(m, {'weight': 0.5}, (i, i + 1)) for m in EXPERTS))
    for i in (1, 0)
  )
  return Recipe('task_arithmetic', (first, second), base_model='base')


def _by_component():
  weight = [{'filter': 'query', 'value': 0.1}, {'value': 0.9}]
  sources = tuple(Source(m, {'weight': weight}, (0, L)) for m in EXPERTS)
  return Recipe('task_arithmetic', (Slice(sources),), base_model='base')


@pytest.mark.parametrize(
  ('recipe', 'message'),
  [
    (_all('dare_linear'), 'dare_linear.*none of'),
    (_all(models=('a', 'z')), r"of \['z'\], not among the models"),
    (_moved(), 'made of other layers'),
    (_all(parameters={'lambda': 0.5}), r'lambda is \[0.5\], the nearest here'),
    (_by_component(), 'weight is .*the nearest here'),
    (_all('ties', seed=3), 'seed 3'),
  ],
)
def test_what_a_space_cannot_express_is_named(recipe, message):
  layout = _layout(('task_arithmetic', 'ties'))
  space = layerwise.from_layout(layout)
  with pytest.raises(ValueError, match=message):
    typed_designs.place(layout, space, recipe)


def test_fewer_experts_have_weight_zero():
  layout = _layout(('task_arithmetic',))
  space = layerwise.from_layout(layout)
  c = typed_designs.place(layout, space, _all(models=('c', 'a')))
  by_name = dict(zip(space.names, c, strict=True))
  assert by_name['task_arithmetic.weight/a/0-1/mlp'] == 0.5
  assert by_name['task_arithmetic.weight/b/0-1/mlp'] == 0


@pytest.mark.parametrize(
  ('options', 'message'),
  [
    ({'names': ('nuslerp',)}, 'nuslerp takes 2 to 2 experts, not 3'),
    ({'ranges': {'weigth': (0, 1)}}, "ranges: 'weigth'.*mean 'weight'"),
    ({'ranges': {'gamma': (0, 1)}}, "'gamma' is no parameter"),
    ({'shared': ('ties.weight',)}, "shared: 'ties.weight'"),
    ({'ranges': {'weight': (1, 0)}}, 'low is above high'),
    ({'choice': 'layer'}, "choice is 'layer'; expected 'group' or 'cell'"),
    ({'knots': 3}, 'knots is 3; expected 2 to 2'),
  ],
)
def test_wrong_options_are_named(options, message):
  with pytest.raises(ValueError, match=message):
    _layout(options.pop('names', ('linear', 'breadcrumbs')), **options)


def test_a_space_has_its_starts():
  space = layerwise.space(
    [registry.get('linear')],
    cells.whole(_family()),
    EXPERTS,
    'base',
    designs=DESIGNS,
  )
  assert [origin for origin, _ in space.starts] == [
    *(f'expert:{e}' for e in EXPERTS),
    'uniform',
  ]
