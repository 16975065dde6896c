"""Multiple choice: the likeliest continuation of a prompt is the answer."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from automerge_jax import trees
from automerge_jax.tasks import continuations, packing
from automerge_jax.tasks.likelihood import Query
from automerge_jax.tasks.partition import Item
from automerge_jax.types import TRUNCATED, Family

# What a choice's log-likelihood is divided by. Lengths are of the answer
# without the space that joins it to the prompt, as lm-eval counts them, and of
# the tokens that are scored.
METRICS = {
  'acc': lambda choice, request: 1,
  'acc_norm': lambda choice, request: len(choice.lstrip()),
  'acc_bytes': lambda choice, request: len(choice.lstrip().encode()),
  'acc_tokens': lambda choice, request: len(request.continuation),
}


@dataclasses.dataclass(frozen=True)
class Task:
  """What a task is, apart from its items.

  Attributes:
    name: as in sources and configs.
    max_tokens: most input tokens of a prompt with a choice; longer prompts
      lose their beginning.
    metric: 'acc' compares log-likelihoods, 'acc_norm' those per character,
      'acc_bytes' those per byte, 'acc_tokens' those per token.
  """

  kind: ClassVar[str] = 'choice'

  name: str
  max_tokens: int
  metric: str = 'acc'

  def __post_init__(self):
    if self.metric not in METRICS:
      raise ValueError(
        f'task {self.name!r} has the unknown metric {self.metric!r}'
        + trees.nearest(self.metric, METRICS)
      )


def encode(
  task: Task,
  items: Sequence[Item],
  family: Family,
  folder: str | pathlib.Path,
) -> tuple[list[Query], np.ndarray]:
  """Queries, and flags [n] of those whose prompt was cut off.

  Args:
    task: what the items are of.
    items: with choices.
    family: of the models that will be scored.
    folder: of a model, for its tokenizer.

  Raises:
    ValueError: for an item with fewer than two choices or no right one, or if
      the model takes fewer tokens than `max_tokens`.
  """
  check_length(task, family)
  for item in items:
    if len(item.choices) < 2 or not 0 <= item.label < len(item.choices):
      raise ValueError(
        f'item {item.id} of task {task.name!r} has {len(item.choices)} choices '
        f'and the label {item.label}; expected two choices at least, and the '
        'index of one of them'
      )
  coder = continuations.coder(folder, family.encoder is not None)
  pairs = [(item.text, choice) for item in items for choice in item.choices]
  cut = iter(
    packing.truncate(
      request, task.max_tokens, apart=coder.decoder_start is not None
    )
    for request in continuations.requests(coder, pairs)
  )
  queries, flags = [], []
  for item in items:
    mine = [next(cut) for _ in item.choices]
    divisors = [
      max(1, METRICS[task.metric](choice, request))
      for choice, (request, _) in zip(item.choices, mine, strict=True)
    ]
    queries.append(
      Query(
        tuple((request,) for request, _ in mine),
        tuple(map(float, divisors)),
        compared=True,
        decoder_start=coder.decoder_start,
      )
    )
    flags.append(TRUNCATED if any(was for _, was in mine) else 0)
  return queries, np.asarray(flags, np.uint8)


def check_length(task, family: Family) -> None:
  """Raises ValueError if the model takes fewer tokens than the task's texts."""
  if family.max_tokens is not None and task.max_tokens > family.max_tokens:
    raise ValueError(
      f'task {task.name!r} has max_tokens={task.max_tokens}; the model takes '
      f'{family.max_tokens}'
    )
