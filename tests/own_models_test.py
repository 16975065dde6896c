"""The main job on a user's own models and tasks, of every kind that writes."""

import json
import math

import numpy as np
import pytest

from automerge_jax import delivery, pipeline
from automerge_jax.io import safetensors
from automerge_jax.search import job as jobs
from automerge_jax.search.ledger import Ledger
from configs import own_models
from experiments import choices
from tests import tiny_own

TASKS = ('answer', 'write', 'text', 'outside')
SMALL = {
  'rungs': (4, 8),
  'promote': (2,),
  'population': 4,
  'candidates': 15,
  'gradient_steps': 4,
  'minibatches': 2,
  'select': 6,
  'heldout': 8,
  'weights': (0.5, 1.0),
  'ties_scales': (1.0,),
  'ties_densities': (0.5,),
  'layers_per_group': 3,
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tiny_own.write(tmp_path_factory.mktemp('own'))


def _settings(folder, tasks=TASKS, **changes):
  config = own_models.get_config()
  config.base = str(folder / 'base')
  config.experts = f'{folder / "one"}, {folder / "two"}'
  config.tasks = ','.join(str(folder / f'{name}.yaml') for name in tasks)
  config.search.update(SMALL | changes)
  return choices.settings(config)


@pytest.fixture(scope='module')
def ran(folder, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('run')
  settings = _settings(folder)
  return settings, workdir, pipeline.run(settings, workdir, 'command')


def test_every_task_is_scored_by_its_metric(ran):
  _, _, summary = ran
  assert summary['metrics'] == {
    'answer': 'acc',
    'write': 'exact_match',
    'text': 'inverse_perplexity',
    'outside': 'score',
  }
  assert set(summary['parents']) == set(TASKS)
  assert set(summary['parents'].values()) <= {'one', 'two'}
  assert summary['search']['failures'] == 0
  for model in ('merged', 'base', 'expert:one', 'expert:two', 'uniform'):
    cells = summary['models'][model]['heldout']['tasks']
    assert all(0 <= cells[task]['accuracy'] <= 1 for task in TASKS)
    assert all(math.isfinite(cells[t]['log_likelihood']) for t in TASKS)
  # Four new tokens are seldom enough for a random model to come to an end.
  shares = summary['models']['merged']['heldout']['tasks']['write']
  assert shares['truncated'] > 0


def test_an_external_score_is_that_of_the_written_checkpoint(ran):
  """The made-up scorer reads a norm's size from the candidate's file."""
  settings, workdir, summary = ran
  tensors = safetensors.read(workdir / delivery.EXPORTED)
  size = float(np.abs(tensors['model.norm.weight']).mean())
  job = jobs.load(settings)
  with Ledger(workdir / 'ledger.sqlite') as ledger:
    task = np.repeat(np.arange(4), settings.heldout)
    key = summary['models']['merged']['recipe_hash']
    scores = ledger.scores(key, f'heldout/{job.setting}', TASKS, task)
  found = scores.score[task == 3]
  wanted = {np.float32(min(1.0, size / (1 + n))) for n in range(1, 6)}
  assert all(np.isclose(list(wanted), one, atol=1e-6).any() for one in found)


def test_a_second_run_reads_everything_back(ran):
  settings, workdir, summary = ran
  again = pipeline.run(settings, workdir, 'command')
  for one in (again, summary):
    assert one.pop('environment')
  assert json.dumps(again) == json.dumps(summary)


def test_the_page_and_the_card_tell_metrics_and_shares(ran):
  _, workdir, _ = ran
  page = (workdir / 'report.html').read_text()
  assert 'inverse perplexity' in page and 'cut off' in page
  card = (workdir / delivery.EXPORTED / 'README.md').read_text()
  assert 'AutoModelForCausalLM' in card and 'cut off' in card


def test_a_scorer_that_fails_is_a_reason_and_no_score(folder, tmp_path):
  own = tmp_path / 'own'
  own.mkdir()
  text = (folder / 'outside.yaml').read_text()
  text = text.replace('data.jsonl', str(folder / 'data.jsonl'))
  (own / 'outside.yaml').write_text(text)
  (own / 'scorer.py').write_text('def score(model, ids):\n  raise OSError("x")')
  settings = _settings(own, ('outside',), gradient_steps=0)
  with pytest.raises(FileNotFoundError, match='base'):
    pipeline.run(settings, tmp_path / 'run', 'command')
  for name in ('base', 'one', 'two'):
    (own / name).symlink_to(folder / name)
  with pytest.raises(RuntimeError, match=r'cannot be scored: external scorer'):
    pipeline.run(settings, tmp_path / 'run', 'command')


def test_two_tasks_of_one_name_are_refused(folder):
  settings = _settings(folder, ('text', 'text'))
  with pytest.raises(ValueError, match="both called 'text'"):
    jobs.load(settings)
