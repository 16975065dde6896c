"""Adapters that PEFT wrote, opened by us, against what PEFT merged."""

import json

import ml_dtypes
import numpy as np

from automerge_jax.io import checkpoints, safetensors

CASES = ('llama', 'rank_stabilised', 'gpt2', 'bfloat16')


def write(arrays, case, folder, strip=''):
  """The case's base and adapter as folders; returns the merged tensors."""
  dtype = ml_dtypes.bfloat16 if case == 'bfloat16' else np.float32

  def part(name):
    prefix = f'{case}/{name}/'
    return {
      key[len(prefix) :].removeprefix(strip): array
      for key, array in arrays.items()
      if key.startswith(prefix)
    }

  base = {name: array.astype(dtype) for name, array in part('base').items()}
  safetensors.write(folder / 'base', base)
  safetensors.write(
    folder / 'adapter', part('adapter'), 'adapter_model.safetensors'
  )
  config = json.loads(arrays[f'{case}/config'].tobytes())
  (folder / 'adapter' / 'adapter_config.json').write_text(json.dumps(config))
  return {name: array.astype(dtype) for name, array in part('merged').items()}


def check(arrays, case, folder, strip=''):
  """Raises AssertionError where we and PEFT differ."""
  want = write(arrays, case, folder, strip)
  path = f'{folder / "base"}+{folder / "adapter"}'
  with checkpoints.open_checkpoint(path) as checkpoint:
    assert set(checkpoint.names()) == set(want)
    for name, tensor in want.items():
      have = checkpoint.get(name)
      assert have.dtype == tensor.dtype == checkpoint.info(name).dtype, name
      np.testing.assert_allclose(
        have.astype(np.float32),
        tensor.astype(np.float32),
        rtol=2**-7 if case == 'bfloat16' else 1e-6,
        atol=1e-6,
        err_msg=name,
      )
