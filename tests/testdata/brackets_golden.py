"""Writes brackets_smac_2.4.1.json: stages of halving and Hyperband.

.venv-peers/bin/python tests/testdata/brackets_golden.py

Contents as in tests/oracle/brackets_peer.py.
"""

import importlib.metadata
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'oracle'))

import brackets_peer


def main() -> None:
  version = importlib.metadata.version('smac')
  path = pathlib.Path(__file__).with_name(f'brackets_smac_{version}.json')
  cases = brackets_peer.record(brackets_peer.CASES)
  lines = ',\n'.join(json.dumps(case) for case in cases)
  path.write_text(f'[\n{lines}\n]\n')
  print(f'{path.name}: {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
