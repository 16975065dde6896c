"""Pytrees by leaf name: flatten, rebuild, group by pattern, compare."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from automerge_jax.types import Params


def flatten(tree: Any) -> dict[str, Any]:
  """Leaves by name, e.g. `{'layers/mlp/output/kernel': array}`."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def unflatten(leaves: Mapping[str, Any]) -> Params:
  """Nested dicts from leaves by name; the inverse of `flatten`.

  Raises:
    ValueError: if one name goes through another, as `a` and `a/b`.
  """
  tree: Params = {}
  for name in sorted(leaves):
    *parents, last = name.split('/')
    node = tree
    for depth, parent in enumerate(parents, 1):
      through = '/'.join(parents[:depth])
      if through in leaves:
        raise ValueError(f'leaf {name!r} lies below another leaf, {through!r}')
      node = node.setdefault(parent, {})
    node[last] = leaves[name]
  return tree


def group(
  names: Iterable[str], patterns: Sequence[tuple[str, str]]
) -> dict[str, str]:
  """Group of each leaf: the first pattern that matches the whole name.

  Args:
    names: leaf names.
    patterns: (group, regular expression) pairs, tried in order.

  Returns:
    `{name: group}`.

  Raises:
    ValueError: if a leaf matches no pattern.
  """
  groups = {}
  for name in names:
    for label, pattern in patterns:
      if re.fullmatch(pattern, name):
        groups[name] = label
        break
    else:
      raise ValueError(
        f'leaf {name!r} matches none of the patterns '
        f'{[p for _, p in patterns]}; add a last pattern ".*"'
      )
  return groups


def difference(have: Mapping[str, Any], want: Mapping[str, Any]) -> list[str]:
  """Lines that tell two sets of named arrays apart; empty when they agree.

  `- name` is wanted and missing, `+ name` is there and unexpected, `! name`
  has another shape.
  """
  lines = [f'- {name}' for name in sorted(set(want) - set(have))]
  lines += [f'+ {name}' for name in sorted(set(have) - set(want))]
  for name in sorted(set(have) & set(want)):
    if tuple(have[name].shape) != tuple(want[name].shape):
      lines.append(
        f'! {name}: shape {tuple(have[name].shape)}, '
        f'expected {tuple(want[name].shape)}'
      )
  return lines


def check_same(
  have: Mapping[str, Any], want: Mapping[str, Any], what: str
) -> None:
  """Raises ValueError listing each difference, if there is any."""
  lines = difference(have, want)
  if lines:
    raise ValueError(
      f'{what}: {len(lines)} tensors differ '
      f'(- missing, + unexpected, ! shape):{listing(lines)}'
    )


def listing(lines: Sequence[str], most: int = 20) -> str:
  """Lines for the end of an error, one each, and how many were left out."""
  left = len(lines) - most
  shown = [*lines[:most], *([f'... and {left} more'] if left > 0 else [])]
  return ''.join(f'\n  {line}' for line in shown)


def nearest(name: str, valid: Iterable[str]) -> str:
  """A did-you-mean ending for an error about an unknown name."""
  valid = sorted(valid)
  close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
  hint = f'; did you mean {close[0]!r}?' if close else '.'
  return f'{hint} Valid: {valid}'
