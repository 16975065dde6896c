"""Recipes of equal effect have one hash; of unequal effect, different ones."""

import dataclasses
import time

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from automerge_jax import recipe as recipes
from automerge_jax.merging import canonical, registry, resolve, streaming
from automerge_jax.merging.layers import layer_of
from automerge_jax.recipe import Recipe, Scale, Slice, Source
from tests import tiny_models

MODELS = ('e0', 'e1', 'e2')
LAYERS = {name: layer_of(name) for name in tiny_models.base()}
SUMS = ('linear', 'task_arithmetic', 'passthrough')
SPARSE = ('ties', 'dare_linear', 'breadcrumbs')
RANDOM = ('dare_linear',)
FILTERS = ('mlp', 'q_proj', 'layernorm')


def _hash(recipe):
  return resolve.effective_hash(recipe, LAYERS, 2)


@pytest.fixture(scope='module')
def merged(tmp_path_factory):
  """Merges a recipe over tiny models."""
  folder = tmp_path_factory.mktemp('family')
  names = tiny_models.family(folder, 3)
  folders = {name: folder / name for name in names}
  return lambda recipe: streaming.merge(
    recipe, {m: folders[m] for m in recipe.models}
  )


def _agree(one, other):
  return one.keys() == other.keys() and all(
    np.allclose(one[name], other[name], rtol=1e-6, atol=1e-6) for name in one
  )


# -- random recipes: slices of one layer each, any method, parts and scales


def _leaf(draw, at=None):
  method = draw(st.sampled_from((*SUMS, 'slerp', *SPARSE)))
  most = {'passthrough': 1, 'slerp': 2}.get(method, 3)
  least = 2 if method == 'slerp' else 1
  models = draw(
    st.lists(
      st.sampled_from(MODELS), min_size=least, max_size=most, unique=True
    )
  )
  weight = st.sampled_from([0.0, 0.25, 0.5, 1.0, -0.75])
  sources = []
  for model in models:
    layer = draw(st.integers(0, 1))
    own = {}
    if method == 'passthrough':
      own = {'scale': draw(st.sampled_from([1.0, 0.5, -2.0, 0.0]))}
    elif method != 'slerp':
      own = {'weight': draw(weight)}
    if method in SPARSE:
      own['density'] = draw(st.sampled_from([1.0, 0.5]))
    sources.append(Source(model, own, (layer, layer + 1)))
  parameters = {}
  if method == 'slerp':
    parameters['t'] = draw(st.sampled_from([0.0, 0.3, 0.5, 1.0]))
  elif method != 'passthrough':
    parameters['normalize'] = draw(st.sampled_from([False, True]))
    if method != 'linear':
      parameters['lambda'] = draw(st.sampled_from([1.0, 0.5, 0.0, -1.0]))
  if method == 'linear' and sum(s.parameters['weight'] for s in sources) == 0:
    parameters['normalize'] = False
  base = draw(st.sampled_from(['base', None]))
  if method in ('task_arithmetic', *SPARSE):
    base = 'base'
  # Of a base with other layers nothing is known: it stands where it is needed.
  if base is not None and method in ('task_arithmetic', *SPARSE):
    sources.append(Source('base', layers=sources[0].layers))
  return Slice(tuple(sources), base, parameters, method)


@st.composite
def _recipes(draw):
  slices = []
  for _ in range(draw(st.integers(1, 3))):
    if draw(st.booleans()):
      listed = draw(st.lists(st.sampled_from(FILTERS), max_size=2, unique=True))
      parts = [
        *(dataclasses.replace(_leaf(draw), filter=f) for f in listed),
        _leaf(draw),
      ]
      part = Slice(parts=tuple(parts))
    else:
      part = _leaf(draw)
    scales = draw(
      st.lists(
        st.builds(
          Scale,
          st.sampled_from(FILTERS),
          st.sampled_from([1.0, 0.5, 0.0]),
          st.sampled_from([0.0, 1.0]),
        ),
        max_size=2,
      )
    )
    slices.append(dataclasses.replace(part, scales=tuple(scales)))
  seed = draw(st.integers(0, 1))
  return Recipe('linear', tuple(slices), seed=seed, dtype='float32')


# -- rewrites that change nothing


def _each_leaf(change):
  """A rewrite of recipes from one of leaves."""

  def rewrite(recipe):
    def of(part):
      if part.parts:
        return dataclasses.replace(part, parts=tuple(map(change, part.parts)))
      return change(part)

    return dataclasses.replace(recipe, slices=tuple(map(of, recipe.slices)))

  return rewrite


def _weights(leaf):
  return [s.parameters.get('weight', 0) for s in _experts(leaf)]


def _experts(leaf):
  return [s for s in leaf.sources if s.model != 'base']


def _reversed(leaf):
  if leaf.merge_method in ('slerp', *RANDOM):
    return leaf
  return dataclasses.replace(leaf, sources=leaf.sources[::-1])


def _swapped(leaf):
  """An arc from its other end."""
  if leaf.merge_method != 'slerp':
    return leaf
  t = 1 - leaf.parameters['t']
  return dataclasses.replace(
    leaf, sources=leaf.sources[::-1], parameters={'t': t}
  )


def _scaled_weights(leaf):
  if leaf.merge_method != 'linear' or not leaf.parameters['normalize']:
    return leaf
  return _times(leaf, 3.0)


def _times(leaf, factor):
  sources = tuple(
    dataclasses.replace(
      s,
      parameters=s.parameters | {'weight': factor * s.parameters['weight']},
    )
    if 'weight' in s.parameters
    else s
    for s in leaf.sources
  )
  return dataclasses.replace(leaf, sources=sources)


def _folded(leaf):
  """λ within the weights."""
  if leaf.merge_method != 'task_arithmetic' or leaf.parameters['normalize']:
    return leaf
  folded = _times(leaf, leaf.parameters['lambda'])
  return dataclasses.replace(
    folded, parameters=leaf.parameters | {'lambda': 1.0}
  )


def _joined_by_nobody(leaf):
  """One more expert, of weight zero, behind the others."""
  absent = [m for m in MODELS if m not in [s.model for s in leaf.sources]]
  if leaf.merge_method in ('passthrough', 'slerp') or not absent:
    return leaf
  own = leaf.sources[0].layers
  more = Source(absent[0], {'weight': 0.0}, own)
  experts = [*_experts(leaf), more]
  bases = [s for s in leaf.sources if s.model == 'base']
  return dataclasses.replace(leaf, sources=(*experts, *bases))


def _shared_parameters(leaf):
  """What sources state as filters of the slice's, never needed."""
  extra = {k: [{'filter': 'none', 'value': 9.0}] for k in leaf.parameters}
  sources = tuple(
    dataclasses.replace(
      s,
      parameters={
        k: [{'filter': 'zzz', 'value': 7.0}, {'value': [v, v]}]
        for k, v in s.parameters.items()
      },
    )
    for s in leaf.sources
  )
  own = {
    k: [*extra[k], {'filter': '*', 'value': v}]
    for k, v in leaf.parameters.items()
  }
  return dataclasses.replace(leaf, sources=sources, parameters=own)


def _copies(leaf):
  """A copy, as other methods say it."""
  if leaf.merge_method != 'passthrough':
    return leaf
  (source,) = leaf.sources
  scale = source.parameters['scale']
  own = dataclasses.replace(source, parameters={'weight': scale})
  if scale != 1:
    parameters = {'normalize': False}
    return dataclasses.replace(
      leaf, sources=(own,), parameters=parameters, merge_method='linear'
    )
  return dataclasses.replace(
    leaf,
    sources=(own, Source('base', layers=source.layers)),
    base_model='base',
    merge_method='task_arithmetic',
  )


def _ends(leaf):
  """A copy as the end of an arc."""
  if leaf.merge_method != 'slerp' or leaf.parameters['t'] not in (0, 1):
    return leaf
  source = leaf.sources[int(leaf.parameters['t'])]
  return Slice((source,), filter=leaf.filter, merge_method='passthrough')


def _scales_beside(recipe):
  """Scales of single copies in place of a parameter."""

  def of(part):
    if part.merge_method != 'passthrough' or part.scales:
      return part
    (source,) = part.sources
    if 'scale' not in source.parameters:
      return part
    return dataclasses.replace(
      part,
      sources=(dataclasses.replace(source, parameters={}),),
      scales=(Scale(None, source.parameters['scale']),),
    )

  return dataclasses.replace(recipe, slices=tuple(map(of, recipe.slices)))


def _in_parts(recipe):
  """Slices as their only part, behind one that takes nothing."""

  def of(part):
    if part.parts:
      return part
    other = Slice(
      (Source('e2', {'scale': 5.0}, (1, 2)),),
      filter='no such tensor',
      merge_method='passthrough',
    )
    own = dataclasses.replace(part, scales=())
    return Slice(parts=(other, own), scales=part.scales)

  return dataclasses.replace(recipe, slices=tuple(map(of, recipe.slices)))


def _written(recipe):
  return recipes.from_yaml(recipes.to_yaml(recipe))


# In this order: the later ones leave less that the others know to read.
REWRITES = (
  _each_leaf(_reversed),
  _each_leaf(_swapped),
  _each_leaf(_scaled_weights),
  _each_leaf(_folded),
  _each_leaf(_joined_by_nobody),
  _each_leaf(_copies),
  _each_leaf(_ends),
  _scales_beside,
  _each_leaf(_shared_parameters),
  _in_parts,
  _written,
)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(recipe=_recipes())
def test_yaml_gives_the_recipe_back(recipe):
  text = recipes.to_yaml(recipe)
  back = recipes.from_yaml(text)
  assert back == recipe
  assert recipes.to_yaml(back) == text
  assert back.warnings == ()
  if recipe.extended:
    assert recipes.portable(recipe)


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(
  recipe=_recipes(),
  chosen=st.lists(
    st.sampled_from(range(len(REWRITES))), min_size=1, max_size=4, unique=True
  ),
)
def test_what_is_only_written_otherwise_has_the_same_hash(
  merged, recipe, chosen
):
  other = recipe
  for i in sorted(chosen):
    other = REWRITES[i](other)
  hypothesis.note(recipes.to_yaml(recipe))
  hypothesis.note(recipes.to_yaml(other))
  assert _hash(other) == _hash(recipe)
  assert _agree(merged(recipe), merged(other))


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(
  recipe=_recipes(),
  drawn=_recipes(),
  change=st.sampled_from(['slice', 'scales', 'seed']),
)
def test_another_effect_has_another_hash(merged, recipe, drawn, change):
  """Equal hashes mean equal merges, and of sums and arcs the other way too."""
  first, *rest = recipe.slices
  other = {
    'slice': {'slices': (drawn.slices[0], *rest)},
    'scales': {
      'slices': (
        dataclasses.replace(first, scales=drawn.slices[0].scales),
        *rest,
      )
    },
    'seed': {'seed': 1 - recipe.seed},
  }[change]
  other = dataclasses.replace(recipe, **other)
  hypothesis.note(recipes.to_yaml(recipe))
  hypothesis.note(recipes.to_yaml(other))
  same = _agree(merged(recipe), merged(other))
  if _hash(other) == _hash(recipe):
    assert same
  methods = {*recipe.methods, *other.methods}
  if methods <= {*SUMS, 'slerp'}:
    assert same == (_hash(other) == _hash(recipe))


@pytest.mark.parametrize(
  ('method', 'parameters', 'symmetric'),
  [
    ('consensus', {}, True),
    ('magmax', {'lambda': 0.5}, True),
    ('model_stock', {}, True),
    ('nuslerp', {}, True),
    ('multislerp', {}, True),
    ('karcher', {}, True),
    ('sce', {'select_topk': 0.5}, True),
    ('ties', {'density': 0.5}, True),
    ('tall_mask', {}, False),
    ('slerp', {'t': 0.25}, False),
  ],
)
def test_the_order_of_experts_counts_where_it_matters(
  merged, method, parameters, symmetric
):
  known = {p.name for p in registry.get(method, 'paper').parameters}
  sources = tuple(
    Source(model, {'weight': weight} if 'weight' in known else {})
    for model, weight in (('e0', 0.25), ('e1', 0.75))
  )
  base = None if method in ('slerp', 'karcher') else 'base'
  one = Recipe(method, (Slice(sources),), base, parameters)
  other = dataclasses.replace(one, slices=(Slice(sources[::-1]),))
  assert (_hash(one) == _hash(other)) == symmetric
  assert _agree(merged(one), merged(other)) == symmetric


@pytest.mark.parametrize(
  'method', ['consensus', 'magmax', 'tall_mask', 'star', 'iso_c', 'tsv_m']
)
def test_no_step_is_the_base(merged, method):
  sources = (Source('e0'), Source('e1'))
  one = Recipe(method, (Slice(sources),), 'base', {'lambda': 0.0})
  copy = Recipe('passthrough', (Slice((Source('base'),)),))
  assert _hash(one) == _hash(copy)
  assert _agree(merged(one), merged(copy))


def test_masks_count_with_their_seed_only_where_they_are_drawn(merged):
  """An expert's draws belong to its place; a whole one has none."""

  def dare(models, seed=0, **parameters):
    sources = tuple(Source(m, {'weight': w}) for m, w in models.items())
    parts = (Slice(sources),)
    return Recipe('dare_linear', parts, 'base', parameters, seed=seed)

  thin = dare({'e0': 0.5, 'e1': 0.25}, density=0.5)
  same = [
    dare({'e0': 0.5, 'e1': 0.25, 'e2': 0.0}, density=0.5),
    dare({'e0': 1.0, 'e1': 0.5}, **{'density': 0.5, 'lambda': 0.5}),
  ]
  unlike = [
    dare({'e0': 0.5, 'e1': 0.25}, seed=1, density=0.5),
    dare({'e1': 0.25, 'e0': 0.5}, density=0.5),
    dare({'e2': 0.0, 'e0': 0.5, 'e1': 0.25}, density=0.5),
    dare({'e0': 0.5, 'e1': 0.25}, density=0.5, rescale=0.0),
  ]
  for other in same:
    assert _hash(other) == _hash(thin) and _agree(merged(other), merged(thin))
  for other in unlike:
    assert _hash(other) != _hash(thin)
    assert not _agree(merged(other), merged(thin))
  whole = dare({'e0': 0.5, 'e1': 0.25}, density=1.0)
  assert _hash(whole) == _hash(dare({'e1': 0.25, 'e0': 0.5}, seed=1))
  plain = dataclasses.replace(whole, merge_method='task_arithmetic')
  assert _hash(whole) == _hash(plain)
  assert _agree(merged(whole), merged(plain))


def test_what_is_a_whole_model_counts_where_a_method_looks_at_it(merged):
  """Thresholds of the paper's TIES are those of all that it merges."""

  def ties(at, density):
    sources = tuple(Source(m, layers=(at, at + 1)) for m in ('e0', 'e1'))
    return Slice(sources, merge_method='ties', parameters={'density': density})

  def copy(at):
    return Slice((Source('e2', layers=(at, at + 1)),))

  def pair(density, *slices):
    made = Recipe('passthrough', slices, 'base', semantics='paper')
    name = 'model.layers.0.mlp.up_proj.weight'
    (form,) = (
      form
      for form in canonical.forms(
        resolve.outputs(made, dict.fromkeys(made.models, tuple(LAYERS))), 0
      )
      if form[0] == name
    )
    return form, merged(made)[name]

  for density, counts in ((0.3, True), (1.0, False)):
    alone, tensor = pair(density, ties(0, density), copy(1))
    more, other = pair(density, ties(0, density), ties(1, density))
    assert (alone != more) == counts
    assert (tensor != other).any() == counts


def test_hashing_is_fast():
  """Once a candidate: a small part of what scoring it takes."""
  names = {
    f'model.layers.{i}.{part}.weight': i
    for i in range(12)
    for part in 'abcdefgh'
  }
  recipe = Recipe(
    'linear',
    tuple(
      Slice(
        tuple(Source(m, {'weight': 0.1}, (i, i + 1)) for m in MODELS),
        scales=(Scale('a', 0.5),),
      )
      for i in range(12)
    ),
  )
  resolve.effective_hash(recipe, names, 12)
  times = []
  for _ in range(5):
    begin = time.process_time()
    resolve.effective_hash(recipe, names, 12)
    times.append(time.process_time() - begin)
  assert min(times) < 0.05
