"""The rows of a task file's data by split, and what must not be searched on."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from automerge_jax import trees
from automerge_jax.recipes.nodes import Node
from automerge_jax.tasks import (
  definitions,
  sources,
  task_grammar,
  template,
)
from automerge_jax.tasks.jsonl import Row
from automerge_jax.tasks.sources import Example

# In the order in which errors show them.
GROUPS = ('train', 'validation', 'search', 'select', 'heldout')
# What publishers call them.
_ALIASES = {'test': 'heldout', 'valid': 'validation', 'dev': 'validation'}
_TEST = re.compile(r'(^|[-_.])test', re.IGNORECASE)


def rows_by_group(
  fields: Mapping[str, Node],
  read: Callable[[Node], list[Row]],
  forced: bool,
) -> dict[str, list[Row]]:
  """Rows of each of GROUPS that there is.

  Args:
    fields: of a task file; `data` and `split` are read.
    read: reads the file that a value names.
    forced: whether items of a test split may be searched on.

  Raises:
    ValueError: if they would be and may not, or a split has no items.
  """
  data = fields['data']
  by = task_grammar.split_field(fields)
  if not data.is_mapping():
    rows = read(data)
    name = rows[0].path.name
    if _TEST.search(name):
      _guard(data, f'the file {name!r}', forced)
    if by is None:
      return {'train': rows}
    return _complete(_by_field(rows, by), by, forced)
  if by is not None:
    data.fail('it names files by split already; remove `split.field`')
  groups: dict[str, list[Row]] = {}
  for key, file in data.fields((*GROUPS, *_ALIASES)).items():
    group = _ALIASES.get(key, key)
    if group in groups:
      file.fail(f'there is another file for {group!r}; keep one')
    groups[group] = read(file)
    name = groups[group][0].path.name
    if group not in ('heldout', 'select') and _TEST.search(name):
      _guard(file, f'the file {name!r}', forced)
  return _complete(groups, data, forced)


def refuse_duplicates(
  groups: Mapping[str, Sequence[tuple[Row, Example]]],
) -> None:
  """Raises ValueError naming two rows that hold the same item."""
  first: dict[str, Row] = {}
  for examples in groups.values():
    for row, example in examples:
      content = sources.content(example)
      if content in first:
        raise ValueError(
          f'{row.where}: the same item as {first[content].where}: '
          f'{example.text[:60]!r}; remove one, or set `duplicates: drop` to '
          'keep one of them (none where their answers differ)'
        )
      first[content] = row


def at(row: Row, read: Callable[..., Any], *arguments: Any) -> Any:
  """What `read` makes of the arguments; errors get the row's file and line."""
  try:
    return read(*arguments)
  except ValueError as error:
    raise ValueError(f'{row.where}: {error}') from error


def _by_field(rows: Sequence[Row], by: Node) -> dict[str, list[Row]]:
  way = task_grammar.field(by)
  groups: dict[str, list[Row]] = {}
  for row in rows:
    value = at(row, template.lookup, way, row.fields)
    group = _ALIASES.get(str(value), str(value))
    if group not in GROUPS:
      raise ValueError(
        f'{row.where}: field {way.text!r} is {value!r}, no split'
        + trees.nearest(str(value), (*GROUPS, *_ALIASES))
      )
    groups.setdefault(group, []).append(row)
  return groups


def _complete(
  groups: dict[str, list[Row]], node: Node, forced: bool
) -> dict[str, list[Row]]:
  """Checks that each split has rows, or others to be cut from."""
  wanted = sorted({'search', 'select', 'heldout'} - set(groups))
  pools = {'train', 'validation'} & set(groups)
  if set(groups) == {'heldout'}:
    _guard(node, 'the test split', forced)
    return {'train': groups['heldout']}
  if wanted and not pools:
    node.fail(
      f'there is nothing to cut {wanted} from; give `train`, `validation` or '
      'all of `search`, `select` and `heldout`'
    )
  if 'validation' in groups and not wanted:
    node.fail(
      '`validation` is of no use beside `search`, `select` and `heldout`; '
      'remove it'
    )
  return groups


def _guard(node: Node, what: str, forced: bool) -> None:
  if not forced:
    node.fail(f'search items would come from {what}: {definitions.TEST_SPLIT}')
