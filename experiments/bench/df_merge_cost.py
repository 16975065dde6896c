"""What a step of DF-Merge takes: Fisher information, merge, evaluation, GP.

  python -m experiments.bench.df_merge_cost --suite=encoder

Prints one JSON object. The limit of the Fisher part is its count of forward and
backward passes at the rate of plain gradients, example by example: an example
is one forward pass, and each of its answers a backward pass, of classes all
but one.
"""

import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from automerge_jax import judges, searching
from automerge_jax.search import evaluate, lower, shared
from automerge_jax.search import job as jobs
from automerge_jax.search import space as spaces
from automerge_jax.search.job import BASE
from automerge_jax.search.optimizers import bayes
from automerge_jax.search.settings import Settings
from automerge_jax.statistics import answers
from automerge_jax.statistics.examples import Examples, Piece
from automerge_jax.tasks import kinds
from automerge_jax.types import Family, Items, Params, SearchSpace, Told
from configs import df_merge
from experiments import choices, startup

_REPEATS = 3
_WEIGHT = 0.3  # of every expert in the candidate that is measured


class Passes(NamedTuple):
  """Of examples of one shape.

  Attributes:
    examples: how many.
    forward, backward: passes over one of them, in all.
    forward_s, both_s: seconds that all examples take once, forward alone, and
      forward and backward.
  """

  examples: int
  forward: int
  backward: int
  forward_s: float
  both_s: float


def limit(passes: Sequence[Passes]) -> float:
  """Seconds of that many passes at the measured rates."""
  return sum(
    one.forward / one.examples * one.forward_s
    + one.backward / one.examples * (one.both_s - one.forward_s)
    for one in passes
  )


def counted(piece: Piece, end: int, estimate: str) -> tuple[int, int, int]:
  """Examples of a piece, and its forward and backward passes."""
  real = np.asarray(piece.data.slot).reshape(-1) < end
  number = int(real.sum())
  drawn = estimate == 'sampled' and not piece.finite
  backward = int(np.asarray(piece.answers)[real].sum())
  if isinstance(piece.data, Items):  # classes, whose gradients sum to zero
    backward -= number
  if estimate != 'exact':
    backward = number
  return number, number * (1 + drawn), backward


def measure(settings: Settings) -> dict[str, float]:
  """Seconds of the parts of a step, the Fisher part's limit, and its memory.

  Args:
    settings: of a search by df_merge at candidates' own information.

  Returns:
    `fisher_s`, `merge_s` (without information), `evaluation_s`, `gp_s` (of the
    last step), `step_s` (their sum), `passes` (forward and backward),
    `limit_s`, `ratio` of `fisher_s` to it, and `memory_copies`: what merging a
    candidate holds, base, experts and examples with it, in float32 models.
  """
  job = jobs.load(settings)
  space = spaces.build(settings, job.family, job.experts, BASE)
  stack = searching.stack_of(job, space)
  if job.calibration is None:
    raise ValueError(f'method is {settings.method!r}; expected df_merge')
  family, calibration, fixed = shared.above(job.family, stack, job.calibration)
  gate = searching.gate_of(settings, job)
  gate = gate._replace(
    inputs=lower.carried(job.family, stack, gate.inputs, settings.dtype)
  )
  c = jnp.full(len(space.names), _WEIGHT)

  def merged(c, stack):
    plan = space.decode(c)
    model = shared.merged(job.family, job.method, plan, stack, settings.dtype)
    params = model(gate.inputs)[1]
    return {part: params[part] for part in stack.base}  # what is merged

  # The same for every task, so that nothing but the merge itself is left.
  ones = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), stack.stack)
  known = dataclasses.replace(
    stack, calibration=dataclasses.replace(calibration, known=ones)
  )
  merge = jax.jit(merged)
  dynamic = merge.lower(c, stack).compile()
  whole_s = _seconds(functools.partial(dynamic, c, stack))
  merge_s = _seconds(functools.partial(merge, c, known))
  items = judges.item_set('search', settings, job)
  data = lower.carried(job.family, stack, kinds.arrays(items), settings.dtype)
  score = evaluate.population_scorer(
    job.family, job.method, space.decode, rungs=1, dtype=settings.dtype
  )
  scored = functools.partial(
    score, c[None], jnp.ones(1, bool), known, job.heads, gate, data, len(items)
  )
  if not np.isfinite(np.asarray(scored()[0].log_likelihood)).all():
    raise RuntimeError(f'weights of {_WEIGHT} give no model that can be scored')
  found = {
    'fisher_s': whole_s - merge_s,
    'merge_s': merge_s,
    'evaluation_s': _seconds(scored) - merge_s,
    'gp_s': _proposal(space, settings),
  }
  each = _passes(
    family,
    stack.base,
    fixed or {},
    job.heads,
    calibration.examples,
    settings.fisher_estimate,
  )
  size = sum(leaf.nbytes for leaf in jax.tree.leaves((stack.base, stack.below)))
  needs = dynamic.memory_analysis()
  assert needs is not None, 'this device tells no memory'
  held = needs.argument_size_in_bytes + needs.temp_size_in_bytes
  held += needs.output_size_in_bytes
  found['step_s'] = sum(found.values())
  found['limit_s'] = limit(each)
  return found | {
    'ratio': found['fisher_s'] / found['limit_s'],
    'passes': sum(one.forward + one.backward for one in each),
    'memory_copies': held / size,
    'experts': len(job.experts),
  }


def _passes(
  family: Family,
  params: Params,
  fixed: Params,
  heads: Any,
  examples: Examples,
  estimate: str,
) -> list[Passes]:
  """Counts and rates of plain gradients, one example after the other."""

  def value_at(params, fixed, heads, piece, i):
    row = jax.tree.map(lambda leaf: leaf[i], piece.data)
    whole = {**fixed, **params}
    values = answers.log_probabilities(family, whole, heads, row)[0]
    return values[row.label[0] if piece.finite else 0]

  @jax.jit
  def forward(params, fixed, heads, piece, count):
    def add(i, total):
      return total + value_at(params, fixed, heads, piece, i)

    return jax.lax.fori_loop(0, count, add, 0.0)

  @jax.jit
  def both(params, fixed, heads, piece, count):
    def add(i, total):
      gradient = jax.grad(value_at)(params, fixed, heads, piece, i)
      return jax.tree.map(jnp.add, total, gradient)

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params)
    return jax.lax.fori_loop(0, count, add, zeros)

  found = []
  for piece in examples.pieces:
    number, forwards, backwards = counted(piece, int(examples.end), estimate)
    arguments = params, fixed, heads, piece, np.int32(number)
    found.append(
      Passes(
        number,
        forwards,
        backwards,
        _seconds(functools.partial(forward, *arguments)),
        _seconds(functools.partial(both, *arguments)),
      )
    )
  return found


def _proposal(space: SearchSpace, settings: Settings) -> float:
  """Seconds of the last proposal, all rows but one known."""
  rows, dims = settings.candidates, len(space.names)
  x = np.random.default_rng(0).random((rows, dims), np.float32)
  values = np.where(np.arange(rows) < rows - 1, 1 - x.std(1), -np.inf)
  optimizer = bayes.bayes(1, space, settings.acquisition)
  fresh = jnp.asarray([rows - 2], jnp.int32)
  told = Told(
    jnp.asarray(x),
    jnp.asarray(values, jnp.float32),
    fresh,
    jnp.asarray(x[fresh]),
    jnp.asarray(np.where(np.isfinite(values), values, np.nan), jnp.float32),
  )
  state = optimizer.init(jax.random.key(0), told)
  return _seconds(functools.partial(optimizer.ask, jax.random.key(1), state))


def _seconds(run: Callable[[], Any]) -> float:
  """Median of a few runs, after one that compiles."""
  taken = []
  for _ in range(_REPEATS + 1):
    begin = time.perf_counter()
    jax.block_until_ready(run())
    taken.append(time.perf_counter() - begin)
  return statistics.median(taken[1:])


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  startup.prepare()
  suite = flags.FLAGS.suite
  config = df_merge.get_config(f'{suite}/df_merge_ei')
  print(json.dumps(measure(choices.settings(config)), indent=2))


if __name__ == '__main__':
  flags.DEFINE_enum('suite', 'encoder', list(df_merge.SUITES), 'Whose experts.')
  app.run(main)
