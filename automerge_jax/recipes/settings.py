"""Settings of parameters: a value, a gradient over depth, or by filter.

A gradient `[a, b, ...]` runs over the layers of a slice: numbers are
interpolated, flags step. `{filter, value}` holds for the tensors whose name
contains the filter; of a list of these the first that holds counts.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from automerge_jax.recipes.document import Setting, applies
from automerge_jax.recipes.nodes import Node

FLAGS = frozenset(
  {
    'filter_wise',
    'int8_mask',
    'normalize',
    'normalize_weights',
    'nuslerp_flatten',
    'nuslerp_row_wise',
    'rescale',
  }
)
_TRUE = ('true', 't', 'yes', 'y', 'on', '1')
_FALSE = ('false', 'f', 'no', 'n', 'off', '0')


def read(node: Node, parameter: str) -> Setting:
  """The setting of a parameter, numbers and flags already converted.

  Raises:
    ValueError: naming the value that is neither, and its line.
  """
  if node.is_mapping():
    return _condition(node, parameter)
  if node.is_list() and any(item.is_mapping() for item in node.items()):
    return [_condition(item, parameter) for item in node.items()]
  return _value(node, parameter)


def evaluate(
  setting: Setting, parameter: str, name: str, depth: float
) -> float | None:
  """Value of a setting for a tensor, None if it says nothing about it.

  Args:
    setting: as `read` gives it.
    parameter: its name, which tells flags from numbers.
    name: stored name of the tensor.
    depth: of its layer in the slice, 0 to 1.
  """
  if setting is None or isinstance(setting, int | float):  # as most are
    return None if setting is None else float(setting)
  if isinstance(setting, Mapping):
    setting = [setting]
  if not isinstance(setting, list | tuple):
    return float(setting)
  if not setting:
    return None
  if isinstance(setting[0], Mapping):
    for entry in setting:
      if applies(entry.get('filter'), name):
        return evaluate(entry['value'], parameter, name, depth)
    return None
  position = depth * (len(setting) - 1)
  low = int(position)
  if parameter in FLAGS:
    return float(setting[low])
  high = min(len(setting) - 1, low + 1)
  fraction = position - low
  return float((1 - fraction) * setting[low] + fraction * setting[high])


def first(
  levels: Sequence[Mapping[str, Setting]],
  parameter: str,
  name: str,
  depth: float,
) -> float | None:
  """What the most specific level that states the parameter says, or None."""
  for level in levels:
    value = evaluate(level.get(parameter), parameter, name, depth)
    if value is not None:
      return value
  return None


def values(setting: Setting) -> list[float]:
  """Every number that stands in a setting."""
  if isinstance(setting, Mapping):
    return values(setting['value'])
  if isinstance(setting, list | tuple):
    return [number for entry in setting for number in values(entry)]
  return [float(setting)]


def _condition(node: Node, parameter: str) -> dict[str, Any]:
  if not node.is_mapping():
    node.fail('expected {filter, value} like the others in the list')
  fields = node.fields(('filter', 'value'))
  if 'value' not in fields:
    node.fail('`value` is missing')
  part = {'filter': fields['filter'].text()} if 'filter' in fields else {}
  return part | {'value': _value(fields['value'], parameter)}


def _value(node: Node, parameter: str) -> Any:
  if node.is_list():
    return [_scalar(item, parameter) for item in node.items()]
  return _scalar(node, parameter)


def _scalar(node: Node, parameter: str) -> float | bool:
  value = node.scalar()
  text = str(value).strip().lower()
  if parameter in FLAGS:
    if value in (0, 1):  # truth values, and numbers that mean them
      return bool(value)
    if not isinstance(value, str) or text not in (*_TRUE, *_FALSE):
      node.fail(f'expected true or false, got {value!r}')
    return text in _TRUE
  return number(node)


def number(node: Node) -> float:
  """A finite number, also from text such as 1e-3."""
  value = node.scalar()
  if isinstance(value, bool):
    return float(value)
  if isinstance(value, str):
    try:
      value = float(value)
    except ValueError:
      node.fail(f'expected a number, got {value!r}')
  if value is None or not isinstance(value, int | float):
    node.fail(f'expected a number, got {value!r}')
  if not math.isfinite(value):
    node.fail(f'expected a finite number, got {value!r}')
  return value
