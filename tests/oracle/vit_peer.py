"""What the peers say of vision transformers; runs in .venv-peers.

python vit_peer.py random SEED GIVEN.npz OUTPUTS.npz
  new tiny models, as testdata/vit_golden.py records them
python vit_peer.py hidden FOLDER GIVEN.npz OUTPUTS.npz
  last hidden states of a Hugging Face folder, by torch
python vit_peer.py onnx FILE GIVEN.npz OUTPUTS.npz
  output of the last norm of an ONNX file, by onnxruntime
"""

import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'testdata'))


def random(seed: str, given) -> dict:
  """Recordings of every case."""
  import torch
  import vit_golden

  generator = torch.Generator().manual_seed(int(seed))
  recorded = {}
  for case, model in vit_golden.models().items():
    recorded |= vit_golden.arrays(case, model, generator)
  return recorded


def hidden(folder: str, given) -> dict:
  """Hidden states for each array of pixels."""
  import torch
  import transformers

  model = transformers.AutoModel.from_pretrained(folder).eval()
  with torch.no_grad():
    return {
      name: model(pixel_values=torch.from_numpy(pixels)).last_hidden_state
      for name, pixels in given.items()
    }


def onnx(path: str, given) -> dict:
  """Hidden states for each array of pixels."""
  import onnx
  import onnxruntime

  model = onnx.load(path)
  (norm,) = [
    n for n in model.graph.node if n.name == '/backbone/layernorm/Add_1'
  ]
  model.graph.output.append(onnx.ValueInfoProto(name=norm.output[0]))
  session = onnxruntime.InferenceSession(
    model.SerializeToString(), providers=['CPUExecutionProvider']
  )
  (image,) = session.get_inputs()
  return {
    name: session.run([norm.output[0]], {image.name: pixels})[0]
    for name, pixels in given.items()
  }


def main(what: str, where: str, inputs: str, outputs: str) -> None:
  with np.load(inputs) as given:
    found = {'random': random, 'hidden': hidden, 'onnx': onnx}[what](
      where, dict(given)
    )
  np.savez(outputs, **{name: np.asarray(v) for name, v in found.items()})


if __name__ == '__main__':
  main(*sys.argv[1:])
