"""Writes fronts_pymoo_0.6.2.npz: fronts, crowding and hypervolumes of sets.

.venv-peers/bin/python tests/testdata/fronts_golden.py

Arrays as in tests/oracle/fronts_peer.py.
"""

import importlib.metadata
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'oracle'))

import fronts_peer


def main() -> None:
  version = importlib.metadata.version('pymoo')
  path = pathlib.Path(__file__).with_name(f'fronts_pymoo_{version}.npz')
  np.savez_compressed(path, **fronts_peer.record(seed=0, count=45))
  print(f'{path.name}: {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
