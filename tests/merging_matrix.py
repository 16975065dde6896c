"""Numbers for every merge method, and where an invariant does not hold.

An exception says why, in which tensors, and what holds in its place; the tests
demand that the invariant is really broken there, and holds everywhere else.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from automerge_jax.merging import chunks, facts, registry, resident
from automerge_jax.types import MergeMethod

K = 3
MATRIX, VECTOR, SCALAR = 'layer.weight', 'layer.bias', 'scale'
SHAPES = {MATRIX: (8, 6), VECTOR: (7,), SCALAR: ()}
EVERY = tuple(m for kinds in registry.METHODS.values() for m in kinds.values())


def key(method: MergeMethod) -> str:
  return f'{method.name}/{method.semantics.partition("-")[0]}'


class Model(NamedTuple):
  """Base, experts and what was measured of them, by tensor name."""

  base: dict[str, np.ndarray]
  experts: list[dict[str, np.ndarray]]
  statistics: dict[str, dict[str, np.ndarray]]

  def deltas(self, name: str) -> np.ndarray:
    """Float64 [K, ...]."""
    experts = [expert[name].astype('f8') for expert in self.experts]
    return np.stack(experts) - self.base[name]

  def of(self, change: Callable, base: Callable | None = None) -> 'Model':
    """Every expert tensor changed, and the base's too where `base` says so."""
    return self._replace(
      base={n: (base or (lambda x: x))(x) for n, x in self.base.items()},
      experts=[{n: change(x) for n, x in e.items()} for e in self.experts],
    )

  def ordered(self, order) -> 'Model':
    return self._replace(
      experts=[self.experts[k] for k in order],
      statistics={
        name: {s: array[list(order)] for s, array in of_tensor.items()}
        for name, of_tensor in self.statistics.items()
      },
    )


def draw(
  count=K, seed=0, zero=False, shapes=SHAPES, same=0.2, grid=2**12
) -> Model:
  """Random experts of a base, with something in common.

  Args:
    count: number of experts.
    seed: of the draws.
    zero: whether the base is zero.
    shapes: of tensors, by name.
    same: share of entries that an expert leaves as they are.
    grid: numbers are multiples of its inverse; of 2**-12, float32 holds sums
      and differences exactly.
  """
  random = np.random.default_rng(seed)

  def numbers(*shape):
    return np.rint(random.normal(size=shape) * grid) / grid

  base = {
    name: numbers(*shape).astype('f4') * np.float32(not zero)
    for name, shape in shapes.items()
  }
  shared = {name: numbers(*shape) for name, shape in shapes.items()}
  experts = []
  for _ in range(count):
    experts.append({})
    for name, shape in shapes.items():
      delta = shared[name] + numbers(*shape)
      if shape:
        delta *= random.random(shape) >= same
      experts[-1][name] = np.asarray(base[name] + delta, np.float32)
  statistics = {}
  for name, shape in shapes.items():
    statistics[name] = {
      'fisher': np.square(numbers(count, *shape)).astype('f4'),
      'fisher_norm': np.linspace(2, 5, count),
    }
    if len(shape) == 2:
      inputs = random.normal(size=(count, 40, shape[-1]))
      grams = np.einsum('kti,ktj->kij', inputs, inputs)
      statistics[name]['gram'] = grams.astype(np.float32)
  return Model(base, experts, statistics)


def copies(count=K, seed=0, shapes=SHAPES) -> Model:
  """The same expert several times."""
  model = draw(count, seed, shapes=shapes)
  return model._replace(experts=[model.experts[0]] * count)


def count(method: MergeMethod) -> int:
  """How many experts its tests have."""
  return min(K, method.sources[1] or K)


def values(
  method: MergeMethod, stated: Mapping[str, Any], count: int
) -> dict[str, Any]:
  """Every parameter; of numbers per expert the first ones, or one for all."""
  found = {p.name: p.default for p in method.parameters} | dict(stated)
  unknown = set(found) - {p.name for p in method.parameters}
  assert not unknown, f'{key(method)} has no {unknown}'
  for p in method.parameters:
    if p.per_expert:
      value = found[p.name]
      many = value if isinstance(value, tuple) else (value,) * count
      found[p.name] = many[:count]
  return found


def merge(
  method: MergeMethod, model: Model, stated=None, seed=5, names=None
) -> dict[str, np.ndarray]:
  """Every tensor of a model merged as an export does it, by default `usual`."""
  names = tuple(names or model.base)
  stated = TABLE[key(method)].usual if stated is None else stated
  told = values(method, stated, len(model.experts))
  whole = None
  if method.whole:
    fixed = facts.known(method, told, len(model.experts))

    def stacks():
      for name in names:
        experts = [expert[name] for expert in model.experts]
        yield name, resident.tensor_stack(method, model.base[name], experts)

    whole = method.whole(stacks, fixed)
  return {
    name: chunks.merge_tensor(
      method,
      told,
      model.base[name],
      [expert[name] for expert in model.experts],
      name,
      seed,
      model.statistics[name],
      whole,
    )
    for name in names
  }


def is_near(have: np.ndarray, want: np.ndarray, tolerance=1e-5) -> bool:
  """Whether no entry is off by more than a share of the largest one."""
  scale = max(np.abs(want).max(), 1e-30)
  difference = np.abs(have.astype('f8') - want).max()
  return bool(difference <= tolerance * scale)


class Row(NamedTuple):
  """What a method is told.

  Attributes:
    natural: numbers at which one expert, and K times the same, come back.
    usual: numbers that show all that the method does.
    alone: of methods of two experts, numbers that ask for the first.
    roles: parameters that hold the position of an expert.
  """

  natural: Callable[[int], dict[str, Any]]
  usual: dict[str, Any]
  alone: dict[str, Any] | None = None
  roles: tuple[str, ...] = ()


_WEIGHT = {'weight': (0.5, 0.8, 0.3)}
_LAMBDA = {'lambda': 0.7}
_SPARSE = _WEIGHT | _LAMBDA | {'density': (0.4, 0.6, 0.5)}
_TAILS = _SPARSE | {'gamma': 0.1}


def _mean(k: int) -> dict[str, Any]:
  return {'weight': 1 / k}


def _nothing(_: int) -> dict[str, Any]:
  return {}


def _scaled(**stated) -> Callable[[int], dict[str, Any]]:
  """With a sum of the experts brought to one of them."""
  return lambda k: {'lambda': 1 / k} | stated


_breadcrumbs = Row(lambda k: _mean(k) | {'gamma': 0.0}, _TAILS)
_drop = Row(_mean, _SPARSE)
_stock = Row(_nothing, {})
_sce = Row(_nothing, {'select_topk': 0.5})
_ties = Row(lambda _: {'weight': 1.0}, _SPARSE)

TABLE = {
  'arcee_fusion/mergekit': Row(_nothing, {}),
  'breadcrumbs/mergekit': _breadcrumbs,
  'breadcrumbs/paper': _breadcrumbs,
  'breadcrumbs_ties/mergekit': _breadcrumbs,
  'breadcrumbs_ties/paper': _breadcrumbs,
  'consensus/paper': Row(_scaled(k=1.0), _LAMBDA),
  'dare_linear/mergekit': _drop,
  'dare_linear/paper': _drop,
  'dare_ties/mergekit': _drop,
  'dare_ties/paper': _drop,
  'della/mergekit': _drop,
  'della/paper': _drop,
  'della_linear/mergekit': _drop,
  'della_linear/paper': _drop,
  'df_merge/paper': Row(_mean, _WEIGHT),
  'fisher/paper': Row(_nothing, _WEIGHT | _LAMBDA),
  'iso_c/paper': Row(_nothing, _LAMBDA),
  'iso_cts/paper': Row(_nothing, _LAMBDA | {'common': 0.5}),
  'karcher/mergekit': Row(_nothing, {}),
  'linear/mergekit': Row(_mean, _WEIGHT),
  'magmax/paper': Row(_nothing, _LAMBDA),
  'model_stock/mergekit': _stock,
  'model_stock/paper': _stock,
  'multislerp/mergekit': Row(_mean, _WEIGHT),
  'nearswap/mergekit': Row(lambda _: {'t': 100.0}, {'t': 0.5}),
  'nuslerp/mergekit': Row(_mean, _WEIGHT, {'weight': (1.0, 0.0)}),
  'passthrough/mergekit': Row(_nothing, {'scale': 0.7}),
  'ram/mergekit': Row(_nothing, {}),
  'ramplus_tl/mergekit': Row(_nothing, {'r': 0.5}),
  'regmean/paper': Row(_nothing, _WEIGHT | _LAMBDA),
  'sce/mergekit': _sce,
  'sce/paper': _sce,
  'slerp/mergekit': Row(
    lambda _: {'t': 0.3}, {'t': 0.3}, {'t': 0.0}, ('first', 'second')
  ),
  'star/paper': Row(lambda _: {'eta': 1.0}, _WEIGHT | _LAMBDA | {'eta': 0.5}),
  'tall_mask/paper': Row(_scaled(), _LAMBDA | {'task': 1.0}, roles=('task',)),
  'task_arithmetic/mergekit': Row(_mean, _WEIGHT | _LAMBDA),
  'ties/mergekit': _ties,
  'ties/paper': _ties,
  'tsv_m/paper': Row(_nothing, _WEIGHT | _LAMBDA),
  'wudi/paper': Row(lambda _: {'ridge': 0.0}, _LAMBDA),
}
RANDOM = tuple(k for k, row in TABLE.items() if row is _drop)


class Exempt(NamedTuple):
  """Why a method breaks an invariant, and what holds in its place.

  Attributes:
    reason: what of the method breaks it.
    instead: `(method, model, merged)` asserts what holds.
    within: the tensors in which it is broken, in one at least.
  """

  reason: str
  instead: Callable[[MergeMethod, Model, dict[str, np.ndarray]], None]
  within: tuple[str, ...] = tuple(SHAPES)


def _copied(method, model, merged):
  """Each entry is the base's or the expert's, and both occur."""
  taken = left = 0
  for name, base in model.base.items():
    expert = model.experts[0][name]
    is_taken = np.isclose(merged[name], expert, rtol=1e-5, atol=0)
    is_left = merged[name] == base
    assert (is_taken | is_left).all()
    taken, left = taken + is_taken.sum(), left + is_left.sum()
  assert taken and left


def _spectrum(change):
  """The sum of all deltas, with other singular values."""

  def instead(method, model, merged):
    u, s, v = np.linalg.svd(model.deltas(MATRIX).sum(0), full_matrices=False)
    want = (u * change(s)) @ v
    assert is_near(merged[MATRIX] - model.base[MATRIX], want)

  return instead


def _zero(method, model, merged):
  """Where the base is zero, it comes back."""
  for tensor in merged.values():
    np.testing.assert_array_equal(tensor, np.zeros_like(tensor))


def _almost_zero(method, model, merged):
  for name, tensor in merged.items():
    assert np.abs(tensor).max() < 1e-9 * np.abs(model.deltas(name)).max()


def _uniform(method, model, merged):
  """Half of the entries are left, experts that agree there count alike."""
  for name, tensor in merged.items():
    deltas, kept = model.deltas(name), tensor != 0
    agrees = np.sign(deltas) == np.where(deltas.sum(0) >= 0, 1, -1)
    mean = (deltas * agrees).sum(0) / np.maximum(agrees.sum(0), 1)
    varying = np.count_nonzero(deltas.var(0))
    assert kept.sum() == varying // 2
    assert is_near(tensor, np.where(kept, mean, 0))


def _right_angle(method, model, merged):
  """Both are mixed as if their angle were right."""
  told = values(method, TABLE[key(method)].usual, 2)
  t = told['t'] if 't' in told else told['weight'][1] / sum(told['weight'])
  first, second = np.cos(t * np.pi / 2), np.sin(t * np.pi / 2)
  for name, tensor in merged.items():
    one, other = model.deltas(name)
    assert is_near(tensor, first * one + second * other)


def _long_mean(method, model, merged):
  """The weighted mean, as long as the weighted mean of lengths."""
  weights = np.array(_WEIGHT['weight']) / sum(_WEIGHT['weight'])
  for name, tensor in merged.items():
    deltas = model.deltas(name)
    mean = np.tensordot(weights, deltas, 1)
    lengths = [np.linalg.norm(delta) for delta in deltas]
    want = mean / np.linalg.norm(mean) * (weights @ lengths)
    assert is_near(tensor, want, 2e-3)


def _step_in_proportion(method, model, merged):
  """With the step scaled as the deltas are, the merge is."""
  smaller = model.of(lambda x: x / np.float32(8))
  less = merge(method, smaller, {'t': TABLE[key(method)].usual['t'] / 8})
  for name, tensor in merged.items():
    assert is_near(tensor, 8 * less[name])


def _expert(method, model, merged):
  for name, tensor in merged.items():
    np.testing.assert_array_equal(tensor, model.experts[0][name])


def _scaled_base(method, model, merged):
  for name, tensor in merged.items():
    assert is_near(tensor, 0.7 * model.base[name].astype('f8'))


def _with_the_base(method, model, merged):
  """Beside the base itself, an expert has no cosine: the base comes back."""
  both = merge(method, model._replace(experts=[model.experts[0], model.base]))
  for name, tensor in both.items():
    np.testing.assert_array_equal(tensor, model.base[name])


def _dense(**stated):
  """Told otherwise, the transpose gives the transposed merge."""

  def instead(method, model, merged):
    told = dict(TABLE[key(method)].usual) | stated
    flipped = {MATRIX: model.base[MATRIX].T}
    other = Model(
      flipped,
      [{MATRIX: expert[MATRIX].T} for expert in model.experts],
      model.statistics,
    )
    once, back = (merge(method, m, told)[MATRIX] for m in (model, other))
    assert is_near(back.T, once)

  return instead


def _by_rows(method, model, merged):
  """Each row is merged as if it were all."""
  for i, row in enumerate(merged[MATRIX]):
    alone = Model(
      {MATRIX: model.base[MATRIX][i]},
      [{MATRIX: expert[MATRIX][i]} for expert in model.experts],
      model.statistics,
    )
    assert is_near(merge(method, alone)[MATRIX], row)


def _same_law(method, model, merged):
  """Over many entries the order moves the sum by no more than chance."""
  large = draw(K, 3, shapes={MATRIX: (64, 64)})
  order = (2, 0, 1)
  told = values(method, TABLE[key(method)].usual, K)
  once = merge(method, large, told)[MATRIX]
  back = merge(method, large.ordered(order), reordered(method, told, order))
  _no_more_than_chance(back[MATRIX].astype('f8') - once)
  # All kept, there is no chance and no order.
  sure = told | {'density': 1.0}
  once = merge(method, large, sure)[MATRIX]
  back = merge(method, large.ordered(order), reordered(method, sure, order))
  assert is_near(back[MATRIX], once)


def _in_expectation(method, model, merged):
  """Dropping moves the sum of many entries by no more than chance."""
  large = copies(K, 3, {MATRIX: (64, 64)})
  told = _mean(K) | {'density': 0.5, 'normalize': 0.0}
  have = merge(method, large, told)[MATRIX].astype('f8')
  _no_more_than_chance(have - large.experts[0][MATRIX])


def _no_more_than_chance(differences):
  """Independent and without bias: the sum is within 5 standard errors."""
  assert (differences != 0).mean() > 0.2
  assert abs(differences.sum()) < 5 * np.sqrt(np.square(differences).sum())


def reordered(method, told, order):
  """Parameters for experts in another order."""
  found = dict(told)
  for p in method.parameters:
    if p.per_expert and isinstance(told[p.name], tuple):
      found[p.name] = tuple(told[p.name][k] for k in order)
    if p.name in TABLE[key(method)].roles:
      found[p.name] = float(order.index(int(told[p.name])))
  return found


def _violated(method, model, merged):
  """Nothing like it holds; the tests have seen that it is broken."""


def _shifted_rows(method, model, merged):
  """A number for each row, which no softmax sees, may be added."""
  rows = np.arange(8, dtype=np.float32)[:, None] / 4
  plain = Model(
    {MATRIX: model.base[MATRIX]},
    [{MATRIX: e[MATRIX]} for e in model.experts],
    model.statistics,
  )
  moved = plain.of(lambda x: x + rows, lambda x: x + rows)
  have, want = (merge(method, m)[MATRIX] for m in (moved, plain))
  assert is_near(have, want + rows)


_NO_SCALARS = (MATRIX, VECTOR)
_DROPPED = 'masks are drawn by entry and by position of the expert'
_SOFTMAX = 'importance is of softmaxes, which know no scale and no sign'
_ANGLES = 'turns weights, whose angles another origin changes'


def _isotropic(s):
  return np.full(len(s), s.mean())


def _isotropic_but_two(s):
  """Three common directions, and of the rest one that all experts share."""
  return np.where(np.arange(len(s)) < 4, s[:4].sum() / len(s), 0)


def _first_two_once(s):
  return np.where(np.arange(len(s)) < 2, s / K, 0)


_iso = Exempt('all singular values equal', _spectrum(_isotropic), (MATRIX,))
_important = Exempt('copies what is important', _copied, _NO_SCALARS)
_unlike = Exempt(_SOFTMAX, _copied, _NO_SCALARS)
_pair = Exempt('looks at pairs of experts', _with_the_base)
_floor = Exempt('changes up to 1e-5 count as none', _zero)
_plane = Exempt('short vectors are not normalised', _right_angle)
_stored_rows = Exempt('goes by rows as stored', _by_rows, (MATRIX,))
_largest = Exempt('takes the largest deltas', _expert)

EXEMPT = {
  'one': {
    'arcee_fusion/mergekit': _important,
    'iso_c/paper': _iso,
    'iso_cts/paper': _iso,
    'model_stock/mergekit': _pair,
    'model_stock/paper': _pair,
  },
  'none': {
    'passthrough/mergekit': Exempt('scales weights', _scaled_base),
  },
  'identical': {
    'arcee_fusion/mergekit': _important,
    'iso_c/paper': Exempt(
      'of the sum, with all singular values equal',
      _spectrum(_isotropic),
      (MATRIX,),
    ),
    'iso_cts/paper': Exempt(
      'isotropic, and what the experts do not have of their own is left out',
      _spectrum(_isotropic_but_two),
      (MATRIX,),
    ),
    'tsv_m/paper': Exempt(
      'keeps as many directions of each as there is room for',
      _spectrum(_first_two_once),
      (MATRIX,),
    ),
  },
  'copies': {
    k: Exempt(
      'each copy has a mask of its own',
      _in_expectation,
      # Rows of one entry are left as they are by DELLA.
      _NO_SCALARS if k.startswith('della') else tuple(SHAPES),
    )
    for k in RANDOM
  },
  'order': {k: Exempt(_DROPPED, _same_law) for k in RANDOM},
  'scale': {
    'arcee_fusion/mergekit': _unlike,
    'nearswap/mergekit': Exempt('a step of given size', _step_in_proportion),
  },
  'small': {
    'arcee_fusion/mergekit': _unlike,
    'karcher/mergekit': Exempt('norms up to `tol` count as none', _zero),
    'model_stock/mergekit': Exempt(
      'products of norms are at least 1e-6', _almost_zero
    ),
    'multislerp/mergekit': Exempt('`eps` is added to norms', _long_mean),
    'nearswap/mergekit': Exempt('a step larger than any delta', _expert),
    'nuslerp/mergekit': _plane,
    'ram/mergekit': _floor,
    'ramplus_tl/mergekit': _floor,
    'sce/mergekit': Exempt('a sum of squares below 1e-6 is none', _uniform),
    'slerp/mergekit': _plane,
  },
  'sign': {'arcee_fusion/mergekit': _unlike},
  'shift': {
    'arcee_fusion/mergekit': Exempt(
      'importance is of softmaxes of weights', _shifted_rows, _NO_SCALARS
    ),
    'karcher/mergekit': Exempt(_ANGLES, _violated),
    'passthrough/mergekit': Exempt('scales weights', _violated),
    'slerp/mergekit': Exempt(_ANGLES, _violated),
  },
  'transposed': {
    'arcee_fusion/mergekit': Exempt('softmaxes of rows', _copied, (MATRIX,)),
    'breadcrumbs/paper': _stored_rows,
    'breadcrumbs_ties/paper': _stored_rows,
    'iso_cts/paper': Exempt(
      'projects out left singular vectors only', _dense(common=1.0), (MATRIX,)
    ),
  }
  | {
    k: Exempt('masks belong to stored entries', _dense(density=1.0), (MATRIX,))
    for k in RANDOM
  },
}
