"""Scores a model by lm_eval's Hugging Face backend; runs in .venv-peers.

python harness_peer.py MODEL OPTIONS.json OUT.json

Options are those of `lm_eval.simple_evaluate`, `include_path` and
`max_length`. Written are `results`, and of each task the `samples`: prompts,
responses and metrics.
"""

import json
import pathlib
import sys

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

KEPT = ('doc_id', 'arguments', 'resps', 'filtered_resps', 'filter')


def main(model: str, options: str, out: str) -> None:
  torch.set_num_threads(2)
  told = json.loads(pathlib.Path(options).read_text())
  include = told.pop('include_path', None)
  backend = HFLM(
    pretrained=model,
    dtype='float32',
    device='cpu',
    batch_size=told.pop('batch_size', 4),
    max_length=told.pop('max_length', None),
  )
  found = lm_eval.simple_evaluate(
    model=backend,
    task_manager=TaskManager(
      include_path=include, include_defaults=include is None
    ),
    bootstrap_iters=0,
    **told,
  )
  samples = {
    task: [
      {k: v for k, v in row.items() if k in KEPT or k in row['metrics']}
      for row in rows
    ]
    for task, rows in found['samples'].items()
  }
  written = {'results': found['results'], 'samples': samples}
  pathlib.Path(out).write_text(json.dumps(written, default=str))


if __name__ == '__main__':
  main(*sys.argv[1:])
