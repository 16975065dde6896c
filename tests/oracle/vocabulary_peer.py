"""Vocabularies aligned by mergekit, of new models; runs in .venv-peers.

python vocabulary_peer.py INPUTS.npz OUTPUTS.npz, with `seed` in the inputs
"""

import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'testdata'))

import vocabulary_golden


def main(inputs: str, outputs: str) -> None:
  with np.load(inputs) as given:
    np.savez(outputs, **vocabulary_golden.record(int(given['seed'])))


if __name__ == '__main__':
  main(*sys.argv[1:])
