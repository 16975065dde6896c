"""Log-likelihoods of continuations: choices, perplexity, single requests.

One forward pass over packed rows, the vocabulary head only where something is
predicted, a few hundred positions at a time.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.models import base as models
from automerge_jax.tasks import packing
from automerge_jax.tasks.packing import Packed, Request
from automerge_jax.types import Array, Family, ItemScores, Params

if TYPE_CHECKING:
  from automerge_jax.tasks.itemset import ItemSet

LOGITS = 4 * 2**20  # most logits at a time; about what caches hold


class Query(NamedTuple):
  """An item in tokens.

  Attributes:
    choices: requests whose log-likelihoods add up to each choice's.
    divisors: what the metric divides each choice's log-likelihood by.
    compared: whether the choices compete; else the first one's log-likelihood
      is the score itself.
    decoder_start: first decoder token of encoder-decoder models.
  """

  choices: tuple[tuple[Request, ...], ...]
  divisors: tuple[float, ...]
  compared: bool
  decoder_start: int | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Data:
  """Items as arrays; padding of items has one choice and a slot past the end.

  Attributes:
    packed: what is computed, in chunks.
    divisor: as in `Query`, float32 [n, A]; 0 for choices that an item lacks.
    label: index of the right choice, int32 [n].
    compared: as in `Query`, bool [n].
    slot: position of each item in the item set, int32 [n].
  """

  packed: Packed
  divisor: Array
  label: Array
  compared: Array
  slot: Array


def arrays(
  items: 'ItemSet', slots: np.ndarray, tokens_per_chunk: int = 2048
) -> tuple[Data, ...]:
  """The items at these positions as arrays."""
  return tuple(_data(items, [slots], tokens_per_chunk))


def minibatches(
  items: 'ItemSet',
  slots: np.ndarray,
  count: int,
  tokens_per_chunk: int | None = None,
) -> tuple[Data, ...]:
  """The same dealt in turn to `count` equal shares, leaves [count, ...].

  Without `tokens_per_chunk` each share is one chunk.
  """
  dealt = [slots[i::count] for i in range(count)]
  shares = _data(items, dealt, tokens_per_chunk or 2**30)
  return (jax.tree.map(lambda *leaves: np.stack(leaves), *shares),)


def _data(
  items: 'ItemSet', shares: Sequence[np.ndarray], tokens_per_chunk: int
) -> list[Data]:
  """Several sets of items in arrays of equal shapes."""
  queries = [[items.encoded[i] for i in slots] for slots in shares]
  most = max(map(len, queries))
  width = max(len(query.choices) for share in queries for query in share)
  asked: list[list[Request]] = []
  owners: list[list[int]] = []
  for share in queries:
    rows = [
      (request, index * width + choice)
      for index, query in enumerate(share)
      for choice, requests in enumerate(query.choices)
      for request in requests
    ]
    asked.append([request for request, _ in rows])
    owners.append([owner for _, owner in rows])
  (start,) = {query.decoder_start for share in queries for query in share}
  packed = packing.pack_shares(
    asked,
    owners,
    count=most * width,
    decoder_start=start,
    tokens_per_chunk=tokens_per_chunk,
  )
  made = []
  for share, slots, one in zip(queries, shares, packed, strict=True):
    divisor = np.zeros((most, width), np.float32)
    divisor[:, 0] = 1  # also of padding
    for row, query in zip(divisor, share, strict=False):
      row[: len(query.divisors)] = query.divisors
    padded = np.full(most, len(items), np.int32)
    padded[: len(slots)] = slots
    label = np.zeros(most, np.int32)
    label[: len(slots)] = items.label[slots]
    compared = np.zeros(most, bool)
    compared[: len(slots)] = [query.compared for query in share]
    made.append(Data(one, divisor, label, compared, padded))
  return made


def score(
  family: Family, params: Params, data: Data
) -> tuple[ItemScores, Array]:
  """Item scores [n] and slots [n]; pure, jittable, differentiable.

  The score of compared choices is 1.0 where the largest quotient of
  log-likelihood and divisor is the right one's, their log_likelihood is the
  log-softmax over the choices. Otherwise the score is the quotient and
  log_likelihood the nats.
  """
  items, choices = data.divisor.shape
  sums, _ = read_out(family, params, data.packed, items * choices)
  sums = sums.reshape(items, choices)
  exists = data.divisor > 0
  metric = jnp.where(
    exists, sums / jnp.where(exists, data.divisor, 1), -jnp.inf
  )
  right = jnp.argmax(metric, -1) == data.label
  log_softmax = jax.nn.log_softmax(jnp.where(exists, sums, -jnp.inf))
  chosen = jnp.take_along_axis(log_softmax, data.label[:, None], 1)[:, 0]
  scores = ItemScores(
    score=jnp.where(data.compared, right, metric[:, 0]),
    log_likelihood=jnp.where(data.compared, chosen, sums[:, 0]),
    choices=jnp.where(exists & data.compared[:, None], log_softmax, -jnp.inf),
  )
  return scores, data.slot


def read_out(
  family: Family, params: Params, packed: Packed, owners: int
) -> tuple[Array, Array]:
  """Sums of log-probabilities [owners], and whether greedy decoding says so.

  Args:
    family: one with a vocabulary head.
    params: of the model.
    packed: what is asked.
    owners: number of sums.

  Raises:
    ValueError: without a vocabulary head.
  """
  if family.logits is None:
    raise ValueError(
      f'model family {family.name!r} has no vocabulary head, which likelihoods '
      'need; use a checkpoint of a language model'
    )

  def chunk(one: Packed) -> tuple[Array, Array]:
    hidden = models.forward(family, params, one.inputs)
    hidden = hidden.reshape(-1, hidden.shape[-1])[one.read]
    return _log_probabilities(family, params, hidden, one.target, one.token)

  found, greedy = jax.lax.map(chunk, packed)
  sums = jnp.zeros(owners, found.dtype).at[packed.owner].add(found, mode='drop')
  agrees = jnp.ones(owners, bool).at[packed.owner].min(greedy, mode='drop')
  return sums, agrees


def _log_probabilities(family, params, hidden, target, token):
  """Of each target [Q], and whether it is the most likely token, [Q].

  Args:
    hidden: what is read, [R, d].
    target: index into R, [Q].
    token: [Q].
  """
  row = jax.eval_shape(family.logits, params, hidden[:1])
  count = -(-hidden.shape[0] * row.shape[-1] // LOGITS)
  size = -(-hidden.shape[0] // count)
  hidden = jnp.pad(hidden, ((0, count * size - hidden.shape[0]), (0, 0)))

  # What a block computes is computed again for gradients, not kept.
  @jax.checkpoint
  def block(begin, states):
    logits = family.logits(params, states)
    peak = jnp.max(logits, -1, keepdims=True)
    total = jnp.log(jnp.sum(jnp.exp(logits - peak), -1)) + peak[:, 0]
    place = target - begin
    mine = (place >= 0) & (place < size)
    place = jnp.clip(place, 0, size - 1)
    value = logits[place, token]
    found = jnp.where(mine, value - total[place], 0)
    return found, mine & (value >= peak[place, 0])

  found, greedy = jax.lax.map(
    lambda one: block(*one),
    (
      jnp.arange(count, dtype=jnp.int32) * size,
      hidden.reshape(count, size, hidden.shape[-1]),
    ),
  )
  return found.sum(0), greedy.any(0)


def log_likelihoods(
  family: Family,
  params: Params,
  requests: Sequence[Request],
  *,
  decoder_start: int | None = None,
  tokens_per_chunk: int = 2048,
) -> tuple[np.ndarray, np.ndarray]:
  """Nats of each continuation, float32 [n], and whether it is greedy, bool [n].

  It counts as greedy if no token of the vocabulary was likelier at any step.
  One model, outside a search; compiled for these requests' shapes.

  Args:
    family: one with a vocabulary head.
    params: of the model.
    requests: what is asked, not longer than the model takes.
    decoder_start: as in `packing.pack`.
    tokens_per_chunk: tokens that one forward pass holds, about.

  Raises:
    ValueError: for a request that is longer than the model takes, or empty.
  """
  if not requests:
    return np.zeros(0, np.float32), np.zeros(0, bool)
  for context, continuation in requests:
    size = len(context) + len(continuation) - 1
    if family.max_tokens is not None and size > family.max_tokens:
      raise ValueError(
        f'a request has {size} input tokens; the model takes '
        f'{family.max_tokens}: truncate it first'
      )
  packed = packing.pack(
    requests,
    range(len(requests)),
    decoder_start=decoder_start,
    tokens_per_chunk=tokens_per_chunk,
  )
  run = jax.jit(lambda p, x: read_out(family, p, x, len(requests)))
  sums, greedy = run(params, packed)
  return np.asarray(sums), np.asarray(greedy)
