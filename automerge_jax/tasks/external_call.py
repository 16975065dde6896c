"""The process in which a scoring function runs; see `external`.

python -m automerge_jax.tasks.external_call MODULE:FUNCTION MODEL ITEMS OUT
"""

import importlib
import json
import pathlib
import sys


def main(function: str, model: str, items: str, out: str) -> None:
  """Calls `function(model folder, item ids)` and writes its answer."""
  module, _, name = function.partition(':')
  sys.path.insert(0, str(pathlib.Path.cwd()))
  try:
    score = getattr(importlib.import_module(module), name)
  except (AttributeError, ImportError) as error:
    sys.exit(f'cannot import {function}: {error}')
  ids = json.loads(pathlib.Path(items).read_text(encoding='utf-8'))
  answer = score(pathlib.Path(model), ids)
  pathlib.Path(out).write_text(json.dumps(answer), encoding='utf-8')


if __name__ == '__main__':
  main(*sys.argv[1:])
