"""The peers' side of disk_route; runs in .venv-peers.

  python disk_route_peer.py BASE_FOLDER

For each line of JSON on standard input, `{"figure": name, "file": path}`, it
does that figure's work with the JSON in the file and prints `{"seconds": ...,
"values": ...}`. The items stay between, as tensors.
"""

import json
import sys
import time

import safetensors.torch
import torch
import transformers
import yaml
from mergekit import config, merge, options

THREADS = 2
BATCHES = (32, 64, 128)
_saved: list[float] = []  # seconds of each file


class Batch:
  """Items of about the same length, padded to the longest."""

  def __init__(self, rows: list[int], given: dict):
    texts = [given['ids'][i] for i in rows]
    longest = max(map(len, texts))
    self.rows = torch.tensor(rows)
    self.ids = torch.tensor([t + [0] * (longest - len(t)) for t in texts])
    self.mask = torch.tensor(
      [[1] * len(t) + [0] * (longest - len(t)) for t in texts]
    )


class Items:
  """All items of all tasks with their heads.

  `given` holds `ids`, `task` and `label` of each item, and the stacked heads'
  `kernel` [tasks, d, C] and `bias` [tasks, C].
  """

  def __init__(self, given: dict, base: str):
    self.given = given
    self.task = torch.tensor(given['task'])
    self.label = torch.tensor(given['label'])
    self.kernel = torch.tensor(given['kernel'])
    self.bias = torch.tensor(given['bias'])
    self.batches: list[Batch] = []
    self.seconds = self._fastest(base)

  def _fastest(self, base: str) -> dict[int, float]:
    """Keeps the batch size that torch takes least time with."""
    model = load(base)
    found = {}
    for size in (BATCHES[0], *BATCHES):  # the first pass only warms up
      self.batches = self._divided(size)
      begin = time.perf_counter()
      self.score(model)
      found[size] = time.perf_counter() - begin
    self.batches = self._divided(min(found, key=lambda size: found[size]))
    return found

  def _divided(self, size: int) -> list[Batch]:
    texts = self.given['ids']
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    return [
      Batch(order[begin : begin + size], self.given)
      for begin in range(0, len(order), size)
    ]

  def score(self, model) -> dict[str, list[float]]:
    """Of each item: right or not, nats, and by how much the first class won."""
    right, nats, margin = (torch.zeros(len(self.label)) for _ in range(3))
    for batch in self.batches:
      hidden = model(
        input_ids=batch.ids, attention_mask=batch.mask
      ).last_hidden_state
      mask = batch.mask.unsqueeze(-1)
      mean = (hidden * mask).sum(1) / mask.sum(1)
      unit = mean * (mean.square().mean(-1, keepdim=True) + 1e-12).rsqrt()
      task, label = self.task[batch.rows], self.label[batch.rows]
      logits = torch.einsum('bd,bdc->bc', unit, self.kernel[task])
      logits = logits + self.bias[task]
      best = logits.topk(2).values
      right[batch.rows] = (logits.argmax(-1) == label).float()
      margin[batch.rows] = best[:, 0] - best[:, 1]
      told = torch.log_softmax(logits, -1)
      nats[batch.rows] = told.gather(1, label[:, None])[:, 0]
    return {
      'right': right.tolist(),
      'nats': nats.tolist(),
      'margin': margin.tolist(),
    }


def load(folder: str):
  """A model from its folder."""
  return transformers.AutoModel.from_pretrained(
    folder, dtype=torch.float32
  ).eval()


def scored(items: Items, work: dict) -> dict:
  """Loads `out` and scores it."""
  begin = time.perf_counter()
  model = load(work['out'])
  loaded = time.perf_counter()
  found = items.score(model)
  done = time.perf_counter()
  return found | {'load_s': loaded - begin, 'evaluate_s': done - loaded}


def candidate(items: Items, work: dict) -> dict:
  """Merges the YAML file `recipe` into `out`, loads and scores it."""
  begin = time.perf_counter()
  _saved.clear()
  with open(work['recipe']) as file:
    document = config.MergeConfiguration.model_validate(yaml.safe_load(file))
  merge.run_merge(
    document,
    work['out'],
    options.MergeOptions(
      write_model_card=False, copy_tokenizer=False, quiet=True
    ),
  )
  spent = time.perf_counter() - begin
  times = {'merge_s': spent - sum(_saved), 'save_s': sum(_saved)}
  return scored(items, work) | times


def main(base: str) -> None:
  torch.set_num_threads(THREADS)
  transformers.logging.set_verbosity_error()
  save = safetensors.torch.save_file

  def timed(*args, **kwargs):
    begin = time.perf_counter()
    save(*args, **kwargs)
    _saved.append(time.perf_counter() - begin)

  safetensors.torch.save_file = timed
  out = sys.stdout
  sys.stdout = sys.stderr  # what libraries print is no answer
  items = None
  for line in sys.stdin:
    asked = json.loads(line)
    with open(asked['file']) as file:
      given = json.load(file)
    begin = time.perf_counter()
    with torch.inference_mode():
      if asked['figure'] == 'items':
        items = Items(given, base)
        values = items.seconds
      else:
        work = {'candidate': candidate, 'scored': scored}[asked['figure']]
        values = work(items, given)
    seconds = time.perf_counter() - begin
    print(json.dumps({'seconds': seconds, 'values': values}), file=out)
    out.flush()


if __name__ == '__main__':
  main(*sys.argv[1:])
