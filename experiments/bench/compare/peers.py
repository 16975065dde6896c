"""Runs a peer's search over a problem, a child process a run."""

import json
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Sequence

import numpy as np

from experiments.bench.compare.problem import Problem, Score

PEERS = ('smac', 'parego', 'pycma', 'pymoo', 'random')
_SEVERAL = {'smac': False, 'parego': True, 'pycma': False}  # objectives

_HERE = pathlib.Path(__file__).parent
PYTHON = _HERE.parents[2] / '.venv-peers' / 'bin' / 'python'
COMMAND = (str(PYTHON), str(_HERE / 'peer_process.py'))

_LAST_LINES = 20  # of a dead child's errors
_PATIENCE = 10.0  # seconds for a child that was told to end


def run(
  peer: str,
  problem: Problem,
  score: Score,
  seed: int,
  command: Sequence[str] = COMMAND,
) -> None:
  """Lets a peer search until `score` says that the budget is spent.

  Everything is scored at the last rung, but by 'smac' and 'parego', whose
  rungs are those of Hyperband with eta 3. Starts come first, a population or,
  with these two, one at a time.

  Args:
    peer: one of `PEERS`; 'parego' is SMAC with several objectives, 'smac' and
      'pycma' have one.
    problem: what is searched.
    score: called with what the peer asks for. Values are one minus costs; what
      failed is NaN, for which the peer is told a cost of 1.
    seed: of the peer.
    command: that starts the child.

  Raises:
    ValueError: for an unknown peer, or one that cannot do with so many
      objectives, or values of another shape than [n, M].
    RuntimeError: if the child dies; with the last lines of its errors.
    FileNotFoundError: if the peers' environment is missing.
  """
  if peer not in PEERS:
    raise ValueError(f'peer is {peer!r}; expected one of {PEERS}')
  if (problem.num_objectives > 1) != _SEVERAL.get(
    peer, problem.num_objectives > 1
  ):
    raise ValueError(
      f'peer {peer!r} and {problem.num_objectives} objectives; expected '
      f'{"more than" if _SEVERAL[peer] else "no more than"} one'
    )
  if not pathlib.Path(command[0]).exists():
    raise FileNotFoundError(f'{command[0]} is missing; run `make peers`')
  # One thread, and sets in one order, so that a seed has one answer.
  environment = os.environ | {'OMP_NUM_THREADS': '1', 'PYTHONHASHSEED': '0'}
  with tempfile.TemporaryFile('w+') as errors:
    child = subprocess.Popen(
      command,
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=errors,
      text=True,
      env=environment,
    )
    try:
      _converse(child, _first_line(peer, problem, seed), problem, score)
      code = child.wait(_PATIENCE)
    except BrokenPipeError:
      code = child.wait(_PATIENCE)
    finally:
      child.kill()
      child.communicate()
    if code:
      errors.seek(0)
      last = ''.join(errors.readlines()[-_LAST_LINES:])
      raise RuntimeError(f'peer {peer!r} ended with code {code}:\n{last}')


def _first_line(peer: str, problem: Problem, seed: int) -> str:
  told = problem._asdict() | {
    'choices': np.asarray(problem.choices).tolist(),
    'starts': np.asarray(problem.starts, float).tolist(),
    'peer': peer,
    'seed': seed,
  }
  return json.dumps(told)


def _converse(child, first: str, problem: Problem, score: Score) -> None:
  """Answers questions until there are none, or the budget is spent."""
  print(first, file=child.stdin, flush=True)
  for line in child.stdout:
    question = json.loads(line)
    x = np.array(question['x'])
    values = score(x, question['items'])
    if values is not None:
      values = np.asarray(values, float)
      wanted = (len(x), problem.num_objectives)
      if values.shape != wanted:
        raise ValueError(
          f'scores of shape {values.shape}; expected {wanted}, a row for each '
          'of x and a column for each objective'
        )
      values = values.tolist()
    print(json.dumps(values), file=child.stdin, flush=True)
    if values is None:
      return
