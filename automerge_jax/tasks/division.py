"""Items of a task by split, as its definition says; no module for search code.

Search code has `splits`, which leads to the open ones only.
"""

from collections.abc import Sequence

from absl import logging

from automerge_jax.tasks import partition
from automerge_jax.tasks.definitions import Definition
from automerge_jax.tasks.partition import Item


def divide(definition: Definition) -> dict[str, tuple[Item, ...]]:
  """All items by split, with whole prompts where those need no model."""
  name, source = definition.task.name, definition.source
  parts = partition.partition(name, source, definition.seed, definition.shares)
  given = sum(map(len, (source.train, source.test, *source.stated.values())))
  lost = given - sum(map(len, parts.values()))
  if lost:
    logging.info(
      '%s: %d of %d examples left out, doubles or without a word',
      name,
      lost,
      given,
    )
  return {split: _whole(definition, items) for split, items in parts.items()}


def _whole(definition: Definition, items: Sequence[Item]) -> tuple[Item, ...]:
  found = ((item, definition.prompts.get(item.id)) for item in items)
  return tuple(
    item._replace(text=prompt) if isinstance(prompt, str) else item
    for item, prompt in found
  )
