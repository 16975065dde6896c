"""Writes vit_tiny.npz: tiny random vision transformers and their outputs.

  .venv-peers/bin/python tests/testdata/vit_golden.py

For each case: `<case>/config` (JSON), `<case>/weights/<stored name>`, and for
each image size `<case>/<H>x<W>/pixels` [B, C, H, W] and `.../hidden` [B, T, d].
"""

import pathlib
import tempfile

import numpy as np
import safetensors.numpy
import torch
import transformers

_SMALL = {
  'hidden_size': 12,
  'num_hidden_layers': 2,
  'num_attention_heads': 2,
  'image_size': 20,
  'patch_size': 4,
}
_CLIP = _SMALL | {'intermediate_size': 20, 'image_size': 12}
# Native (but CLIP's), larger, smaller, with a remainder, and not square.
SIZES = ((28, 28), (8, 8), (20, 20), (23, 21), (12, 32))
FIRST = {'dinov2': 0, 'dinov2_swiglu': 2, 'vit': 2, 'clip_vision': 2}


def models() -> dict:
  """Models by case, with weights as torch makes them."""
  t = transformers
  dinov2 = t.Dinov2Config(**_SMALL, mlp_ratio=3)
  return {
    'dinov2': t.Dinov2Model(dinov2),
    'dinov2_swiglu': t.Dinov2Model(
      t.Dinov2Config(
        **_SMALL
        | {'hidden_size': 15, 'num_attention_heads': 3, 'num_channels': 1},
        mlp_ratio=2,
        use_swiglu_ffn=True,
        use_mask_token=False,
        qkv_bias=False,
        layer_norm_eps=1e-5,
      )
    ),
    'dinov2_classifier': t.Dinov2ForImageClassification(dinov2),
    'vit': t.ViTModel(
      t.ViTConfig(**_SMALL | {'num_hidden_layers': 3}, intermediate_size=18)
    ),
    'vit_classifier': t.ViTForImageClassification(
      t.ViTConfig(**_SMALL, intermediate_size=20, qkv_bias=False)
    ),
    'clip_vision': t.CLIPVisionModel(t.CLIPVisionConfig(**_CLIP)),
    'clip_projection': t.CLIPVisionModelWithProjection(
      t.CLIPVisionConfig(**_CLIP, projection_dim=6, hidden_act='gelu')
    ),
    'clip': t.CLIPModel(
      t.CLIPConfig(
        projection_dim=6,
        vision_config=_CLIP,
        text_config={
          'hidden_size': 8,
          'num_hidden_layers': 1,
          'num_attention_heads': 2,
          'intermediate_size': 8,
          'vocab_size': 9,
          'max_position_embeddings': 5,
          'bos_token_id': 1,
          'eos_token_id': 2,
        },
      )
    ),
  }


def encoder(model):
  """The part whose last hidden state is recorded."""
  for name in ('dinov2', 'vit', 'vision_model'):
    model = getattr(model, name, model)
  return model


def randomise(model, generator: torch.Generator) -> None:
  """Weights far from the initial ones, where a mix-up could go unnoticed."""
  with torch.no_grad():
    for name, weight in model.named_parameters():
      noise = torch.randn(weight.shape, generator=generator)
      one = ('norm' in name and name.endswith('weight')) or 'lambda1' in name
      weight.copy_(0.3 * noise + one)


def hidden(model, pixels: np.ndarray) -> np.ndarray:
  """Last hidden states [B, T, d]."""
  more = {}
  if not isinstance(model, transformers.Dinov2Model):
    more['interpolate_pos_encoding'] = True
  with torch.no_grad():
    outputs = model(pixel_values=torch.from_numpy(pixels), **more)
  return outputs.last_hidden_state.numpy()


def arrays(case: str, model, generator: torch.Generator) -> dict:
  """Everything recorded of one case, by name."""
  randomise(model, generator)
  model = model.eval()
  with tempfile.TemporaryDirectory() as folder:
    model.save_pretrained(folder)
    config = (pathlib.Path(folder) / 'config.json').read_text()
    stored = safetensors.numpy.load_file(f'{folder}/model.safetensors')
  part = encoder(model)
  recorded = {f'{case}/config': np.array(config)}
  for height, width in SIZES[FIRST.get(case, -1) :]:
    shape = (1 + (height == 8), part.config.num_channels, height, width)
    pixels = torch.randn(shape, generator=generator).numpy()
    name = f'{case}/{height}x{width}'
    recorded[f'{name}/pixels'] = pixels.astype(np.float16)
    recorded[f'{name}/hidden'] = hidden(
      part, pixels.astype(np.float16).astype(np.float32)
    )
  for name, tensor in stored.items():
    recorded[f'{case}/weights/{name}'] = tensor
  return recorded


def main() -> None:
  torch.set_num_threads(1)
  generator = torch.Generator().manual_seed(0)
  recorded = {}
  for case, model in models().items():
    recorded |= arrays(case, model, generator)
  path = pathlib.Path(__file__).with_name('vit_tiny.npz')
  np.savez_compressed(path, **recorded)
  print(f'{path.name}: {path.stat().st_size} bytes')


if __name__ == '__main__':
  main()
