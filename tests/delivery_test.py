"""What a search hands over is replaced when it changed, and always whole."""

import json
import shutil

import pytest
import yaml

from automerge_jax import choice, delivery, trees
from automerge_jax.io import atomic, orbax, safetensors
from automerge_jax.merging import export
from automerge_jax.search import baselines
from automerge_jax.search import job as jobs
from tests import tiny_suite


class Kill(BaseException):
  """Stands in for a signal: nothing catches it, nothing is tidied up."""


@pytest.fixture(scope='module')
def job(tiny):
  return jobs.load(tiny_suite.settings(tiny))


def _choice(job, weight, members=0):
  """Task arithmetic of one weight; members of a front get smaller ones."""
  merged, *others = baselines.task_arithmetic(
    job.originals, 'base', [weight / (n + 1) for n in range(members + 1)]
  )
  recipes = {f'front:{n}': recipe for n, recipe in enumerate(others)}
  front = [{'name': name} for name in recipes]
  return choice.Choice([], {'merged': merged} | recipes, front, {})


def _weight(workdir):
  """The weight that a whole delivery was made with."""
  out = workdir / delivery.EXPORTED
  recipe = yaml.safe_load((out / export.RECIPE).read_text())
  stored = trees.flatten(orbax.load(workdir / delivery.ORBAX))
  total = sum(float(leaf.sum()) for leaf in stored.values())
  tensors = safetensors.read(out)
  assert total == pytest.approx(
    sum(float(t.sum()) for t in tensors.values() if t.dtype.kind == 'f')
  )
  return recipe['models'][0]['parameters']['weight']


def _files(folder):
  return {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}


def test_the_same_choice_stays_as_it_is(job, tmp_path):
  made = _choice(job, 0.5, members=2)
  delivery.export_merge(job, made, tmp_path)
  before = _files(tmp_path)
  assert _weight(tmp_path) == 0.5
  assert (tmp_path / delivery.ORBAX / 'config.json').is_file()
  (tmp_path / '.merged_hf.next').mkdir()  # as a killed process leaves it
  delivery.export_merge(job, made, tmp_path)
  assert _files(tmp_path) == before
  assert not list(tmp_path.glob('.*'))


def test_another_choice_replaces_all_and_takes_the_report_along(job, tmp_path):
  delivery.export_merge(job, _choice(job, 0.5, members=3), tmp_path)
  for name in (delivery.SUMMARY, delivery.REPORT):
    (tmp_path / name).write_text('of the first')
  (tmp_path / delivery.EXPORTED / 'README.md').write_text('of the first')
  delivery.export_merge(job, _choice(job, 0.25, members=1), tmp_path)
  assert _weight(tmp_path) == 0.25
  assert sorted(p.name for p in (tmp_path / 'front').glob('*')) == [
    '0.yaml',
    'heads',
  ]
  assert sorted(p.name for p in tmp_path.iterdir()) == [
    'front',
    'merged',
    'merged_hf',
  ]
  card = (tmp_path / delivery.EXPORTED / 'README.md').read_text()
  assert 'of the first' not in card


def test_killed_at_any_step_what_is_there_is_whole(job, tmp_path, monkeypatch):
  """A kill before each step in turn, then the same start again."""
  steps = [
    (shutil, 'rmtree'),
    (export, 'export'),
    (orbax, 'save'),
    (atomic, 'replace'),
    (atomic, '_exchange'),
  ]
  (tmp_path / 'whole').mkdir()
  delivery.export_merge(job, _choice(job, 0.5, members=2), tmp_path / 'whole')
  kills = 0
  for number in range(100):
    workdir = tmp_path / str(number)
    shutil.copytree(tmp_path / 'whole', workdir)
    with monkeypatch.context() as patch:
      left = [number]

      def counted(function, left=left):
        def call(*args, **kwargs):
          left[0] -= 1
          if left[0] < 0:
            raise Kill
          return function(*args, **kwargs)

        return call

      for module, name in steps:
        patch.setattr(module, name, counted(getattr(module, name)))
      try:
        delivery.export_merge(job, _choice(job, 0.25, members=1), workdir)
        break
      except Kill:
        kills += 1
    out = workdir / delivery.EXPORTED
    assert safetensors.read(out)
    assert (out / export.RECIPE).is_file()
    assert orbax.metadata(workdir / delivery.ORBAX)
    members = {p.name for p in (workdir / 'front').glob('*.yaml')}
    assert members in ({'0.yaml'}, {'0.yaml', '1.yaml'})
    delivery.export_merge(job, _choice(job, 0.25, members=1), workdir)
    assert _weight(workdir) == 0.25
    assert not list(workdir.glob('.*'))
  assert kills >= 10


def test_the_summary_comes_last(job, tmp_path, monkeypatch):
  delivery.export_merge(job, _choice(job, 0.5), tmp_path)

  def written():
    return [
      (tmp_path / delivery.EXPORTED / 'README.md').read_text() == 'card',
      (tmp_path / delivery.REPORT).is_file(),
      (tmp_path / delivery.SUMMARY).is_file(),
    ]

  seen = []
  write = delivery._write
  monkeypatch.setattr(delivery.model_card, 'render', lambda *a, **k: 'card')
  monkeypatch.setattr(delivery.page, 'render', lambda *a: 'page')
  monkeypatch.setattr(
    delivery, '_write', lambda *a: (write(*a), seen.append(written()))
  )
  delivery.write_report(tmp_path, {'verdict': 'none'}, [], False)
  assert seen == [
    [True, False, False],
    [True, True, False],
    [True, True, True],
  ]
  assert json.loads((tmp_path / delivery.SUMMARY).read_text())
