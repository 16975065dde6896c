"""Tiny random Llamas of any depth: a base and experts, as folders."""

import json

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax import trees
from automerge_jax.io import safetensors
from automerge_jax.merging import layers, resident
from automerge_jax.models import llama
from automerge_jax.models import program as programs
from automerge_jax.search import restacked
from tests import tiny_decoder

EXPERTS = ('one', 'two', 'three')
BASE = 'base'


def family(depth, tied=True):
  """The family alone: spaces need no weights."""
  return llama.family(
    llama.config_from_hf(_config(depth, tied), list(_tensors(depth, 0, tied)))
  )


def write(folder, depth, tied=True):
  """Writes base and experts; folders and tensors by name."""
  folders, found = {}, {}
  for seed, name in enumerate((BASE, *EXPERTS)):
    found[name] = _tensors(depth, seed, tied)
    folders[name] = folder / name
    folders[name].mkdir(parents=True)
    (folders[name] / 'config.json').write_text(json.dumps(_config(depth, tied)))
    safetensors.write(folders[name], found[name])
  return folders, found


def stack(method, family, tensors, experts=EXPERTS):
  """What `resident.merge` merges."""
  weights = [tensors[name] for name in experts]
  return resident.build(method, family, tensors[BASE], weights)


def merger(family, method, stack):
  """`(space, c) -> stored tensors` of a candidate, as it is scored.

  Compiled once for a space.
  """

  def compiled(space):
    @jax.jit
    def run(c, stack):
      program = space.program(c)
      layer = jnp.where(program.active, program.layer, -1)
      merged = resident.merge(method, space.decode(c), stack, layer)
      params = programs.fold(family, merged, program.scale)
      return trees.flatten(params), program.active.sum()

    return run

  runs = {}

  def merge(space, c):
    if id(space) not in runs:
      runs[id(space)] = compiled(space)
    run = runs[id(space)]
    leaves, depth = jax.device_get(run(jnp.asarray(c), stack))
    found = {}
    for key in restacked.keys(family, int(depth)):
      leaf = leaves[key.path]
      leaf = leaf if key.layer is None else leaf[key.layer]
      found[key.stored] = leaf.T if key.transpose else leaf
    return found

  return merge


def differences(streamed, resident_, exact):
  """Names of the tensors that differ (by more than an ulp of the largest)."""
  assert set(streamed) == set(resident_)
  limit = 0.0 if exact else 2e-7
  return [
    name
    for name, tensor in streamed.items()
    if np.abs(tensor - resident_[name]).max() > limit * np.abs(tensor).max()
  ]


def depth(tensors):
  """Number of layers of stored tensors."""
  found = {layers.layer_of(name) for name in tensors} - {None}
  assert found == set(range(len(found)))
  return len(found)


def _config(depth, tied):
  return tiny_decoder.CONFIG | {
    'num_hidden_layers': depth,
    'tie_word_embeddings': tied,
  }


def _tensors(depth, seed, tied):
  example = tiny_decoder.tensors()
  draw = np.random.default_rng(seed)
  shapes = {
    name: tensor.shape
    for name, tensor in example.items()
    if layers.layer_of(name) is None
  }
  if not tied:
    shapes['lm_head.weight'] = shapes['model.embed_tokens.weight']
  for i in range(depth):
    shapes |= {
      layers.renumber(name, i): tensor.shape
      for name, tensor in example.items()
      if layers.layer_of(name) == 0
    }
  return {
    name: draw.normal(size=shape).astype(np.float32)
    for name, shape in shapes.items()
  }
