"""From a row of the user's data to an example, by the templates of a task."""

import string
from collections.abc import Mapping
from typing import Any, NamedTuple

from automerge_jax import trees
from automerge_jax.tasks import template
from automerge_jax.tasks.sources import Example
from automerge_jax.tasks.template import Field, Template


class Columns(NamedTuple):
  """Where the parts of an example are in a row.

  Attributes:
    kind: of the task.
    prompt: what the model is given.
    choices: one template each, or a field with all of them.
    label: field of the right choice.
    answers: accepted answers, templates of which one may be a field with a
      list.
    text: of a perplexity task, whose likelihood counts.
    delimiter: between a prompt and its continuation.
  """

  kind: str
  prompt: Template
  choices: tuple[Template, ...] | Field = ()
  label: Field | None = None
  answers: tuple[Template, ...] = ()
  text: Template | None = None
  delimiter: str = ' '


def example(columns: Columns, row: Mapping[str, Any]) -> Example:
  """The example that a row holds.

  Raises:
    ValueError: if a field is missing or wrong.
  """
  prompt = template.render(columns.prompt, row)
  if columns.kind != 'perplexity' and not prompt.strip():
    raise ValueError('the prompt is empty; expected some text')
  if columns.kind == 'perplexity':
    assert columns.text is not None
    text = template.render(columns.text, row)
    if not text.strip():
      raise ValueError('the text is empty; expected some text')
    return Example(prompt, 0, choices=(text,))
  if columns.kind == 'generation':
    return Example(prompt, 0, answers=_answers(columns, row))
  choices = _choices(columns, row)
  label = _label(columns, row, choices)
  if columns.kind == 'classification':
    return Example(prompt, label)
  gap = columns.delimiter
  return Example(prompt, label, choices=tuple(gap + c for c in choices))


def answer_of(columns: Columns, shown: Example) -> str:
  """The right answer to an example, as an example of the task shows it."""
  if columns.kind == 'choice':
    return shown.choices[shown.label]
  return columns.delimiter + shown.answers[0]


def _choices(columns: Columns, row: Mapping[str, Any]) -> list[str]:
  found = columns.choices
  if isinstance(found, Field):
    values = template.lookup(found, row)
    if not isinstance(values, list):
      raise ValueError(
        f'choices {found.text!r}: expected a list of texts, got {values!r}'
      )
    choices = [template.as_text(found, value) for value in values]
  else:
    choices = [template.render(choice, row) for choice in found]
  if len(choices) < 2:
    raise ValueError(f'choices {choices}; expected two or more')
  if len(set(choices)) < len(choices):
    raise ValueError(f'choices {choices}: one of them is there twice')
  if not all(choice.strip() for choice in choices):
    raise ValueError(f'choices {choices}: one of them is empty')
  return choices


def _label(columns: Columns, row: Mapping[str, Any], choices: list[str]) -> int:
  """The right choice by its text, its letter or its number from 0."""
  assert columns.label is not None
  value = template.lookup(columns.label, row)
  if isinstance(value, str):
    texts = [choice.strip() for choice in choices]
    letters = string.ascii_uppercase[: len(choices)]
    if value.strip() in texts:
      return texts.index(value.strip())
    if len(value.strip()) == 1 and value.strip().upper() in letters:
      return letters.index(value.strip().upper())
    if value.strip().isdecimal() and int(value) < len(choices):
      return int(value)
  elif isinstance(value, int) and not isinstance(value, bool):
    if 0 <= value < len(choices):
      return value
  raise ValueError(
    f'label {columns.label.text!r} is {value!r}, none of the choices '
    f'{choices}; expected a choice, its letter (A to '
    f'{string.ascii_uppercase[(len(choices) - 1) % 26]}) or its number (0 to '
    f'{len(choices) - 1})'
    + (trees.nearest(value, choices) if isinstance(value, str) else '')
  )


def _answers(columns: Columns, row: Mapping[str, Any]) -> tuple[str, ...]:
  found: list[str] = []
  for part in columns.answers:
    whole = part.only_field
    value = None if whole is None else template.lookup(whole, row)
    if whole is not None and isinstance(value, list):
      found += [template.as_text(whole, element) for element in value]
    else:
      found.append(template.render(part, row))
  answers = tuple(dict.fromkeys(answer.strip() for answer in found))
  if not answers or not all(answers):
    raise ValueError(
      f'answers {found}; expected at least one, none of it empty'
    )
  return answers
