"""Spaces: what is scored is what the recipe says, bit for bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax import recipe as recipes
from automerge_jax import trees
from automerge_jax.io import safetensors
from automerge_jax.merging import registry, resident, streaming
from automerge_jax.models import base as models
from automerge_jax.models import registry as families
from automerge_jax.search import baselines
from automerge_jax.spaces import cells, fusion
from tests import tiny_suite

EXPERTS = tiny_suite.TASKS
K, L, COMPONENTS = len(EXPERTS), 2, 3  # attention, mlp, rest; and the stem
CELLS = {'modelwise': 1, 'layerwise': 1 + L * COMPONENTS, 'grouped': 4}

every_space = pytest.mark.parametrize('kind', list(CELLS))
SEARCHED = {
  'linear': K,
  'task_arithmetic': K,
  'slerp': K,
  'ties': 2 * K,
  'dare_linear': 2 * K,
  'dare_ties': 2 * K,
  'della': 2 * K,
  'della_linear': 2 * K,
  'breadcrumbs': 2 * K,
  'breadcrumbs_ties': 2 * K,
  'consensus': K + 1,
  'iso_c': 1,
  'star': K,
}
every_method = pytest.mark.parametrize('name', sorted(SEARCHED))


@pytest.fixture(scope='module')
def folders(tiny):
  return {'base': tiny / 'base'} | {t: tiny / 'experts' / t for t in EXPERTS}


@pytest.fixture(scope='module')
def family(folders):
  return families.load(folders['base']).family


@pytest.fixture(scope='module')
def merged(family, folders):
  """`(method, plan) -> Params`: one compiled merge a method."""
  tensors = {name: safetensors.read(folder) for name, folder in folders.items()}

  @functools.cache
  def prepared(name):
    method = registry.get(name)
    stack = resident.build(
      method, family, tensors['base'], [tensors[t] for t in EXPERTS]
    )
    return stack, jax.jit(
      lambda plan, stack: resident.merge(method, plan, stack)
    )

  def run(name, plan, eager=False):
    stack, compiled = prepared(name)
    if eager:
      return resident.merge(registry.get(name), plan, stack)
    return compiled(plan, stack)

  return run


def _space(name, kind, family, **more):
  division = {
    'modelwise': lambda: cells.whole(family),
    'layerwise': lambda: cells.layered(family),
    'grouped': lambda: cells.layered(family, L),
    'by tensor': lambda: cells.layered(family, 1, 'tensor'),
  }[kind]()
  return fusion.space(registry.get(name), division, EXPERTS, 'base', **more)


def _draw(space, seed):
  x = np.random.default_rng(seed).uniform(-0.1, 1.1, len(space.names))
  return space.quantise(jnp.asarray(x, jnp.float32))


@every_method
@every_space
@pytest.mark.parametrize('seed', range(3))
def test_the_recipe_makes_the_tensors_that_are_scored(
  name, kind, seed, family, folders, merged
):
  _check_tensors(name, kind, seed, family, folders, merged)


@pytest.mark.parametrize('name', ['task_arithmetic', 'dare_ties'])
def test_likewise_by_tensor(name, family, folders, merged):
  _check_tensors(name, 'by tensor', 0, family, folders, merged)


def _check_tensors(name, kind, seed, family, folders, merged):
  space = _space(name, kind, family)
  c = _draw(space, seed)
  written = recipes.to_yaml(space.describe(c))
  streamed = streaming.merge(recipes.from_yaml(written), folders)
  packed = trees.flatten(models.pack(family.keys, streamed))
  resident_ = trees.flatten(merged(name, space.decode(c)))
  assert set(packed) == set(resident_)
  for path, leaf in packed.items():
    np.testing.assert_array_equal(resident_[path], leaf, path)


@every_method
def test_jit_equals_eager_on_the_whole_model(name, family, merged):
  space = _space(name, 'layerwise', family)
  c = _draw(space, 5)
  eager = trees.flatten(merged(name, space.decode(c), eager=True))
  plan = jax.jit(space.decode)(c)
  for path, leaf in trees.flatten(merged(name, plan)).items():
    np.testing.assert_allclose(
      leaf, eager[path], rtol=1e-6, atol=1e-6, err_msg=path
    )


@every_method
@every_space
def test_dimensions_are_counted_and_named_once(name, kind, family):
  space = _space(name, kind, family)
  assert len(space.names) == SEARCHED[name] * CELLS[kind]
  assert len(set(space.names)) == len(space.names)
  correlation = np.asarray(space.correlation)
  np.testing.assert_array_equal(correlation, correlation.T)
  np.testing.assert_array_equal(np.diag(correlation), 1)
  assert np.linalg.eigvalsh(correlation).min() > 0


@every_method
@every_space
def test_encode_undoes_quantise(name, kind, family):
  space = _space(name, kind, family)
  c = _draw(space, 7)
  x = space.encode(c)
  assert 0 <= x.min() and x.max() <= 1
  np.testing.assert_array_equal(space.quantise(x), c)
  at_edges = space.quantise(jnp.asarray([-3.0, 4.0] * len(c))[: len(c)])
  np.testing.assert_allclose(
    space.encode(at_edges), jnp.asarray([0.0, 1.0] * len(c))[: len(c)]
  )


@every_method
def test_coefficients_are_exact_decimals_compiled_or_not(name, family):
  """Recipes then say 0.2274, and count what a density keeps as the search."""
  space = _space(name, 'modelwise', family)
  rows = np.linspace(0, 1, 997, dtype=np.float32)
  x = jnp.tile(rows[:, None], (1, len(space.names)))
  compiled = np.asarray(jax.jit(jax.vmap(space.quantise))(x))
  eager = np.asarray(jax.vmap(space.quantise)(x))
  np.testing.assert_array_equal(compiled, eager)
  digits = [3 if n.startswith('density') else 4 for n in space.names]
  for column, places in zip(compiled.T, digits, strict=True):
    want = [np.float32(round(float(v), places)) for v in column]
    np.testing.assert_array_equal(column, want)
  for row in compiled[::50]:
    once, twice = space.decode(row), jax.jit(space.decode)(row)
    jax.tree.map(np.testing.assert_array_equal, once, twice)


@every_space
@pytest.mark.parametrize('name', ['linear', 'task_arithmetic', 'ties'])
def test_one_hot_is_the_expert_and_nothing_is_the_base(
  name, kind, family, folders, merged
):
  space = _space(name, kind, family)
  wanted = {f'expert:{t}': t for t in EXPERTS}
  starts = dict(baselines.starts(space, EXPERTS, (0.5,)))
  assert set(wanted) <= set(starts)
  for origin, model in wanted.items():
    found = trees.flatten(
      merged(name, space.decode(jnp.asarray(starts[origin])))
    )
    expert = families.load(folders[model]).params
    for path, leaf in trees.flatten(expert).items():
      np.testing.assert_allclose(found[path], leaf, atol=2e-7, err_msg=path)
  if name == 'task_arithmetic':
    found = merged(name, space.decode(jnp.zeros(len(space.names))))
    base = trees.flatten(families.load(folders['base']).params)
    for path, leaf in trees.flatten(found).items():
      np.testing.assert_array_equal(leaf, base[path], path)


def test_each_dimension_moves_its_own_tensors_only(family, merged):
  space = _space('task_arithmetic', 'layerwise', family)
  zero = jnp.zeros(len(space.names))
  base = models.unpack(
    family.keys, merged('task_arithmetic', space.decode(zero))
  )
  for i, name in enumerate(space.names):
    c = zero.at[i].set(1.0)
    moved = models.unpack(
      family.keys, merged('task_arithmetic', space.decode(c))
    )
    changed = {n for n in base if (base[n] != moved[n]).any()}
    _, _, span, component = name.split('/')
    if component == 'stem':
      assert changed == {n for n in base if n.startswith('embeddings.')}
      continue
    layer = int(span.split('-')[0])
    own = {n for n in base if f'layer.{layer}.' in n}
    assert changed and changed <= own | {n for n in base if 'pooler' in n}
    for n in changed:
      kind = (
        'rest'
        if 'LayerNorm' in n
        else 'attention'
        if 'attention' in n
        else 'mlp'
      )
      assert kind == component, (name, n)


def test_a_slerp_of_one_expert_is_that_expert(family, folders, merged):
  space = _space('slerp', 'modelwise', family)
  found = trees.flatten(merged('slerp', space.decode(jnp.asarray([0, 0.7, 0]))))
  expert = families.load(folders[EXPERTS[1]]).params
  for path, leaf in trees.flatten(expert).items():
    np.testing.assert_allclose(found[path], leaf, atol=1e-6, err_msg=path)


def test_other_ranges_are_kept_to_and_unknown_ones_named(family):
  space = _space('ties', 'modelwise', family, ranges={'weight': (0.5, 1.5)})
  ends = [space.quantise(jnp.full(6, x)) for x in (0.0, 1.0)]
  np.testing.assert_allclose(ends[0], [0.5] * 3 + [0.05] * 3)
  np.testing.assert_allclose(ends[1], [1.5] * 3 + [1.0] * 3)
  with pytest.raises(ValueError, match=r"'wieght'.*did you mean 'weight'"):
    _space('ties', 'modelwise', family, ranges={'wieght': (0, 1)})


@pytest.mark.parametrize('size', [0, L + 1])
def test_layers_per_group_is_checked(family, size):
  with pytest.raises(ValueError, match=f'{size}; expected 1 to {L}'):
    cells.layered(family, size)


def test_start_points_are_different_recipes_within_range(family):
  weights = (0.2, 1 / 3, 0.7, 1.0)
  space = _space('task_arithmetic', 'layerwise', family)
  starts = baselines.starts(space, EXPERTS, weights)
  hashes = {repr(space.describe(c)) for _, c in starts}
  assert len(hashes) == len(starts) == K + 4  # 1/3 is the average
  narrow = _space(
    'task_arithmetic', 'modelwise', family, ranges={'weight': (0.0, 0.5)}
  )
  origins = [o for o, _ in baselines.starts(narrow, EXPERTS, weights)]
  assert origins == ['uniform', 'weight:0.2']
