"""Rows of a JSONL file, each with its line, so that errors can say where."""

import json
import pathlib
from typing import Any, NamedTuple

from automerge_jax import trees


class Row(NamedTuple):
  """An object of a JSONL file.

  Attributes:
    path: of the file.
    line: number of its line, from 1.
    fields: its values.
  """

  path: pathlib.Path
  line: int
  fields: dict[str, Any]

  @property
  def where(self) -> str:
    return f'{self.path}:{self.line}'


def read(path: pathlib.Path) -> list[Row]:
  """The objects of a file; blank lines count for nothing.

  Raises:
    FileNotFoundError: if there is none, with the nearest name beside it.
    ValueError: naming file and line that is not UTF-8, no JSON or no object,
      or a file without rows.
  """
  if not path.is_file():
    folder = path.parent
    beside = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    near = trees.nearest(path.name, [n for n in beside if '.json' in n])
    raise FileNotFoundError(f'{path} is no file{near}')
  rows = []
  content = path.read_bytes().removeprefix(b'\xef\xbb\xbf')  # a UTF-8 mark
  for number, line in enumerate(content.split(b'\n'), 1):
    if line.strip():
      rows.append(Row(path, number, _object(f'{path}:{number}', line)))
  if not rows:
    raise ValueError(f'{path} is empty; expected one JSON object a line')
  return rows


def _object(where: str, line: bytes) -> dict[str, Any]:
  try:
    text = line.decode('utf-8')
  except UnicodeDecodeError as error:
    raise ValueError(
      f'{where}: byte {error.start + 1} ({line[error.start]:#04x}) is not '
      'UTF-8; save the file as UTF-8'
    ) from error
  try:
    value = json.loads(text)
  except ValueError as error:
    shown = text.strip()[:60]
    raise ValueError(
      f'{where}: no JSON ({error}): {shown!r}; expected one whole JSON object '
      'a line'
    ) from error
  if not isinstance(value, dict):
    raise ValueError(
      f'{where}: expected an object with named fields, got {text.strip()[:60]}'
      + ('; write one object a line, not a list' * isinstance(value, list))
    )
  return value
