"""Diagonal Fisher information at any parameters, inside a jitted function.

F = mean over examples of Σ p(y | x) [∇ log p(y | x)]² over their answers y,
plus ε: squares of single examples' gradients, never of a batch's. For weights
that move while a merge is searched: https://arxiv.org/abs/2504.18992.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from automerge_jax.statistics import answers, lookup
from automerge_jax.statistics.examples import Examples, Piece
from automerge_jax.types import Array, Family, Items, Params

ESTIMATES = ('exact', 'sampled', 'label')
NORMALISATIONS = ('none', 'global_norm', 'trace')
EPSILON = 1e-12


def information(
  family: Family,
  params: Params,
  heads: Mapping[str, Array],
  examples: Examples,
  task: Array | int,
  key: Array | None = None,
  *,
  total: Params | None = None,
  fixed: Params | None = None,
  estimate: str = 'exact',
  epsilon: float = EPSILON,
  normalisation: str = 'none',
  memory: int = 0,
) -> Params:
  """Fisher information of one model on one task; pure and jittable.

  An example costs a forward pass, and a backward pass for each of its answers
  under 'exact' (for all but one where these are classes), else one. A text
  whose tokens are 'sampled' costs another forward pass. Examples come one by
  one or, where several gradients fit into `memory`, side by side.

  Args:
    family: of the model.
    params: where the information is measured, and of what.
    heads: stacked task heads.
    examples: of all tasks.
    task: which of them count; may be traced.
    key: for 'sampled'; an item's draw does not depend on the others.
    total: what the information is added to; None for zeros. Without a
      normalisation this takes no memory.
    fixed: further top-level parts of the model, such as a `stem` that all
      models share, which are not measured.
    estimate: 'exact', the expectation over the model's own probabilities of
      the answers; 'sampled', with one answer drawn from them, of a text one
      token a position; 'label', the right answer's, of a text its own tokens'.
    epsilon: is added to every entry, behind mean and normalisation.
    normalisation: 'none', 'global_norm' (the information has L2 norm 1 over
      all parameters) or 'trace' (it sums to 1).
    memory: bytes that gradients of examples side by side may take; by default
      they come one by one, which no batch was faster than on CPUs.

  Returns:
    Float32 leaves like `params`.

  Raises:
    ValueError: for an unknown estimate or normalisation, 'exact' where there
      are items without a set of answers, or 'sampled' without a key.
  """
  _check(examples, key, estimate, normalisation)
  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
  apart = normalisation != 'none'
  found = zeros if apart or total is None else total
  keys = jax.random.key(0) if key is None else key

  for piece in examples.pieces:

    def add(found, row, weight, count, finite=piece.finite):
      drawn = jax.random.fold_in(keys, row.slot[0])
      if not finite and estimate == 'sampled':
        whole = {**(fixed or {}), **params}
        row = answers.resampled(family, whole, row, drawn)

      own, row, tokens = lookup.narrowed(family, params, row)

      def values_at(own: Params) -> Array:
        whole = {**(fixed or {}), **own}
        return answers.log_probabilities(family, whole, heads, row)[0]

      values, pull = jax.vjp(values_at, own)

      def squared(found: Params, cotangent: Array) -> Params:
        (gradient,) = pull(jnp.sqrt(weight) * cotangent)
        return lookup.add_squares(family, found, gradient, tokens)

      if estimate == 'exact':
        # Of classes, log-probabilities; those of choices are means of tokens'.
        rows = (contrasts if isinstance(row, Items) else each)(values)
        return jax.lax.fori_loop(
          jnp.maximum(len(values) - count, 0),
          len(rows),
          lambda c, found: squared(found, rows[c]),
          found,
        )
      answer = row.label[0] if finite else 0
      if finite and estimate == 'sampled':
        answer = jax.random.categorical(drawn, values)
      chosen = jnp.arange(len(values)) == answer
      return squared(found, chosen.astype(values.dtype))

    found = _add_piece(piece, examples, task, found, zeros, memory, add)
  if apart:
    found = _normalised(found, normalisation)
    if total is not None:
      found = jax.tree.map(jnp.add, total, found)
  return jax.tree.map(lambda leaf: leaf + jnp.float32(epsilon), found)


def each(values: Array) -> Array:
  """Cotangents [C, C] of Σ p(y) [∇ log p(y)]², the likeliest last.

  Args:
    values: of answers, [C], -inf where there are fewer; p is their softmax.
  """
  p = jax.nn.softmax(values)
  order = jnp.argsort(values)
  # With √p as cotangent the square of the gradient comes weighted with p.
  return jnp.sqrt(p[order])[:, None] * jax.nn.one_hot(order, len(p))


def contrasts(values: Array) -> Array:
  """Cotangents [C - 1, C] of the same where values are log-probabilities.

  Their gradients average to zero, which saves a pass: rows are the columns of
  the Cholesky factor of the covariance diag(p) - p pᵀ of a drawn answer, each
  an answer against the mean of the likelier ones (Tanabe and Sagae 1992, J. R.
  Stat. Soc. B 54:211).

  Args:
    values: [C], -inf where there are fewer answers.
  """
  order = jnp.argsort(values)
  p = jax.nn.softmax(values)[order]
  here = jnp.cumsum(p[::-1])[::-1]
  above = here[1:]  # the likeliest is among them: at least 1/C
  size = jnp.sqrt(p[:-1] * above / here[:-1])
  count = len(p)
  likelier = jnp.triu(jnp.tile(p, (count - 1, 1)), 1)
  mean = likelier / above[:, None]
  rows = size[:, None] * (jnp.eye(count - 1, count) - mean)
  return jnp.zeros_like(rows).at[:, order].set(rows)


def _check(examples, key, estimate, normalisation) -> None:
  if estimate not in ESTIMATES:
    raise ValueError(f'estimate is {estimate!r}; expected one of {ESTIMATES}')
  if normalisation not in NORMALISATIONS:
    raise ValueError(
      f'normalisation is {normalisation!r}; expected one of {NORMALISATIONS}'
    )
  if estimate == 'exact' and not all(p.finite for p in examples.pieces):
    raise ValueError(
      "the estimate 'exact' needs items with a set of answers, and some are "
      "texts or generated answers; use 'sampled' or 'label'"
    )
  if estimate == 'sampled' and key is None:
    raise ValueError("the estimate 'sampled' needs a key; pass key=")


def _add_piece(
  piece: Piece,
  examples: Examples,
  task: Array | int,
  found: Params,
  zeros: Params,
  memory: int,
  add,
) -> Params:
  """`found` with what the task's examples in a piece add to it."""
  most = len(piece.answers)
  # An example has a gradient and a sum of squares beside the others'.
  bytes_each = 8 * sum(leaf.size for leaf in jax.tree.leaves(zeros))
  side_by_side = min(most, max(1, memory // max(1, bytes_each)))
  share = 1 / examples.counts[task]

  def rows(at: Array) -> tuple[Any, Array, Array]:
    inside = at < piece.bounds[jnp.asarray(task) + 1]
    at = jnp.minimum(at, most - 1)
    data = jax.tree.map(lambda leaf: leaf[at], piece.data)
    real = jnp.squeeze(data.slot, -1) < examples.end
    weight = jnp.where(inside & real, share, 0.0)
    return data, weight, jnp.where(inside, piece.answers[at], 0)

  def one(at: Array, found: Params) -> Params:
    return add(found, *rows(at))

  def several(index: Array, found: Params) -> Params:
    at = piece.bounds[task] + index * side_by_side + jnp.arange(side_by_side)
    data, weight, counts = rows(at)
    # One number for all, so that the loop over answers is one.
    each = jax.vmap(lambda *given: add(zeros, *given), in_axes=(0, 0, None))
    more = each(data, weight, jnp.max(counts))
    return jax.tree.map(lambda a, b: a + b.sum(0), found, more)

  begin, end = piece.bounds[task], piece.bounds[jnp.asarray(task) + 1]
  if side_by_side == 1:
    return jax.lax.fori_loop(begin, end, one, found)
  count = (end - begin + side_by_side - 1) // side_by_side
  return jax.lax.fori_loop(0, count, several, found)


def _normalised(found: Params, normalisation: str) -> Params:
  leaves = jax.tree.leaves(found)
  if normalisation == 'global_norm':
    size = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in leaves))
  else:
    size = sum(jnp.sum(leaf) for leaf in leaves)
  scale = 1 / jnp.where(size > 0, size, 1.0)
  return jax.tree.map(lambda leaf: leaf * scale, found)
