"""Live comparisons: peers run as scripts in their own environment."""

import pathlib
import subprocess

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[2]
PYTHON = ROOT / '.venv-peers' / 'bin' / 'python'


@pytest.fixture
def ask_peer(tmp_path):
  """`(script, *arguments, **arrays) -> arrays` of a script of the peers.

  The script gets the arguments, then the .npz file of the arrays and the one
  that it shall write.
  """

  def ask(script, *arguments, **arrays):
    if not PYTHON.exists():
      pytest.fail(f'{PYTHON} is missing; run `make peers`')
    given, answer = tmp_path / 'given.npz', tmp_path / 'answer.npz'
    np.savez(given, **arrays)
    command = [PYTHON, ROOT / 'tests' / script, *arguments, given, answer]
    ran = subprocess.run(
      list(map(str, command)),
      check=False,
      capture_output=True,
      text=True,
      timeout=1800,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    with np.load(answer) as file:
      return dict(file)

  return ask
