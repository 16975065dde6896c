"""What a task is and where its items come from, by a config's reference.

A reference is the name of a task in `sources`, `FILE.yaml` (see
docs/tasks.md), or `lm_eval:TASK[:SHOTS]`.
"""

import functools
import importlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from automerge_jax.tasks import classification, partition, prompts, sources
from automerge_jax.tasks.partition import Item
from automerge_jax.tasks.prompts import Chat
from automerge_jax.tasks.sources import Source

HARNESS = 'lm_eval:'
TEST_SPLIT = (
  'what is searched on can no longer tell how good the result is. Give train '
  'or validation examples to search on, or set force_test_split and report no '
  'score of this task as one on its test split'
)


class Definition(NamedTuple):
  """A task and where its items come from.

  Attributes:
    task: what it is, apart from its items.
    source: its examples.
    seed: of the splits.
    shares: of the splits that are cut, in proportion.
    prompts: what stands in place of the text of an item, by id: a prompt with
      examples in front, or a chat. Items without one are asked as they are.
    fingerprint: SHA-256 of what was read besides the examples' own content;
      empty for tasks in `sources`.
  """

  task: Any
  source: Source
  seed: int = partition.SEED
  shares: Mapping[str, float] = partition.SHARES
  prompts: Mapping[str, str | Chat] = {}
  fingerprint: str = ''


def read(
  reference: str | pathlib.Path,
  *,
  max_tokens: int = 64,
  force_test_split: bool = False,
) -> Definition:
  """The task of a reference.

  Args:
    reference: name, file or `lm_eval:TASK[:SHOTS]`.
    max_tokens: of tasks in `sources`; the others say it themselves.
    force_test_split: whether items of a test split may be searched on.

  Raises:
    KeyError: for an unknown name.
    FileNotFoundError: if the file, or one that it names, is missing.
    ValueError: for what is wrong in a file, with its name and line.
  """
  return _read(str(reference), max_tokens, force_test_split)


@functools.cache
def _read(
  reference: str, max_tokens: int, force_test_split: bool
) -> Definition:
  # Imported here, for they make Definitions themselves.
  if reference.startswith(HARNESS):
    from automerge_jax.tasks import harness

    return harness.read(
      harness.reference(reference), force_test_split=force_test_split
    )
  if reference.endswith(('.yaml', '.yml')):
    from automerge_jax.tasks import task_file

    return task_file.read(
      pathlib.Path(reference), force_test_split=force_test_split
    )
  source = sources.read(reference)
  for name in sources.MORE:
    module = importlib.import_module(f'automerge_jax.tasks.{name}')
    if reference in module.SOURCES:
      return Definition(module.make_task(reference), source)
  task = classification.Task(reference, source.classes, max_tokens)
  return Definition(task, source)


def render(
  definition: Definition, items: Sequence[Item], folder: str | pathlib.Path
) -> tuple[Item, ...]:
  """Items as a model of this folder sees them: chats become text.

  Raises:
    ValueError: if there are chats and the folder has no chat template, or its
      template refuses them.
  """
  made = []
  for item in items:
    prompt = definition.prompts.get(item.id)
    if isinstance(prompt, Chat):
      item = item._replace(text=prompts.render(prompt, folder))
    made.append(item)
  return tuple(made)
