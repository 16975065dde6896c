"""Scores a model on tasks of lm-evaluation-harness; prints a table.

  python -m experiments.lm_eval --model=DIR --tasks=arc_easy,piqa --out=FILE

DIR is a Hugging Face folder, such as `merged_hf` of a search. Tasks are those
that lm_eval knows, or has in --include_path. FILE gets lm_eval's own results
as JSON. Needs `pip install automerge_jax[lm_eval]`, and no torch.
"""

import json
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from automerge_jax.tasks import experts, harness_docs
from experiments import startup


def run(
  model: str | pathlib.Path,
  tasks: Sequence[str],
  *,
  include_path: str | pathlib.Path | None = None,
  num_fewshot: int | None = None,
  chat_template: bool = False,
  system_prompt: str | None = None,
  dtype: str = 'float32',
  limit: int | None = None,
  max_tokens: int | None = None,
  seed: int = 0,
) -> dict[str, Any]:
  """lm_eval's results of a model folder.

  Args:
    model: Hugging Face folder.
    tasks: names.
    include_path: folder of further tasks.
    num_fewshot: examples in front; None for what each task says.
    chat_template: whether the model's template comes around prompts.
    system_prompt: of the chat.
    dtype: in which the model computes.
    limit: first items of each task only; None for all.
    max_tokens: of a text; None for what the model takes.
    seed: of sampled texts.

  Raises:
    ImportError: without lm_eval.
    ValueError: for an unknown task, or a model that cannot do it.
  """
  folder = None if include_path is None else str(include_path)
  manager = harness_docs.manager(tasks, folder)
  import lm_eval

  from automerge_jax.tasks import harness_model  # needs lm_eval

  found = lm_eval.simple_evaluate(
    model=harness_model.Model(
      model, dtype=dtype, max_tokens=max_tokens, seed=seed
    ),
    tasks=list(tasks),
    num_fewshot=num_fewshot,
    limit=limit,
    task_manager=manager,
    apply_chat_template=chat_template,
    system_instruction=system_prompt,
    bootstrap_iters=1000,
  )
  assert found is not None  # only other ranks get none
  found['config']['model'] = str(model)
  return dict(found)


def table(results: dict[str, Any]) -> str:
  """The metrics of each task, one a line."""
  lines = []
  for task, values in sorted(results['results'].items()):
    for key, value in values.items():
      metric, _, chain = key.partition(',')
      if isinstance(value, float) and not metric.endswith('_stderr'):
        error = values.get(f'{metric}_stderr,{chain}')
        spread = f' ± {error:.4f}' if isinstance(error, float) else ''
        lines.append(f'{task}  {metric} ({chain})  {value:.4f}{spread}')
  return '\n'.join(lines)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  startup.prepare()
  given = flags.FLAGS
  try:
    results = run(
      given.model,
      given.tasks,
      include_path=given.include_path,
      num_fewshot=given.num_fewshot,
      chat_template=given.chat_template,
      system_prompt=given.system_prompt,
      dtype=given.dtype,
      limit=given.limit,
      max_tokens=given.max_tokens,
      seed=given.seed,
    )
  except (ImportError, KeyError, OSError, ValueError) as error:
    sys.exit(f'lm_eval: {error}')
  if given.out:
    out = pathlib.Path(given.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    experts.write_json(out, json.loads(json.dumps(results, default=str)))
  print(table(results))


if __name__ == '__main__':
  # Not on import: other entry points have flags of these names too.
  flags.DEFINE_string('model', None, 'The model folder.', required=True)
  flags.DEFINE_list('tasks', None, 'Tasks of lm_eval.', required=True)
  flags.DEFINE_string('out', None, 'JSON file of the results.')
  flags.DEFINE_string('include_path', None, 'Folder of more tasks.')
  flags.DEFINE_integer(
    'num_fewshot', None, 'Examples in front; by default what a task says.'
  )
  flags.DEFINE_bool('chat_template', False, "Use the model's template.")
  flags.DEFINE_string('system_prompt', None, 'System message.')
  flags.DEFINE_enum(
    'dtype', 'float32', ['float32', 'bfloat16', 'float16'], 'To compute in.'
  )
  flags.DEFINE_integer('limit', None, 'First items of each task only.')
  flags.DEFINE_integer(
    'max_tokens', None, 'Longest text; by default what the model takes.'
  )
  flags.DEFINE_integer('seed', 0, 'Of sampled texts.')
  app.run(main)
