"""The gate before any scoring: a broken merge costs one small batch.

A merge whose hidden states are not finite or far larger than any parent's, or
which is far more surprised than every parent by a few plain sentences, is not
scored: it fails with a reason.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.io import tokenizers
from automerge_jax.models import base as models
from automerge_jax.tasks import classification
from automerge_jax.types import Array, Family, Params

LINES = (
  'The train to the coast leaves at nine and arrives before noon.',
  'She put the book back on the shelf and closed the window.',
  'Water boils at a lower temperature in the mountains.',
  'Most of the shops in the old town are closed on Sundays.',
)
_TOKENS = 24
_LARGER = 10.0  # times the largest root mean square of a parent
_WORSE = 50.0  # times the highest perplexity of a parent


class Vitals(NamedTuple):
  """What is measured of a model.

  Attributes:
    rms: root mean square of its last hidden states.
    nll: nats a token on the plain sentences; 0 without a vocabulary head.
  """

  rms: Array | np.float32
  nll: Array | np.float32


# Whatever is finite passes.
OPEN = Vitals(np.float32(np.inf), np.float32(np.inf))


class Gate(NamedTuple):
  """Inputs to measure on, and the largest values that pass."""

  inputs: Mapping[str, Array]
  limits: Vitals


def lines(folder: str | pathlib.Path, family: Family) -> dict[str, Array]:
  """The plain sentences as inputs of a token model."""
  tokens = tokenizers.encode(tokenizers.load(folder), LINES, _TOKENS)
  made = classification.pad(tokens, max(map(len, tokens)))
  if family.encoder is not None:  # each sentence is to be said again
    start = np.zeros_like(made['ids'][:, :1])
    shifted = np.concatenate([start, made['ids'][:, :-1]], 1)
    made |= {'decoder_ids': shifted, 'decoder_mask': made['mask']}
  return jax.tree.map(jnp.asarray, made)


def waves(size: int, images: int = 4) -> dict[str, Array]:
  """Smooth patterns as inputs of an image model, float32 [B, 3, H, W]."""
  y, x = np.mgrid[:size, :size] / size
  waves = [np.sin(2 * np.pi * (k * x + (images - k) * y)) for k in range(4)]
  pixels = np.stack([np.stack(np.roll(waves, c, 0)[:3]) for c in range(images)])
  return {'pixels': jnp.asarray(pixels, jnp.float32)}


def vitals(
  family: Family, params: Params, inputs: Mapping[str, Array]
) -> Vitals:
  """Measures one model; pure and jittable."""
  hidden = models.forward(family, params, inputs).astype(jnp.float32)
  if 'pixels' in inputs:
    return Vitals(jnp.sqrt(jnp.mean(jnp.square(hidden))), jnp.zeros(()))
  real = (inputs['mask'] > 0).astype(jnp.float32)
  square = jnp.sum(jnp.square(hidden) * real[..., None])
  rms = jnp.sqrt(square / (jnp.sum(real) * hidden.shape[-1]))
  if family.logits is None:
    return Vitals(rms, jnp.zeros(()))
  ids = inputs['ids']
  if family.encoder is None:
    hidden, ids, real = hidden[:, :-1], ids[:, 1:], real[:, 1:]
  told = jax.nn.log_softmax(family.logits(params, hidden))
  nats = jnp.take_along_axis(told, ids[..., None], -1)[..., 0]
  return Vitals(rms, -jnp.sum(nats * real) / jnp.sum(real))


def limits(parents: Sequence[Vitals]) -> Vitals:
  """The largest values that a merge of these parents may have."""
  rms = max(float(parent.rms) for parent in parents)
  nll = max(float(parent.nll) for parent in parents)
  return Vitals(jnp.float32(_LARGER * rms), jnp.float32(nll + np.log(_WORSE)))


def passes(found: Vitals, most: Vitals) -> Array:
  """Whether a model may be scored; what is not finite never passes."""
  finite = jnp.isfinite(found.rms) & jnp.isfinite(found.nll)
  return finite & (found.rms <= most.rms) & (found.nll <= most.nll)


def reason(found: Any, most: Any) -> str | None:
  """Why a model may not be scored, from values on the host; None if it may."""
  if passes(found, most):
    return None
  if not (np.isfinite(found.rms) and np.isfinite(found.nll)):
    return 'hidden states or likelihoods are not finite'
  if found.rms > most.rms:
    return (
      f'hidden states have a root mean square of {found.rms:.3g}; the parents '
      f'allow {most.rms:.3g}'
    )
  return (
    f'perplexity on plain sentences is {np.exp(found.nll):.3g}; the parents '
    f'allow {np.exp(most.nll):.3g}'
  )
