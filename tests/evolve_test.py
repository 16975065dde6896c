"""mergekit-evolve's files: what their genotypes mean, and what is refused."""

import json
import pathlib

import evolve_replay
import numpy as np
import pytest

from automerge_jax.recipes import evolve, genotype

GOLDEN = pathlib.Path(__file__).with_name('testdata')
SIMPLE = """
genome:
  models: [a, b]
  merge_method: ties
  base_model: base
tasks: [arc]
"""


@pytest.fixture(scope='module')
def recorded():
  with np.load(GOLDEN / 'evolve_mergekit_0.1.5.npz') as archive:
    return json.loads(str(archive['recorded']))


def test_recipes_of_genotypes_are_mergekits(recorded):
  assert evolve_replay.compare(recorded) == 120


def test_a_different_gene_is_noticed(recorded):
  noticed = 0
  for text, start, made in recorded:
    if 'slerp' in text:
      continue
    genes, theirs = made[0]
    changed = [genes[0] * 1.001 + 0.001, *genes[1:]]
    with pytest.raises(AssertionError):
      evolve_replay.compare([[text, start, [[changed, theirs]]]])
    noticed += 1
  assert noticed > 30


def test_tasks_and_evaluation_are_read():
  evolution = evolve.from_yaml(
    SIMPLE.replace('[arc]', '[arc, {name: mmlu, weight: "5e-1", metric: acc}]')
    + 'limit: 100\nnum_fewshot: 5\nshuffle: true\napply_chat_template: false\n'
  )
  assert evolution.tasks == (
    evolve.Task('arc'),
    evolve.Task('mmlu', 0.5, 'acc'),
  )
  assert (evolution.limit, evolution.num_fewshot) == (100, 5)
  assert evolution.shuffle and not evolution.apply_chat_template
  assert evolution.fewshot_as_multiturn and not evolution.random_init


def test_random_starts_differ_by_seed_alone():
  evolution = evolve.from_yaml(SIMPLE + 'random_init: true\n')
  first, again, other = (genotype.initial(evolution, 4, s) for s in (0, 0, 1))
  np.testing.assert_array_equal(first, again)
  assert first.shape == (1, 2, 1, 2) and (first != other).all()
  assert (first >= 0).all() and (first < 1).all()


@pytest.mark.parametrize(
  ('old', 'new', 'message'),
  [
    ('models:', 'modles:', "e.yaml:3: genome: unknown key 'modles'; did you"),
    ('ties', 'della', "e.yaml:4: genome.merge_method: unknown value 'della'"),
    ('  base_model: base\n', '', 'e.yaml:3: genome: ties needs a `base_model`'),
    ('[a, b]', '[a, a]', "'a', 'a'.; ties expects 1 or more different models"),
    ('tasks: [arc]', 'tasks: []', 'e.yaml:6: tasks: the list is empty'),
    ('tasks: [arc]', '', '`tasks` is missing'),
    ('[arc]', '[{nam: arc}]', "tasks.0.: unknown key 'nam'; did you mean 'na"),
    ('ties', 'slerp\n  smooth: true', 'smooth: it is not possible with slerp'),
    ('ties', 'ties\n  smooth: 1', 'e.yaml:5: genome.smooth: expected true or'),
    ('tasks', 'merge_method: ties\ntasks', 'it is a recipe, no search space'),
  ],
)
def test_what_is_wrong_is_named(old, new, message):
  assert old in SIMPLE
  with pytest.raises(ValueError, match=message):
    evolve.from_yaml(SIMPLE.replace(old, new), 'e.yaml')


def test_groups_must_fill_the_layers():
  text = SIMPLE.replace('ties', 'ties\n  layer_granularity: 3')
  with pytest.raises(ValueError, match='layer_granularity 3 does not divide'):
    genotype.shape(evolve.from_yaml(text).genome, 4)
