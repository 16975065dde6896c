"""Diagonal Fisher information at any parameters, inside a jitted function.

F = mean over examples of Σ p(y | x) [∇ log p(y | x)]² over their answers y,
plus ε: squares of single examples' gradients, never of a batch's. For weights
that move while a merge is searched: https://arxiv.org/abs/2504.18992.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from automerge_jax import trees
from automerge_jax.statistics import answers, lookup, squares
from automerge_jax.statistics.examples import Examples, Piece
from automerge_jax.tasks import likelihood
from automerge_jax.types import Array, Family, Items, Params

ESTIMATES = ('exact', 'sampled', 'label')
NORMALISATIONS = ('none', 'global_norm', 'trace')
EPSILON = 1e-12
MEMORY = 2**25


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
  memory: int = MEMORY,
) -> Params:
  """Fisher information of one model on one task; pure and jittable.

  An example costs a forward pass, and a backward pass for each of its answers
  under 'exact' (for all but one where these are classes), else one. A text
  whose tokens are 'sampled' costs another forward pass. As many examples come
  side by side as gradients of one layer fit into `memory`.

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
    memory: bytes that gradients of a layer may take, of all examples side by
      side; by default what caches hold, beyond which more are slower on CPUs.

  Returns:
    Float32 leaves like `params`.

  Raises:
    ValueError: for an unknown estimate or normalisation, 'exact' where there
      are items without a set of answers, or 'sampled' without a key.
  """
  _check(examples, key, estimate, normalisation)
  apart = normalisation != 'none'
  if apart or total is None:
    found = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), params)
  else:
    found = total
  found = trees.flatten(found)
  keys = jax.random.key(0) if key is None else key
  for piece in examples.pieces:

    def add(found, row, weight, count, finite=piece.finite):
      drawn = jax.random.fold_in(keys, row.slot[0])
      if not finite and estimate == 'sampled':
        whole = {**(fixed or {}), **params}
        row = answers.resampled(family, whole, row, drawn)
      values, squares_of = _squares(family, params, fixed, heads, row, weight)
      if estimate == 'exact':
        # Of classes, log-probabilities; those of choices are means of tokens'.
        rows = (contrasts if isinstance(row, Items) else each)(values)
        begin = jnp.maximum(len(values) - count, 0)
        return squares_of(found, rows, begin)
      answer = row.label[0] if finite else 0
      if finite and estimate == 'sampled':
        answer = jax.random.categorical(drawn, values)
      chosen = jnp.arange(len(values)) == answer
      return squares_of(found, chosen.astype(values.dtype)[None], 0)

    found = _add_piece(family, piece, examples, task, found, memory, add)
  found = trees.unflatten(found)
  if apart:
    found = _normalised(found, normalisation)
    if total is not None:
      found = jax.tree.map(jnp.add, total, found)
  return jax.tree.map(lambda leaf: leaf + jnp.float32(epsilon), found)


def _squares(
  family: Family,
  params: Params,
  fixed: Params | None,
  heads: Mapping[str, Array],
  row: Any,
  weight: Array,
):
  """Log-probabilities [C] of an example's answers, and how squares are added.

  Returns:
    The values, and `(found, cotangents, begin) -> (found, rows)`: leaves by
    name with the squares of gradients that the cotangents from `begin` on
    give, which a `vmap` over examples has summed; apart from these the squares
    of a narrowed table, and whose they are.
  """
  if isinstance(row, likelihood.Data) and len(row.packed.token) != 1:
    raise ValueError(
      f'an example is packed into {len(row.packed.token)} chunks; expected '
      'one, or squares would be those of parts of its gradient'
    )
  own, row, tokens = lookup.narrowed(family, params, row)
  table = None if tokens is None else family.lookup
  dtypes = {path: leaf.dtype for path, leaf in trees.flatten(own).items()}
  tapped, tap = squares.tapped(family, dtypes, table)

  def values_at(own: Params) -> Array:
    whole = {**(fixed or {}), **tap(own)}
    return answers.log_probabilities(tapped, whole, heads, row)[0]

  values, pull = jax.vjp(
    values_at, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), own)
  )

  def add(found, cotangents: Array, begin: Array | int):
    def one(c, carry):
      found, rows = carry
      (gradient,) = pull(jnp.sqrt(weight) * cotangents[c])
      leaves = trees.flatten(gradient)
      if table is not None:
        rows = rows + jnp.square(leaves.pop(table))
      more = {path: found[path] + leaf for path, leaf in leaves.items()}
      return found | more, rows

    leaves = trees.flatten(own)
    rows = jnp.zeros(leaves[table].shape if table is not None else ())
    found, rows = jax.lax.fori_loop(begin, len(cotangents), one, (found, rows))
    return found, (rows, tokens)

  return values, add


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
  family: Family,
  piece: Piece,
  examples: Examples,
  task: Array | int,
  found: dict[str, Array],
  memory: int,
  add,
) -> dict[str, Array]:
  """`found` with what the task's examples in a piece add to it."""
  most = len(piece.answers)
  side_by_side = min(most, _side_by_side(family, found, memory))
  share = 1 / examples.counts[task]
  begin, end = piece.bounds[task], piece.bounds[jnp.asarray(task) + 1]

  def several(index: Array, found: dict[str, Array]) -> dict[str, Array]:
    at = begin + index * side_by_side + jnp.arange(side_by_side)
    inside = at < end
    at = jnp.minimum(at, most - 1)
    data = jax.tree.map(lambda leaf: leaf[at], piece.data)
    real = jnp.squeeze(data.slot, -1) < examples.end
    weight = jnp.where(inside & real, share, 0.0)
    # One number for all, so that the loop over answers is one.
    count = jnp.max(jnp.where(inside, piece.answers[at], 0))
    found, (rows, tokens) = jax.vmap(
      add, in_axes=(None, 0, 0, None), out_axes=(None, 0)
    )(found, data, weight, count)
    if tokens is None:
      return found
    table = found[family.lookup].at[tokens].add(rows)
    return found | {family.lookup: table}

  count = (end - begin + side_by_side - 1) // side_by_side
  return jax.lax.fori_loop(0, count, several, found)


def _side_by_side(
  family: Family, leaves: Mapping[str, Array], memory: int
) -> int:
  """Examples whose gradients of one layer, or of another leaf, fit."""
  sizes: dict[str, int] = {}
  for path, leaf in leaves.items():
    layered = path.startswith('layers/')
    part = 'layer' if layered else path
    size = leaf.size // len(leaf) if layered else leaf.size
    if path != family.lookup:
      sizes[part] = sizes.get(part, 0) + size
  return max(1, memory // (4 * max(1, *sizes.values())))


def _normalised(found: Params, normalisation: str) -> Params:
  leaves = jax.tree.leaves(found)
  if normalisation == 'global_norm':
    size = jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in leaves))
  else:
    size = sum(jnp.sum(leaf) for leaf in leaves)
  scale = 1 / jnp.where(size > 0, size, 1.0)
  return jax.tree.map(lambda leaf: leaf * scale, found)
