"""Tiny checkpoints as transformers saves them; runs in .venv-peers.

python checkpoints_save_peer.py DRAWN SAVED INPUTS.npz OUTPUTS.npz

The checkpoints below DRAWN are loaded by transformers and saved by it below
SAVED, those that are sharded in shards of its own.
"""

import pathlib
import shutil
import sys

import numpy as np
import transformers


def save(drawn: pathlib.Path, saved: pathlib.Path) -> None:
  """A checkpoint by way of transformers."""
  model, found = transformers.AutoModelForCausalLM.from_pretrained(
    drawn, output_loading_info=True
  )
  for kind, names in found.items():
    assert not names, (drawn, kind, names)
  sharded = (drawn / 'model.safetensors.index.json').exists()
  model.save_pretrained(saved, max_shard_size='1KB' if sharded else '1GB')
  assert sharded == (len(list(saved.glob('*.safetensors'))) > 1)
  for path in drawn.glob('tokenizer*'):
    shutil.copy(path, saved)


def main(drawn: str, saved: str, _: str, out: str) -> None:
  count = 0
  for path in sorted(pathlib.Path(drawn).rglob('*config.json')):
    relative = path.parent.relative_to(drawn)
    if path.name == 'config.json':
      save(path.parent, pathlib.Path(saved) / relative)
      count += 1
    elif path.name == 'adapter_config.json':
      shutil.copytree(path.parent, pathlib.Path(saved) / relative)
  np.savez(out, count=count)


if __name__ == '__main__':
  main(*sys.argv[1:])
