"""Tiny models, layer programs over them, and the checkpoints they become."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax import trees
from automerge_jax.io import safetensors
from automerge_jax.merging import export, mixed, registry, resident
from automerge_jax.models import base
from automerge_jax.models import program as programs
from automerge_jax.models import registry as families
from automerge_jax.recipe import Recipe, Source
from automerge_jax.recipes.document import Scale, Slice
from automerge_jax.search import shared
from automerge_jax.types import LayerProgram
from tests import recorded

MODELS = ('one', 'two')
# Case: the model and the layer of each position, None for no layer, and scale.
PROGRAMS = {
  'bert_classifier': (
    ('two', 1, 0.7),
    ('one', 1, 1.25),
    None,
    ('one', 0, 1.0),
    ('two', 0, 0.9),
  ),
  'llama2': (('one', 1, 0.8), ('two', 0, 1.1), None, ('one', 1, 1.3)),
  'llama2_biases': (('two', 0, 1.2), ('two', 0, 0.6), ('one', 1, 1.0)),
  'qwen3': (None, ('one', 0, 1.15), ('two', 1, 0.85), ('two', 0, 1.0)),
  'gemma2': (
    ('one', 1, 0.8),
    ('two', 0, 1.2),
    ('one', 2, 1.0),
    None,
    ('one', 1, 1.4),
    ('two', 2, 0.75),
  ),
}


def random(case, draw):
  """A drawn program over the models of a case."""
  depth = recorded.config(case)['num_hidden_layers']
  count = len(PROGRAMS[case])
  drawn = [
    (
      MODELS[draw.integers(2)],
      int(draw.integers(depth)),
      round(float(draw.uniform(0.5, 1.5)), 3),
    )
    for _ in range(count)
  ]
  drawn[draw.integers(1, count)] = None
  return tuple(drawn)


def write(folder, case, seed=0):
  """Both models of a case as folders, the second far from the first."""
  config, stored = recorded.config(case), recorded.weights(case)
  draw = np.random.default_rng(seed)
  for model in MODELS:
    own = folder / model
    own.mkdir(parents=True)
    (own / 'config.json').write_text(json.dumps(config))
    safetensors.write(own, stored)
    stored = {
      name: (value + draw.integers(-4, 5, value.shape) / 64).astype(np.float32)
      for name, value in stored.items()
    }
  return folder


def recipe(family, program):
  """Passthrough slices of single layers."""
  slices = tuple(
    Slice(
      (Source(model, layers=(layer, layer + 1)),),
      scales=tuple(
        Scale(part, scale, offset) for part, offset in family.branches
      ),
    )
    for model, layer, scale in filter(None, program)
  )
  return Recipe('passthrough', slices)


def exported(folder, program):
  """Writes the checkpoint that a program makes of the models in a folder."""
  family = families.load(folder / MODELS[0]).family
  out = folder / 'merged'
  models = {model: folder / model for model in MODELS}
  export.export(recipe(family, program), models, out)
  return out


def searched(folder, program):
  """Family and params as a search has them, merged on the device."""
  family = families.load(folder / MODELS[0]).family
  stored = [safetensors.read(folder / model) for model in MODELS]
  method = mixed.of([registry.get('passthrough')])
  stack = resident.build(method, family, stored[0], stored)
  steps = [step or ('one', 0, 1.0) for step in program]
  model = jnp.array([MODELS.index(step[0]) for step in steps])
  active = np.array([step is not None for step in program])
  ends = np.flatnonzero(active)[[0, -1]]

  def of(path):
    if path.startswith('layers/'):
      first = model
    else:
      first = model[ends[int(path.startswith('final/'))]]
    plan = {'passthrough/first': first.astype(jnp.float32)}
    plan[mixed.METHOD] = jnp.zeros(first.shape)
    for p in method.parameters:
      lead = (len(MODELS),) * p.per_expert + first.shape
      plan.setdefault(p.name, jnp.full(lead, p.default, jnp.float32))
    return plan

  plan = {path: of(path) for path in trees.flatten(stack.base)}
  placed = LayerProgram(
    jnp.array([step[1] for step in steps]),
    jnp.array([step[2] for step in steps], jnp.float32),
    jnp.asarray(active),
  )

  def merged(plan, stack, placed):
    model = shared.merged(family, method, plan, stack, 'float32', placed)
    return model(None)[1]

  own = programs.family(family, placed)  # as in `merged`, outside its trace
  return own, jax.jit(merged)(plan, stack, placed)


def outputs(family, params, inputs):
  """Logits of tokens, or of classes as BERT's classifier has them."""

  def run(params, inputs):
    hidden = base.forward(family, params, inputs)
    if family.logits:
      return family.logits(params, hidden)
    pooler, final = params['final']['pooler'], params['final']
    high = jax.lax.Precision.HIGHEST
    pooled = jnp.matmul(hidden[:, 0], pooler['kernel'], precision=high)
    pooled = jnp.tanh(pooled + pooler['bias'][None])
    logits = jnp.matmul(pooled, final['classifier.weight'].T, precision=high)
    return logits + final['classifier.bias'][None]

  return np.asarray(jax.jit(run)(params, inputs))


def inputs(case):
  """Token inputs of a case."""
  given = recorded.inputs(case)
  return {name: given[name] for name in ('ids', 'mask')}


def real(case, found):
  """Outputs that are not of padding."""
  if found.ndim == 2:
    return found
  return found[inputs(case)['mask'] > 0]
