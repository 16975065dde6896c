"""External scorers: answers, retries, time limits, and every way to fail."""

import json
import os
import pathlib
import sys
import time

import pytest

from automerge_jax.tasks import external

IDS = ('one', 'two', 'three')
_READ = (
  'import json, pathlib, sys, time, os\n'
  'model, items, out = map(pathlib.Path, sys.argv[1:4])\n'
  'ids = json.loads(items.read_text())\n'
)


def _task(folder, body, **other):
  """A task whose scorer is a script: `body` sees model, items, out and ids."""
  script = folder / 'scorer.py'
  script.write_text(_READ + body)
  command = (sys.executable, str(script), '{model}', '{items}', '{out}')
  options = {'timeout': 20.0, 'folder': str(folder)} | other
  return external.Task('judge', command=command, **options)


def _model(folder):
  model = folder / 'a model'
  model.mkdir()
  (model / 'weights').write_text('3')
  return model


def test_a_command_scores_the_folder_it_gets(tmp_path):
  task = _task(
    tmp_path,
    'w = int((model / "weights").read_text())\n'
    'out.write_text(json.dumps({i: {"score": w * len(i), "log_likelihood":'
    ' -0.5, "flags": ["truncated"]} if i == "two" else len(i)'
    ' for i in reversed(ids)}))\n',
  )
  scores = external.score(task, _model(tmp_path), IDS)
  assert list(scores) == list(IDS)
  assert scores['one'] == external.Score(3.0, None, ())
  assert scores['two'] == external.Score(9.0, -0.5, ('truncated',))


def test_a_function_runs_in_a_process_of_its_own(tmp_path):
  (tmp_path / 'my_scorer.py').write_text(
    'import os\n'
    'def score(model, ids):\n'
    '  (model / "pid").write_text(str(os.getpid()))\n'
    '  return {i: float(i == "two") for i in ids}\n'
  )
  task = external.Task(
    'judge', function='my_scorer:score', folder=str(tmp_path), timeout=60
  )
  model = _model(tmp_path)
  scores = external.score(task, model, IDS)
  assert [scores[i].score for i in IDS] == [0.0, 1.0, 0.0]
  assert int((model / 'pid').read_text()) != os.getpid()
  wrong = external.Task('judge', function='my_scorer:x', folder=str(tmp_path))
  with pytest.raises(external.ScorerError, match='cannot import my_scorer:x'):
    external.score(wrong, model, IDS)


def test_a_scorer_that_works_at_the_second_try(tmp_path):
  body = (
    'seen = model / "seen"\n'
    'if not seen.exists():\n'
    '  seen.write_text("")\n'
    '  sys.exit("the engine was not up yet")\n'
    'out.write_text(json.dumps({i: 1 for i in ids}))\n'
  )
  model = _model(tmp_path)
  with pytest.raises(external.ScorerError) as caught:
    external.score(_task(tmp_path, body, attempts=1), model, IDS)
  message = str(caught.value)
  assert 'attempt 1 of 1: it ended with exit code 1' in message
  assert 'the engine was not up yet' in message
  (model / 'seen').unlink()
  scores = external.score(_task(tmp_path, body, attempts=2), model, IDS)
  assert [s.score for s in scores.values()] == [1.0, 1.0, 1.0]


def test_a_hanging_scorer_is_killed_with_its_children(tmp_path):
  body = (
    'import subprocess\n'
    'child = subprocess.Popen(["sleep", "60"])\n'
    '(model / "child").write_text(str(child.pid))\n'
    'print("loading for ever", flush=True)\n'
    'time.sleep(60)\n'
  )
  model = _model(tmp_path)
  begin = time.monotonic()
  with pytest.raises(external.ScorerError) as caught:
    external.score(_task(tmp_path, body, timeout=1.5), model, IDS)
  assert time.monotonic() - begin < 15
  assert 'killed, it took more than 1.5 s' in str(caught.value)
  assert 'loading for ever' in str(caught.value)
  _assert_gone(int((model / 'child').read_text()))


def test_children_do_not_outlive_a_scorer_that_succeeded(tmp_path):
  body = (
    'import subprocess\n'
    'child = subprocess.Popen(["sleep", "60"])\n'
    '(model / "child").write_text(str(child.pid))\n'
    'out.write_text(json.dumps({i: 1 for i in ids}))\n'
  )
  model = _model(tmp_path)
  assert len(external.score(_task(tmp_path, body), model, IDS)) == 3
  _assert_gone(int((model / 'child').read_text()))


def _assert_gone(pid):
  for _ in range(100):
    status = pathlib.Path(f'/proc/{pid}/status')
    if not status.exists() or 'State:\tZ' in status.read_text():
      return
    time.sleep(0.05)
  pytest.fail(f'process {pid} is still running')


@pytest.mark.parametrize(
  'body, message',
  [
    ('os.kill(os.getpid(), 9)\n', 'killed by SIGKILL'),
    ('print("x" * 9000); sys.exit(3)\n', 'exit code 3'),
    ('', 'ended without writing {out}; it printed nothing'),
    ('out.write_bytes(b"\\xff\\xfe")\n', 'its answer is not UTF-8'),
    ('out.write_text("{")\n', 'its answer is no JSON'),
  ],
)
def test_failures_say_why(tmp_path, body, message):
  with pytest.raises(external.ScorerError) as caught:
    external.score(_task(tmp_path, body), _model(tmp_path), IDS)
  assert message in str(caught.value)
  assert len(str(caught.value)) < 3000


def test_a_program_that_is_missing(tmp_path):
  task = external.Task('judge', command=('no-such-program', '{model}', '{out}'))
  with pytest.raises(external.ScorerError, match="'no-such-program': No such"):
    external.score(task, tmp_path, IDS)


@pytest.mark.parametrize(
  'answer, message',
  [
    ([1, 2, 3], 'expected an object'),
    ({'one': 1, 'two': 1}, '- three (not scored)'),
    ({'one': 1, 'two': 1, 'three': 0, 'four': 0}, '+ four (not asked for)'),
    ({'one': 1, 'two': float('nan'), 'three': 0}, '! two: score nan; expected'),
    ({'one': 1, 'two': float('inf'), 'three': 0}, '! two: score inf; expected'),
    ({'one': '1', 'two': 1, 'three': 1}, "! one: score '1'; expected a finite"),
    ({'one': None, 'two': 1, 'three': 1}, '! one: score None; expected'),
    ({'one': {'scor': 1}, 'two': 1, 'three': 1}, "did you mean 'score'"),
    ({'one': {'flags': []}, 'two': 1, 'three': 1}, "has no 'score'"),
    (
      {'one': {'score': 1, 'flags': ['odd']}, 'two': 1, 'three': 1},
      "flags ['odd']; expected a list of",
    ),
    (
      {'one': {'score': 1, 'log_likelihood': 'x'}, 'two': 1, 'three': 1},
      "! one: log_likelihood 'x'",
    ),
  ],
)
def test_answers_that_are_refused(answer, message):
  with pytest.raises(ValueError) as caught:
    external.parse(json.dumps(answer), IDS)
  assert message in str(caught.value)


@pytest.mark.parametrize(
  'options, message',
  [
    ({}, 'give one of `command` and `function`, got none'),
    ({'command': ('a', '{model}', '{out}'), 'function': 'a:b'}, 'got both'),
    ({'command': ('a', '{out}')}, r'has no \{model\}'),
    ({'command': ('a', '{model}')}, r'has no \{out\}'),
    ({'function': 'os.system'}, 'expected package.module:function'),
    ({'function': 'a:b', 'timeout': 0.0}, 'must be above 0'),
    ({'function': 'a:b', 'attempts': 0}, 'must be above 0'),
  ],
)
def test_tasks_that_are_refused(options, message):
  with pytest.raises(ValueError, match=message):
    external.Task('judge', **options)
