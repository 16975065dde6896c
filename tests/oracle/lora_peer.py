"""An adapter merged into a base by PEFT; runs in .venv-peers.

python lora_peer.py CASE BASE_FOLDER ADAPTER_FOLDER INPUTS.npz OUTPUTS.npz
"""

import pathlib
import sys

import numpy as np
import peft
import safetensors.torch

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'testdata'))
import lora_golden


def main(case, base, adapter, out):
  make, _ = lora_golden.CASES[case]
  model = make()
  model.load_state_dict(
    safetensors.torch.load_file(f'{base}/model.safetensors')
  )
  merged = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
  arrays = {k: v.detach().numpy() for k, v in merged.state_dict().items()}
  np.savez(out, **arrays)


if __name__ == '__main__':
  main(*sys.argv[1:4], sys.argv[-1])
