"""Generation of many texts by one model, in one loop on the device.

Prompts wait in a queue. B rows generate at a time; a row that has come to its
end takes the next prompt at once, so that none waits for the longest text.
Prompts are read in chunks, at the rate of large matmuls, together with their
accepted answers, whose likelihood comes with it. See Orca, OSDI 2022, for such
batching.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.models import base
from automerge_jax.types import Array, Family, Params


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Queue:
  """Prompts in the order in which they are generated for, N = chunks * C.

  Attributes:
    chunks: inputs of groups of consecutive chunks of one width each, leaves
      [chunks of the group, C, T]: prompt and accepted answer.
    length: tokens of each prompt, int32 [N].
    seed: draws of a text depend on nothing else, uint32 [N].
    count: prompts that are no padding, int32 [].
    row, place, target: what the accepted answers ask of each chunk, int32
      [chunks, R]: the token behind which place of which row? The first C are
      those behind the prompts; without a target it is -1.
    stops: next state by token and state, [V + 1, Q]; see `stops.Stops`.
    slot: position of each prompt in the item set, int32 [N]; padding points
      one past the end.
    memory: slots of a row.
    batch: B.
    max_new_tokens: longest text.
    temperature: 0 takes the likeliest token.
  """

  chunks: tuple[dict[str, Array], ...]
  length: Array
  seed: Array
  count: Array
  row: Array
  place: Array
  target: Array
  stops: Array
  slot: Array
  memory: int = dataclasses.field(metadata={'static': True})
  batch: int = dataclasses.field(metadata={'static': True})
  max_new_tokens: int = dataclasses.field(metadata={'static': True})
  temperature: float = dataclasses.field(metadata={'static': True})


class Generated(NamedTuple):
  """What became of a queue.

  Attributes:
    tokens: generated ones, with the one that ended the text; -1 behind them,
      int32 [N, max_new_tokens].
    log_likelihood: of the accepted answers, nats, float32 [N].
    steps: of the loop, int32 [].
  """

  tokens: Array
  log_likelihood: Array
  steps: Array


class _State(NamedTuple):
  """What the loop carries.

  Attributes:
    memory: of the B rows, `layers` a tuple.
    store: memory of the C prompts that were read last, `layers` stacked.
    first: their first tokens, [C].
    read: prompts that were read so far.
    taken: prompts that were given a row so far.
    item: which prompt a row is at, N for none, [B].
    token: last generated token, [B].
    made: number of generated tokens, [B].
    stop: state in `Queue.stops`, [B].
    tokens, log_likelihood, steps: as in `Generated`.
  """

  memory: Any
  store: Any
  first: Array
  read: Array
  taken: Array
  item: Array
  token: Array
  made: Array
  stop: Array
  tokens: Any
  log_likelihood: Array
  steps: Array


def generate(family: Family, params: Params, queue: Queue) -> Generated:
  """Generates for every prompt; pure and jittable.

  Args:
    family: one with `logits`, `cache` and `step`.
    params: of the model.
    queue: the prompts.
  """
  queue = jax.tree.map(jnp.asarray, queue)
  layers = base.unstack(family, params)
  total = queue.length.shape[0]

  def free(state: _State) -> Array:
    return jnp.any(state.item == total)

  def active(state: _State) -> Array:
    return jnp.any(state.item < total)

  def wants_chunk(state: _State) -> Array:
    return (
      free(state) & (state.taken == state.read) & (state.read < queue.count)
    )

  def fill(state: _State) -> _State:
    return jax.lax.while_loop(
      lambda s: free(s) & (s.taken < jnp.minimum(s.read, queue.count)),
      lambda s: _take(queue, s),
      state,
    )

  def step(state: _State) -> _State:
    return fill(_decode(family, params, layers, queue, state))

  # The store changes in the outer loop alone: a loop that may change it, or a
  # conditional, would copy it at every step.
  def body(state: _State) -> _State:
    state = fill(_read_next(family, params, queue, state))
    store, state = state.store, state._replace(store=None)
    state = jax.lax.while_loop(
      lambda s: active(s) & ~wants_chunk(s),
      lambda s: step(s._replace(store=store))._replace(store=None),
      state,
    )
    return state._replace(store=store)

  state = jax.lax.while_loop(
    lambda s: active(s) | (s.read < queue.count),
    body,
    _start(family, params, queue),
  )
  return Generated(state.tokens[:total], state.log_likelihood, state.steps)


def _start(family: Family, params: Params, queue: Queue) -> _State:
  """Nothing read, nothing taken."""
  width = queue.chunks[0]['ids'].shape[1]
  total, rows = queue.length.shape[0], queue.batch

  def empty(inputs):
    assert family.cache is not None
    inputs = {name: leaf[0] for name, leaf in inputs.items()}
    return family.cache(params, inputs, queue.memory)

  # The last group is the widest; XLA drops what is computed for shapes alone.
  shapes = jax.eval_shape(empty, queue.chunks[-1])
  store = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
  held = {name: leaf for name, leaf in shapes.items() if name != 'layers'}
  memory = jax.tree.map(
    lambda leaf: jnp.zeros((rows, *leaf.shape[1:]), leaf.dtype), held
  )
  memory['layers'] = tuple(
    jax.tree.map(
      lambda leaf: jnp.zeros((rows, *leaf.shape[2:]), leaf.dtype),
      shapes['layers'],
    )
    for _ in range(jax.tree.leaves(shapes['layers'])[0].shape[0])
  )
  none = jnp.zeros(rows, jnp.int32)
  zero = jnp.zeros((), jnp.int32)
  return _State(
    memory=memory,
    store=store,
    first=jnp.zeros(width, jnp.int32),
    read=zero,
    taken=zero,
    item=none + total,
    token=none,
    made=none,
    stop=none,
    tokens=jnp.full((total + 1, queue.max_new_tokens), -1, jnp.int32),
    log_likelihood=jnp.zeros(total, jnp.float32),
    steps=zero,
  )


def _read_next(family: Family, params: Params, queue: Queue, state: _State):
  """Reads the next chunk, of the width of its group."""
  width = queue.chunks[0]['ids'].shape[1]
  counts = np.array([group['ids'].shape[0] for group in queue.chunks])
  ends = np.cumsum(counts)
  chunk = state.read // width

  def read(group, begin):
    def run(state):
      inputs = {name: leaf[chunk - begin] for name, leaf in group.items()}
      return _read(family, params, queue, inputs, state)

    return run

  branches = [
    read(group, begin)
    for group, begin in zip(queue.chunks, ends - counts, strict=True)
  ]
  keep = {'memory': state.memory, 'tokens': state.tokens}
  state = jax.lax.switch(
    jnp.sum(chunk >= ends),
    branches,
    state._replace(memory=None, tokens=None),
  )
  return state._replace(**keep)


def _take(queue: Queue, state: _State) -> _State:
  """Gives the next prompt to a free row."""
  width = queue.chunks[0]['ids'].shape[1]
  total = queue.length.shape[0]
  item, source = state.taken, state.taken % width
  row = jnp.argmax(state.item == total)
  token = state.first[source]
  stop = _follow(queue, token, jnp.zeros_like(token))
  over = (stop == queue.stops.shape[1] - 1) | (queue.max_new_tokens == 1)
  return state._replace(
    memory=_copy_row(state.store, source, state.memory, row),
    taken=item + 1,
    item=state.item.at[row].set(jnp.where(over, total, item)),
    token=state.token.at[row].set(token),
    made=state.made.at[row].set(1),
    stop=state.stop.at[row].set(stop),
    tokens=state.tokens.at[item, 0].set(token),
  )


def _read(family, params, queue: Queue, inputs, state: _State) -> _State:
  """Reads a chunk into the store: memory, first tokens, likelihoods."""
  width, tokens = inputs[_own(family, 'ids')].shape
  at = jax.lax.dynamic_slice_in_dim
  length = at(queue.length, state.read, width)
  chunk = state.read // width
  slot = jnp.broadcast_to(jnp.arange(tokens)[None], (width, tokens))
  memory = family.cache(params, inputs, queue.memory)
  hidden, memory = base.extend(family, params, dict(inputs, slot=slot), memory)
  # What is generated stands where the answer was, and must not see it.
  own = jnp.arange(queue.memory)[None] < length[:, None]
  memory['mask'] = jnp.where(own, memory['mask'], 0)

  row, place, target = (
    leaf[chunk] for leaf in (queue.row, queue.place, queue.target)
  )
  logits = family.logits(params, hidden[row, place])
  chosen = jnp.take_along_axis(logits, jnp.maximum(target, 0)[:, None], 1)[:, 0]
  nats = chosen - jax.nn.logsumexp(logits, axis=-1)
  nats = jnp.zeros(width).at[row].add(jnp.where(target >= 0, nats, 0.0))
  seed = at(queue.seed, state.read, width)
  return state._replace(
    store=_fit(memory, state.store),
    first=_next(queue, logits[:width], seed, jnp.zeros_like(length)),
    read=state.read + width,
    log_likelihood=jax.lax.dynamic_update_slice_in_dim(
      state.log_likelihood, nats, state.read, 0
    ),
  )


def _decode(family, params, layers, queue: Queue, state: _State) -> _State:
  """One more token for each row."""
  total = queue.length.shape[0]
  active = state.item < total
  item = jnp.minimum(state.item, total - 1)
  position = queue.length[item] + state.made - 1
  inputs = {
    'ids': state.token[:, None],
    'mask': active[:, None].astype(jnp.int32),
    'positions': position[:, None],
  }
  inputs = {_own(family, name): leaf for name, leaf in inputs.items()}
  inputs['slot'] = jnp.where(active, position, queue.memory)[:, None]
  hidden, memory = base.extend_unstacked(
    family, params, layers, inputs, state.memory
  )
  logits = family.logits(params, hidden[:, 0])
  token = _next(queue, logits, queue.seed[item], state.made)
  stop = _follow(queue, token, state.stop)
  over = stop == queue.stops.shape[1] - 1
  over |= state.made + 1 == queue.max_new_tokens
  return state._replace(
    memory=memory,
    item=jnp.where(over, total, state.item),
    token=token,
    made=state.made + 1,
    stop=stop,
    # A row without an item writes to the one behind the last.
    tokens=state.tokens.at[state.item, state.made].set(token, mode='drop'),
    steps=state.steps + 1,
  )


def _next(queue: Queue, logits: Array, seed: Array, made: Array) -> Array:
  """The next token of each row, int32 [B], from logits [B, V]."""
  if not queue.temperature:
    return jnp.argmax(logits, axis=-1).astype(jnp.int32)

  def draw(seed, made, logits):
    key = jax.random.fold_in(jax.random.key(seed), made)
    return jax.random.categorical(key, logits / queue.temperature)

  return jax.vmap(draw)(seed, made, logits).astype(jnp.int32)


def _follow(queue: Queue, token: Array, state: Array) -> Array:
  """State of the automaton behind a token."""
  token = jnp.minimum(token, queue.stops.shape[0] - 1)
  return queue.stops[token, state].astype(jnp.int32)


def _own(family: Family, name: str) -> str:
  """What the tokens that are generated are called among the inputs."""
  return name if family.encoder is None else f'decoder_{name}'


def _copy_row(store: Any, source: Array, memory: Any, row: Array) -> Any:
  """The memory with a row of the store."""

  def place(old, new):
    return jax.lax.dynamic_update_slice_in_dim(old, new, row, 0)

  def from_layer(i):
    def copied(old, leaf):
      begin = (i, source, *(0,) * (leaf.ndim - 2))
      new = jax.lax.dynamic_slice(leaf, begin, (1, 1, *leaf.shape[2:]))
      return place(old, new[0])

    return copied

  layers = tuple(
    jax.tree.map(from_layer(i), own, store['layers'])
    for i, own in enumerate(memory['layers'])
  )
  held = {
    name: place(old, jax.lax.dynamic_slice_in_dim(store[name], source, 1))
    for name, old in memory.items()
    if name != 'layers'
  }
  return dict(held, layers=layers)


def _fit(memory: Any, store: Any) -> Any:
  """The memory of a narrower chunk in the shapes of the widest."""

  def fit(leaf, like):
    wider = [(0, b - a) for a, b in zip(leaf.shape, like.shape, strict=True)]
    return jnp.pad(leaf, wider)

  return jax.tree.map(fit, memory, store)
