"""What merging_further_mergekit_0.1.5.npz records: tensors and cases.

Everything but the first methods of merging_golden.py: those that look at
angles, variances or overlaps, and the sparsifiers where they are exact. Random
masks cannot be had again; of those it records how often an entry is kept.
"""

import itertools

import numpy as np

TRIPLE = ((0.5, 0.3, 0.8), (1.0, 0.0, 0.0), (0.9, -0.4, 0.25))
SPARSE = (1.0, 0.0, 0.05, 0.5, 0.999, (0.9, 0.25, 0.1))
GAMMAS = (0.01, 0.0, 0.3, (0.2, 0.05, 0.6))
TIED = ('tied', 'zeros', 'one_moved', 'opposed')
REPEATS = 400
KEPT = (  # method, density, epsilon
  ('dare_linear', 0.3, None),
  ('dare_ties', 0.7, None),
  ('della_linear', 0.5, 0.15),
  ('della', 0.3, 0.2),
)


def tensors(seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """(base, experts) by name."""
  draw = np.random.default_rng(seed)

  def related(*shape, delta=0.1):
    base, common, *own = draw.normal(size=(5, *shape))
    deltas = [delta * (0.6 * common + 0.8 * each) for each in own]
    return base, base + np.stack(deltas)

  made = {
    'matrix': related(7, 9),
    'vector': related(13),
    'cube': related(3, 5, 4),
    'one': related(1),
    'column': related(6, 1),
    'small_deltas': related(5, 6, delta=3e-4),
    'large_deltas': related(12, 10, delta=1.0),
  }
  steps = draw.integers(-2, 3, size=(3, 11, 9)) / 4
  made['tied'] = (np.zeros((11, 9)), steps)
  base, delta, other = draw.integers(-32, 33, size=(3, 8, 6)) / 16
  made['no_deltas'] = (base, np.stack([base] * 3))
  made['equal'] = (base, np.stack([base + delta] * 3))
  made['one_moved'] = (base, np.stack([base + delta, base, base]))
  made['opposed'] = (base, np.stack([base + delta, base - delta, base + other]))
  made['zeros'] = (base, np.stack([0 * base, delta, other]))
  here = draw.random((3, 8, 6)) < 0.4
  made['sparse'] = (base, base + here * draw.normal(size=(3, 8, 6)))
  uneven = here * draw.normal(size=(3, 8, 6))
  uneven *= np.array([1.0, 1e-3, 1e-4])[:, None, None]
  made['uneven'] = (0 * base, uneven)
  return {
    name: (base.astype(np.float32), experts.astype(np.float32))
    for name, (base, experts) in made.items()
  }


def cases(made) -> list[dict]:
  """What is merged with which parameters."""
  listed = []

  def add(method, tensor, count=3, based=True, **parameters):
    listed.append(
      {
        'method': method,
        'tensor': tensor,
        'count': count,
        'based': based,
        'parameters': parameters,
      }
    )

  for tensor in made:
    _spherical(add, tensor)
    _of_deltas(add, tensor)
    _sparsified(add, tensor)
  return listed


def _spherical(add, tensor):
  for flatten, row_wise in ((True, False), (False, False), (False, True)):
    options = {'nuslerp_flatten': flatten, 'nuslerp_row_wise': row_wise}
    for based, weight in itertools.product(
      (True, False), ((0.5, 0.5), (1.0, 3.0), (-1.0, 3.0), (0.5, -0.5))
    ):
      # Of opposite vectors mergekit returns rounding.
      if not (tensor in ('opposed', 'tied', 'column', 'one') and based):
        add('nuslerp', tensor, 2, based, weight=weight, **options)
  for weight, normalize, based in itertools.product(
    TRIPLE, (True, False), (True, False)
  ):
    # Of signs that balance but for rounding mergekit returns rounding.
    if not (tensor == 'one' and weight == TRIPLE[0]):
      options = {'weight': weight, 'normalize_weights': normalize}
      add('multislerp', tensor, based=based, **options)
  for eps in (1e-3, 0.3):
    if tensor in ('matrix', 'cube', 'tied'):
      add('multislerp', tensor, weight=TRIPLE[0], eps=eps)
  add('multislerp', tensor, 1, weight=(0.7,), normalize_weights=False)
  if tensor == 'opposed':  # two that balance out
    for normalize in (True, False):
      weight = (0.75, 0.75)
      add('multislerp', tensor, 2, weight=weight, normalize_weights=normalize)
  # mergekit's float32 angles between nearly equal vectors are rounding.
  if tensor != 'small_deltas':
    for steps, tolerance in ((0, 1e-5), (2, 1e-5), (10, 1e-5), (10, 0.3)):
      add('karcher', tensor, based=False, max_iter=steps, tol=tolerance)
    for count in (1, 2):
      add('karcher', tensor, count, based=False)
  for scale in ((2.0,), (0.0,), (-0.3,), (1.0,)):
    add('passthrough', tensor, 1, based=False, scale=scale)


def _of_deltas(add, tensor):
  for count, filter_wise in itertools.product((2, 3), (False, True)):
    add('model_stock', tensor, count, filter_wise=filter_wise)
  for count in (1, 2, 3):
    for share in (1.0, 0.999, 0.5, 0.2, 0.0):
      # Which of equal variances stay is left to an unstable sort.
      if tensor not in TIED or count == 1 or share in (0.0, 1.0):
        add('sce', tensor, count, select_topk=share)
  for t in (0.0, 1e-7, 1e-3, 0.1, 2.0, -1.0):
    add('nearswap', tensor, 1, t=t)
  for epsilon in (1e-5, 0.05):
    for count in (1, 2, 3):
      add('ram', tensor, count, epsilon=epsilon)
      for r, alpha in ((0.1, 0.2), (1.0, 5.0)):
        strength = {'r': r, 'alpha': alpha}
        add('ramplus_tl', tensor, count, epsilon=epsilon, **strength)
  # mergekit's float32 divergence of close rows is rounding.
  if tensor in ('one', 'no_deltas', 'large_deltas', 'tied', 'opposed'):
    add('arcee_fusion', tensor, 1)


def _sparsified(add, tensor):
  if tensor not in ('matrix', 'vector', 'cube', 'one', 'tied', 'no_deltas'):
    return
  for i, (density, gamma) in enumerate(itertools.product(SPARSE, GAMMAS)):
    # Which of equal magnitudes stay is left to an unstable sort; alone, an
    # expert still shows how many and how large they are.
    weight = TRIPLE[1 if tensor == 'tied' else i % 3]
    shared = {
      'weight': weight,
      'density': density if isinstance(density, tuple) else (density,) * 3,
      'normalize': i % 2 == 0,
      'rescale': i % 4 < 2,
      'lambda': (1.0, 0.35)[i % 5 == 0],
    }
    gamma = gamma if isinstance(gamma, tuple) else (gamma,) * 3
    for method in ('breadcrumbs', 'breadcrumbs_ties'):
      add(method, tensor, **shared, gamma=gamma)
    if i % len(GAMMAS) == 0:
      add('ties', tensor, **shared | {'rescale': True})
      add('task_arithmetic', tensor, **shared | {'rescale': True})
  for weight, normalize, rescale in itertools.product(
    TRIPLE, (True, False), (True, False)
  ):
    every = {'weight': weight, 'normalize': normalize, 'rescale': rescale}
    for method in ('dare_linear', 'dare_ties', 'della_linear', 'della'):
      add(method, tensor, **every, density=(1.0,) * 3)
