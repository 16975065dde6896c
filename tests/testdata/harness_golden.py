"""Writes harness_lm_eval_0.4.13.json: lm_eval's Hugging Face backend.

  .venv/bin/python -m tests.testdata.harness_golden

The tiny language model on the tiny tasks, by `oracle/harness_peer.py` in
.venv-peers: `results` and `samples` with two examples in front.
"""

import json
import pathlib
import subprocess
import tempfile

from tests import tiny_harness, tiny_language

ROOT = pathlib.Path(__file__).parents[2]
PATH = pathlib.Path(__file__).with_name('harness_lm_eval_0.4.13.json')
OPTIONS = {'tasks': list(tiny_harness.TASKS), 'num_fewshot': 2}


def main() -> None:
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    tiny_language.write(folder / 'model')
    tiny_harness.write(folder / 'tasks')
    options = OPTIONS | {'include_path': str(folder / 'tasks')}
    (folder / 'options.json').write_text(json.dumps(options))
    command = [
      ROOT / '.venv-peers' / 'bin' / 'python',
      ROOT / 'tests' / 'oracle' / 'harness_peer.py',
      *(folder / name for name in ('model', 'options.json', 'out.json')),
    ]
    subprocess.run(list(map(str, command)), check=True)
    found = json.loads((folder / 'out.json').read_text())
  PATH.write_text(json.dumps(found, indent=1) + '\n')
  print(f'{PATH.name}: {PATH.stat().st_size} bytes')


if __name__ == '__main__':
  main()
