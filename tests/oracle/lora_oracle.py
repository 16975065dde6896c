"""LoRA adapters of PEFT, written anew, against its own merging."""

import json
import pathlib

import numpy as np
import pytest

from automerge_jax.io import checkpoints, lora_extraction, safetensors
from tests import lora_replay

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize('seed', [1, 2])
def test_merged_as_peft_does(ask_peer, tmp_path, seed):
  arrays = ask_peer('testdata/lora_golden.py', seed)
  for case in lora_replay.CASES:
    lora_replay.check(arrays, case, tmp_path / case)


@pytest.mark.parametrize('case', ['llama', 'gpt2'])
def test_peft_merges_what_we_extract(ask_peer, tmp_path, case):
  arrays = ask_peer('testdata/lora_golden.py', 3)
  lora_replay.write(arrays, case, tmp_path)
  ours = f'{tmp_path / "base"}+{tmp_path / "adapter"}'
  with (
    checkpoints.open_checkpoint(tmp_path / 'base') as base,
    checkpoints.open_checkpoint(ours) as merged,
  ):
    report = lora_extraction.extract(base, merged, 4, tmp_path / 'out')
    want = {name: merged.get(name) for name in merged.names()}
  peer = ask_peer(
    'oracle/lora_peer.py', case, tmp_path / 'base', tmp_path / 'out'
  )
  changed = set(
    json.loads(
      (pathlib.Path(tmp_path) / 'out' / 'reconstruction.json').read_text()
    )['tensors']
  )
  assert changed == set(report['tensors'])
  assert len(changed) >= 6
  before = safetensors.read(tmp_path / 'base')
  for name, tensor in want.items():
    expected = tensor if name in changed else before[name]
    np.testing.assert_allclose(peer[name], expected, atol=2e-6, err_msg=name)
