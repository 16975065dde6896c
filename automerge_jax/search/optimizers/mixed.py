"""CatCMA on a typed space (https://arxiv.org/abs/2405.09962), the default."""

from typing import Any, NamedTuple

import evosax.algorithms
import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.search.optimizers import features
from automerge_jax.search.optimizers.cma_es import strong, updated
from automerge_jax.types import Array, Optimizer, SearchSpace, Told

_PATIENCE = 1.5  # alpha of the adaptive rate (arXiv:1905.00885)
_TRUST, _CHANGES = 0.8, 2.0  # least trust, most options that change by it
_MARGIN = 0.73  # chance that a proposal has only options that are likely


class State(NamedTuple):
  """A Gaussian over floats and a distribution of each category's options.

  Attributes:
    strategy: CMA-ES's state over the F floats; () without any.
    chances: of options, [C, O], 0 where a category has fewer.
    path: accumulated natural gradient, [C, O].
    weight: of what is accumulated, [].
    slowness: one over the size of a step, [].
  """

  strategy: Any
  chances: Array
  path: Array
  weight: Array
  slowness: Array


def mixed(
  population: int,
  space: SearchSpace,
  std: float = 0.15,
  trust: float | None = None,
) -> Optimizer:
  """A Gaussian over the floats times a distribution over the options.

  Both follow the better half of a generation: the Gaussian by CMA-ES with the
  space's prior correlation, the chances of options by a natural gradient whose
  step adapts to its signal. No chance falls below a margin, so no option is
  lost. The search starts at the best row told, each of whose options has the
  chance `trust`, beside its share of the rest; without categories it is CMA-ES.
  A float that does not count in a proposal drifts and says nothing; so an
  option that is good only after its floats are tuned may be passed over, the
  more the higher the trust. Build once
  and reuse: evosax hashes an algorithm by identity.

  Args:
    population: P, at least 4.
    space: what is searched.
    std: initial standard deviation of floats.
    trust: in the options of the best row told, in [0, 1]; by default 0.8, or
      more where so many categories would change more than two at a time.

  Raises:
    ValueError: for a population below 4, or a trust out of [0, 1].
  """
  if population < 4:
    raise ValueError(f'CatCMA needs a population of at least 4, {population=}')
  of = features.Features(space)
  categories = np.flatnonzero(of.categorical)
  if trust is None:
    trust = max(_TRUST, 1 - _CHANGES / max(len(categories), 1))
  if not 0 <= trust <= 1:
    raise ValueError(f'{trust=}, expected a number from 0 to 1')
  floats = np.flatnonzero(~of.categorical)
  count = of.width[categories]
  exists = np.arange(max([*count, 1]))[None] < count[:, None]
  # A category of one option has nothing to lose.
  margin = (1 - _MARGIN ** (1 / max(len(count), 1))) / np.maximum(count - 1, 1)
  margin = np.where(exists & (count > 1)[:, None], margin[:, None], 0.0)
  parameters = max(int((count - 1).sum()), 1)
  weights = np.log((population + 1) / 2) - np.log(np.arange(population) + 1)
  weights = np.maximum(weights, 0) / np.maximum(weights, 0).sum()

  if len(floats):
    algorithm = evosax.algorithms.CMA_ES(
      population_size=population, solution=jnp.zeros(len(floats))
    )
    algorithm.use_negative_weights = False
    params = algorithm.default_params.replace(std_init=jnp.asarray(std))
    correlation = np.asarray(space.correlation, np.float32)
    correlation = correlation[np.ix_(floats, floats)]

  def options(x: Array) -> Array:
    """Options of x [D], one-hot, [C, O]."""
    index = jnp.floor(x[categories] * count)
    index = jnp.clip(index, 0, count - 1).astype(jnp.int32)
    return jax.nn.one_hot(index, exists.shape[1])

  def lifted(chances: Array) -> Array:
    """Chances none of which is below its margin, and that sum to 1."""
    chances = jnp.where(exists, jnp.maximum(chances, margin), 0.0)
    above = chances - margin
    extra = chances.sum(-1, keepdims=True) - 1
    chances = chances - above * extra / above.sum(-1, keepdims=True)
    return chances / chances.sum(-1, keepdims=True)

  def trusting(chances: Array, x: Array) -> Array:
    """Chances of which those of the options of x [D] are what trust demands."""
    chosen = options(x)
    now = (chosen * chances).sum(-1, keepdims=True)
    wanted = trust + (1 - trust) / count[:, None]
    share = jnp.clip((wanted - now) / jnp.maximum(1 - now, 1e-6), 0.0, 1.0)
    return lifted(share * chosen + (1 - share) * chances)

  def init(key: Array, told: Told) -> State:
    best = told.x[jnp.argmax(told.scores)]
    strategy = ()
    if len(floats):
      with jax.numpy_rank_promotion('allow'):
        strategy = algorithm.init(key, best[floats], params)
      strategy = strategy.replace(C=jnp.asarray(correlation))
    even = jnp.asarray(exists / count[:, None], jnp.float32)
    state = State(
      strategy,
      trusting(even, best),
      jnp.zeros(exists.shape),
      jnp.zeros(()),
      jnp.ones(()),
    )
    return strong(state)

  def ask(key: Array, state: State) -> Array:
    float_key, option_key = jax.random.split(key)
    x = jnp.zeros((population, len(of.width)))
    if len(floats):
      with jax.numpy_rank_promotion('allow'):
        drawn, _ = algorithm.ask(float_key, state.strategy, params)
      x = x.at[:, floats].set(jnp.clip(drawn, 0.0, 1.0))
    if len(categories):
      index = jax.random.categorical(
        option_key,
        jnp.log(state.chances)[None],
        shape=(population, len(categories)),
      )
      x = x.at[:, categories].set((index + 0.5) / count[None])
    return x

  def tell(key: Array, told: Told, state: State) -> State:
    x = told.x[told.fresh]
    order = jnp.argsort(-told.scores[told.fresh])
    if len(floats):
      # A space may set what does not count to a constant; drift is better.
      x = jnp.where(of.active(x), x, told.asked)
      strategy = updated(
        algorithm,
        params,
        key,
        x[:, floats],
        jnp.argsort(order),
        state.strategy,
      )
      state = state._replace(strategy=strategy)
    return strong(learned(state, x[order]) if len(categories) else state)

  def learned(state: State, x: Array) -> State:
    """Chances after a generation x [P, D], best first."""
    step = jax.vmap(options)(x) - state.chances[None]
    gradient = (jnp.asarray(weights)[:, None, None] * step).sum(0)
    # In these coordinates the Fisher information is the unit matrix.
    unit = gradient / jnp.sqrt(jnp.maximum(state.chances, 1e-12))
    norm = jnp.sqrt((unit**2).sum()) + 1e-12
    size = 1 / state.slowness
    rate = jnp.minimum(size / parameters**0.5, 1.0)
    path = (1 - rate) * state.path + jnp.sqrt(rate * (2 - rate)) * unit / norm
    weight = (1 - rate) ** 2 * state.weight + rate * (2 - rate)
    drive = weight - (path**2).sum() / _PATIENCE
    return state._replace(
      chances=lifted(state.chances + size / norm * gradient),
      path=path,
      weight=weight,
      slowness=state.slowness * jnp.exp(rate * drive),
    )

  def mean(state: State) -> Array:
    x = jnp.zeros(len(of.width))
    if len(floats):
      center = jnp.clip(algorithm.get_mean(state.strategy), 0.0, 1.0)
      x = x.at[floats].set(center)
    return x.at[categories].set((state.chances.argmax(-1) + 0.5) / count)

  def move(x: Array, state: State) -> State:
    if len(floats):
      strategy = state.strategy.replace(mean=x[floats])
      state = state._replace(strategy=strategy)
    return state._replace(chances=trusting(state.chances, x))

  return Optimizer(
    jax.jit(init), jax.jit(ask), jax.jit(tell), jax.jit(mean), jax.jit(move)
  )
