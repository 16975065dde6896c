"""The bench against the disk compares the same candidates and scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.io import checkpoints
from automerge_jax.merging import export, resident, streaming
from automerge_jax.models import base as models
from automerge_jax.recipe import portable
from automerge_jax.search import evaluate
from automerge_jax.tasks import kinds
from automerge_jax.types import ItemScores
from experiments.bench import disk_recipes, disk_route
from tests import tiny_suite


@pytest.fixture(scope='module')
def suite(tiny):
  return disk_recipes.load(tiny_suite.settings(tiny))


def _merged(suite, one):
  job = suite.job
  originals = [job.tensors(name) for name in job.experts]
  stack = resident.build(job.method, job.family, job.tensors('base'), originals)
  merge = jax.jit(
    lambda c, s: resident.merge(job.method, suite.space.decode(c), s)
  )
  return merge(jnp.asarray(one), stack)


def test_recipe_files_merge_to_the_candidates(suite, tmp_path):
  c = disk_recipes.candidates(suite.space, 2)
  assert np.unique(c).size > c.size / 2
  files = disk_recipes.write(suite.space, c, suite.job.folders, tmp_path)
  for file, one in zip(files, c, strict=True):
    recipe, folders = export.read(file)
    assert portable(recipe) == []
    from_file = streaming.merge(recipe, folders)
    wanted = models.unpack(suite.job.family.keys, _merged(suite, one))
    for name, tensor in wanted.items():
      np.testing.assert_array_equal(from_file[name], tensor, name)


def test_copies_hold_the_same_weights_under_inferred_names(suite, tmp_path):
  places = disk_recipes.copies(suite.job, tmp_path / 'models')
  assert set(places) == {'base', *tiny_suite.TASKS}
  for model, place in places.items():
    copied, tensors = checkpoints.read(place), suite.job.tensors(model)
    read = {key.stored for key in suite.job.family.keys}
    assert set(copied) == {f'bert.{name}' for name in read}
    for name in read:
      np.testing.assert_array_equal(copied[f'bert.{name}'], tensors[name])


def test_compiled_scorer_scores_the_merges(suite):
  suite = suite._replace(items=tiny_suite.of_one_length(suite.items))
  c = disk_recipes.candidates(suite.space, 2)
  ours = disk_route.compiled(suite, 2)
  found = ours.score(c)
  run = evaluate.scorer(suite.job.family)
  for i, one in enumerate(c):
    alone = run(
      _merged(suite, one),
      suite.job.heads,
      kinds.arrays(suite.items),
      len(suite.items),
    )
    np.testing.assert_array_equal(found.score[i], alone.score)
  assert not np.array_equal(found.log_likelihood[0], found.log_likelihood[1])
  assert ours.seconds > 0
  assert jax.config.jax_enable_compilation_cache


def test_scores_may_differ_only_where_two_classes_are_near():
  ours = ItemScores(
    score=jnp.array([[1.0, 0.0, 1.0]]),
    log_likelihood=jnp.array([[-0.1, -0.7, -0.2]]),
  )
  peer = {
    'right': [1.0, 1.0, 1.0],
    'nats': [-0.1, -0.7, -0.25],
    'margin': [2.0, 1e-4, 1.0],
  }
  count, gap = disk_route.differing(ours, [peer])
  assert count == 1
  assert gap == pytest.approx(0.05)
  with pytest.raises(
    RuntimeError, match=r'candidate 0, item 1: .* lead of 0.5'
  ):
    disk_route.differing(ours, [peer | {'margin': [2.0, 0.5, 1.0]}])
