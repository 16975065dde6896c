"""Writes likelihood_lm_eval_0.4.13.npz: what lm-eval says of tests.tiny_text.

  .venv/bin/python tests/testdata/likelihood_golden.py

For each of `bare` and `begun` (whether texts start with a token of their own)
`<case>/nats`, `<case>/greedy` of its pairs and `<case>/rolling` of its texts.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests import tiny_text  # noqa: E402


def main() -> None:
  found = {}
  with tempfile.TemporaryDirectory() as place:
    for case in ('bare', 'begun'):
      folder = tiny_text.write(pathlib.Path(place) / case, case == 'begun')
      given, answer = folder / 'given.npz', folder / 'answer.npz'
      np.savez(given, **tiny_text.given())
      peer = ROOT / '.venv-peers/bin/python'
      script = ROOT / 'tests/oracle/likelihood_peer.py'
      subprocess.run([peer, script, folder, given, answer], check=True)
      with np.load(answer) as file:
        found |= {f'{case}/{name}': array for name, array in file.items()}
  np.savez_compressed(
    pathlib.Path(__file__).with_name('likelihood_lm_eval_0.4.13.npz'), **found
  )


if __name__ == '__main__':
  main()
