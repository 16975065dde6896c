"""Merges by mergekit of stacks drawn anew; runs in .venv-peers.

python merging_peer.py SUITE INPUTS.npz OUTPUTS.npz, with `seed` in the inputs
python merging_peer.py serve

The second answers each line of JSON {case, dtype, shape, base, experts} with
one line, {merged} or {error}; arrays are float32, base 64.
"""

import base64
import json
import pathlib
import sys

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'testdata'))

import merging_golden


def main(suite: str, inputs: str, outputs: str) -> None:
  record = {'first': merging_golden.record, 'further': merging_golden.further}
  with np.load(inputs) as given:
    np.savez(outputs, **record[suite](int(given['seed'])))


def answer(line: str) -> dict[str, str]:
  """One merge, in the dtype that is asked for."""
  asked = json.loads(line)
  dtype = getattr(torch, asked['dtype'])

  def tensor(text: str) -> torch.Tensor:
    flat = np.frombuffer(base64.b64decode(text), np.float32).copy()
    return torch.from_numpy(flat.reshape(asked['shape'])).to(dtype)

  base, *experts = map(tensor, [asked['base'], *asked['experts']])
  try:
    merged = merging_golden.merge_tensors(asked['case'], base, experts)
  except (ValueError, RuntimeError) as error:
    return {'error': f'{type(error).__name__}: {error}'}
  found = merged.to(torch.float32).numpy().tobytes()
  return {'merged': base64.b64encode(found).decode()}


if __name__ == '__main__':
  if sys.argv[1:] == ['serve']:
    for line in sys.stdin:
      print(json.dumps(answer(line)), flush=True)
  else:
    main(*sys.argv[1:])
