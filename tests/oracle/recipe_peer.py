"""What mergekit does with recipes; runs in .venv-peers.

python recipe_peer.py INPUTS.npz OUTPUTS.npz, with `documents` (a JSON list)
"""

import contextlib
import json
import os
import pathlib
import sys
import tempfile

import numpy as np
import safetensors.numpy
import transformers
import yaml
from mergekit import architecture, config, plan
from mergekit.options import MergeOptions

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import recipe_documents


def planned(text: str) -> list:
  """Each tensor's (name, [(model, stored name)], base, numbers).

  Numbers are those of the tensor and those of each model.
  """
  document = config.MergeConfiguration.model_validate(yaml.safe_load(text))
  options = MergeOptions()
  planner = plan.MergePlanner(
    document,
    architecture.get_architecture_info(document, options),
    options,
    transformers.AutoConfig.from_pretrained('a'),
  )
  planner._plan()
  found = []
  for _, task in planner._tensors:
    stored = task.gather_tensors.weight_info
    found.append(
      [
        task.output_weight.name,
        [
          (model.model.path, stored[model].name)
          for model in task.model_order
          if model in stored  # fewer behind an uneven last slice
        ],
        task.base_model and task.base_model.model.path,
        dict(task.parameters),
        {m.model.path: dict(v) for m, v in task.input_parameters.items()},
      ]
    )
  return found


def answer(text: str):
  """The plan, or the error that mergekit raises."""
  try:
    return planned(text)
  except Exception as error:
    return str(error).splitlines()[0]


def record(documents: list[str]) -> list:
  """[document, answer] of each document."""
  with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
    for model, layers in recipe_documents.LAYERS.items():
      os.mkdir(model)
      pathlib.Path(model, 'config.json').write_text(
        json.dumps(
          {
            'architectures': ['LlamaForCausalLM'],
            'model_type': 'llama',
            'hidden_size': 8,
            'intermediate_size': 8,
            'num_hidden_layers': layers,
            'num_attention_heads': 1,
            'vocab_size': 16,
          }
        )
      )
      safetensors.numpy.save_file(
        {
          name: np.zeros(1, np.float32)
          for name in recipe_documents.names(model)
        },
        f'{model}/model.safetensors',
        metadata={'format': 'pt'},
      )
    return [[text, answer(text)] for text in documents]


def main(inputs: str, outputs: str) -> None:
  with np.load(inputs) as given:
    recorded = record(json.loads(str(given['documents'])))
  np.savez(outputs, recorded=np.array(json.dumps(recorded)))


if __name__ == '__main__':
  main(*sys.argv[1:])
