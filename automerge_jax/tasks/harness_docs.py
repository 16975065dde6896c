"""Tasks of lm-evaluation-harness: finding them, their documents and prompts.

Nothing here needs torch. https://github.com/EleutherAI/lm-evaluation-harness
"""

import difflib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import logging

from automerge_jax.tasks.prompts import Chat

SHOTS_SEED = 1234  # with which lm_eval draws examples


class Wanted(NamedTuple):
  """A task of lm_eval and how it is asked.

  Attributes:
    task: name of one task, or the path of its YAML.
    num_fewshot: examples in front; None for what the task says.
    name: of our task; empty for one made of these.
    include_path: folder of YAML files of further tasks.
    metric: 'METRIC' or 'METRIC,FILTER'; empty for the first that there is.
    max_tokens: of a prompt with its continuation.
    chat_template: whether the model's chat template comes around the prompt.
    system_prompt: of the chat.
  """

  task: str
  num_fewshot: int | None = None
  name: str = ''
  include_path: str | None = None
  metric: str = ''
  max_tokens: int = 1024
  chat_template: bool = False
  system_prompt: str | None = None


class Asked(NamedTuple):
  """A document as lm_eval asks it.

  Attributes:
    prompt: text or chat.
    requests: arguments of its requests to the model.
  """

  prompt: str | Chat
  requests: tuple[tuple[Any, ...], ...]


@functools.cache
def load(wanted: Wanted) -> Any:
  """The task, an `lm_eval.api.task.Task`, its number of examples set.

  Raises:
    ImportError: without lm_eval.
    ValueError: for an unknown task, a group of tasks, data that cannot be
      loaded, or what cannot be asked here.
  """
  found = manager([wanted.task], wanted.include_path)
  if wanted.task in (*found.all_groups, *found.all_tags):
    raise ValueError(
      f'{wanted.task!r} stands for several tasks of lm_eval; name each as a '
      'task of its own'
    )
  try:
    loaded = found.load([wanted.task])
  except Exception as error:  # data sets fail in many ways
    raise ValueError(
      f'lm_eval cannot load the task {wanted.task!r} '
      f'({type(error).__name__}: {str(error)[:300]}); its data must be on this '
      'machine or within reach of it'
    ) from error
  (task,) = loaded['tasks'].values()
  _refuse(wanted.task, task)
  own = task.get_config('num_fewshot')
  asked = wanted.num_fewshot
  if asked is not None and own == 0 and asked != 0:
    raise ValueError(
      f'the task {wanted.task!r} takes no examples (num_fewshot: 0 in its '
      f'YAML), {asked} asked for'
    )
  task.set_config('num_fewshot', asked if asked is not None else own or 0)
  return task


def documents(task: Any) -> dict[str, list[Any]]:
  """Documents of 'train', 'validation' and 'test', as far as there are any."""
  found = {}
  if task.has_training_docs():
    found['train'] = list(task.training_docs())
  if task.has_validation_docs():
    found['validation'] = list(task.validation_docs())
  if task.has_test_docs():
    found['test'] = list(task.test_docs())
  return {split: docs for split, docs in found.items() if docs}


@functools.cache
def collected(
  wanted: Wanted,
) -> tuple[dict[str, list[Any]], dict[str, list[Asked]]]:
  """Documents by split, and how each is asked without examples or a chat."""
  task = load(wanted)
  groups = documents(task)
  asked = {
    split: list(ask(wanted, task, docs, shots=0, chat=False))
    for split, docs in groups.items()
  }
  return groups, asked


def ask(
  wanted: Wanted,
  task: Any,
  docs: list[Any],
  *,
  shots: int,
  chat: bool,
  shown: list[Any] | None = None,
  own_split: bool = False,
) -> Iterator[Asked]:
  """How each document is asked, in order, as `lm_eval` itself would.

  Args:
    wanted: the task's options.
    task: as loaded.
    docs: of one split.
    shots: examples in front.
    chat: whether prompts become chats.
    shown: documents that may be examples; None for those lm_eval takes.
    own_split: whether examples come from the documents' own split, so that
      each document is left out of its own.
  """
  sampler = getattr(task, 'sampler', None)
  kept = None if sampler is None else sampler.df
  split = task.config.test_split
  template = _capture if chat else None
  try:
    if shown is not None and sampler is not None:
      sampler.replace_df(shown)
    if own_split:
      # lm_eval leaves a document out if its examples come from `test_split`.
      task.config.test_split = task.fewshot_cfg.split
    task.set_fewshot_seed(SHOTS_SEED)
    for index, doc in enumerate(docs):
      context = task.fewshot_context(
        doc,
        num_fewshot=shots,
        system_instruction=wanted.system_prompt if chat else None,
        apply_chat_template=chat,
        fewshot_as_multiturn=True,
        chat_template=template,
        gen_prefix=task.doc_to_prefix(doc),
      )
      made = task.construct_requests(
        doc=doc,
        ctx=context,
        metadata=(task.config.task, index, task.config.repeats),
        apply_chat_template=wanted.chat_template,
        chat_template=template,
      )
      made = made if isinstance(made, list) else [made]
      prompt = context
      if chat and isinstance(context, str):
        messages, opened = json.loads(context)
        prompt = Chat(tuple((r, c) for r, c in messages), opened)
      yield Asked(prompt, tuple(tuple(one.args) for one in made))
  finally:
    task.config.test_split = split
    if shown is not None and sampler is not None:
      sampler.replace_df(kept)


def drawn_from(task: Any, docs: Mapping[str, list[Any]]) -> str | None:
  """The split that examples are drawn from; None if it is another one."""
  if task.fewshot_cfg.samples is not None:
    return None
  config = task.config
  splits = {
    'train': config.training_split,
    'validation': config.validation_split,
    'test': config.test_split,
  }
  if task.fewshot_cfg.split is None:
    return next(iter(docs))
  for split in docs:
    if splits[split] == task.fewshot_cfg.split:
      return split
  return None


def _capture(
  messages: list[dict[str, str]], add_generation_prompt: bool = True
) -> str:
  """Stands for a chat template, which only the model has."""
  turns = [(m['role'], m['content']) for m in messages]
  return json.dumps([turns, not add_generation_prompt])


def manager(names: Sequence[str], include_path: str | None = None) -> Any:
  """A task manager of lm_eval that knows all these tasks.

  Args:
    names: of tasks or groups, or paths of YAML files.
    include_path: folder of further tasks, which are looked for there first:
      lm_eval's own, by the thousand, take it seconds to list.

  Raises:
    ImportError: without lm_eval.
    ValueError: for an unknown task.
  """
  made = _manager(include_path, False)
  missing = [n for n in names if not _knows(made, n)]
  if missing:
    made = _manager(include_path, True)
    missing = [n for n in names if not _knows(made, n)]
  if missing:
    known = made.all_tasks
    close = difflib.get_close_matches(missing[0], known, n=3, cutoff=0.6)
    raise ValueError(
      f'lm_eval has no task {missing[0]!r} among its {len(known)}'
      + (f'; did you mean one of {close}?' if close else '')
      + '; tasks of your own are found through include_path'
    )
  return made


def _knows(made: Any, name: str) -> bool:
  return name in made.all_tasks or os.path.isfile(name)


@functools.cache
def _manager(include_path: str | None, include_defaults: bool) -> Any:
  _quiet()
  try:
    from lm_eval.tasks import TaskManager
  except ImportError as error:
    raise ImportError(
      f'tasks of lm_eval need its package ({error}); install it with: '
      'pip install automerge_jax[lm_eval]'
    ) from error
  if include_path is not None and not os.path.isdir(include_path):
    raise ValueError(f'include_path {include_path!r} is no folder')
  return TaskManager(
    include_path=include_path, include_defaults=include_defaults
  )


def _refuse(name: str, task: Any) -> None:
  """Raises ValueError for tasks that cannot be asked here."""
  config = task.config
  from lm_eval.api.task import ConfigurableTask

  reasons: list[tuple[Callable[[], Any], str]] = [
    (
      lambda: not isinstance(task, ConfigurableTask),
      'it is a class of its own, no YAML',
    ),
    (
      lambda: getattr(task, 'UNSAFE_CODE', False),
      'it executes generated code, which is never done here; run it in a '
      'sandbox of your own through an external scorer',
    ),
    (
      lambda: getattr(task, 'MULTIMODAL', False),
      'it needs images or sounds',
    ),
    (
      lambda: (config.repeats or 1) > 1,
      f'it asks each document {config.repeats} times; set `repeats: 1`',
    ),
  ]
  for holds, reason in reasons:
    if holds():
      raise ValueError(f'the task {name!r} of lm_eval cannot be used: {reason}')


def _quiet() -> None:
  """Data sets' progress bars would drown a search's own lines."""
  try:
    import datasets
  except ImportError:
    return
  datasets.disable_progress_bars()
  logging.debug('progress bars of data sets are off')
