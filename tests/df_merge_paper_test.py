"""The published DF-Merge protocol on a T5 and tasks of a user's own."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax import pipeline, searching
from automerge_jax import recipe as recipes
from automerge_jax.io import safetensors, tokenizers
from automerge_jax.models import base as models
from automerge_jax.models import registry
from automerge_jax.search import job as jobs
from automerge_jax.search import sanity
from automerge_jax.search import space as spaces
from automerge_jax.search.job import BASE
from automerge_jax.search.ledger import Ledger
from automerge_jax.statistics import folder as statistics
from automerge_jax.tasks import splits
from configs import df_merge_paper
from experiments import choices, merge
from tests import tiny_t5

RANDOM, CANDIDATES, EXAMPLES, ITEMS = 4, 7, 6, 28
SMALL = {
  'explore': RANDOM,
  'candidates': CANDIDATES,
  'fisher_examples': EXAMPLES,
  'rungs': (ITEMS,),
  'select': ITEMS,
  'heldout': ITEMS,
  'weights': (0.5,),
  'ties_scales': (1.0,),
  'ties_densities': (0.2,),
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tiny_t5.write(tmp_path_factory.mktemp('t5'))


def _settings(folder, acquisition=None, tasks='{}.yaml', **changes):
  config = df_merge_paper.get_config(acquisition)
  config.base = str(folder / 'base')
  named = [str(folder / 'experts' / task) for task in tiny_t5.TASKS]
  config.experts = ','.join(named)
  own = [str(folder / tasks.format(task)) for task in tiny_t5.TASKS]
  config.tasks = ','.join(own)
  config.search.update(SMALL | changes)
  return choices.settings(config)


@pytest.fixture(scope='module')
def ran(folder, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  summary = pipeline.run(_settings(folder), workdir, 'command')
  return workdir, summary


def _trace(workdir):
  """Origins, and coefficients [N, K], in order."""
  with Ledger(workdir / 'ledger.sqlite', read_only=True) as ledger:
    found = [ledger.proposals(i) for i in range(CANDIDATES + 1)]
  assert [len(one) for one in found] == [1] * CANDIDATES + [0]
  rows = [one for (one,) in found[:-1]]
  return [r.origin for r in rows], np.stack([r.coefficients for r in rows])


def _searched(settings, workdir):
  workdir.mkdir()
  job = jobs.load(settings)
  space = spaces.build(settings, job.family, job.experts, BASE)
  with Ledger(workdir / 'ledger.sqlite') as ledger:
    searching.search(settings, job, space, ledger, workdir)
  return _trace(workdir)


def _weights(recipe):
  """Weight of each expert."""
  found = {
    source.model.rpartition('/')[2]: source.parameters['weight']
    for source in recipe.slices[0].sources
  }
  assert set(found) == set(tiny_t5.TASKS)
  return found


def test_the_protocol_is_the_published_one():
  search = df_merge_paper.get_config().search
  assert (search.method, search.semantics) == ('df_merge', 'paper')
  assert (search.space, search.objective) == ('modelwise', 'accuracy')
  assert (search.optimizer, search.acquisition) == ('bayes', 'ei')
  assert (search.explore, search.candidates, search.population) == (10, 60, 1)
  assert search.explore_design == 'uniform' and not search.hand_made_starts
  assert search.fisher_examples == 30 and search.fisher_at == 'candidate'
  assert search.fisher_estimate == 'exact' and len(search.rungs) == 1
  assert search.fisher_normalisation == 'none' and not search.gradient_steps
  assert not search.gate
  assert df_merge_paper.get_config('ucb').search.acquisition == 'ucb'
  with pytest.raises(ValueError, match="got 'pi'; valid: ei, ucb"):
    df_merge_paper.get_config('pi')


def test_the_experiment(ran):
  workdir, summary = ran
  assert summary['search']['failures'] == 0
  assert set(summary['metrics'].values()) == {'acc_tokens'}
  assert summary['parents'] == {task: task for task in tiny_t5.TASKS}
  assert (workdir / 'report.html').stat().st_size > 10_000
  origins, x = _trace(workdir)
  assert origins == ['explore'] * RANDOM + ['search'] * (CANDIDATES - RANDOM)
  assert (x >= 0).all() and (x <= 1).all()
  assert len(np.unique(x, axis=0)) == CANDIDATES
  # The published choice: the best of the search, whatever select items say.
  (chosen,) = summary['finalists']
  best = max(row['best'] for row in summary['search']['curve'])
  assert np.isclose(chosen['search'], best)
  for task in tiny_t5.TASKS:  # there is something to merge
    own = summary['models'][f'expert:{task}']['heldout']['tasks'][task]
    base = summary['models']['base']['heldout']['tasks'][task]
    assert own['accuracy'] > base['accuracy'] + 0.2
  assert {'merged', 'uniform', 'task_arithmetic', 'ties'} < set(
    summary['models']
  )


def test_the_recipe_makes_the_same_model_again(ran, tmp_path):
  workdir, _ = ran
  written = workdir / 'merged_hf' / 'recipe.yaml'
  recipe = recipes.from_yaml(written.read_text())
  assert (recipe.merge_method, recipe.semantics) == ('df_merge', 'paper')
  assert set(recipe.statistics) == set(recipe.models) - {recipe.base_model}
  merge.run(written, tmp_path / 'again')
  first, again = map(safetensors.read, (written.parent, tmp_path / 'again'))
  assert set(first) == set(again)
  for name, tensor in first.items():
    np.testing.assert_array_equal(tensor, again[name])


def test_the_seed_and_the_acquisition_say_what_is_tried(folder, ran, tmp_path):
  _, first = _trace(ran[0])
  _, again = _searched(_settings(folder), tmp_path / 'again')
  np.testing.assert_array_equal(again, first)
  _, other = _searched(_settings(folder, 'ucb'), tmp_path / 'ucb')
  np.testing.assert_array_equal(other[:RANDOM], first[:RANDOM])
  assert np.abs(other[RANDOM:] - first[RANDOM:]).max() > 1e-3


def test_fisher_merge_and_scores_from_their_definitions(folder, ran):
  """The published formulas by `jax.jacrev`, item by item, from the texts on."""
  workdir, summary = ran
  loaded = registry.load(folder / 'base')
  family, keys = loaded.family, loaded.family.keys
  recipe = recipes.from_yaml(
    (workdir / 'merged_hf' / 'recipe.yaml').read_text()
  )
  weights = _weights(recipe)
  kept = {
    model.rpartition('/')[2]: statistics.load(workdir / 'merged_hf' / place)
    for model, place in recipe.statistics.items()
  }
  tokenizer = tokenizers.load(folder / 'base')
  items = {
    task: [
      (item.label, *tiny_t5.asked(tokenizer, item.text, item.choices))
      for item in splits.search_items(str(folder / f'{task}.yaml'), ITEMS)
    ]
    for task in tiny_t5.TASKS
  }

  @jax.jit
  def ask(params, ids, answers):
    values = functools.partial(tiny_t5.log_probabilities, family)
    lp = values(params, ids, answers)
    slopes = jax.jacrev(values)(params, ids, answers)
    p = jax.nn.softmax(lp)
    return lp, jax.tree.map(lambda j: jnp.tensordot(p, j**2, 1), slopes)

  base = jax.tree.map(np.asarray, loaded.params)
  zeros = jax.tree.map(np.zeros_like, base)
  total, change, plain = zeros, zeros, base
  for task, weight in weights.items():
    expert = registry.load(folder / 'experts' / task).params
    deltas = jax.tree.map(np.subtract, expert, base)
    moved = jax.tree.map(
      functools.partial(np.multiply, np.float32(weight)), deltas
    )
    params = jax.tree.map(np.add, base, moved)
    each = [ask(params, *asked)[1] for _, *asked in items[task][:EXAMPLES]]
    fisher = jax.tree.map(
      lambda *rows: np.sum(rows, axis=0) / EXAMPLES + 1e-12, *each
    )
    stored = models.unpack(keys, fisher)
    assert set(stored) == set(kept[task]['fisher'])
    for name, want in stored.items():
      np.testing.assert_allclose(
        kept[task]['fisher'][name], want, rtol=0, atol=1e-4 * want.max()
      )
    plain = jax.tree.map(np.add, plain, moved)
    total = jax.tree.map(np.add, total, fisher)
    change = jax.tree.map(lambda c, f, m: c + f * m, change, fisher, moved)
  merged = jax.tree.map(
    lambda b, c, t: b + len(weights) * c / t, base, change, total
  )
  have = safetensors.read(workdir / 'merged_hf')
  equal = models.unpack(keys, plain)
  for name, want in models.unpack(keys, merged).items():
    np.testing.assert_allclose(have[name], want, rtol=1e-3, atol=1e-4)
    assert np.abs(have[name] - equal[name]).max() > 1e-2  # weights count
  # Answers are ranked by the same numbers that the Fisher information is of.
  exported = models.pack(keys, have)
  for task, rows in items.items():
    right = [np.argmax(ask(exported, *a)[0]) == label for label, *a in rows]
    told = summary['models']['merged']['search']['tasks'][task]['accuracy']
    assert np.isclose(np.mean(right), told)


LM_EVAL = """\
task: {task}
dataset_path: json
dataset_kwargs:
  cache_dir: {folder}/cache
  data_files:
    train: {folder}/{task}_train.jsonl
    validation: {folder}/{task}_validation.jsonl
    test: {folder}/{task}_test.jsonl
output_type: multiple_choice
training_split: train
validation_split: validation
test_split: test
doc_to_text: "{{{{text}}}}"
doc_to_choice: {choices}
doc_to_target: label
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""


def test_tasks_of_lm_eval(folder):
  asked = folder / 'lm_eval'
  asked.mkdir()
  for task in tiny_t5.TASKS:
    answers = json.dumps(tiny_t5.ANSWERS[task])
    text = LM_EVAL.format(task=task, folder=folder, choices=answers)
    (asked / f'{task}.yaml').write_text(text)
    (folder / f'{task}_lm_eval.yaml').write_text(
      f'kind: lm_eval\nname: {task}\ntask: {task}\ninclude_path: lm_eval\n'
      'metric: acc_tokens\nmax_tokens: 16\n'
    )
  settings = _settings(folder, tasks='{}_lm_eval.yaml')
  job = jobs.load(settings)
  assert set(job.metrics.values()) == {'acc_tokens'}
  assert job.calibration.examples.counts.tolist() == [EXAMPLES] * 3
  assert searching.gate_of(settings, job).limits == sanity.OPEN
  assert list(job.references) == list(tiny_t5.TASKS)
