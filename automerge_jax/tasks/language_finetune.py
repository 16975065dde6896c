"""Fine-tuning of a language model's upper layers on the answers to prompts.

The layers below are frozen, so their hidden states are computed once an item
and kept: the loss and its gradient are those of the whole model. What is
trained is a LoRA adapter (https://arxiv.org/abs/2106.09685) of every linear
layer, or the layers themselves, by AdamW with linear warm-up and cosine decay.
The same seed gives the same expert, interrupted or not.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from flax import struct

from automerge_jax.io import orbax
from automerge_jax.models import adapted
from automerge_jax.tasks import classification, finetune
from automerge_jax.types import Array, Family, Params

_ROWS = 32  # texts that the frozen layers see at once


@dataclasses.dataclass(frozen=True)
class Options(finetune.Options):
  """How to fine-tune, besides what an encoder's fine-tuning has.

  Attributes:
    frozen: share of the layers, from the lowest, that stay as they are.
    rank: of the adapters; 0 trains the layers themselves.
    alpha: adapters enter by alpha / rank.
  """

  frozen: float = 0.5
  rank: int = 6
  alpha: float = 12.0

  @property
  def scale(self) -> float:
    """By which an adapter's product enters."""
    return self.alpha / self.rank if self.rank else 0.0


class Example(NamedTuple):
  """Token ids of a prompt and its right answer, which begins at `start`."""

  ids: tuple[int, ...]
  start: int


class Batch(NamedTuple):
  """One step's items.

  Attributes:
    inputs: `ids` and `mask`, int32 [B, T].
    hidden: behind the frozen layers, [B, T, d].
    at: where the answers' tokens are told, int32 [B, A].
    target: these tokens, int32 [B, A].
    weight: 1 for them, 0 for padding, float32 [B, A].
  """

  inputs: Mapping[str, Array]
  hidden: Array
  at: Array
  target: Array
  weight: Array


@struct.dataclass
class State:
  """What a resume point holds.

  Attributes:
    params: what is trained: adapters `{module: {'a': [n, in, r], 'b': [n, r,
      out]}}` of the n upper layers, or their leaves [n, ...].
    optimizer: state of optax.
  """

  params: dict[str, Any]
  optimizer: Any


def first_layer(family: Family, options: Options) -> int:
  """The lowest layer that is trained."""
  return math.floor(family.num_layers * options.frozen)


def loss(family: Family, params: Params, outputs: Array, batch: Batch) -> Array:
  """Mean negative log-likelihood of the answers' tokens."""
  read = jnp.take_along_axis(outputs, batch.at[..., None], axis=1)
  values = _head(family)(params, read)
  nll = optax.softmax_cross_entropy_with_integer_labels(values, batch.target)
  return jnp.sum(nll * batch.weight) / jnp.sum(batch.weight)


def step_fn(
  family: Family, first: int, options: Options, tx: optax.GradientTransformation
) -> Callable[..., tuple[State, Array]]:
  """Jitted `(state, base, batch) -> (state, loss)`."""

  def loss_fn(trained, base, batch):
    adapter = None
    if options.rank:
      adapter = trained
    else:
      base = dict(base, layers=trained)
    outputs = adapted.upper(
      family, base, batch.inputs, batch.hidden, first, adapter, options.scale
    )
    return loss(family, base, outputs, batch)

  def step(state: State, base: Params, batch: Batch):
    value, grads = jax.value_and_grad(loss_fn)(state.params, base, batch)
    updates, new = tx.update(grads, state.optimizer, state.params)
    return State(optax.apply_updates(state.params, updates), new), value

  return jax.jit(step, donate_argnums=0)


def hidden_states(
  family: Family,
  params: Params,
  examples: Sequence[Example],
  first: int,
  lengths: Sequence[int],
) -> list[np.ndarray]:
  """Of each example what the frozen layers make of it, [T, d] each."""
  run = jax.jit(
    lambda params, inputs: adapted.lower(family, params, inputs, first)
  )
  stem = {
    'stem': params['stem'],
    'layers': adapted.layers_of(params, slice(0, first)),
  }
  sizes = np.array([len(example.ids) - 1 for example in examples])
  which = np.searchsorted(lengths, sizes)
  found: list[np.ndarray] = [np.empty(0)] * len(examples)
  for index, length in enumerate(lengths):
    slots = np.flatnonzero(which == index)
    for begin in range(0, len(slots), _ROWS):
      rows = slots[begin : begin + _ROWS]
      texts = [examples[i].ids[:-1] for i in rows]
      texts += [(0,)] * (_ROWS - len(rows))
      states = np.asarray(run(stem, classification.pad(texts, length)))
      for i, state in zip(rows, states, strict=False):
        found[i] = state[: sizes[i]].copy()
  return found


def batch(
  examples: Sequence[Example],
  hidden: Sequence[np.ndarray],
  slots: np.ndarray,
  length: int,
  answers: int,
) -> Batch:
  """The items of one step as arrays; a slot of -1 is padding.

  Args:
    examples: all of them.
    hidden: as `hidden_states` gives them.
    slots: which are in the batch, [B].
    length: T.
    answers: A, most tokens of an answer.
  """
  size = len(slots)
  texts = [examples[s].ids[:-1] if s >= 0 else (0,) for s in slots]
  states = np.zeros((size, length, hidden[0].shape[-1]), hidden[0].dtype)
  at = np.zeros((size, answers), np.int32)
  target, weight = np.zeros_like(at), np.zeros((size, answers), np.float32)
  for row, slot in enumerate(slots):
    if slot < 0:
      continue
    ids, start = examples[slot]
    count = len(ids) - start
    states[row, : len(ids) - 1] = hidden[slot]
    at[row, :count] = np.arange(start - 1, len(ids) - 1)
    target[row, :count] = ids[start:]
    weight[row, :count] = 1
  return Batch(classification.pad(texts, length), states, at, target, weight)


def train(
  family: Family,
  params: Params,
  examples: Sequence[Example],
  options: Options,
  checkpoints: pathlib.Path | None = None,
  progress: str | None = None,
) -> Params:
  """Fine-tunes the upper layers.

  Args:
    family: one with a vocabulary head.
    params: of the base, numpy arrays.
    examples: prompts with their right answers.
    options: how.
    checkpoints: folder of the resume points, or None for none.
    progress: title of the progress bar, or None for none.

  Returns:
    What was trained, as in `State.params`, as numpy arrays.

  Raises:
    ValueError: if a prompt is empty or longer than the last bucket, or the
      model is no decoder with a vocabulary head.
    FloatingPointError: naming the step at which the loss is not finite.
  """
  _head(family)
  sizes = [len(example.ids) - 1 for example in examples]
  least = min(example.start for example in examples)
  if least < 1 or max(sizes) > max(options.lengths):
    raise ValueError(
      f'prompts have {least} tokens or more, and {max(sizes)} or less with '
      f'their answers; expected 1 to {max(options.lengths)}: shorten the '
      'prompts or add a longer bucket'
    )
  first = first_layer(family, options)
  batches = finetune.plan(sizes, options)
  tx = _optimizer(options, len(batches))
  base = dict(params, layers=adapted.layers_of(params, slice(first, None)))
  base = jax.tree.map(jnp.asarray, base)
  begin = (
    adapted.init_adapter(base['layers'], options.rank, options.seed)
    if options.rank
    else base['layers']
  )
  # A copy: the buffers are donated to the first step.
  trained = jax.tree.map(jnp.array, begin)
  state, start = State(trained, tx.init(trained)), 0
  if checkpoints is not None:
    start, state = orbax.load_step(checkpoints, state) or (0, state)
  hidden = hidden_states(family, params, examples, first, options.lengths)
  answers = max(len(e.ids) - e.start for e in examples)
  step = step_fn(family, first, options, tx)
  if options.rank == 0:
    base = dict(base, layers=None)
  with tqdm.tqdm(
    total=len(batches) * options.batch_size,
    initial=start * options.batch_size,
    desc=progress,
    unit='ex',
    disable=progress is None,
    mininterval=1.0,
  ) as bar:
    for number, planned in enumerate(batches[start:], start + 1):
      items = batch(examples, hidden, planned.slots, planned.length, answers)
      state, value = step(state, base, items)
      if not jnp.isfinite(value):
        raise FloatingPointError(
          f'loss is {value} at step {number} of {len(batches)}; lower the '
          f'learning rate ({options.learning_rate})'
        )
      bar.update(options.batch_size)
      bar.set_postfix(loss=f'{float(value):.3f}', refresh=False)
      every = options.checkpoint_every
      due = every and number % every == 0 and number < len(batches)
      if checkpoints is not None and due:
        orbax.save_step(checkpoints, number, state)
  return jax.tree.map(np.asarray, state.params)


def _head(family: Family) -> Callable[[Params, Array], Array]:
  if family.logits is None or family.cache is None or family.encoder:
    raise ValueError(
      f'{family.name!r} cannot be fine-tuned on answers; expected a decoder '
      'with a vocabulary head'
    )
  return family.logits


def _optimizer(options: Options, steps: int) -> optax.GradientTransformation:
  return optax.chain(
    optax.clip_by_global_norm(options.clip),
    optax.adamw(
      finetune.schedule(options, steps),
      weight_decay=options.weight_decay,
      mask=lambda tree: jax.tree.map(lambda leaf: leaf.ndim == 3, tree),
    ),
  )
