"""Checkpoints merged by mergekit; runs in .venv-peers.

python checkpoints_peer.py FOLDER CASES INPUTS.npz OUTPUTS.npz

CASES is JSON {case: recipe}, with models relative to FOLDER.
"""

import json
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'testdata'))

import checkpoints_golden


def main(folder: str, cases: str, _: str, out: str) -> None:
  np.savez(out, **checkpoints_golden.record(folder, json.loads(cases)))


if __name__ == '__main__':
  main(*sys.argv[1:])
