"""Pretraining of a small encoder: it learns a larger one's sentence features.

The mean of the last hidden states, mapped linearly, regresses onto the features
that the larger encoder has of the same text, while some tokens are hidden:
distillation of representations, https://arxiv.org/abs/1503.02531. Everything is
a function of (arrays, options).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from automerge_jax.models import base, bert
from automerge_jax.tasks import classification
from automerge_jax.types import Array, Family, Params

_EVERY = 50  # steps of one compiled call


@dataclasses.dataclass(frozen=True)
class Options:
  """How to pretrain.

  Attributes:
    steps: of AdamW, each on texts drawn anew.
    batch_size: texts a step.
    learning_rate: peak, reached after `warmup` of all steps.
    warmup: share of the steps, in [0, 1); a cosine to zero follows.
    weight_decay: of all that has two axes or more.
    clip: largest global gradient norm.
    hidden: share of the tokens that are replaced by the mask token.
    seed: of first weights, batches and hidden tokens.
  """

  steps: int
  batch_size: int
  learning_rate: float
  warmup: float = 0.1
  weight_decay: float = 0.01
  clip: float = 1.0
  hidden: float = 0.1
  seed: int = 0


def principal(table: np.ndarray, size: int) -> np.ndarray:
  """Rows of a table [n, d] on its first principal axes, [n, size].

  They are scaled to unit mean square; the largest entry of an axis is positive,
  so that the result does not depend on the linear algebra library.

  Raises:
    ValueError: if the table has fewer axes.
  """
  if not 0 < size <= min(table.shape):
    raise ValueError(
      f'{size} principal axes of a table {table.shape} asked for; choose 1 to '
      f'{min(table.shape)}'
    )
  centred = table.astype(np.float64) - table.mean(0, dtype=np.float64)
  axes = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :size]
  largest = np.take_along_axis(axes, abs(axes).argmax(0)[None], 0)
  rows = centred @ (axes * np.sign(largest))
  return (rows / np.sqrt(np.mean(rows**2))).astype(np.float32)


def init(config: bert.Config, words: np.ndarray, key: Array) -> Params:
  """First weights of an encoder.

  Args:
    config: of the encoder, without a pooler.
    words: token embeddings to start from, float32 [vocab_size, hidden_size].
    key: of the other weights.

  Raises:
    ValueError: for embeddings of another shape.
  """
  wanted = (config.vocab_size, config.hidden_size)
  if words.shape != wanted:
    raise ValueError(f'embeddings are {words.shape}; expected {wanted}')
  outer, inner = jax.random.split(key)
  ids = jnp.zeros((1, 2), jnp.int32)
  stem = bert.Stem(config).init(outer, ids)['params']
  x = jnp.zeros((1, 2, config.hidden_size))
  seen = jnp.ones((1, 2, 2), bool)

  def layer(layer_key):
    made = bert.Block(config).init(layer_key, x, seen)['params']
    # Branches start small: a deep post-norm encoder learns slowly else.
    for part in (made['attention']['output'], made['mlp_output']):
      part['kernel'] *= 0.5 / config.num_layers
    return made

  layers = jax.vmap(layer)(jax.random.split(inner, config.num_layers))
  stem = stem | {'word': {'embedding': jnp.asarray(words)}}
  return {'stem': stem, 'layers': layers, 'final': {}}


def train(
  family: Family,
  params: Params,
  inputs: Mapping[str, np.ndarray],
  targets: np.ndarray,
  mask_id: int,
  options: Options,
) -> tuple[Params, list[float]]:
  """Trains an encoder to tell the targets from the texts.

  Args:
    family: of the encoder.
    params: to start from.
    inputs: `ids` and `mask`, int32 [n, T].
    targets: float32 [n, D].
    mask_id: of the token that hides others.
    options: how.

  Returns:
    Params of numpy arrays, and the mean loss of every `_EVERY` steps: the share
    of the targets' variance that is left.

  Raises:
    FloatingPointError: naming the step at which the loss is not finite.
  """
  centre = targets.mean(0)
  spread = float(np.mean(np.square(targets - centre)))
  start, order = jax.random.split(jax.random.key(options.seed))
  width = params['stem']['word']['embedding'].shape[-1]
  linear = nn.Dense(targets.shape[-1])
  everything = {
    'trunk': jax.tree.map(jnp.array, params),
    'linear': linear.init(start, jnp.zeros((1, width)))['params'],
  }
  tx = _optimizer(options)
  state = (everything, tx.init(everything))
  data = {
    **{name: jnp.asarray(rows) for name, rows in inputs.items()},
    'target': jnp.asarray((targets - centre) / spread**0.5),
  }

  def loss_fn(everything, batch):
    hidden = base.forward(family, everything['trunk'], batch)
    features = classification.pool(hidden, batch['mask'])
    said = linear.apply({'params': everything['linear']}, features)
    return jnp.mean(jnp.square(said - batch['target']))

  def step(state, key, data):
    drawn, covered = jax.random.split(key)
    rows = jax.random.randint(
      drawn, (options.batch_size,), 0, len(data['target'])
    )
    batch = {name: values[rows] for name, values in data.items()}
    cover = jax.random.bernoulli(covered, options.hidden, batch['ids'].shape)
    batch['ids'] = jnp.where(cover, mask_id, batch['ids'])
    loss, grads = jax.value_and_grad(loss_fn)(state[0], batch)
    updates, opt_state = tx.update(grads, state[1], state[0])
    return (optax.apply_updates(state[0], updates), opt_state), loss

  @jax.jit
  def steps(state, keys, data):
    return jax.lax.scan(lambda s, key: step(s, key, data), state, keys)

  losses = []
  for begin in range(0, options.steps, _EVERY):
    numbers = jnp.arange(begin, min(begin + _EVERY, options.steps))
    keys = jax.vmap(lambda i: jax.random.fold_in(order, i))(numbers)
    state, found = steps(state, keys, data)
    found = np.asarray(found)
    if not np.isfinite(found).all():
      raise FloatingPointError(
        f'loss is not finite at step {begin + int(np.isfinite(found).argmin())}'
        f' of {options.steps}; lower the learning rate '
        f'({options.learning_rate})'
      )
    losses.append(float(found.mean()))
  return jax.tree.map(np.asarray, state[0]['trunk']), losses


def _optimizer(options: Options) -> optax.GradientTransformation:
  rate = optax.warmup_cosine_decay_schedule(
    0.0,
    options.learning_rate,
    int(options.warmup * options.steps),
    options.steps,
  )

  def decayed(everything: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.ndim > 1, everything)

  return optax.chain(
    optax.clip_by_global_norm(options.clip),
    optax.adamw(rate, weight_decay=options.weight_decay, mask=decayed),
  )
