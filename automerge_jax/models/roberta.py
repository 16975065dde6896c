"""RoBERTa and XLM-R: https://arxiv.org/abs/1907.11692; BERT's shape.

Positions are counted over real tokens, from the row behind padding's own.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from automerge_jax.models import bert
from automerge_jax.models.bert import Config
from automerge_jax.types import Family

__all__ = ['Config', 'config_from_hf', 'family']


def config_from_hf(hf: Mapping[str, Any], stored: Sequence[str]) -> Config:
  """Reads a Hugging Face `config.json`.

  Args:
    hf: the parsed file.
    stored: names of the checkpoint's tensors.

  Raises:
    ValueError: naming a feature that is not implemented, a missing entry or
      sizes that do not fit.
  """
  config = bert.read_config(hf, stored, 'RoBERTa', 'roberta.')
  padding = hf.get('pad_token_id', 1)
  if not isinstance(padding, int) or not (
    0 <= padding < config.max_positions - 1
  ):
    raise ValueError(
      f'RoBERTa config has pad_token_id={padding!r}; positions are counted '
      f'from behind it, so it must be within 0 to {config.max_positions - 2}'
    )
  return dataclasses.replace(config, padding_position=padding)


def family(config: Config) -> Family:
  """The three functions and the key table of one configuration."""
  return bert.family(config, 'roberta')
