"""Writes surrogate_scikit_learn_1.9.1.npz: processes fitted to random data.

.venv-peers/bin/python tests/testdata/surrogate_golden.py

Arrays as in tests/oracle/surrogate_peer.py.
"""

import importlib.metadata
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'oracle'))

import surrogate_peer


def main() -> None:
  version = importlib.metadata.version('scikit-learn')
  name = f'surrogate_scikit_learn_{version}.npz'
  path = pathlib.Path(__file__).with_name(name)
  np.savez_compressed(path, **surrogate_peer.record(seed=0, count=8))
  print(f'{path.name}: {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
