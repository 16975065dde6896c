"""The conversation with a peer's process, against a child that is made up."""

import os
import sys
import time

import numpy as np
import pytest

from experiments.bench import problems
from experiments.bench.compare import peers, synthetic
from experiments.bench.compare.problem import Problem

# Asks for its starts, then for one point that follows from the last answer.
CHILD = """
import json, os, sys
told = json.loads(sys.stdin.readline())
print('a peer talks', file=sys.stderr)
x = told['starts']
while True:
  print(json.dumps({'x': x, 'items': told['rungs'][0]}), flush=True)
  values = json.loads(sys.stdin.readline())
  if values is None:
    open(sys.argv[1], 'w').write(json.dumps([told['peer'], told['seed']]))
    break
  a = sum(map(sum, values)) / 10
  x = [[a, 1 - a]]
"""
PROBLEM = Problem(
  np.array([0, 2]), np.array([[0.5, 0.25], [0.1, 0.75]]), (3, 9), 1, 2, 0.1, 4.0
)


def command(tmp_path, text, *arguments):
  script = tmp_path / 'child.py'
  script.write_text(text)
  return [sys.executable, str(script), *map(str, arguments)]


def test_peer_is_answered_until_the_budget_is_spent(tmp_path):
  asked = []

  def score(x, items):
    asked.append((x.tolist(), items))
    return None if len(asked) == 4 else x.sum(1, keepdims=True)

  end = tmp_path / 'end'
  peers.run('pymoo', PROBLEM, score, 7, command(tmp_path, CHILD, end))
  assert asked[0] == (PROBLEM.starts.tolist(), 3)
  np.testing.assert_allclose(asked[1][0], [[0.16, 0.84]])
  np.testing.assert_allclose(asked[2][0], [[0.1, 0.9]])
  assert len(asked) == 4
  assert end.read_text() == '["pymoo", 7]'


def test_peer_may_end_by_itself(tmp_path):
  text = 'import sys; sys.stdin.readline(); print(\'{"x": [[1]], "items": 9}\')'
  asked = []

  def score(x, items):
    asked.append(items)
    return x

  peers.run('random', PROBLEM, score, 0, command(tmp_path, text))
  assert asked == [9]


def test_dead_peer_is_reported_with_its_last_lines(tmp_path):
  text = """
import sys
sys.stdin.readline()
print('\\n'.join(f'line {i}' for i in range(100)), file=sys.stderr)
raise ArithmeticError('no more')
"""
  with pytest.raises(RuntimeError, match="'random' ended with code 1") as found:
    peers.run('random', PROBLEM, None, 0, command(tmp_path, text))
  assert 'ArithmeticError: no more' in str(found.value)
  assert 'line 99\n' in str(found.value)
  assert 'line 50\n' not in str(found.value)


def test_peer_that_dies_while_it_is_answered_is_reported(tmp_path):
  text = """
import sys
sys.stdin.readline()
print('{"x": [[1]], "items": 9}', flush=True)
sys.exit('cannot go on')
"""

  def score(x, items):
    time.sleep(0.3)
    return x

  with pytest.raises(RuntimeError, match='cannot go on'):
    peers.run('random', PROBLEM, score, 0, command(tmp_path, text))


def test_child_ends_with_an_error_of_the_score(tmp_path):
  """A child that would wait for ever is ended."""
  text = """
import os, sys, time
sys.stdin.readline()
open(sys.argv[1], 'w').write(str(os.getpid()))
print('{"x": [[1], [2]], "items": 9}', flush=True)
time.sleep(1000)
"""
  pid = tmp_path / 'pid'
  asking = command(tmp_path, text, pid)
  with pytest.raises(ValueError, match=r'shape \(1, 1\); expected \(2, 1\)'):
    peers.run('random', PROBLEM, lambda x, items: x[:1], 0, asking)
  with pytest.raises(ProcessLookupError):
    os.kill(int(pid.read_text()), 0)


def test_what_cannot_be_asked_is_refused():
  with pytest.raises(ValueError, match="peer is 'anneal'; expected one of"):
    peers.run('anneal', PROBLEM, None, 0)
  with pytest.raises(ValueError, match=r"'parego' and 1 obj.*more than one"):
    peers.run('parego', PROBLEM, None, 0)
  two = PROBLEM._replace(num_objectives=2)
  for peer in ('smac', 'pycma'):
    with pytest.raises(ValueError, match=rf"'{peer}' and 2 obj.*no more than"):
      peers.run(peer, two, None, 0)
  with pytest.raises(FileNotFoundError, match='run `make peers`'):
    peers.run('random', PROBLEM, None, 0, ['/nowhere/python'])


def test_curve_is_the_loss_of_what_was_observed_best():
  loss = np.array([3.0, 1.0, 4.0, 2.0])
  seen = np.array([5.0, 6.0, 2.0, 2.0])
  np.testing.assert_array_equal(synthetic.curve(loss, seen), [3, 3, 4, 4])
  np.testing.assert_array_equal(synthetic.curve(loss, loss), [3, 1, 1, 1])


def test_volume_is_that_of_the_best_front_at_most():
  line = np.linspace(*synthetic._TARGETS, 201)
  shares = synthetic.volumes(synthetic.front_losses(line))
  assert (np.diff(shares) >= 0).all()
  assert 0.99 < shares[-1] <= 1
  aside = line + np.random.default_rng(0).normal(scale=0.05, size=line.shape)
  assert synthetic.volumes(synthetic.front_losses(aside))[-1] < shares[-1]
  np.testing.assert_array_equal(
    synthetic.volumes(np.full((2, 2), 1e3)), [0.0, 0.0]
  )


def test_noisy_problem_differs_by_its_noise_alone():
  plain, noisy = (
    synthetic.case(name) for name in ('shifted_25', 'shifted_25_noisy')
  )
  assert plain.noise == 0 < noisy.noise
  x = np.random.default_rng(1).uniform(size=(30, 25))
  wanted = [
    float(plain.problem.loss(plain.problem.space.quantise(r))) for r in x
  ]
  np.testing.assert_allclose(plain.loss(x), wanted, rtol=1e-5)
  np.testing.assert_array_equal(noisy.loss(x), plain.loss(x))
  assert noisy.noise == pytest.approx(0.1 * np.median(wanted), rel=0.3)
  best = problems.shifted(5, 4, 4)
  at = np.asarray(best.space.encode(best.best))[None]
  np.testing.assert_allclose(plain.loss(at), 0, atol=1e-6)
