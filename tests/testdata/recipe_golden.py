"""Writes recipe_mergekit_0.1.5.npz: mergekit's plans of random recipes.

.venv-peers/bin/python tests/testdata/recipe_golden.py

Holds `recorded`, a JSON list of [recipe, plan or error], see
tests/oracle/recipe_peer.py.
"""

import importlib.metadata
import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'oracle'))

import recipe_peer


def main() -> None:
  version = importlib.metadata.version('mergekit')
  path = pathlib.Path(__file__).with_name(f'recipe_mergekit_{version}.npz')
  recorded = recipe_peer.record(recipe_peer.recipe_documents.draw(0, 240))
  text = json.dumps(recorded, separators=(',', ':'), sort_keys=True)
  np.savez_compressed(path, recorded=np.array(text))
  print(f'{path.name}: {len(recorded)} recipes, {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
