"""Prompt templates: text with the fields of a row in braces.

`{question}`, `{choices[0]}`, `{meta.source}`; `{{` and `}}` are braces. There
is no code in a template: no expressions, formats or conversions.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from automerge_jax import trees

_STEP = re.compile(r'\.?([^.\[\]{}!:]+)|\[(-?\d+)\]')


class Field(NamedTuple):
  """A value of a row: the keys and positions that lead to it, and its text."""

  path: tuple[str | int, ...]
  text: str


class Template(NamedTuple):
  """A template taken apart: texts and fields, as they follow each other."""

  parts: tuple[str | Field, ...]

  @property
  def only_field(self) -> Field | None:
    """The field, where the template is nothing else."""
    alone = len(self.parts) == 1 and isinstance(self.parts[0], Field)
    return self.parts[0] if alone else None  # pyrefly: ignore[bad-return]


def field(text: str) -> Field:
  """Reads the way to a value, such as `choices[0].text`.

  Raises:
    ValueError: if it is none.
  """
  path: list[str | int] = []
  at = 0
  while at < len(text):
    step = _STEP.match(text, at)
    if step is None or (not path and text[at] in '.['):
      break
    name, index = step.groups()
    path.append(int(index) if name is None else name)
    at = step.end()
  if not path or at < len(text):
    raise ValueError(
      f'{text!r} is no field; expected a name, then perhaps .name or [0]; '
      'formats and expressions are not evaluated, and a brace that is meant '
      'as one is written twice'
    )
  return Field(tuple(path), text)


def parse(text: str) -> Template:
  """Reads a template.

  Raises:
    ValueError: for a brace without its counterpart, or one that holds no field.
  """
  parts: list[str | Field] = []
  plain = ''
  at = 0
  while at < len(text):
    if text[at : at + 2] in ('{{', '}}'):
      plain += text[at]
      at += 2
    elif text[at] == '{':
      end = text.find('}', at)
      if end < 0:
        raise ValueError(
          f'the brace at character {at + 1} of {_short(text)} is never closed; '
          'write {{ for a brace'
        )
      if plain:
        parts.append(plain)
      parts.append(field(text[at + 1 : end].strip()))
      plain, at = '', end + 1
    elif text[at] == '}':
      raise ValueError(
        f'the brace at character {at + 1} of {_short(text)} closes none; '
        'write }} for a brace'
      )
    else:
      plain += text[at]
      at += 1
  return Template((*parts, plain) if plain else tuple(parts))


def lookup(field: Field, row: Mapping[str, Any]) -> Any:
  """The value of a field in a row.

  Raises:
    ValueError: if the row has no such field.
  """
  value: Any = row
  for step in field.path:
    if isinstance(step, int) and isinstance(value, list):
      if not -len(value) <= step < len(value):
        raise ValueError(
          f'field {field.text!r}: no element {step} in a list of {len(value)}'
        )
      value = value[step]
    elif isinstance(step, str) and isinstance(value, Mapping):
      if step not in value:
        raise ValueError(
          f'field {field.text!r} is missing: no {step!r}'
          + trees.nearest(step, [str(key) for key in value])
        )
      value = value[step]
    else:
      raise ValueError(
        f'field {field.text!r}: {step!r} asked of {_short(value)}; expected '
        + ('a list' if isinstance(step, int) else 'an object')
      )
  return value


def as_text(field: Field, value: Any) -> str:
  """A field's value as text: texts and numbers, nothing else.

  Raises:
    ValueError: for truth values, null, lists and objects.
  """
  if isinstance(value, str):
    return value
  if isinstance(value, int | float) and not isinstance(value, bool):
    return str(value)
  raise ValueError(
    f'field {field.text!r} is {_short(value)}; expected text or a number'
    + ('. Name one of its elements, as in {a[0]}' * isinstance(value, list))
    + ('. Name one of its fields, as in {a.b}' * isinstance(value, dict))
  )


def render(template: Template, row: Mapping[str, Any]) -> str:
  """The template with a row's values.

  Raises:
    ValueError: if a field is missing or is no text.
  """
  return ''.join(
    part if isinstance(part, str) else as_text(part, lookup(part, row))
    for part in template.parts
  )


def _short(value: Any) -> str:
  text = repr(value)
  return text if len(text) <= 60 else text[:57] + '...'
