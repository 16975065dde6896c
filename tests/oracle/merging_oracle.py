"""Merge methods against mergekit, live, on stacks drawn anew."""

import base64
import json
import pathlib
import subprocess

import merging_replay
import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.oracle
ROOT = pathlib.Path(__file__).parents[2]
PYTHON = ROOT / '.venv-peers' / 'bin' / 'python'
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
many = settings(
  max_examples=150,
  deadline=None,
  suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize('seed', [1, 2, 3])
def test_same_as_mergekit(ask_peer, seed):
  recorded = ask_peer('oracle/merging_peer.py', 'first', seed=seed)
  for method in ('linear', 'task_arithmetic', 'ties', 'slerp'):
    count, worst, case = merging_replay.largest_difference(recorded, method)
    assert count >= 40
    assert worst <= 1e-6, case
    print(f'{method}: {count} cases, largest difference {worst:.1e}')


@pytest.mark.parametrize('seed', [1, 2])
def test_further_methods_are_the_same_as_mergekits(ask_peer, seed):
  recorded = ask_peer('oracle/merging_peer.py', 'further', seed=seed)
  for method, at_least in merging_replay.FURTHER.items():
    count, worst, case = merging_replay.largest_difference(recorded, method)
    assert count >= at_least
    # Rows that almost oppose each other amplify rounding.
    assert worst <= (1e-5 if method == 'model_stock' else 2e-6), case
    print(f'{method}: {count} cases, largest difference {worst:.1e}')


@pytest.fixture(scope='module')
def mergekit():
  """`(case, base, experts, dtype) -> merged`, by one process for all."""
  if not PYTHON.exists():
    pytest.fail(f'{PYTHON} is missing; run `make peers`')
  script = ROOT / 'tests' / 'oracle' / 'merging_peer.py'
  with subprocess.Popen(
    [str(PYTHON), str(script), 'serve'],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as process:

    def merge(case, base, experts, dtype='float32'):
      def text(array):
        return base64.b64encode(np.asarray(array, 'f4').tobytes()).decode()

      asked = {
        'case': case,
        'dtype': dtype,
        'shape': base.shape,
        'base': text(base),
        'experts': [text(expert) for expert in experts],
      }
      print(json.dumps(asked), file=process.stdin, flush=True)
      answer = json.loads(process.stdout.readline())
      if 'error' in answer:
        raise ValueError(answer['error'])
      flat = np.frombuffer(base64.b64decode(answer['merged']), np.float32)
      return flat.reshape(base.shape)

    yield merge
    process.stdin.close()


_thousandths = st.integers(0, 1000).map(lambda i: i / 1000)
_weights = st.integers(-50, 150).map(lambda i: i / 100)
_flags = st.booleans()


def _each(count, values):
  return st.lists(values, min_size=count, max_size=count)


def _elected(count, **further):
  return st.fixed_dictionaries(
    {
      'weight': _each(count, _weights),
      'density': _each(count, _thousandths),
      'normalize': _flags,
      'lambda': _weights,
      'rescale': _flags,
      **further,
    }
  )


def _dense(count, **further):
  """Random masks that keep everything."""
  return _elected(count, density=st.just([1.0] * count), **further)


_gammas = st.integers(0, 400).map(lambda i: i / 1000)
_epsilons = st.sampled_from([1e-5, 0.01, 0.1])
# Parameters by method, given the number of experts.
PARAMETERS = {
  'linear': lambda k: st.fixed_dictionaries(
    {'weight': _each(k, _weights), 'normalize': _flags}
  ),
  'slerp': lambda k: st.fixed_dictionaries({'t': _thousandths}),
  'nuslerp': lambda k: st.fixed_dictionaries(
    {
      'weight': _each(k, _weights),
      'nuslerp_flatten': _flags,
      'nuslerp_row_wise': _flags,
    }
  ),
  'multislerp': lambda k: st.fixed_dictionaries(
    {'weight': _each(k, _weights), 'normalize_weights': _flags}
  ),
  'karcher': lambda k: st.fixed_dictionaries(
    {'max_iter': st.integers(0, 12), 'tol': st.sampled_from([1e-5, 1e-2])}
  ),
  'passthrough': lambda k: st.fixed_dictionaries({'scale': _each(k, _weights)}),
  'model_stock': lambda k: st.fixed_dictionaries({'filter_wise': _flags}),
  'sce': lambda k: st.fixed_dictionaries({'select_topk': _thousandths}),
  'nearswap': lambda k: st.fixed_dictionaries({'t': _thousandths}),
  'ram': lambda k: st.fixed_dictionaries({'epsilon': _epsilons}),
  'ramplus_tl': lambda k: st.fixed_dictionaries(
    {'epsilon': _epsilons, 'r': _thousandths, 'alpha': _thousandths}
  ),
  'arcee_fusion': lambda k: st.just({}),
  'task_arithmetic': _elected,
  'ties': _elected,
  'breadcrumbs': lambda k: _elected(k, gamma=_each(k, _gammas)),
  'breadcrumbs_ties': lambda k: _elected(k, gamma=_each(k, _gammas)),
  'dare_linear': _dense,
  'dare_ties': _dense,
  'della': _dense,
  'della_linear': _dense,
}
COUNTS = {
  'slerp': (2, 2),
  'nuslerp': (2, 2),
  'passthrough': (1, 1),
  'nearswap': (1, 1),
  'arcee_fusion': (1, 1),
  'model_stock': (2, 4),
}


# How far mergekit's bfloat16 arithmetic strays, in 256ths of the inputs; where
# it decides signs, overlaps or quantiles, it may decide otherwise altogether.
STRAYS = dict.fromkeys(
  (
    'linear',
    'slerp',
    'nuslerp',
    'karcher',
    'passthrough',
    'nearswap',
    'task_arithmetic',
    'dare_linear',
    'della_linear',
  ),
  4,
) | {'multislerp': 16}


@st.composite
def merges(draw, method):
  """(case, base, experts) of one method, of any small shape."""
  least, most = COUNTS.get(method, (1, 4))
  count = draw(st.integers(least, most))
  shape = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)))
  random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
  size = draw(st.sampled_from([1e-3, 0.1, 1.0]))
  if method == 'arcee_fusion':  # whose float32 divergences may be rounding
    size = 1.0
  base, common = random.normal(size=(2, *shape))
  deltas = random.normal(size=(count, *shape)) + common
  if draw(_flags):  # many entries that nobody moved
    deltas *= random.random(deltas.shape) < 0.4
  if draw(st.integers(0, 5)) == 0:  # an expert that is the base
    deltas[0] = 0
  case = {
    'method': method,
    'count': count,
    'parameters': draw(PARAMETERS[method](count)),
  }
  case['based'] = (
    draw(_flags)
    if method in ('nuslerp', 'multislerp')
    else method not in ('linear', 'slerp', 'karcher', 'passthrough')
  )
  experts = (base + size * deltas).astype(np.float32)
  return case, base.astype(np.float32), experts


def amplified(case, base, experts):
  """By how much a method amplifies the rounding of its inputs, about.

  Weights may almost cancel, arcs be almost half a circle and cosines almost
  opposite: results are then many times the inputs, or differences of such.
  """
  method, told = case['method'], case['parameters']
  stack = experts.astype(np.float64) - (base if case['based'] else 0)
  flat = stack.reshape(len(stack), -1)
  norms = np.linalg.norm(flat, axis=1)
  factor = 1.0
  if 'weight' in told:
    weight = np.array(told['weight'])
    factor = max(1.0, np.abs(weight).sum())
    divides = told.get('normalize', told.get('normalize_weights', True))
    if (divides and method != 'multislerp') or method == 'nuslerp':
      total = abs(weight.sum())
      if method == 'linear' and not total:
        return np.inf
      factor /= total if total > 1e-6 else 1.0
    if told.get('normalize') and method.endswith(('ties', 'della')):
      factor /= max(np.abs(weight[weight != 0]).min(initial=1.0), 1e-6)
  if method == 'nuslerp':
    a, b = stack
    if told['nuslerp_flatten'] or a.ndim < 2:
      a, b = flat
      axis = 0
    else:
      axis = 0 if told['nuslerp_row_wise'] else -1
    product = np.linalg.norm(a, axis=axis) * np.linalg.norm(b, axis=axis)
    cosine = (a * b).sum(axis) / np.where(product > 0, product, 1)
    factor /= np.sqrt(np.maximum(1 + cosine.min(), 1e-12) / 2)
    # Far beyond both ends an error of mergekit's float32 angle counts t times.
    factor /= np.sqrt(np.maximum(1 - cosine.max() ** 2, 1e-12)) ** (factor > 10)
  if method == 'multislerp' and len(stack) > 1:
    if told['normalize_weights']:
      if not weight.sum():
        return np.inf
      weight = weight / weight.sum()
    units = flat / np.where(norms > 0, norms, 1)[:, None]
    length = np.linalg.norm(weight @ units)
    factor = (np.abs(weight).sum() ** 2 + 1) / max(length, 1e-12)
  if method == 'karcher':
    units = flat / np.where(norms > 0, norms, 1)[:, None]
    cosines = units @ units.T
    np.fill_diagonal(cosines, 0)
    factor /= np.maximum(1 - np.abs(cosines).max(), 1e-12)
  if method == 'model_stock':
    axis = -1 if told['filter_wise'] else None
    d = stack if told['filter_wise'] else flat
    axis = -1
    lengths = np.linalg.norm(d, axis=axis)
    count, total = len(d), 0
    for i in range(count):
      for j in range(i):
        product = np.maximum(lengths[i] * lengths[j], 1e-6)
        total = total + (d[i] * d[j]).sum(axis) / product
    mean = total / (count * (count - 1) / 2)
    factor /= np.maximum(np.min(1 + (count - 1) * mean), 1e-12) ** 2
  return max(factor, 1.0)


@pytest.mark.parametrize('method', PARAMETERS)
def test_any_merge_is_the_same_as_mergekits(mergekit, method):
  worst, compared = 0.0, 0

  @many
  @given(drawn=merges(method))
  def check(drawn):
    nonlocal worst, compared
    case, base, experts = drawn
    factor = amplified(case, base, experts)
    assume(np.isfinite(factor) and factor < 1e4)
    try:
      theirs = mergekit(case, base, experts)
    except ValueError as error:
      assume('antipodal' not in str(error))
      raise
    used = base if case['based'] else None
    ours = merging_replay.by_tensor(case, used, experts)
    scale = max(np.abs(base).max(), np.abs(experts).max())
    difference = np.abs(ours - theirs).max() / scale / factor
    worst, compared = max(worst, difference), compared + 1
    assert difference <= 1e-6

  check()
  assert compared >= 75
  print(f'{method}: {compared} merges, largest difference {worst:.1e}')


@pytest.mark.parametrize('method', PARAMETERS)
def test_bfloat16_is_merged_exactly_and_rounded_once(mergekit, method):
  """Exactly: as mergekit does in float32; its bfloat16 is less exact."""
  worst, theirs_worst, compared = 0.0, 0.0, 0

  @many
  @given(drawn=merges(method))
  def check(drawn):
    nonlocal worst, theirs_worst, compared
    case, *arrays = drawn
    base, experts = (a.astype(BFLOAT16).astype('f4') for a in arrays)
    if 'density' in case['parameters']:  # equal bfloat16 magnitudes are many
      case['parameters']['density'] = [1.0] * case['count']
    if method == 'sce':
      case['parameters']['select_topk'] = 1.0
    factor = amplified(case, base, experts)
    assume(np.isfinite(factor) and factor < 10)
    try:
      theirs = mergekit(case, base, experts, 'bfloat16')
      exact = mergekit(case, base, experts)
    except ValueError as error:
      assume('antipodal' not in str(error))
      raise
    used = base.astype(BFLOAT16) if case['based'] else None
    merged = merging_replay.by_tensor(case, used, experts.astype(BFLOAT16))
    ours = merged.astype(BFLOAT16).astype('f4')
    scale = max(np.abs(a).max() for a in (base, experts, exact)) * factor
    difference = np.abs(ours - exact).max() / scale * 256
    strays = np.abs(theirs - exact).max() / scale * 256
    worst, theirs_worst = max(worst, difference), max(theirs_worst, strays)
    compared += 1
    assert difference <= 1.01  # half a unit in the last place
    if method in STRAYS:
      assert np.abs(ours - theirs).max() / scale * 256 <= STRAYS[method]

  check()
  assert compared >= 75
  print(
    f'{method}: {compared} merges, largest differences from exact ours '
    f'{worst:.2f} / 256, theirs {theirs_worst:.2f} / 256'
  )
