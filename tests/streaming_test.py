"""Merging by tensor: the same bits however it is cut up, run and stored."""

import json
import os
import pathlib
import subprocess
import sys
import threading
import time
import tracemalloc

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from automerge_jax.io import checkpoints, orbax
from automerge_jax.io import safetensors as st_io
from automerge_jax.merging import (
  budget,
  chunks,
  export,
  facts,
  plan,
  registry,
  resident,
  streaming,
)
from automerge_jax.merging.methods import masks
from automerge_jax.types import Stored
from tests import tiny_models

SEARCHED = ['task_arithmetic', 'ties', 'dare_ties', 'della']
EVERY = [m for found in registry.METHODS.values() for m in found.values()]
methods = pytest.mark.parametrize(
  'method', EVERY, ids=lambda m: f'{m.name}-{m.semantics}'
)


def _density(method):
  return {'density': 0.6} if method != 'task_arithmetic' else {}


def _merge(path, workers=None):
  """A recipe file's merge, as the engine hands it on."""
  recipe, folders = export.read(path)
  opened = {m: checkpoints.open_checkpoint(f) for m, f in folders.items()}
  found = plan.make(recipe, opened)
  merged = {
    s.output.name: np.zeros(s.info.size, s.info.dtype) for s in found.steps
  }
  written = {name: np.zeros(t.size, int) for name, t in merged.items()}

  def write(name, part, start):
    flat = part.reshape(-1)
    merged[name][start : start + flat.size] = flat
    written[name][start : start + flat.size] += 1

  streaming.run(found, opened, write, workers)
  assert all((times == 1).all() for times in written.values())
  return {
    s.output.name: merged[s.output.name].reshape(s.info.shape)
    for s in found.steps
  }


def _tensor(shape, seed, size=1.0):
  draw = np.random.default_rng(seed)
  return (size * draw.normal(size=shape)).astype(np.float32)


def _arguments(method, shape):
  """What `chunks.merge_tensor` takes, for any method."""
  count = method.sources[1] or 3
  base = _tensor(shape, 0)
  experts = [base + _tensor(shape, k + 1, 0.1) for k in range(count)]
  values = {}
  for p in method.parameters:
    value = p.default if p.default is not None else 0.4
    if p.high and not p.setting:
      value = round(p.low + 0.37 * (p.high - p.low), 3)
    values[p.name] = (value,) * count if p.per_expert else value
  statistics = {
    'fisher': np.square(np.stack(experts)),
    'fisher_norm': np.full(count, 20.0),
  }
  if len(shape) == 2:
    inputs = _tensor((count, 30, shape[1]), 9)
    statistics['gram'] = inputs.swapaxes(1, 2) @ inputs
  kept = {k: v for k, v in statistics.items() if k in method.statistics}
  whole = {}
  if method.whole:
    stack = resident.tensor_stack(method, base, experts)
    settings = facts.known(method, values, count)
    whole = method.whole(lambda: iter([('w', stack)]), settings)
  return method, values, base, experts, 'w', 3, kept, whole


@methods
def test_any_size_of_chunks(method, monkeypatch):
  arguments = _arguments(method, (11, 13))
  whole = chunks.merge_tensor(*arguments)
  assert np.isfinite(whole).all()
  # Compiled loops have a vectorised part and a remainder: entries change sides.
  for sizes in ((64, 16), (7,)):
    monkeypatch.setattr(chunks, '_SIZES', sizes)
    cut = chunks.merge_tensor(*arguments)
    np.testing.assert_array_equal(cut, whole, str(sizes))


@methods
@pytest.mark.parametrize('shape', [(), (1,), (0,), (0, 4), (3, 0), (1, 1)])
def test_degenerate_shapes(method, shape):
  merged = chunks.merge_tensor(*_arguments(method, shape))
  assert merged.shape == shape
  assert np.isfinite(merged).all()


@pytest.mark.parametrize('method', SEARCHED)
def test_workers_and_chunks_and_files(method, tmp_path, monkeypatch):
  models = tiny_models.family(tmp_path)
  parameters = _density(method)
  path = tiny_models.recipe(tmp_path, method, parameters=parameters)
  want = _merge(path, 1)
  assert any((want[n] != t).any() for n, t in models['base'].items())
  tiny_models.assert_same(_merge(path, 4), want)
  monkeypatch.setattr(chunks, '_SIZES', (64, 16))
  tiny_models.assert_same(_merge(path, 3), want)
  for name, tensors in models.items():
    (tmp_path / name).rename(tmp_path / f'{name}_single')
    tiny_models.write(tmp_path / name, tensors, shard='500B')
  assert len(list((tmp_path / 'e0').glob('*.safetensors'))) > 3
  tiny_models.assert_same(_merge(path, 3), want)


def test_orbax_inputs(tmp_path):
  tiny_models.family(tmp_path)
  keys = {'parameters': {'density': 0.5}, 'merge_method': 'ties'}
  path = tiny_models.recipe(tmp_path, **keys)
  want = _merge(path)
  for name in ('base', 'e0', 'e1'):
    with checkpoints.open_checkpoint(tmp_path / name) as source:
      orbax.save_checkpoint(tmp_path / 'orbax' / name, source)
  path.rename(tmp_path / 'orbax' / 'recipe.yaml')
  tiny_models.assert_same(_merge(tmp_path / 'orbax' / 'recipe.yaml'), want)


def test_a_merge_is_what_its_formula_says(tmp_path):
  models = tiny_models.family(tmp_path)
  merged = _merge(tiny_models.recipe(tmp_path))
  for name, base in models['base'].items():
    one, two = (models[e][name].astype(np.float64) - base for e in ('e0', 'e1'))
    want = base + 0.5 * one + 0.75 * two
    np.testing.assert_allclose(merged[name], want, atol=1e-6)


def test_the_iterator_gives_the_same(tmp_path):
  tiny_models.family(tmp_path)
  path = tiny_models.recipe(tmp_path, 'dare_ties', parameters={'density': 0.5})
  recipe, folders = export.read(path)
  tiny_models.assert_same(streaming.merge(recipe, folders), _merge(path))


# -- masks


@pytest.mark.parametrize('kind', ['BERNOULLI', 'MAGNITUDE'])
def test_a_mask_in_advance_is_the_level_compared(kind):
  """What an export draws is what the search compared with its densities."""
  fact = getattr(masks, kind)
  stack = _tensor((2, 70_001), 3)  # more than a block of draws
  found = {}
  for density in (None, (0.3, 0.704)):
    stated = {} if density is None else {'density': density}
    stored = Stored('w', np.zeros_like(stack[0]), stack, stated, 5)
    found[density] = fact.compute(stored, {})
  want = [
    masks.keeps(jnp.asarray(level), jnp.float32(density)) != 0
    for level, density in zip(found[None], (0.3, 0.704), strict=True)
  ]
  np.testing.assert_array_equal(found[(0.3, 0.704)], want)
  assert np.mean(want, axis=1) == pytest.approx([0.3, 0.704], abs=0.01)


def test_masks_follow_the_expert_the_tensor_and_the_seed():
  stack = np.ones((2, 4000), np.float32)

  def mask(name, seed):
    stored = Stored(name, stack[0], stack, {'density': (0.5, 0.5)}, seed)
    return masks.BERNOULLI.compute(stored, {})

  first = mask('a', 0)
  np.testing.assert_array_equal(mask('a', 0), first)
  for other in (first[::-1], mask('b', 0), mask('a', 1)):
    assert 0.4 < (other == first).mean() < 0.6


_RESIDENT = """
import json, sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from automerge_jax import trees
from automerge_jax.io import safetensors
from automerge_jax.merging import registry, resident
from automerge_jax.models import base as models
from automerge_jax.types import Family, Key

folder, out = sys.argv[1:]
assert len(jax.devices()) == 4
mesh = Mesh(np.array(jax.devices()), 'x')
tensors = [safetensors.read(f'{folder}/{m}') for m in ('base', 'e0', 'e1')]
keys = []
for name in tensors[0]:
  head, _, tail = name.partition('model.layers.')
  if tail:
    layer, _, path = tail.partition('.')
    keys.append(Key(name, f'layers/{path}', int(layer), 'proj' in path))
  else:
    keys.append(Key(name, f'stem/{name}', None, False))
family = Family('x', 2, None, None, None, None, tuple(keys), {})

def place(leaf):
  axes = [i for i, n in enumerate(leaf.shape) if n % 4 == 0 and n]
  names = [None] * leaf.ndim
  if axes:
    names[axes[-1]] = 'x'
  return jax.device_put(leaf, NamedSharding(mesh, PartitionSpec(*names)))

for method in json.loads(sys.stdin.read()):
  declared = registry.get(method)
  stack = resident.build(declared, family, tensors[0], tensors[1:], seed=7)
  stack = jax.tree.map(place, stack)
  spread = [len(x.sharding.device_set) for x in jax.tree.leaves(stack)]
  assert set(spread) == {4}
  stated = {'weight': [0.5, 0.75], 'density': [0.6, 0.6]}
  plan = {}
  for path, leaf in trees.flatten(stack.base).items():
    layers = (2,) if path.startswith('layers/') else ()
    plan[path] = {}
    for p in declared.parameters:
      value = np.float32(stated.get(p.name, p.default))
      value = np.broadcast_to(value.T, (*layers, 2) if p.per_expert else layers)
      plan[path][p.name] = value.T
  merged = jax.jit(lambda p, s: resident.merge(declared, p, s))(plan, stack)
  np.savez(f'{out}/{method}.npz', **models.unpack(family.keys, merged))
"""


def test_devices(tmp_path):
  """Leaves spread over four devices make what one merges by tensor."""
  tiny_models.family(tmp_path)
  done = subprocess.run(
    [sys.executable, '-c', _RESIDENT, str(tmp_path), str(tmp_path)],
    input=json.dumps(SEARCHED),
    capture_output=True,
    text=True,
    check=False,
    cwd=pathlib.Path(__file__).parents[1],
    env=os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=4'},
  )
  assert done.returncode == 0, done.stderr[-2000:]
  for method in SEARCHED:
    path = tiny_models.recipe(
      tmp_path, method, parameters=_density(method), seed=7
    )
    with np.load(tmp_path / f'{method}.npz') as resident:
      tiny_models.assert_same(_merge(path), dict(resident))


# -- types of numbers


@pytest.mark.parametrize('dtype', [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_merged_in_float32_and_cast_once(tmp_path, dtype):
  models = {'base': tiny_models.base()}
  models |= {
    e: tiny_models.tuned(models['base'], 1 + i)
    for i, e in enumerate(('e0', 'e1'))
  }
  narrow = {
    m: {n: t.astype(dtype) for n, t in tensors.items()}
    for m, tensors in models.items()
  }
  for kind, sub in ((None, 'narrow'), (np.float32, 'wide')):
    for model, tensors in narrow.items():
      held = {n: t.astype(kind or dtype) for n, t in tensors.items()}
      tiny_models.write(tmp_path / sub / model, held)
  in_float32 = _merge(tiny_models.recipe(tmp_path / 'wide'))
  once = {n: t.astype(dtype) for n, t in in_float32.items()}
  tiny_models.assert_same(_merge(tiny_models.recipe(tmp_path / 'narrow')), once)
  path = tiny_models.recipe(tmp_path / 'narrow', out_dtype='float32')
  tiny_models.assert_same(_merge(path), in_float32)


@pytest.mark.parametrize(
  'dtypes, widest',
  [
    (('float32', 'bfloat16', 'float32'), 'float32'),
    (('bfloat16', 'float16', 'float16'), 'float32'),
    (('float16', 'float64', 'float16'), 'float64'),
    (('bfloat16', 'float8_e4m3fn', 'float8_e5m2'), 'bfloat16'),
    (('float8_e5m2', 'float8_e4m3fn', 'float8_e5m2'), 'float32'),
    (('float8_e5m2', 'float8_e5m2', 'float8_e5m2'), 'float8_e5m2'),
  ],
)
def test_what_is_stored_holds_all_inputs(tmp_path, dtypes, widest):
  models = tiny_models.family(tmp_path)
  for (model, tensors), dtype in zip(models.items(), dtypes, strict=True):
    held = {n: t.astype(np.dtype(dtype)) for n, t in tensors.items()}
    tiny_models.write(tmp_path / 'typed' / model, held)
  merged = _merge(tiny_models.recipe(tmp_path / 'typed'))
  assert {t.dtype for t in merged.values()} == {np.dtype(widest)}


@pytest.mark.parametrize('method', ['task_arithmetic', 'linear'])
@pytest.mark.parametrize('base_dtype', [np.int64, np.int32])
def test_integers_are_those_of_the_base(tmp_path, method, base_dtype):
  models = tiny_models.family(tmp_path)
  for i, (name, tensors) in enumerate(models.items()):
    dtype = base_dtype if name == 'base' else np.int64
    tensors['model.ids'] = np.arange(5, dtype=dtype)[None] + i
    tensors['model.flags'] = np.array([True, i > 0])
    st_io.write(tmp_path / name, tensors)
  keys = {'parameters': {'weight': 1}}
  merged = _merge(tiny_models.recipe(tmp_path, method, **keys))
  copied = ('model.ids', 'model.flags')
  tiny_models.assert_same(
    {n: merged[n] for n in copied}, {n: models['base'][n] for n in copied}
  )


def test_scalars_and_tensors_without_elements(tmp_path):
  models = tiny_models.family(tmp_path)
  for i, (name, tensors) in enumerate(models.items()):
    tensors['model.scale'] = np.asarray(np.float32(i))
    tensors['model.none'] = np.zeros((0, 4), np.float32)
    st_io.write(tmp_path / name, tensors)
  merged = _merge(tiny_models.recipe(tmp_path))
  assert merged['model.scale'] == 0.5 * 1 + 0.75 * 2
  assert merged['model.none'].shape == (0, 4)


# -- what is refused


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('method', ['task_arithmetic', 'ties'])
@pytest.mark.parametrize('model', ['base', 'e1'])
def test_inputs_that_are_not_finite(tmp_path, value, method, model):
  models = tiny_models.family(tmp_path)
  name = 'model.layers.1.mlp.up_proj.weight'
  models[model][name][-1, -1] = value
  st_io.write(tmp_path / model, models[model])
  path = tiny_models.recipe(tmp_path, method, parameters=_density(method))
  with pytest.raises(ValueError, match=f'{model} has .*{name}'):
    _merge(path, 2)


def test_weights_that_sum_to_zero(tmp_path):
  tiny_models.family(tmp_path)
  sources = [
    {'model': model, 'parameters': {'weight': weight}}
    for model, weight in (('e0', 1), ('e1', -1))
  ]
  path = tiny_models.recipe(tmp_path, 'linear', base_model=None, models=sources)
  with pytest.raises(
    ValueError, match=r'linear of tensor .* is not finite'
  ) as e:
    _merge(path)
  assert "'weight': (1.0, -1.0)" in str(e.value)


@pytest.mark.parametrize(
  'dtype', [np.float16, ml_dtypes.float8_e4m3fn], ids=str
)
def test_numbers_too_large_for_what_is_stored(tmp_path, dtype):
  models = tiny_models.family(tmp_path)
  largest = ml_dtypes.finfo(dtype).max
  for model, tensors in models.items():
    tensors['model.norm.weight'][3] = largest if model != 'base' else 0
    held = {n: t.astype(dtype) for n, t in tensors.items()}
    st_io.write(tmp_path / model, held)
  path = tiny_models.recipe(tmp_path)  # 0.5 + 0.75 of the largest
  with pytest.raises(ValueError, match=r'model\.norm\.weight.*out_dtype'):
    _merge(path)
  stored = 'float32' if dtype != np.float16 else 'bfloat16'
  merged = _merge(tiny_models.recipe(tmp_path, out_dtype=stored))
  have = float(merged['model.norm.weight'][3])
  assert have == pytest.approx(1.25 * float(largest), rel=1e-2)


def test_shapes_and_names_that_differ(tmp_path):
  models = tiny_models.family(tmp_path)
  path = tiny_models.recipe(tmp_path)
  name = 'model.layers.0.mlp.up_proj.weight'
  st_io.write(tmp_path / 'e0', models['e0'] | {name: np.ones((4, 8), 'f4')})
  with pytest.raises(ValueError, match='1 tensors have different') as error:
    _merge(path)
  assert f'{name}: e0 [4, 8], e1 [20, 8], base [20, 8]' in str(error.value)
  missing = {n: t for n, t in models['e0'].items() if n != name}
  st_io.write(tmp_path / 'e0', missing | {'model.more': np.ones(2, 'f4')})
  with pytest.raises(ValueError, match='models differ in ') as error:
    _merge(path)
  assert name in str(error.value)
  assert 'model.more' in str(error.value)


def test_the_first_failure_stops_the_rest(tmp_path):
  models = tiny_models.family(tmp_path)
  path = tiny_models.recipe(tmp_path)
  recipe, folders = export.read(path)
  opened = {m: checkpoints.open_checkpoint(f) for m, f in folders.items()}
  found = plan.make(recipe, opened)
  largest = max(found.steps, key=lambda step: step.info.size).output.name
  begun = []

  def write(name, part, start):
    del part, start
    begun.append(name)
    if name == largest:
      raise OSError(28, 'no room')
    time.sleep(0.2)

  with pytest.raises(OSError, match='no room'):
    streaming.run(found, opened, write, 2)
  assert largest in begun
  assert len(begun) < len(models['base']) - 2
  count = len(begun)
  time.sleep(0.4)
  assert len(begun) == count  # no thread goes on


# -- memory


def test_a_budget_is_never_overdrawn():
  shared, held, most = budget.Budget(10), [0], [0]
  lock = threading.Lock()

  def work(cost):
    for _ in range(20):
      with shared.spend(cost):
        with lock:
          held[0] += cost
          most[0] = max(most[0], held[0])
        time.sleep(1e-4)
        with lock:
          held[0] -= cost

  threads = [threading.Thread(target=work, args=(c,)) for c in (1, 3, 4, 6, 10)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join(30)
    assert not thread.is_alive()
  assert 6 <= most[0] <= 10
  assert held == [0]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('method', ['task_arithmetic', 'ties', 'dare_ties'])
def test_memory_of_a_huge_tensor(tmp_path, method, dtype, monkeypatch):
  """Traced memory of NumPy stays within what the plan reckons with."""
  monkeypatch.setattr(chunks, '_SIZES', (1 << 14,))
  monkeypatch.setattr(plan, 'CHUNK', 1 << 14)
  size, count = 1 << 20, 3
  draw = np.random.default_rng(0)
  for model in ('base', *(f'e{k}' for k in range(count))):
    tensor = draw.normal(size=(size // 64, 64)).astype(np.float32)
    tensors = {'w': tensor.astype(np.dtype(dtype))}
    tiny_models.write(tmp_path / model, tensors)
  path = tiny_models.recipe(
    tmp_path, method, count, parameters=_density(method)
  )
  recipe, folders = export.read(path)
  opened = {m: checkpoints.open_checkpoint(f) for m, f in folders.items()}
  found = plan.make(recipe, opened)

  def run():
    streaming.run(found, opened, lambda *part: None, 2)

  run()  # compiles
  tracemalloc.start()
  run()
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  reckoned = plan.working_set(found.steps[0])
  # In a process that has done much else, some 1.3 MB are none of the merge's;
  # a whole stack would be 12 MB.
  assert peak < 1.1 * reckoned + (2 << 20)
  if method == 'task_arithmetic':  # in chunks alone
    assert peak < 4 * size
