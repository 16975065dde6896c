"""Fine-tuning of a trunk and a head on one classification task.

The probed head and the whole trunk are trained by AdamW with linear warm-up
and cosine decay. Everything is a function of (base, items, options): the same
seed gives the same batches and the same expert, interrupted or not.
"""

import dataclasses
import math
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from flax import struct

from automerge_jax import trees
from automerge_jax.io import orbax
from automerge_jax.models import base
from automerge_jax.tasks import classification
from automerge_jax.types import Array, Family, Params

DECAYED = r'(trunk/layers/.*|head)/kernel'  # not norms, biases, embeddings


@dataclasses.dataclass(frozen=True)
class Options:
  """How to fine-tune.

  Attributes:
    epochs: passes over the training items.
    batch_size: items a step.
    learning_rate: peak, reached after `warmup` of all steps.
    warmup: share of the steps, in [0, 1).
    weight_decay: of kernels only.
    clip: largest global gradient norm.
    lengths: bucket lengths, ascending.
    checkpoint_every: steps between resume points; 0 for none.
    seed: of the order of the items.
    train_head: whether the head is trained too, or stays as it is probed.
  """

  epochs: int = 2
  batch_size: int = 32
  learning_rate: float = 2e-4
  warmup: float = 0.1
  weight_decay: float = 0.01
  clip: float = 1.0
  lengths: tuple[int, ...] = (16, 32, 48, 64)
  checkpoint_every: int = 100
  seed: int = 0
  train_head: bool = True


@struct.dataclass
class State:
  """What a resume point holds.

  Attributes:
    params: `{'trunk': Params, 'head': {'kernel': [d, C], 'bias': [C]}}`.
    optimizer: state of optax.
  """

  params: dict[str, Any]
  optimizer: Any


class Batch(NamedTuple):
  """Items of one step: bucket length T, and slots [B] with -1 for padding."""

  length: int
  slots: np.ndarray


def plan(sizes: Sequence[int], options: Options) -> list[Batch]:
  """The batches of all epochs, each of items of similar length.

  What does not fill a batch moves on to the next longer bucket, so that an
  epoch has ceil(n / batch_size) steps and only its last batch is padded.

  Args:
    sizes: number of tokens of each item.
    options: lengths, batch_size, epochs and seed are used.
  """
  which = np.searchsorted(options.lengths, sizes)
  batches = []
  for epoch in range(options.epochs):
    rng = np.random.default_rng([options.seed, epoch])
    order = rng.permutation(len(sizes))
    rest, drawn = order[:0], []
    for index, length in enumerate(options.lengths):
      pool = np.concatenate([rest, order[which[order] == index]])
      full = len(pool) // options.batch_size * options.batch_size
      drawn += [
        Batch(length, s) for s in pool[:full].reshape(-1, options.batch_size)
      ]
      rest = pool[full:]
    if len(rest):
      slots = np.full(options.batch_size, -1)
      slots[: len(rest)] = rest
      drawn.append(Batch(options.lengths[which[rest].max()], slots))
    batches += [drawn[i] for i in rng.permutation(len(drawn))]
  return batches


def schedule(options: Options, steps: int) -> Callable[[Array], Array]:
  """Learning rate by step: linear warm-up, then a cosine down to zero."""
  warm = math.floor(options.warmup * steps)

  def learning_rate(count):
    rise = (count + 1) / (warm + 1)
    fall = jnp.clip((count - warm) / (steps - warm), 0.0, 1.0)
    cosine = 0.5 * (1.0 + jnp.cos(jnp.pi * fall))
    return options.learning_rate * jnp.where(count < warm, rise, cosine)

  return learning_rate


def optimizer(options: Options, steps: int) -> optax.GradientTransformation:
  """AdamW on clipped gradients, over `steps` steps."""
  trained = optax.chain(
    optax.clip_by_global_norm(options.clip),
    optax.adamw(
      schedule(options, steps),
      weight_decay=options.weight_decay,
      mask=_decayed,
    ),
  )
  if options.train_head:
    return trained
  still = optax.masked(optax.set_to_zero(), {'trunk': False, 'head': True})
  return optax.chain(trained, still)


def step_fn(
  family: Family,
  tx: optax.GradientTransformation,
  groups: np.ndarray | None = None,
) -> Callable[..., tuple[State, Array]]:
  """Jitted `(state, inputs, labels [B], weights [B]) -> (state, loss)`.

  With groups, see `train`, classes compete within that of the label only.
  """

  def loss_fn(params, inputs, labels, weights):
    hidden = base.forward(family, params['trunk'], inputs)
    features = classification.features(hidden, inputs)
    head = params['head']
    values = features @ head['kernel'] + head['bias'][None]
    if groups is not None:
      of = jnp.asarray(groups)
      values = jnp.where(of[labels][:, None] == of[None], values, -jnp.inf)
    nll = optax.softmax_cross_entropy_with_integer_labels(values, labels)
    return jnp.sum(nll * weights) / jnp.sum(weights)

  def step(state: State, inputs, labels, weights):
    loss, grads = jax.value_and_grad(loss_fn)(
      state.params, inputs, labels, weights
    )
    updates, opt_state = tx.update(grads, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    return State(params, opt_state), loss

  return jax.jit(step, donate_argnums=0)


def train(
  family: Family,
  trunk: Params,
  head: dict[str, Array],
  encoded: Sequence[Any],
  labels: Sequence[int],
  options: Options,
  checkpoints: pathlib.Path | None = None,
  progress: str | None = None,
  groups: np.ndarray | None = None,
) -> dict[str, Any]:
  """Fine-tunes trunk and head.

  Args:
    family: of the trunk.
    trunk: Params of the base.
    head: probed, kernel [d, C] and bias [C].
    encoded: of each training item its token ids, or its pixels [C, H, W], of
      one size for all.
    labels: class index of each training item.
    options: how.
    checkpoints: folder of the resume points, or None for none.
    progress: title of the progress bar, or None for none.
    groups: task of each class, int [C], where heads of several tasks stand side
      by side in one; None for one task.

  Returns:
    `{'trunk': Params, 'head': ...}` of numpy arrays.

  Raises:
    FloatingPointError: naming the step at which the loss is not finite.
  """
  texts = not isinstance(encoded[0], np.ndarray)
  # Images are all as long as each other, whatever the buckets.
  batches = plan([len(one) if texts else 1 for one in encoded], options)
  tx = optimizer(options, len(batches))
  # A copy: the buffers are donated to the first step.
  params = jax.tree.map(jnp.array, {'trunk': trunk, 'head': head})
  state = State(params, tx.init(params))
  start = 0
  if checkpoints is not None:
    start, state = orbax.load_step(checkpoints, state) or (0, state)
  step = step_fn(family, tx, groups)
  labels = np.asarray(labels, np.int32)
  size = options.batch_size
  with tqdm.tqdm(
    total=len(batches) * size,
    initial=start * size,
    desc=progress,
    unit='ex',
    disable=progress is None,
    mininterval=1.0,
  ) as bar:
    for number, batch in enumerate(batches[start:], start + 1):
      state, loss = step(
        state,
        _inputs(
          [encoded[s] for s in batch.slots if s >= 0], size, batch.length
        ),
        labels[batch.slots],
        (batch.slots >= 0).astype(np.float32),
      )
      if not jnp.isfinite(loss):
        raise FloatingPointError(
          f'loss is {loss} at step {number} of {len(batches)}; lower the '
          f'learning rate ({options.learning_rate})'
        )
      bar.update(size)
      bar.set_postfix(loss=f'{float(loss):.3f}', refresh=False)
      every = options.checkpoint_every
      due = every and number % every == 0 and number < len(batches)
      if checkpoints is not None and due:
        orbax.save_step(checkpoints, number, state)
  return jax.tree.map(np.asarray, state.params)


def _inputs(
  rows: Sequence[Any], size: int, length: int
) -> dict[str, np.ndarray]:
  """What a family takes, filled up to `size` items."""
  missing = size - len(rows)
  if isinstance(rows[0], np.ndarray):
    return {'pixels': np.stack([*rows, *[rows[0]] * missing])}
  return classification.pad([*rows, *[[0]] * missing], length)


def _decayed(params: Any) -> Any:
  names = trees.flatten(params)
  return trees.unflatten(
    {name: bool(re.fullmatch(DECAYED, name)) for name in names}
  )
