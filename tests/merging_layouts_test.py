"""One merge, two layouts: stacked on the device and streamed by tensor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax import recipe, trees
from automerge_jax.io import safetensors
from automerge_jax.merging import (
  chunks,
  facts,
  measured,
  registry,
  resident,
  streaming,
)
from automerge_jax.models import base as models
from automerge_jax.models import bert

K = 3
# Nine layers: compiled loops then have a vectorised part and a remainder.
CONFIG = bert.Config(
  vocab_size=31,
  hidden_size=12,
  num_layers=9,
  num_heads=2,
  mlp_size=20,
  max_positions=8,
  type_vocab_size=2,
  layer_norm_eps=1e-12,
  pooler=True,
)
EVERY = [
  method for found in registry.METHODS.values() for method in found.values()
]
methods = pytest.mark.parametrize(
  'method', EVERY, ids=lambda m: f'{m.name}-{m.semantics}'
)


@pytest.fixture(scope='module')
def family():
  return bert.family(CONFIG)


@pytest.fixture(scope='module')
def base(family):
  """Random stored tensors, shaped by the family itself."""
  inputs = {'ids': jnp.zeros((1, 4), int), 'mask': jnp.ones((1, 4), int)}
  key = jax.random.key(0)
  stem = bert.Stem(CONFIG).init(key, inputs['ids'])['params']
  carry = family.embed({'stem': stem}, inputs)
  block = bert.Block(CONFIG).init(key, *carry)['params']
  size = CONFIG.hidden_size
  shapes = {
    'stem': stem,
    'layers': jax.tree.map(lambda x: np.stack([x] * CONFIG.num_layers), block),
    'final': {
      'pooler': {'kernel': np.zeros((size, size)), 'bias': np.zeros(size)}
    },
  }
  draw = np.random.default_rng(4)
  return {
    name: draw.normal(size=tensor.shape).astype(np.float32)
    for name, tensor in models.unpack(family.keys, shapes).items()
  }


@pytest.fixture(scope='module')
def experts(base):
  """Experts whose deltas often tie in magnitude, as rounded weights do."""
  draw = np.random.default_rng(5)
  return [
    {
      name: (tensor + draw.integers(-6, 7, tensor.shape) / 64).astype('f4')
      for name, tensor in base.items()
    }
    for _ in range(K)
  ]


@pytest.fixture(scope='module')
def statistics(family, base):
  """Of each expert what data would tell: Grams of linear layers only."""
  draw = np.random.default_rng(6)
  linear = [k.stored for k in family.keys if k.path.endswith('/kernel')]
  inputs = {n: draw.normal(size=(K, 40, base[n].shape[1])) for n in linear}
  return [
    {
      'fisher': {
        name: np.square(draw.normal(size=tensor.shape)).astype('f4')
        for name, tensor in base.items()
      },
      'fisher_norm': dict.fromkeys(base, np.float64(20 + k)),
      'gram': {n: (x[k].T @ x[k]).astype('f4') for n, x in inputs.items()},
    }
    for k in range(K)
  ]


def _plan(method, family, params, seed):
  """Random coefficients in thousandths, different in each leaf and layer."""
  draw = np.random.default_rng(seed)
  count = min(K, method.sources[1] or K)
  plan = {}
  for path in trees.flatten(params):
    layers = (family.num_layers,) if path.startswith('layers/') else ()
    plan[path] = {}
    for p in method.parameters:
      shape = (count, *layers) if p.per_expert else layers
      drawn_shape = shape
      if method.whole:  # one number for all tensors
        draw, drawn_shape = np.random.default_rng(seed), shape[: p.per_expert]
      drawn = (
        np.round(draw.uniform(p.low, p.high, drawn_shape), 3)
        if p.high
        else np.full(drawn_shape, p.default)
      )
      if method.whole:
        extended = np.reshape(drawn, (*drawn_shape, *(1 for _ in layers)))
        drawn = np.broadcast_to(extended, shape)
      plan[path][p.name] = jnp.asarray(drawn, jnp.float32)
  return plan


def _by_tensor(method, family, plan, base, experts, statistics):
  """The same merge, one stored tensor at a time."""
  merged, count, whole = {}, method.sources[1] or K, None
  for key in family.keys:
    values = {}
    for p in method.parameters:
      value = np.asarray(plan[key.path][p.name], np.float64).round(3)
      values[p.name] = (
        value if key.layer is None else value[..., key.layer]
      ).tolist()
      if p.setting:  # facts take it as it is stated
        values[p.name] = (p.default,) * count if p.per_expert else p.default
    if method.whole and whole is None:
      settings = facts.known(method, values, count)
      whole = method.whole(
        lambda: (
          (name, np.stack([e[name] for e in experts[:count]]) - base[name])
          for name in base
        ),
        settings,
      )
    merged[key.stored] = chunks.merge_tensor(
      method,
      values,
      base[key.stored],
      [expert[key.stored] for expert in experts[:count]],
      key.stored,
      statistics=measured.of_tensor(method, statistics, key.stored),
      whole=whole,
    )
  return merged


@methods
@pytest.mark.parametrize('seed', [0, 1])
def test_stacked_and_streamed_give_the_same_bits(
  method, seed, family, base, experts, statistics
):
  experts = experts[: method.sources[1]]
  stack = resident.build(method, family, base, experts, statistics=statistics)
  plan = _plan(method, family, stack.base, seed)
  merged = jax.jit(lambda p, s: resident.merge(method, p, s))(plan, stack)
  stacked = models.unpack(family.keys, merged)
  streamed = _by_tensor(method, family, plan, base, experts, statistics)
  assert set(stacked) == set(streamed) == set(base)
  for stored, tensor in streamed.items():
    np.testing.assert_array_equal(stacked[stored], tensor, stored)
  changed = [(t != base[stored]).any() for stored, t in streamed.items()]
  assert any(changed)  # but a method may leave a tensor as it was


@methods
def test_jit_equals_eager_on_a_whole_model(
  method, family, base, experts, statistics
):
  experts = experts[: method.sources[1]]
  stack = resident.build(method, family, base, experts, statistics=statistics)
  plan = _plan(method, family, stack.base, 2)
  jitted = jax.jit(lambda p, s: resident.merge(method, p, s))(plan, stack)
  eager = resident.merge(method, plan, stack)
  for path, leaf in trees.flatten(eager).items():
    np.testing.assert_allclose(
      trees.flatten(jitted)[path], leaf, rtol=1e-6, atol=1e-6, err_msg=path
    )


@pytest.mark.parametrize(
  'method',
  [method for method in EVERY if method.parameters],  # else all are one
  ids=lambda m: f'{m.name}-{m.semantics}',
)
def test_mapped_over_candidates_gives_the_same_bits(
  method, family, base, experts, statistics
):
  experts = experts[: method.sources[1]]
  stack = resident.build(method, family, base, experts, statistics=statistics)
  plans = [_plan(method, family, stack.base, seed) for seed in (3, 4)]
  both = jax.tree.map(lambda *leaves: jnp.stack(leaves), *plans)
  one = jax.jit(lambda p, s: resident.merge(method, p, s))
  all_at_once = jax.jit(
    lambda p, s: jax.lax.map(lambda q: resident.merge(method, q, s), p)
  )(both, stack)
  for i, plan in enumerate(plans):
    merged = trees.flatten(one(plan, stack))
    for path, leaf in trees.flatten(all_at_once).items():
      np.testing.assert_array_equal(leaf[i], merged[path], path)


def test_missing_tensor_of_an_expert_is_named(family, base, experts):
  broken = dict(experts[1])
  del broken['pooler.dense.bias']
  broken['embeddings.LayerNorm.bias'] = np.zeros(3, np.float32)
  with pytest.raises(ValueError, match='expert 1 against') as error:
    resident.build(registry.get('ties'), family, base, [experts[0], broken])
  assert '- pooler.dense.bias' in str(error.value)
  assert '! embeddings.LayerNorm.bias: shape (3,)' in str(error.value)


def test_half_precision_is_merged_and_integers_are_copied(tmp_path):
  folders = {}
  for i, model in enumerate(('base', 'expert')):
    folders[model] = tmp_path / model
    half = jnp.full((3, 2), 1 + i, jnp.bfloat16)
    tensors = {'half.weight': np.asarray(half), 'ids': np.arange(4)}
    safetensors.write(folders[model], tensors)
  wanted = recipe.from_yaml("""
merge_method: task_arithmetic
base_model: base
models: [{model: expert, parameters: {weight: 0.5}}]
""")
  merged = streaming.merge(wanted, folders)
  np.testing.assert_array_equal(merged['half.weight'], np.full((3, 2), 1.5))
  np.testing.assert_array_equal(merged['ids'], np.arange(4))
