"""The whole job on a tiny suite: files, rebuilding, repeating, killing."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml

from automerge_jax import pipeline, trees
from automerge_jax.io import orbax, safetensors
from automerge_jax.models import base as models
from automerge_jax.models import registry
from automerge_jax.tasks import partition, sealed, sources, splits
from experiments import evaluate, merge
from tests import tiny_suite

TABLES = {
  'run': 'key',
  'items': 'setting, task',
  'candidates': 'generation, slot',
  'scores': 'recipe, setting, task',
}


@pytest.fixture(scope='module')
def job(tiny):
  """The workdir of a finished run, reached through a link, as runs/ may be."""
  (tiny / 'disk').mkdir()
  (tiny / 'runs').symlink_to(tiny / 'disk')
  pipeline.run(tiny_suite.settings(tiny), tiny / 'runs' / 'a', 'the command')
  return tiny / 'runs' / 'a'


def _summary(workdir):
  summary = json.loads((workdir / 'summary.json').read_text())
  return {k: v for k, v in summary.items() if k != 'environment'}


def _ledger(workdir):
  """Every row of every table, in key order."""
  with sqlite3.connect(f'file:{workdir}/ledger.sqlite?mode=ro', uri=True) as db:
    return {
      table: db.execute(f'SELECT * FROM {table} ORDER BY {key}').fetchall()
      for table, key in TABLES.items()
    }


def _count(workdir, query):
  """Polls a ledger that another process writes; 0 while there is none."""
  try:
    with sqlite3.connect(
      f'file:{workdir}/ledger.sqlite?mode=ro', uri=True
    ) as db:
      return db.execute(query).fetchone()[0]
  except sqlite3.OperationalError:
    return 0


def test_every_file_is_there(job):
  for name in (
    'ledger.sqlite',
    'state',
    'summary.json',
    'report.html',
    'merged',
    'merged_hf/model.safetensors',
    'merged_hf/config.json',
    'merged_hf/tokenizer.json',
    'merged_hf/recipe.yaml',
    'merged_hf/README.md',
    'merged_hf/heads/tiny_animal/head.safetensors',
  ):
    assert (job / name).exists(), name
  assert not list(job.rglob('*.partial'))
  summary = _summary(job)
  page = (job / 'report.html').read_text()
  card = (job / 'merged_hf' / 'README.md').read_text()
  assert 'merge --recipe=merged_hf/recipe.yaml --out=rebuilt' in page
  assert 'evaluate --model=rebuilt --task=tiny_colour' in page
  assert (job / 'merged_hf' / 'recipe.yaml').read_text() in card
  assert summary['models']['merged']['recipe_hash'] in page


def test_the_search_kept_to_its_budget_and_chose_a_finalist(job):
  rows = _ledger(job)
  summary = _summary(job)
  # The budget, but for what does not fill a generation.
  assert 42 - 6 < len(rows['candidates']) <= 42
  assert summary['search']['candidates'] == len(rows['candidates'])
  first, *others = summary['finalists']
  assert first['recipe_hash'] == summary['models']['merged']['recipe_hash']
  assert first['select'] >= max(row['select'] for row in others)
  searched = {row[1] for row in rows['scores'] if row[1].startswith('search/1')}
  assert searched, 'no candidate reached the second rung'


def test_both_checkpoints_hold_the_same_tensors(job):
  tensors = safetensors.read(job / 'merged_hf')
  family = registry.load(job / 'merged_hf').family
  packed = trees.flatten(models.pack(family.keys, tensors))
  stored = trees.flatten(orbax.load(job / 'merged'))
  assert set(packed) == set(stored)
  for name, leaf in packed.items():
    np.testing.assert_array_equal(stored[name], leaf, name)


def test_the_recipe_rebuilds_the_same_bits_elsewhere(job, tmp_path):
  out = tmp_path / 'some' / 'where'
  merge.run(job / 'merged_hf' / 'recipe.yaml', out)
  have, want = safetensors.read(out), safetensors.read(job / 'merged_hf')
  assert list(have) == list(want)
  for name, tensor in want.items():
    assert have[name].dtype == tensor.dtype
    np.testing.assert_array_equal(have[name], tensor, name)
  again = tmp_path / 'again'
  merge.run(out / 'recipe.yaml', again)  # its own recipe works from there
  np.testing.assert_array_equal(
    safetensors.read(again)['encoder.layer.1.output.dense.weight'],
    want['encoder.layer.1.output.dense.weight'],
  )
  base = safetensors.read(out.parent / _relative_base(out))
  assert any((base[name] != want[name]).any() for name in want)
  with pytest.raises(FileExistsError, match='choose another'):
    merge.run(job / 'merged_hf' / 'recipe.yaml', out)


def _relative_base(folder):
  recipe = yaml.safe_load((folder / 'recipe.yaml').read_text())
  return folder / recipe['base_model']


def test_a_recipe_of_other_or_missing_models_is_refused(job, tmp_path):
  recipe = yaml.safe_load((job / 'merged_hf' / 'recipe.yaml').read_text())
  model = recipe['base_model']
  text = json.dumps(recipe)
  place = job / 'merged_hf' / 'other.yaml'
  place.write_text(text.replace(recipe['inputs'][model], 'f' * 64))
  with pytest.raises(ValueError, match='is pinned; restore it'):
    merge.run(place, tmp_path / 'out')
  place.write_text(text.replace(f'"{model}"', '"../nowhere"'))
  with pytest.raises(FileNotFoundError, match=r"names the model '../nowhere'"):
    merge.run(place, tmp_path / 'out')
  place.unlink()
  assert not list(tmp_path.iterdir())


def test_a_rebuilt_model_scores_as_the_summary_says(job, tmp_path):
  merge.run(job / 'merged_hf' / 'recipe.yaml', tmp_path / 'rebuilt')
  said = _summary(job)['models']['merged']['heldout']['tasks']
  for task in tiny_suite.TASKS:
    found = evaluate.run(tmp_path / 'rebuilt', task, n=60)
    assert found['n'] == 60
    assert found['accuracy'] == pytest.approx(said[task]['accuracy'])
    assert found['interval'] == pytest.approx(
      [said[task]['low'], said[task]['high']]
    )
    assert found['log_likelihood'] == pytest.approx(
      said[task]['log_likelihood'], abs=1e-5
    )


def test_evaluating_an_expert_and_asking_wrongly(tiny, job):
  task = 'tiny_number'
  expert = tiny / 'experts' / task
  said = _summary(job)['models'][f'expert:{task}']['heldout']['tasks'][task]
  found = evaluate.run(expert, task, n=60)
  assert found['accuracy'] == pytest.approx(said['accuracy'])
  assert evaluate.run(tiny / 'base', task, head=expert, split='select', n=40)
  with pytest.raises(FileNotFoundError, match=r"no head .*'tiny_numbr'; did"):
    evaluate.run(job / 'merged_hf', 'tiny_numbr')
  with pytest.raises(ValueError, match="for the task 'tiny_number', not"):
    evaluate.run(expert, 'tiny_colour')
  with pytest.raises(FileNotFoundError, match='no head for the task'):
    evaluate.run(tiny / 'base', task)


def test_the_search_saw_search_items_only(job):
  seen = {'search': set(), 'select': set(), 'heldout': set(), 'gate': set()}
  for setting, task, ids in _ledger(job)['items']:
    split = setting.split('/')[0]
    seen[split] |= {(task, item) for item in json.loads(ids)}
  asked = {
    'search': (splits.search_items, 48),
    'select': (sealed.select_items, 40),
    'heldout': (sealed.heldout_items, 60),
  }
  for split, (items, n) in asked.items():
    assert seen[split] == {
      (task, item.id) for task in tiny_suite.TASKS for item in items(task, n)
    }
  assert seen['gate'] <= seen['search']
  for task in tiny_suite.TASKS:
    parts = partition.partition(task, sources.read(task))
    sealed_ids = {i.id for s in ('select', 'heldout') for i in parts[s]}
    assert not sealed_ids & {item for _, item in seen['search']}


def test_running_again_changes_nothing(tiny, job):
  rows, summary = _ledger(job), _summary(job)
  tensors = (job / 'merged_hf' / 'model.safetensors').stat().st_mtime_ns
  pipeline.run(tiny_suite.settings(tiny), job, 'the command')
  assert _ledger(job) == rows
  assert _summary(job) == summary
  path = job / 'merged_hf' / 'model.safetensors'
  assert path.stat().st_mtime_ns == tensors


@pytest.mark.parametrize(
  ('key', 'value'), [('seed', 1), ('heldout', 50), ('rungs', (16, 40))]
)
def test_other_settings_in_the_same_workdir_are_refused(tiny, job, key, value):
  rows = _ledger(job)
  with pytest.raises(
    ValueError, match=f'made with {key} = .*another --workdir'
  ):
    pipeline.run(tiny_suite.settings(tiny, **{key: value}), job, '')
  assert _ledger(job) == rows


# Each query is polled from outside; the run is killed once it counts so many.
KILLS = (
  ("SELECT count(*) FROM scores WHERE setting LIKE 'gate/%'", 1),
  ('SELECT count(*) FROM candidates', 13),
  ("SELECT count(*) FROM scores WHERE setting LIKE 'search/1/%'", 28),
  ("SELECT count(*) FROM scores WHERE setting LIKE 'heldout/%'", 1),
)


def test_killed_at_any_moment_it_continues_to_the_same_end(tiny, job):
  workdir = tiny / 'killed'
  command = [sys.executable, '-m', 'tests.tiny_job', str(tiny), str(workdir)]
  in_search = 0
  for query, enough in KILLS:
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 100
    while _count(workdir, query) < enough:
      assert process.poll() is None, 'it ended before it could be killed'
      assert time.monotonic() < deadline, query
      time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    count = len(_ledger(workdir)['candidates'])
    in_search += 0 < count < len(_ledger(job)['candidates'])
    assert not (workdir / 'summary.json').exists()
  assert in_search >= 2
  subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
  have, want = _ledger(workdir), _ledger(job)
  for table, rows in want.items():
    assert have[table] == rows, table
  assert _summary(workdir) == _summary(job)
  for name, tensor in safetensors.read(job / 'merged_hf').items():
    np.testing.assert_array_equal(
      safetensors.read(workdir / 'merged_hf')[name], tensor
    )


@pytest.mark.parametrize(
  'other',
  [
    {'method': 'slerp', 'optimizer': 'cma_es', 'gradient_steps': 0},
    {
      'method': 'ties',
      'space': 'modelwise',
      'optimizer': 'random',
      'objective': 'accuracy',
      'batch_size': 2,
    },
  ],
)
def test_other_searches_after_the_first_in_one_process(tiny, tmp_path, other):
  """Each leaves a model that its own recipe rebuilds, and a page."""
  small = {'candidates': 20, 'ties_scales': ()}
  settings = tiny_suite.settings(tiny, **(small | other))
  summary = pipeline.run(settings, tmp_path / 'a', '')
  assert 'ties' not in summary['models']  # its grid is empty
  assert (tmp_path / 'a' / 'report.html').is_file()
  recipe = tmp_path / 'a' / 'merged_hf' / 'recipe.yaml'
  merge.run(recipe, tmp_path / 'b')
  want = safetensors.read(tmp_path / 'a' / 'merged_hf')
  for name, tensor in safetensors.read(tmp_path / 'b').items():
    np.testing.assert_array_equal(tensor, want[name], name)
