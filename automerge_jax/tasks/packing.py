"""Texts whose continuations are scored, packed into rows of one length.

On the host, in numpy. Rows hold several texts; what texts share is computed
once (see `sharing`), the last token of a continuation is no input at all, and
what is read from the hidden states, and what for, is listed beside the rows.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from automerge_jax.tasks import sharing
from automerge_jax.tasks.sharing import Block, Tokens
from automerge_jax.types import Array

STEP = 8  # row lengths are multiples of it
LONGEST = 2048  # rows are not longer, unless a text is
# A token's attention over this many others takes about as long as all the
# rest of its layer: the price of long rows.
ATTENDED = 2048

_SOURCE = ('ids', 'mask')
_DECODER = tuple(f'decoder_{x}' for x in ('ids', 'mask', 'positions', 'branch'))


class Request(NamedTuple):
  """What is asked: how likely the continuation is, given the context.

  Attributes:
    context: token ids, at least one.
    continuation: token ids, at least one.
  """

  context: Tokens
  continuation: Tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
  """Requests in equal chunks of rows.

  Attributes:
    inputs: `ids`, `mask`, `positions`, `branch`, int32 [C, B, T]; of an
      encoder-decoder model `ids`, `mask` [C, B, T], and `decoder_ids`,
      `decoder_mask`, `decoder_positions`, `decoder_branch` [C, B, U].
    read: hidden states from which tokens are predicted, as places in the
      flattened rows of a chunk, int32 [C, R]; padding reads the first.
    target: which of `read` predicts each scored token, int32 [C, Q].
    token: the scored tokens, int32 [C, Q].
    owner: what their log-probability adds to, int32 [C, Q]; padding points
      one past the end.
  """

  inputs: dict[str, Array]
  read: Array
  target: Array
  token: Array
  owner: Array


class _Asked(NamedTuple):
  """A request as a model meets it.

  Attributes:
    source: what the encoder reads; empty without one.
    path: what the decoder reads.
    first: the place in `path` that predicts the continuation's first token.
    continuation: the scored tokens.
    owner: what their log-probability adds to.
  """

  source: Tokens
  path: Tokens
  first: int
  continuation: Tokens
  owner: int


class _Text(NamedTuple):
  """What is computed together and sees only itself."""

  source: Tokens
  block: Block


class _Row(NamedTuple):
  """One row before it is an array.

  Attributes:
    inputs: values by the names of `Packed.inputs`.
    reads: places in the row.
    targets: (index in `reads`, token, owner) of each scored token.
  """

  inputs: dict[str, list[int]]
  reads: list[int]
  targets: list[tuple[int, int, int]]


def truncate(
  request: Request, max_tokens: int, apart: bool = False
) -> tuple[Request, bool]:
  """The request in at most `max_tokens` inputs, and whether it was cut.

  As lm-eval does, the context loses its first tokens, and keeps one at least.
  Only a continuation of more than `max_tokens` tokens is cut itself: its last
  ones count, after the one before them.

  Args:
    request: in full length.
    max_tokens: most inputs.
    apart: of encoder-decoder models: encoder and decoder have this many each.
  """
  context, continuation = request
  if apart:
    cut = Request(context[-max_tokens:], continuation[-max_tokens:])
    return cut, cut != request
  if len(context) + len(continuation) <= max_tokens + 1:
    return request, False
  whole = (context + continuation)[-(max_tokens + 1) :]
  scored = min(len(continuation), max_tokens)
  return Request(whole[:-scored], whole[-scored:]), True


def pack(
  requests: Sequence[Request],
  owners: Sequence[int],
  *,
  decoder_start: int | None = None,
  tokens_per_chunk: int = 2048,
) -> Packed:
  """Requests as arrays; the row length is the one that takes the least time.

  Args:
    requests: what is asked.
    owners: what each one's log-likelihood adds to; equal numbers add up.
    decoder_start: of encoder-decoder models, the token that each decoder text
      starts with; their contexts are read by the encoder.
    tokens_per_chunk: tokens that one forward pass holds, about.

  Raises:
    ValueError: for a request without context or continuation.
  """
  return pack_shares(
    [requests],
    [owners],
    count=max(owners) + 1,
    decoder_start=decoder_start,
    tokens_per_chunk=tokens_per_chunk,
  )[0]


def pack_shares(
  requests: Sequence[Sequence[Request]],
  owners: Sequence[Sequence[int]],
  *,
  count: int,
  decoder_start: int | None = None,
  tokens_per_chunk: int = 2048,
) -> list[Packed]:
  """As `pack`, for several sets of requests in arrays of equal shapes.

  All owners are below `count`.
  """
  asked = [
    [_ask(r, owner, decoder_start) for r, owner in zip(*share, strict=True)]
    for share in zip(requests, owners, strict=True)
  ]
  trees = [_Tree(share, decoder_start is not None) for share in asked]
  best = None
  for length in _lengths(max(tree.longest for tree in trees)):
    rows = [tree.rows(length) for tree in trees]
    chunks, batch = _chunks(max(map(len, rows)), length, tokens_per_chunk)
    cost = chunks * batch * length * (1 + length / ATTENDED)
    if best is None or cost < best[0]:
      best = (cost, length, chunks, batch, rows)
  assert best is not None
  _, length, chunks, batch, rows = best
  dealt = [
    _deal([_row(texts, tree.asked) for texts in share], chunks)
    for tree, share in zip(trees, rows, strict=True)
  ]
  return _arrays(dealt, batch, length, count)


class _Tree:
  """Texts of one set of requests, which any row length divides anew."""

  def __init__(self, asked: Sequence[_Asked], encoded: bool):
    paths: dict[Tokens, list[Tokens]] = {}
    for one in asked:
      paths.setdefault(one.source, []).append(one.path)
    self._leaves = {s: sharing.leaves(found) for s, found in paths.items()}
    self._encoded = encoded
    self._shared = sharing.neighbours(self._leaves.get((), []))
    self.longest = max(
      map(len, self._leaves if encoded else self._leaves.get((), [()])),
      default=0,
    )
    self.asked: dict[tuple[Tokens, Tokens], list[_Asked]] = {}
    for one in asked:
      leaf = sharing.home(self._leaves[one.source], one.path)
      self.asked.setdefault((one.source, leaf), []).append(one)

  def rows(self, length: int) -> list[list[_Text]]:
    """The texts of each row of that length."""
    if self._encoded:
      texts = [_Text(s, sharing.block(p)) for s, p in self._leaves.items()]
      sizes = [len(text.source) for text in texts]
    else:
      ordered = self._leaves.get((), [])
      blocks = sharing.blocks(ordered, self._shared, length)
      texts = [_Text((), block) for block in blocks]
      sizes = [text.block.size for text in texts]
    bins = sharing.best_fit(sizes, length)
    return [[texts[i] for i in members] for members in bins]


def _ask(request: Request, owner: int, decoder_start: int | None) -> _Asked:
  context, continuation = map(tuple, request)
  if not context or not continuation:
    raise ValueError(
      f'a request has {len(context)} context and {len(continuation)} '
      'continuation tokens; expected one of each at least'
    )
  if decoder_start is None:
    path = context + continuation[:-1]
    return _Asked((), path, len(context) - 1, continuation, owner)
  path = (decoder_start, *continuation[:-1])
  return _Asked(context, path, 0, continuation, owner)


def _lengths(longest: int) -> list[int]:
  """Row lengths to choose from, in steps of a twentieth or so."""
  steps = math.ceil(16 * math.log2(max(LONGEST / max(longest, 1), 1)))
  longer = [max(longest, 1) * 2 ** (i / 16) for i in range(steps + 1)]
  return sorted({math.ceil(length / STEP) * STEP for length in longer})


def _chunks(rows: int, length: int, tokens_per_chunk: int) -> tuple[int, int]:
  """Number of chunks and rows of each, with few rows left empty."""
  fewest = max(1, math.ceil(rows * length / tokens_per_chunk))
  return min(
    (
      (chunks, max(1, math.ceil(rows / chunks)))
      for chunks in range(fewest, fewest + fewest // 4 + 1)
    ),
    key=lambda found: (found[0] * found[1], found[0]),
  )


def _row(
  texts: Sequence[_Text], asked: Mapping[tuple[Tokens, Tokens], list[_Asked]]
) -> _Row:
  row = _Row({name: [] for name in (*_SOURCE, *_DECODER)}, [], [])
  index: dict[int, int] = {}  # of a place, in row.reads
  for number, (source, block) in enumerate(texts, 1):
    _append(row.inputs, _SOURCE, source, number)
    start = len(row.inputs['decoder_ids'])
    trunk = block.paths[0][: block.trunk]
    _append(row.inputs, _DECODER, trunk, number)
    for branch, path in enumerate(block.paths, 1):
      behind = len(row.inputs['decoder_ids']) - block.trunk
      rest = path[block.trunk :]
      _append(row.inputs, _DECODER, rest, number, block.trunk, branch)
      for one in asked[source, path]:
        for i, token in enumerate(one.continuation, one.first):
          place = (start if i < block.trunk else behind) + i
          read = index.setdefault(place, len(index))
          row.targets.append((read, token, one.owner))
  row.reads.extend(index)
  return row


def _append(inputs, names, tokens, number, position=0, branch=0):
  values = (
    tokens,
    [number] * len(tokens),
    range(position, position + len(tokens)),
    [branch] * len(tokens),
  )
  for name, value in zip(names, values, strict=False):
    inputs[name].extend(value)


def _deal(rows: Sequence[_Row], chunks: int) -> list[list[_Row]]:
  """Rows in chunks that read about equally many hidden states."""
  dealt: list[list[_Row]] = [[] for _ in range(chunks)]
  ordered = sorted(rows, key=lambda row: -len(row.reads))
  for begin in range(0, len(rows), chunks):
    turn = dealt if begin // chunks % 2 == 0 else dealt[::-1]
    for chunk, row in zip(turn, ordered[begin : begin + chunks], strict=False):
      chunk.append(row)
  return dealt


def _arrays(
  shares: Sequence[Sequence[Sequence[_Row]]],
  batch: int,
  length: int,
  owners: int,
) -> list[Packed]:
  every = [chunk for share in shares for chunk in share]
  rows = [row for chunk in every for row in chunk]
  encoded = any(row.inputs['ids'] for row in rows)
  width = length
  if encoded:
    width = max(len(row.inputs['decoder_ids']) for row in rows)
    width = math.ceil(width / STEP) * STEP
  names = {name: name.removeprefix('decoder_') for name in _DECODER}
  sizes = dict.fromkeys(_DECODER, width)
  if encoded:
    names = {name: name for name in (*_SOURCE, *_DECODER)}
    sizes |= dict.fromkeys(_SOURCE, length)
  reads = max(1, *(sum(len(r.reads) for r in chunk) for chunk in every))
  targets = max(1, *(sum(len(r.targets) for r in chunk) for chunk in every))

  def inputs(chunk, name):
    array = np.zeros((batch, sizes[name]), np.int32)
    for b, row in enumerate(chunk):
      array[b, : len(row.inputs[name])] = row.inputs[name]
    return array

  def read_outs(chunk):
    read = np.zeros(reads, np.int32)
    rest = np.zeros((3, targets), np.int32)
    rest[2] = owners
    n = q = 0
    for b, row in enumerate(chunk):
      if row.targets:
        found = np.asarray(row.targets, np.int32).T
        rest[:, q : q + found.shape[1]] = found + np.array([[n], [0], [0]])
      read[n : n + len(row.reads)] = np.asarray(row.reads) + b * width
      n, q = n + len(row.reads), q + len(row.targets)
    return read, *rest

  return [
    Packed(
      {
        kept: np.stack([inputs(chunk, name) for chunk in share])
        for name, kept in names.items()
      },
      *map(np.stack, zip(*map(read_outs, share), strict=True)),
    )
    for share in shares
  ]
