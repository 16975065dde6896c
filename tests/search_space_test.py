"""From settings to a search space: designs from files, patterns, errors."""

import dataclasses

import numpy as np
import pytest

from automerge_jax import recipe as recipes
from automerge_jax.models import registry
from automerge_jax.search import baselines, space
from automerge_jax.search.job import BASE
from automerge_jax.spaces import cells
from tests import tiny_suite

TYPED = {'method': 'task_arithmetic,ties', 'space': 'layerwise'}


@pytest.fixture(scope='module')
def family(tiny):
  return registry.load(tiny / 'base').family


def _recipe(tiny, names):
  """A file of task arithmetic whose models have the given paths."""
  (made,) = baselines.task_arithmetic(tiny_suite.TASKS, BASE, [0.35])
  text = recipes.to_yaml(made)
  for model, path in names.items():
    text = text.replace(f'model: {model}\n', f'model: {path}\n')
  file = tiny / 'experts' / 'mine.yaml'
  file.write_text(text)
  return file


def test_a_recipe_file_is_a_start(tiny, family):
  paths = {name: name for name in tiny_suite.TASKS} | {BASE: '../base'}
  file = _recipe(tiny, paths)
  settings = tiny_suite.settings(tiny, designs=(str(file),), **TYPED)
  found = space.build(settings, family, tiny_suite.TASKS, BASE)
  (c,) = [c for origin, c in found.starts if origin == 'file:mine.yaml']
  # What it starts from is what the file says.
  described = found.describe(c)
  for name in tiny_suite.TASKS:
    assert f'model: {name}' in recipes.to_yaml(described)
  assert {'uniform', 'file:mine.yaml'} <= {o for o, _ in found.starts}
  weights = [
    value
    for value, name in zip(c, found.names, strict=True)
    if name.startswith('task_arithmetic.weight')
  ]
  assert weights == pytest.approx([0.35] * len(weights))


def test_a_recipe_of_other_models_is_no_start(tiny, family):
  paths = {name: name for name in tiny_suite.TASKS} | {BASE: '../base'}
  file = _recipe(tiny, paths)
  settings = tiny_suite.settings(tiny, designs=(str(file),), **TYPED)
  fewer = dict(list(settings.experts.items())[:2])
  settings = dataclasses.replace(settings, experts=fewer)
  with pytest.raises(ValueError, match='no models of this search'):
    space.build(settings, family, list(fewer), BASE)


def test_a_recipe_that_the_space_cannot_say_is_no_silent_loss(tiny, family):
  paths = {name: name for name in tiny_suite.TASKS} | {BASE: '../base'}
  file = _recipe(tiny, paths)
  settings = tiny_suite.settings(
    tiny, designs=(str(file),), method='linear,ties', space='layerwise'
  )
  with pytest.raises(ValueError, match='cannot start from file:mine'):
    space.build(settings, family, tiny_suite.TASKS, BASE)


def test_only_one_space_starts_from_files(tiny, family):
  settings = tiny_suite.settings(
    tiny, designs=('x.yaml',), space='pruning', space_options={'keep': 1}
  )
  with pytest.raises(ValueError, match="only the space 'layerwise'"):
    space.build(settings, family, tiny_suite.TASKS, BASE)


def test_patterns_divide_layers(tiny, family):
  settings = tiny_suite.settings(
    tiny, components='words=embeddings,look=attention,rest=', **TYPED
  )
  found = space.division(settings, family)
  want = (('words', 'embeddings'), ('look', 'attention'), ('rest', None))
  assert found.filters == want
  assert found.of_name == cells.layered(family, 1, want).of_name
  bad = dataclasses.replace(settings, components='a=b=c,rest=')
  with pytest.raises(ValueError, match='expected NAME=FILTER'):
    space.division(bad, family)


@pytest.mark.parametrize(
  'changes',
  [{'layers_per_group': (0, 1)}, {'components': 'own'}, {'components': 'a='}],
)
def test_a_method_that_measures_takes_any_division(tiny, family, changes):
  settings = tiny_suite.settings(
    tiny,
    space='layerwise',
    method='df_merge',
    semantics='paper',
    **changes,
  )
  assert space.method(settings).name == 'df_merge'
  found = space.build(settings, family, tiny_suite.TASKS, BASE)
  parts = space.division(settings, family).names
  assert len(found.names) == len(parts) * len(tiny_suite.TASKS)
  assert found.describe(np.full(len(found.names), 0.5)).semantics == 'paper'


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'space_options': {'knot': 2}, **TYPED}, "did you mean 'knots'"),
    ({'space': 'pruning', 'method': 'linear,ties'}, 'takes one method'),
  ],
)
def test_what_a_space_cannot_do_is_refused(tiny, family, changes, message):
  settings = tiny_suite.settings(tiny, **changes)
  with pytest.raises(ValueError, match=message):
    space.method(settings)
    space.build(settings, family, tiny_suite.TASKS, BASE)
