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


@functools.cache
def writer(folder: str):
  """Model and tokenizer of transformers, for generation."""
  import transformers

  transformers.logging.set_verbosity_error()
  tokenizer = transformers.AutoTokenizer.from_pretrained(
    folder, padding_side='left'
  )
  tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32
  )
  # No token ends a text here: both sides write as many.
  model.generation_config = transformers.GenerationConfig(
    pad_token_id=tokenizer.pad_token_id
  )
  return model.eval(), tokenizer


def generation(folder: str, work: dict) -> list[str]:
  """What is written, greedily, behind each text."""
  model, tokenizer = writer(folder)
  written = []
  for begin in range(0, len(work['texts']), work['batch']):
    texts = work['texts'][begin : begin + work['batch']]
    inputs = tokenizer(texts, return_tensors='pt', padding=True)
    made = model.generate(
      input_ids=inputs['input_ids'],
      attention_mask=inputs['attention_mask'],
      max_new_tokens=work['new_tokens'],
      do_sample=False,
    )
    new = made[:, inputs['input_ids'].shape[1] :]
    written += tokenizer.batch_decode(new, skip_special_tokens=True)
  return written


@functools.cache
def encoder(folder: str):
  """Model and tokenizer of transformers, for classification."""
  import transformers

  transformers.logging.set_verbosity_error()
  return (
    transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval(),
    transformers.AutoTokenizer.from_pretrained(folder),
  )


def classification(folder: str, work: dict) -> list[float]:
  """Log-likelihood of each text's class under its task's head."""
  del folder
  model, tokenizer = encoder(work['folder'])
  found = []
  for task in work['tasks']:
    kernel = torch.tensor(task['kernel'])
    for begin in range(0, len(task['texts']), work['batch']):
      inputs = tokenizer(
        task['texts'][begin : begin + work['batch']],
        return_tensors='pt',
        padding=True,
        truncation=True,
        max_length=task['max_tokens'],
      )
      hidden = model(**inputs).last_hidden_state
      mask = inputs['attention_mask'].unsqueeze(-1)
      mean = (hidden * mask).sum(1) / mask.sum(1)
      unit = mean * (mean.square().mean(-1, keepdim=True) + 1e-12).rsqrt()
      told = torch.log_softmax(unit @ kernel, -1)
      labels = torch.tensor(task['labels'][begin : begin + work['batch']])
      found += told.gather(1, labels[:, None])[:, 0].tolist()
  return found


def versions(folder: str, nothing: None) -> dict[str, str]:
  """Of what answers here."""
  del folder, nothing
  return {
    name: importlib.metadata.version(name)
    for name in ('torch', 'transformers', 'lm_eval')
  }


FIGURES = {
  'classification': classification,
  'generation': generation,
  'likelihood': likelihood,
  'versions': versions,
}


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
    if asked['figure'] == 'classification':
      encoder(given['folder'])
    if asked['figure'] == 'generation':
      writer(folder)
    begin = time.perf_counter()
    with torch.inference_mode():
      values = FIGURES[asked['figure']](folder, given)
    seconds = time.perf_counter() - begin
    print(json.dumps({'seconds': seconds, 'values': values}), file=out)
    out.flush()


if __name__ == '__main__':
  main(*sys.argv[1:])
