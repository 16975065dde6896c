"""The peers' side of eval_speed; runs in .venv-peers.

  python eval_peers.py MODEL_FOLDER

For each line of JSON on standard input, `{"figure": name, "file": path}`, it
does that figure's work with the JSON in the file and prints `{"seconds": ...,
"values": ...}`, the values being what it found. Models stay loaded between.
"""

import functools
import importlib.metadata
import json
import sys
import time

import torch

THREADS = 2


@functools.cache
def harness(folder: str):
  """lm-eval's Hugging Face backend."""
  import transformers
  from lm_eval.models import huggingface

  transformers.logging.set_verbosity_error()
  return huggingface.HFLM(
    pretrained=folder, device='cpu', dtype='float32', batch_size=16
  )


def likelihood(folder: str, pairs: list[list[str]]) -> list[list]:
  """[nats, greedy] of each [prompt, continuation]."""
  from lm_eval.api.instance import Instance

  asked = [
    Instance('loglikelihood', {}, (prompt, continuation), index)
    for index, (prompt, continuation) in enumerate(pairs)
  ]
  return harness(folder).loglikelihood(asked, disable_tqdm=True)


def versions(folder: str, nothing: None) -> dict[str, str]:
  """Of what answers here."""
  del folder, nothing
  return {
    name: importlib.metadata.version(name)
    for name in ('torch', 'transformers', 'lm_eval')
  }


FIGURES = {'likelihood': likelihood, 'versions': versions}


def main(folder: str) -> None:
  torch.set_num_threads(THREADS)
  out = sys.stdout
  sys.stdout = sys.stderr  # what libraries print is no answer
  for line in sys.stdin:
    asked = json.loads(line)
    with open(asked['file']) as file:
      given = json.load(file)
    if asked['figure'] == 'likelihood':
      harness(folder)
    begin = time.perf_counter()
    with torch.inference_mode():
      values = FIGURES[asked['figure']](folder, given)
    seconds = time.perf_counter() - begin
    print(json.dumps({'seconds': seconds, 'values': values}), file=out)
    out.flush()


if __name__ == '__main__':
  main(*sys.argv[1:])
