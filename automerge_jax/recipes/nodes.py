"""YAML whose values know their line, so that errors can say where."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

import yaml
from yaml.constructor import ConstructorError

from automerge_jax import trees

_KINDS: dict[type[yaml.Node], str] = {
  yaml.MappingNode: 'keys',
  yaml.SequenceNode: 'a list',
  yaml.ScalarNode: 'a value',
}

_MERGE = 'tag:yaml.org,2002:merge'  # the key `<<`


class Node(NamedTuple):
  """A value in a YAML file.

  Attributes:
    node: as PyYAML composes it.
    where: name of the file.
    path: way to the value, such as `slices[0].sources`; empty at the top.
  """

  node: yaml.Node
  where: str
  path: str = ''

  def fail(self, message: str) -> NoReturn:
    """Raises ValueError with file, line and path in front of the message."""
    place = f'{self.where}:{self.node.start_mark.line + 1}: '
    raise ValueError(place + (f'{self.path}: ' if self.path else '') + message)

  def is_mapping(self) -> bool:
    return isinstance(self.node, yaml.MappingNode)

  def is_list(self) -> bool:
    return isinstance(self.node, yaml.SequenceNode)

  def is_null(self) -> bool:
    return self.node.tag == 'tag:yaml.org,2002:null'

  def fields(self, valid: Iterable[str] | None = None) -> dict[str, 'Node']:
    """Values by key, without those that are null.

    Args:
      valid: the keys that may stand here; None for any.

    Raises:
      ValueError: if this is no mapping, or a key is unknown, no text, or given
        twice.
    """
    self._expect(yaml.MappingNode)
    valid = None if valid is None else set(valid)
    given = set()
    for key, _ in self.node.value:
      name = Node(key, self.where, self.path)
      if key.tag == _MERGE:
        continue
      if name.scalar() in given:
        name.fail(f'the key {name.scalar()!r} is given twice; keep one of them')
      given.add(name.scalar())
    merged = yaml.MappingNode(self.node.tag, list(self.node.value))
    try:
      yaml.SafeLoader('').flatten_mapping(merged)
    except ConstructorError as error:
      self.fail(f'`<<` merges keys of mappings: {error.problem}')
    found = {}
    for key, value in merged.value:
      name = Node(key, self.where, self.path)
      text = name.scalar()
      if not isinstance(text, str):
        name.fail(f'the key {text!r} is no text; write it in quotes')
      if valid is not None and text not in valid:
        name.fail(f'unknown key {text!r}' + trees.nearest(text, valid))
      path = f'{self.path}.{text}' if self.path else text
      found[text] = Node(value, self.where, path)
    return {key: value for key, value in found.items() if not value.is_null()}

  def items(self) -> list['Node']:
    """Elements of a list."""
    self._expect(yaml.SequenceNode)
    return [
      Node(value, self.where, f'{self.path}[{i}]')
      for i, value in enumerate(self.node.value)
    ]

  def scalar(self) -> Any:
    """A number, truth value, text or None, as YAML reads it."""
    self._expect(yaml.ScalarNode)
    try:
      return yaml.SafeLoader('').construct_object(self.node)
    except (ConstructorError, ValueError) as error:
      self.fail(f'{self.node.value!r} is not readable: {error}')

  def text(self) -> str:
    value = self.scalar()
    if not isinstance(value, str):
      self.fail(f'expected text, got {value!r}; write it in quotes if it is')
    return value

  def integer(self) -> int:
    value = self.scalar()
    if not isinstance(value, int) or isinstance(value, bool):
      self.fail(f'expected a whole number, got {value!r}')
    return value

  def flag(self) -> bool:
    value = self.scalar()
    if not isinstance(value, bool):
      self.fail(f'expected true or false, got {value!r}')
    return value

  def one_of(self, valid: Iterable[str]) -> str:
    value = self.text()
    if value not in valid:
      self.fail(f'unknown value {value!r}' + trees.nearest(value, valid))
    return value

  def _expect(self, kind: type[yaml.Node]) -> None:
    if not isinstance(self.node, kind):
      self.fail(f'expected {_KINDS[kind]}, got {_shown(self.node)}')


def documents(text: str, where: str) -> list[Node]:
  """The YAML documents of a text.

  Raises:
    ValueError: if it is no YAML, with the line.
  """
  try:
    found = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
  except yaml.MarkedYAMLError as error:
    mark = error.problem_mark or error.context_mark
    line = f':{mark.line + 1}' if mark else ''
    raise ValueError(f'{where}{line}: no YAML: {error.problem}') from error
  except yaml.YAMLError as error:
    raise ValueError(f'{where}: no YAML: {error}') from error
  return [Node(node, where) for node in found if node is not None]


def optional(fields: Mapping[str, Node], key: str, read: Callable) -> Any:
  """What `read` makes of a key's value, None without the key."""
  return read(fields[key]) if key in fields else None


def _shown(node: yaml.Node) -> str:
  if isinstance(node, yaml.ScalarNode):
    return repr(node.value)
  return _KINDS[type(node)]
