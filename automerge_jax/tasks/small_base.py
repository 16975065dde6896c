"""Small bases: sources and a larger encoder in, a Hugging Face folder out."""

import dataclasses
import json
import pathlib
import shutil
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from automerge_jax.io import safetensors, tokenizers, vocabularies
from automerge_jax.models import base, bert, registry
from automerge_jax.tasks import (
  classification,
  experts,
  inference,
  pretrain,
  splits,
)

_TEACHER_LENGTHS = (16, 24, 32, 48, 64)


@dataclasses.dataclass(frozen=True)
class Shape:
  """Sizes of a small BERT encoder, and what it is pretrained on.

  Attributes:
    sources: tasks whose training items are read.
    examples: most of each.
    max_tokens: texts are cut to so many; also the positions that it has.
    vocabulary: tokens that it knows.
  """

  sources: tuple[str, ...]
  examples: int
  max_tokens: int
  vocabulary: int
  layers: int
  hidden_size: int
  heads: int
  mlp_size: int


def make(
  folder: str | pathlib.Path,
  teacher: str | pathlib.Path,
  shape: Shape,
  options: pretrain.Options,
) -> dict[str, Any]:
  """Makes a base, or finds it finished.

  Args:
    folder: of the base, whole or not there.
    teacher: Hugging Face folder of a BERT encoder with a WordPiece vocabulary.
    shape: of the base.
    options: of pretraining.

  Returns:
    The report, as in `train.json`.

  Raises:
    ValueError: if a finished base was made with other settings.
  """
  folder, teacher = pathlib.Path(folder), pathlib.Path(teacher)
  settings = {
    'teacher': safetensors.fingerprint(teacher),
    **json.loads(json.dumps(vars(shape) | vars(options))),
  }
  report = experts.read_report(folder)
  if report is not None:
    experts.check_settings(folder, report['settings'], settings)
    return report
  begin = time.perf_counter()
  texts = _texts(shape)
  model = registry.load(teacher)
  targets = _features(model, teacher, texts, shape.max_tokens)
  whole = (teacher / tokenizers.TOKENIZER).read_text(encoding='utf-8')
  encoded = tokenizers.encode(tokenizers.load(teacher), texts, shape.max_tokens)
  kept = vocabularies.frequent(whole, encoded, shape.vocabulary)
  known = vocabularies.cut(whole, kept)
  config = _config(shape)
  family = registry.from_config(config, ())
  words = pretrain.principal(
    model.params['stem']['word']['embedding'][list(kept)], shape.hidden_size
  )
  first = pretrain.init(
    bert.config_from_hf(config, ()), words, jax.random.key(options.seed)
  )
  partial = folder.with_name(folder.name + '.partial')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  (partial / tokenizers.TOKENIZER).write_text(known, encoding='utf-8')
  tokenizer = tokenizers.load(partial)
  hidden = tokenizer.token_to_id('[MASK]')
  assert hidden is not None, 'special tokens are always kept'
  ids = tokenizers.encode(tokenizer, texts, shape.max_tokens)
  trained, losses = pretrain.train(
    family,
    first,
    classification.pad(ids, shape.max_tokens),
    targets,
    hidden,
    options,
  )
  safetensors.write(partial, base.unpack(family.keys, trained))
  experts.write_json(partial / 'config.json', config)
  for name in ('tokenizer_config.json', 'special_tokens_map.json'):
    if (teacher / name).is_file():
      shutil.copyfile(teacher / name, partial / name)
  report = {
    'settings': settings,
    'texts': len(texts),
    'unexplained': [round(loss, 4) for loss in losses],
    'environment': {'seconds': round(time.perf_counter() - begin, 1)},
  }
  experts.write_json(partial / experts.REPORT, report)
  partial.rename(folder)
  return report


def _texts(shape: Shape) -> list[str]:
  """Training texts of all sources; of a source, the first ones."""
  return [
    item.text
    for name in shape.sources
    for item in splits.train_items(name, shape.examples)
  ]


def _features(
  model: registry.Model,
  folder: pathlib.Path,
  texts: Sequence[str],
  max_tokens: int,
) -> np.ndarray:
  """The teacher's features of each text, float32 [n, D]."""
  encoded = tokenizers.encode(tokenizers.load(folder), texts, max_tokens)
  nothing = [0] * len(encoded)
  buckets = classification.bucket(encoded, nothing, nothing)
  features_of = inference.features_fn(model.family)
  params = jax.device_put(model.params)
  return inference.in_order(
    [features_of(params, items) for items in buckets], buckets, len(texts)
  )


def _config(shape: Shape) -> dict[str, Any]:
  return {
    'architectures': ['BertModel'],
    'model_type': 'bert',
    'vocab_size': shape.vocabulary,
    'hidden_size': shape.hidden_size,
    'num_hidden_layers': shape.layers,
    'num_attention_heads': shape.heads,
    'intermediate_size': shape.mlp_size,
    'max_position_embeddings': shape.max_tokens,
    'type_vocab_size': 2,
    'layer_norm_eps': 1e-12,
    'hidden_act': 'gelu',
    'hidden_dropout_prob': 0.1,
    'attention_probs_dropout_prob': 0.1,
    'initializer_range': 0.02,
    'pad_token_id': 0,
    'position_embedding_type': 'absolute',
  }
