"""Writes evolve_mergekit_0.1.5.npz: what mergekit-evolve makes of genotypes.

.venv-peers/bin/python tests/testdata/evolve_golden.py

Holds `recorded`, see tests/oracle/evolve_peer.py.
"""

import importlib.metadata
import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'oracle'))

import evolve_peer


def main() -> None:
  version = importlib.metadata.version('mergekit')
  path = pathlib.Path(__file__).with_name(f'evolve_mergekit_{version}.npz')
  recorded = evolve_peer.record(seed=0, count=60)
  text = json.dumps(recorded, separators=(',', ':'))
  np.savez_compressed(path, recorded=np.array(text))
  print(f'{path.name}: {len(recorded)} files, {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
