"""Ours and the peers on problems of known optimum; prints one JSON object.

  python -m experiments.bench.compare.synthetic --seeds=5

The same random starts and as many evaluations for all. Ours is what the configs
choose: CMA-ES for floats, the mixed one where there are categories, NSGA-II for
fronts. A curve is the true loss of the choice, the evaluation whose observed
loss is the lowest so far; of a front, its hypervolume as a share of the most.
"""

import functools
import json
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from automerge_jax.search import fronts
from automerge_jax.search.optimizers.cma_es import cma_es
from automerge_jax.search.optimizers.mixed import mixed
from automerge_jax.search.optimizers.nsga2 import nsga2
from automerge_jax.types import Told
from experiments import startup
from experiments.bench import problems
from experiments.bench.compare import peers
from experiments.bench.compare.problem import Problem

POPULATION = 12
GENERATIONS = 10
EVALUATIONS = POPULATION * GENERATIONS
PEERS = ('smac', 'pycma', 'pymoo', 'random')
FRONT_PEERS = ('parego', 'pymoo', 'random')
MAKE = {
  'sphere_10': functools.partial(problems.floats, 'sphere', 10),
  'ellipsoid_10': functools.partial(problems.floats, 'ellipsoid', 10),
  'rastrigin_10': functools.partial(problems.floats, 'rastrigin', 10),
  'shifted_25': functools.partial(problems.shifted, 5, 4, 4),
  'conditional_28': functools.partial(problems.conditional, 4, 2, 3),
  'conditional_112': functools.partial(problems.conditional, 16, 1, 6),
}
CASES = tuple(f'{name}{noisy}' for noisy in ('', '_noisy') for name in MAKE)
FRONT = 'spheres_10'

_STD = 0.15  # first step of ours, its default where starts are random
_NOISE = 0.1  # of a noisy problem, as a share of a random point's loss
_SURE = 5.0  # standard deviations that keep costs above 0, for SMAC's logarithm
_TARGETS = np.random.default_rng([2, 10]).uniform(0.2, 0.8, (2, 10))


class Case(NamedTuple):
  """A problem with its noise.

  Attributes:
    problem: to be searched.
    loss: `x [n, D] in [0, 1] -> [n]`, without noise.
    noise: standard deviation of what is added.
  """

  problem: problems.Problem
  loss: Callable[[np.ndarray], np.ndarray]
  noise: float


@functools.cache
def case(name: str) -> Case:
  """One of `CASES`."""
  problem = MAKE[name.removesuffix('_noisy')]()
  one = jax.jit(jax.vmap(lambda x: problem.loss(problem.space.quantise(x))))

  def loss(x):
    # A population at a time, so that it compiles once.
    room = -len(x) % POPULATION
    full = np.concatenate([x, np.full((room, x.shape[1]), 0.5)])
    parts = full.reshape(-1, POPULATION, x.shape[1]).astype(np.float32)
    return np.concatenate([one(part) for part in parts])[: len(x)]

  noise = 0.0
  if name.endswith('_noisy'):
    draw = np.random.default_rng(0)
    at = draw.uniform(size=(240, len(problem.space.names)))
    noise = _NOISE * float(np.median(loss(at)))
  return Case(problem, loss, noise)


def ours(name: str, seeds: Iterable[int]) -> list[tuple[np.ndarray, ...]]:
  """Starts [P, D], losses [E] and observed ones [E] of each seed."""
  problem, _, noise = case(name)
  optimizer = (cma_es if problem.space.choices is None else mixed)(
    POPULATION, problem.space, std=_STD
  )
  run = jax.jit(
    lambda key: problems.observed(
      optimizer, problem, POPULATION, GENERATIONS, key, noise
    )
  )
  encode = jax.vmap(problem.space.encode)
  found = []
  for seed in seeds:
    c, loss, seen = run(jax.random.key(seed))
    found.append(
      (np.asarray(encode(c[0]), float), np.ravel(loss), np.ravel(seen))
    )
  return found


def searched(
  peer: str,
  score: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
  starts: np.ndarray,
  choices: np.ndarray,
  seed: int,
) -> tuple[np.ndarray, np.ndarray]:
  """True and observed losses [E, M] of a peer's run.

  Args:
    peer: one of `peers.PEERS`; SMAC has one rung, so that each bracket of its
      Hyperband is one full evaluation.
    score: `x [n, D] -> true [n, M], observed [n, M]`, losses.
    starts: [P, D].
    choices: of each dimension, [D].
    seed: of the peer.
  """
  true, seen = [], []

  def values(x, items):
    del items
    if sum(map(len, true)) >= EVALUATIONS:
      return None
    lost, shown = score(x)
    true.append(lost)
    seen.append(shown)
    return 1 - shown

  lost, _ = score(starts[:1])
  problem = Problem(
    choices, starts, (1,), lost.shape[1], POPULATION, _STD, EVALUATIONS
  )
  peers.run(peer, problem, values, seed)
  return tuple(np.concatenate(part)[:EVALUATIONS] for part in (true, seen))


def of_peer(
  name: str, peer: str, seed: int, starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Losses [E] and observed ones [E] of a peer on one of `CASES`."""
  problem, loss, noise = case(name)
  draw = np.random.default_rng([seed, CASES.index(name)])

  def score(x):
    lost = loss(x)
    seen = lost + noise * (draw.normal(size=len(x)) + _SURE)
    return lost[:, None], seen[:, None]

  choices = problem.space.choices
  if choices is None:
    choices = np.zeros(len(problem.space.names), int)
  true, seen = searched(peer, score, starts, choices, seed)
  return true[:, 0], seen[:, 0]


def curve(loss: np.ndarray, seen: np.ndarray) -> np.ndarray:
  """Loss of what was observed best until each evaluation, [E]."""
  before = np.minimum.accumulate(np.concatenate([[np.inf], seen[:-1]]))
  better = np.where(seen < before, np.arange(len(seen)), 0)
  return loss[np.maximum.accumulate(better)]


def front_losses(x: np.ndarray) -> np.ndarray:
  """Two spheres with optima of their own, 0 to about 10: [n, 2]."""
  return ((10 * (x[:, None] - _TARGETS)) ** 2).mean(-1)


def volumes(losses: np.ndarray) -> np.ndarray:
  """Hypervolume after each evaluation, as a share of the most: [E].

  Both losses below what the middle between the optima has four times.
  """
  least = front_losses(
    _TARGETS[0] + np.linspace(0, 1, 2001)[:, None] * np.diff(_TARGETS, axis=0)
  )
  reference = np.full(2, -4 * least[1000].max())
  most = fronts.hypervolume(-least, reference)
  return np.array(
    [
      fronts.hypervolume(-losses[: i + 1], reference) / most
      for i in range(len(losses))
    ]
  )


def our_front(seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Starts [P, D] and losses [E, 2] of our NSGA-II."""
  space = problems.typed(np.zeros(10, int))
  optimizer = nsga2(POPULATION, space)
  start, loop = jax.random.split(jax.random.key(seed))
  x = np.asarray(jax.random.uniform(start, (POPULATION, 10)))
  table = np.full((EVALUATIONS, 10), 0.5, np.float32)
  losses = np.full((EVALUATIONS, 2), np.nan)
  starts, state = x, None
  for g in range(GENERATIONS):
    ask_key, tell_key = jax.random.split(jax.random.fold_in(loop, g))
    if state is not None:
      x = np.asarray(optimizer.ask(ask_key, state))
    rows = np.arange(POPULATION) + g * POPULATION
    table[rows], losses[rows] = x, front_losses(x)
    scores = np.where(np.isnan(losses[:, 0]), -np.inf, fronts.ranks([-losses]))
    told = Told(*map(jnp.asarray, (table, scores.astype('f'), rows, x)))
    state = (
      optimizer.init(tell_key, told)
      if state is None
      else optimizer.tell(tell_key, told, state)
    )
  return np.asarray(starts, float), losses


def run(seeds: Iterable[int], cases: Iterable[str] = (*CASES, FRONT)) -> dict:
  """Figures and curves of all solvers.

  Args:
    seeds: of searches and their starts.
    cases: names out of `CASES`, and `FRONT`.

  Returns:
    `figures`: flat, `{case}_{solver}` the median final loss (of `FRONT` the
    hypervolume, and `_at_24` of it after two populations), `{case}_ours_over_
    {peer}` ours as a multiple of the peer's, where that is above 0; `curves`:
    by case and solver [seeds, E]; `noise`: by case.
  """
  seeds, cases = tuple(seeds), tuple(cases)
  curves: dict[str, dict[str, Any]] = {}
  # Peers are processes of their own, for which threads only wait.
  with futures.ThreadPoolExecutor(2) as pool:
    for name in cases:
      if name == FRONT:
        found = [our_front(seed) for seed in seeds]
        waiting = {
          peer: [
            pool.submit(
              searched,
              peer,
              lambda x: (front_losses(x),) * 2,
              starts,
              np.zeros(10, int),
              seed,
            )
            for seed, (starts, _) in zip(seeds, found, strict=True)
          ]
          for peer in FRONT_PEERS
        }
        curves[name] = {'ours': [volumes(losses) for _, losses in found]}
      else:
        found = ours(name, seeds)
        waiting = {
          peer: [
            pool.submit(of_peer, name, peer, seed, starts)
            for seed, (starts, _, _) in zip(seeds, found, strict=True)
          ]
          for peer in PEERS
        }
        curves[name] = {'ours': [curve(*rest) for _, *rest in found]}
      for peer, answers in waiting.items():
        curves[name][peer] = [
          volumes(one.result()[0]) if name == FRONT else curve(*one.result())
          for one in answers
        ]
  return {
    'figures': figures(curves),
    'curves': {
      name: {solver: np.round(rows, 6).tolist() for solver, rows in by.items()}
      for name, by in curves.items()
    },
    'noise': {name: case(name).noise for name in cases if name != FRONT},
  }


def figures(curves: dict[str, dict[str, Any]]) -> dict[str, float]:
  """Flat numbers of the curves, see `run`."""
  flat = {}
  for name, by in curves.items():
    at = {'': -1, '_at_24': 23} if name == FRONT else {'': -1}
    for suffix, column in at.items():
      final = {
        solver: float(np.median(np.asarray(rows)[:, column]))
        for solver, rows in by.items()
      }
      for solver, value in final.items():
        flat[f'{name}_{solver}{suffix}'] = value
        if solver != 'ours' and value > 0:
          ratio = final['ours'] / value
          flat[f'{name}_ours_over_{solver}{suffix}'] = ratio
  return {name: float(f'{value:.4g}') for name, value in flat.items()}


def main(argv):
  del argv
  startup.prepare()
  given = flags.FLAGS
  print(json.dumps(run(range(given.seeds), given.case or (*CASES, FRONT))))


if __name__ == '__main__':
  # Not at import, for whoever imports this has flags of their own.
  flags.DEFINE_integer('seeds', 5, 'Searches of each solver.')
  flags.DEFINE_multi_enum(
    'case', None, (*CASES, FRONT), 'Only these; none: all.'
  )
  app.run(main)
