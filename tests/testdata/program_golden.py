"""Writes program_exports.npz: what Transformers makes of exported programs.

  .venv/bin/python tests/testdata/program_golden.py

The checkpoints of `tests/program_exports.PROGRAMS` are exported here and run
in .venv-peers. For each case: `<case>/logits`, and `<case>/config`, the number
and types of layers as Transformers read them (JSON).
"""

import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from tests import program_exports as exports  # noqa: E402


def main() -> None:
  with tempfile.TemporaryDirectory() as name:
    folder = pathlib.Path(name)
    given = {}
    for case, program in exports.PROGRAMS.items():
      exports.exported(exports.write(folder / case, case), program)
      for kind, array in exports.inputs(case).items():
        given[f'{case}/{kind}'] = array
    files = folder / 'given.npz', folder / 'told.npz'
    np.savez(files[0], **given)
    python = ROOT / '.venv-peers' / 'bin' / 'python'
    peer = HERE.parent / 'oracle' / 'program_peer.py'
    subprocess.run([python, peer, folder, *files], check=True)
    with np.load(files[1]) as file:
      told = dict(file)
  recorded = {}
  for case in exports.PROGRAMS:
    assert told[f'{case}/unread'].size == 0
    config = json.loads(str(told[f'{case}/config']))
    names = 'num_hidden_layers', 'layer_types'
    kept = {name: config[name] for name in names if name in config}
    recorded[f'{case}/config'] = np.array(json.dumps(kept))
    recorded[f'{case}/logits'] = told[f'{case}/logits']
  np.savez_compressed(HERE / 'program_exports.npz', **recorded)


if __name__ == '__main__':
  main()
