"""Layers by the names of stored tensors, for any architecture.

The first number behind a word such as `layers`, `block` or `h` is the layer;
what stands in front of it names the stack, of which a checkpoint may have
several (encoder and decoder, text and vision).
"""

import itertools
import re
from collections.abc import Iterable
from typing import NamedTuple

_LAYER = re.compile(
  r'(?P<stack>(?:^|.*?[./])(?:\w*layers?|\w*blocks?|blk|h))'
  r'[./_](?P<layer>\d+)(?=[./])'
)
# Outside the layers: what comes before them, all else comes after.
_BEFORE = re.compile(
  r'(?<!un)embed(?!_out)|(^|[./])(wte|wpe|shared|project_in)[./]|tok_emb|'
  r'token_embd|pos_emb|pre_la?ye?r_?norm|(cls|class|mask|dist)_token|patch|conv1'
)
_HEADS = re.compile(
  r'(^|\.)(lm_head|embed_out|output|cls\.predictions\.decoder)\.weight$'
)
_EMBEDDINGS = (
  'embed_tokens.weight',
  'wte.weight',
  'shared.weight',
  'embed_in.weight',
  'word_embeddings.weight',
  'tok_embeddings.weight',
  'token_embd.weight',
)


class Place(NamedTuple):
  """Where a tensor belongs: its stack, such as `model.layers`, and layer."""

  stack: str
  layer: int


def place(name: str) -> Place | None:
  """Stack and layer of a stored tensor by its name, None outside the layers."""
  match = _LAYER.match(name)
  if match is None:
    return None
  return Place(match.group('stack'), int(match.group('layer')))


def layer_of(name: str) -> int | None:
  """Layer of a stored tensor by its name, None outside the layers."""
  found = place(name)
  return None if found is None else found.layer


def behind(name: str) -> str | None:
  """What follows the layer in a stored name, None outside the layers."""
  match = _LAYER.match(name)
  return None if match is None else name[match.end('layer') :]


def renumber(name: str, layer: int) -> str:
  """The name of the same tensor in another layer.

  Raises:
    ValueError: if the tensor is in no layer.
  """
  match = _LAYER.match(name)
  if match is None:
    raise ValueError(f'{name!r} is in no layer, expected a name with a number')
  start, end = match.span('layer')
  return f'{name[:start]}{layer}{name[end:]}'


def is_before(name: str) -> bool:
  """Whether a tensor outside the layers comes before them (embeddings)."""
  return _BEFORE.search(name) is not None


def is_head(name: str) -> bool:
  """Whether it is an output head that may be tied to an embedding."""
  return _HEADS.search(name) is not None


def tied_embedding(head: str, names: Iterable[str]) -> str | None:
  """The input embedding that an absent head is tied to, None if there is none.

  Args:
    head: name of the head in other checkpoints.
    names: stored names of the checkpoint that has no such head.
  """
  found = [
    (-_shared(head, name), rank, name)
    for name in names
    for rank, end in enumerate(_EMBEDDINGS)
    if name == end or name.endswith('.' + end)
  ]
  return min(found)[2] if found else None


def _shared(one: str, other: str) -> int:
  """How many leading parts two names share."""
  pairs = zip(one.split('.'), other.split('.'), strict=False)
  return sum(1 for _ in itertools.takewhile(lambda p: p[0] == p[1], pairs))
