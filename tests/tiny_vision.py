"""A random DINOv2 of 2 layers, and images whose bright side is their class."""

import functools
import json
import pathlib

import numpy as np

from automerge_jax.io import safetensors
from automerge_jax.models import vit
from automerge_jax.tasks.sources import Example, Source

TASK = 'tiny_sides'
CLASSES = ('left', 'right', 'top')
CONFIG = {
  'model_type': 'dinov2',
  'hidden_size': 16,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'mlp_ratio': 2,
  'hidden_act': 'gelu',
  'layer_norm_eps': 1e-6,
  'image_size': 12,
  'patch_size': 4,
}
PREPROCESSING = {
  'image_mean': [0.5, 0.4, 0.3],
  'image_std': [0.2, 0.25, 0.3],
  'rescale_factor': 1 / 255,
  'resample': 2,
}


def write(folder: pathlib.Path, seed: int = 0) -> pathlib.Path:
  """A Hugging Face folder without tokenizer."""
  rng = np.random.default_rng(seed)
  shapes = {'stem/class': (1, 1, 16), 'stem/position': (1, 10, 16)}
  shapes['stem/patch/weight'] = (16, 3, 4, 4)
  tensors = {}
  for key in vit.family(vit.config_from_hf(CONFIG, [])).keys:
    wide = 'mlp_input' in key.path
    shape = shapes.get(key.path, (32 if wide else 16,))
    if key.transpose:
      shape = (32, 16) if wide else (16, 32 if 'mlp' in key.path else 16)
    one = key.path.endswith(('scale', '_scale'))
    noise = rng.normal(0, 0.3, shape)
    tensors[key.stored] = (noise + one).astype(np.float32)
  folder.mkdir(parents=True)
  safetensors.write(folder, tensors)
  (folder / 'config.json').write_text(json.dumps(CONFIG))
  (folder / 'preprocessor_config.json').write_text(json.dumps(PREPROCESSING))
  return folder


@functools.cache
def source() -> Source:
  """300 noisy images, 10 x 10, in grey and in colour."""
  rng = np.random.default_rng(0)
  examples = []
  for i in range(300):
    label = i % len(CLASSES)
    pixels = rng.integers(0, 120, (3 if i % 2 else 1, 10, 10), np.uint8)
    side = ((slice(None), slice(5)), (slice(None), slice(5, 10)), (slice(5),))
    pixels[(slice(None), *side[label])] += np.uint8(120)
    examples.append(Example('', label, pixels=pixels))
  return Source(CLASSES, tuple(examples))
