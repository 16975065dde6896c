"""The tasks of a mergekit-evolve file as tasks of a search."""

import os
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import yaml

from automerge_jax.io import chat_templates, checkpoints
from automerge_jax.models import registry
from automerge_jax.recipes.evolve import Evolution, Task
from automerge_jax.tasks import definitions, sources, task_grammar

_UNSTATED = 'acc,none'  # the metric of a task for which the file has none
_SAME = {'accuracy': 'acc'}
_LESS_IS_BETTER = {
  'word_perplexity': 'word',
  'byte_perplexity': 'byte',
  'bits_per_byte': 'byte',
}


class Tasks(NamedTuple):
  """References of tasks, and their weights by task name."""

  references: tuple[str, ...]
  weights: dict[str, float]


def read(
  evolution: Evolution,
  path: pathlib.Path,
  base: pathlib.Path,
  folder: pathlib.Path,
  tell: Callable[[str], None],
  *,
  force_test_split: bool = False,
) -> Tasks:
  """The tasks of a mergekit-evolve file.

  A name is that of a YAML beside the file, else of a task of the suites, else
  of one of lm_eval, which is written as a task file.

  Args:
    evolution: the file.
    path: its path.
    base: checkpoint of the base, whose chat template counts.
    folder: where task files are written.
    tell: see `evolution.settings`.
    force_test_split: whether items of a test split may be searched on.

  Raises:
    ImportError: if there is a task of lm_eval and no lm_eval.
    ValueError: for a task that cannot be done, a metric that it does not
      measure, a task that stands twice, or a weight that is not positive.
  """
  references, weights = [], {}
  for task in evolution.tasks:
    own = _beside(task.name, path)
    if own is not None and _is_ours(own):
      reference = str(own)
    elif own is None and task.name in sources.known():
      reference = task.name
    else:
      reference = str(_write(evolution, task, own, path, base, folder, tell))
    made = definitions.read(reference, force_test_split=force_test_split).task
    if reference in references or made.name in weights:
      raise ValueError(
        f'{path}: the task {task.name!r} stands twice; one metric of a task is '
        'searched for: keep one'
      )
    if pathlib.Path(reference).parent != folder:
      _check_metric(task, path, made, tell)
      tell(
        f'{task.name} is asked as its own file says; num_fewshot and '
        'apply_chat_template are for tasks of lm_eval'
      )
    references.append(reference)
    weights[made.name] = _weight(task, path, made, tell)
  return Tasks(tuple(references), weights)


def _beside(name: str, path: pathlib.Path) -> pathlib.Path | None:
  found = [path.parent / f'{name}{end}' for end in ('.yaml', '.yml')]
  return next((f for f in found if f.is_file() and f != path), None)


def _is_ours(file: pathlib.Path) -> bool:
  """Whether a YAML is a task file as in docs/tasks.md, and not lm_eval's."""
  lines = file.read_text(encoding='utf-8').splitlines()
  return any(line.startswith('kind:') for line in lines)


def _write(
  evolution: Evolution,
  task: Task,
  own: pathlib.Path | None,
  path: pathlib.Path,
  base: pathlib.Path,
  folder: pathlib.Path,
  tell: Callable[[str], None],
) -> pathlib.Path:
  """Writes the task file of a task of lm_eval."""
  from automerge_jax.tasks import harness_docs, harness_generation

  told: dict[str, Any] = {
    'name': re.sub(r'[^\w.-]', '_', task.name),
    'kind': 'lm_eval',
    'task': task.name,
    'metric': task.metric,
  }
  include = None if own is None else str(own.parent)
  if include is not None:
    told['include_path'] = os.path.relpath(include, folder)
  if evolution.num_fewshot is not None:
    told['num_fewshot'] = evolution.num_fewshot
  if evolution.apply_chat_template:
    if chat_templates.read(checkpoints.split_adapter(base)[0]) is None:
      tell(
        f'apply_chat_template: {base} has no chat template, so {task.name} is '
        'asked as plain text'
      )
    else:
      told['chat_template'] = True
      if not evolution.fewshot_as_multiturn and evolution.num_fewshot:
        tell(
          f'fewshot_as_multiturn: examples of {task.name} are turns of the '
          'chat all the same'
        )
  wanted = harness_docs.Wanted(
    task.name,
    evolution.num_fewshot,
    include_path=include,
    metric=task.metric,
    chat_template='chat_template' in told,
  )
  loaded = harness_docs.load(wanted)
  metric, _, chain = task.metric.partition(',')
  if metric not in loaded.higher_is_better():
    raise ValueError(
      f'{path}: the task {task.name!r} has no metric {metric!r}; it has '
      f'{list(loaded.higher_is_better())}: state one as '
      f'{{name: {task.name}, metric: ...}}'
    )
  most = task_grammar.MAX_TOKENS
  with checkpoints.open_checkpoint(base) as source:
    room = registry.family_of(base, source.names()).max_tokens
  if loaded.OUTPUT_TYPE == 'generate_until':
    made = harness_generation.make(told['name'], wanted, loaded)
    room = None if room is None else room - made.max_new_tokens
  elif chain not in ('', 'none'):
    raise ValueError(
      f'{path}: the task {task.name!r} has the metric {task.metric!r}; a '
      f'filter {chain!r} is for generated texts only, expected {metric},none'
    )
  told['max_tokens'] = most if room is None else min(most, room)
  folder.mkdir(parents=True, exist_ok=True)
  file = folder / f'{told["name"]}.yaml'
  partial = file.with_name(file.name + '.partial')
  partial.write_text(yaml.safe_dump(told, sort_keys=False), encoding='utf-8')
  partial.replace(file)
  return file


def _weight(
  task: Task, path: pathlib.Path, made: Any, tell: Callable[[str], None]
) -> float:
  """A task's weight, with the sign of what is better."""
  if task.metric.partition(',')[0] not in _LESS_IS_BETTER:
    if task.weight <= 0:
      raise ValueError(
        f'{path}: the task {task.name!r} has weight {task.weight:g}; expected '
        f'> 0: more {made.metric} is always better here'
      )
    return task.weight
  if task.weight >= 0:
    raise ValueError(
      f'{path}: the task {task.name!r} has weight {task.weight:g} on '
      f'{task.metric}, of which less is better; give it a negative weight'
    )
  tell(
    f'{task.name}: {made.metric} a {made.unit}, mean over texts, is maximised '
    f'with weight {-task.weight:g} in place of {task.weight:g} times '
    f'{task.metric}'
  )
  return -task.weight


def _check_metric(
  task: Task, path: pathlib.Path, made: Any, tell: Callable[[str], None]
) -> None:
  """Raises ValueError if the file wants another metric than a task has."""
  wanted = task.metric.partition(',')[0]
  unit = _LESS_IS_BETTER.get(wanted)
  if unit is not None and unit == getattr(made, 'unit', None):
    return
  if _SAME.get(made.metric, made.metric) == wanted:
    return
  if task.metric != _UNSTATED:
    raise ValueError(
      f'{path}: the task {task.name!r} measures {made.metric}, not '
      f'{task.metric}; state its own, or change the task'
    )
  tell(f'{task.name} measures {made.metric}, not {_UNSTATED}')
