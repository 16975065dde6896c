"""A model of ours behind lm_eval's interface, for its final scores.

Prompts are tokenised, cut and rolled over as lm_eval's own Hugging Face backend
does it, so that on the same checkpoint both give the same numbers.
"""

import copy
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from lm_eval.api.model import LM

from automerge_jax.io import chat_templates
from automerge_jax.models import registry
from automerge_jax.tasks import (
  continuations,
  decoding,
  generation,
  likelihood,
  packing,
  perplexity,
  prompts,
  stops,
)
from automerge_jax.tasks.partition import Item
from automerge_jax.tasks.prompts import Chat

MAX_NEW_TOKENS = 256  # where a task says nothing
LONGEST = 2048  # tokens, of models without a limit of their own
_LENGTHS = (
  'max_gen_toks',
  'max_new_tokens',
  'max_tokens',
  'max_completion_tokens',
)
_HARMLESS = ('until', 'do_sample', 'temperature', *_LENGTHS)


class Model(LM):
  """A checkpoint folder that lm_eval can score.

  Args:
    folder: Hugging Face folder.
    dtype: in which the model computes.
    max_tokens: of a text; None for what the model takes.
    seed: of sampled texts.
  """

  def __init__(
    self,
    folder: str | pathlib.Path,
    *,
    dtype: str = 'float32',
    max_tokens: int | None = None,
    seed: int = 0,
  ):
    super().__init__()
    self.folder = pathlib.Path(folder)
    model = registry.load(self.folder)
    self.family = model.family
    self.params = jax.tree.map(
      lambda leaf: jnp.asarray(leaf, dtype), model.params
    )
    self.coder = continuations.coder(
      self.folder, self.family.encoder is not None
    )
    self.max_tokens = max_tokens or self.family.max_tokens or LONGEST
    self.seed = seed

  @property
  def tokenizer_name(self) -> str:
    """What requests that lm_eval caches depend on."""
    return str(self.folder.resolve()).replace('/', '__')

  def chat_template(self, chat_template: bool | str = False) -> str | None:
    """The model's chat template, for lm_eval's records."""
    return chat_templates.read(self.folder) if chat_template else None

  def apply_chat_template(
    self,
    chat_history: Sequence[Mapping[str, str]],
    add_generation_prompt: bool = True,
  ) -> str:
    """Messages as text; without the system's where the template refuses it."""
    turns = tuple((m['role'], m['content']) for m in chat_history)
    opened = not add_generation_prompt
    try:
      return prompts.render(Chat(turns, opened), self.folder)
    except ValueError:
      rest = tuple(turn for turn in turns if turn[0] != 'system')
      if rest == turns:
        raise
      return prompts.render(Chat(rest, opened), self.folder)

  def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
    """Nats of each continuation, and whether greedy decoding would give it."""
    pairs = [request.args[:2] for request in requests]
    apart = self.coder.decoder_start is not None
    whole = continuations.requests(self.coder, pairs)
    cut = [
      packing.truncate(request, self.max_tokens, apart=apart)[0]
      for request in whole
    ]
    return self._log_likelihoods(cut)

  def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
    """Nats of each text, in windows if it is long."""
    texts = [('', request.args[0]) for request in requests]
    windows = [
      perplexity.rolling(whole, self.max_tokens)
      for whole in perplexity.whole_texts(self.coder, texts)
    ]
    flat = [window for some in windows for window in some]
    found = iter(self._log_likelihoods(flat))
    return [sum(next(found)[0] for _ in some) for some in windows]

  def generate_until(self, requests: Sequence[Any]) -> list[str]:
    """Texts up to their first stop string.

    Raises:
      ValueError: for a way of sampling that is not done here.
    """
    by_settings: dict[str, list[int]] = {}
    for index, request in enumerate(requests):
      by_settings.setdefault(repr(request.args[1]), []).append(index)
    texts = [''] * len(requests)
    for mine in by_settings.values():
      told = copy.deepcopy(requests[mine[0]].args[1])
      made = self._generate([requests[i].args[0] for i in mine], told)
      for index, text in zip(mine, made, strict=True):
        texts[index] = text
    return texts

  def get_model_info(self) -> dict[str, Any]:
    """What lm_eval notes of a model."""
    leaves = jax.tree.leaves(self.params)
    return {
      'model_num_parameters': sum(leaf.size for leaf in leaves),
      'model_dtype': str(leaves[0].dtype),
    }

  def _log_likelihoods(
    self, requests: Sequence[packing.Request]
  ) -> list[tuple[float, bool]]:
    nats, greedy = likelihood.log_likelihoods(
      self.family,
      self.params,
      requests,
      decoder_start=self.coder.decoder_start,
    )
    return list(zip(map(float, nats), map(bool, greedy), strict=True))

  def _generate(self, texts: Sequence[str], told: dict[str, Any]) -> list[str]:
    task = self._task(told)
    start = self.coder.tokenizer.id_to_token(self.coder.prefix)
    assert start is not None  # a coder's prefix is a token
    made = [''] * len(texts)
    # A text that begins as the tokenizer would begin it needs no other token.
    for special in (True, False):
      mine = [i for i, x in enumerate(texts) if x.startswith(start) != special]
      if mine:
        one = dataclasses.replace(task, special_tokens=special)
        found = self._write(one, [texts[i] for i in mine])
        for index, text in zip(mine, found, strict=True):
          made[index] = text
    return made

  def _task(self, told: Mapping[str, Any]) -> generation.Task:
    strange = sorted(set(told) - set(_HARMLESS))
    sampled = bool(told.get('do_sample', told.get('temperature', 0) > 0))
    if sampled and strange:
      raise ValueError(
        f'sampling with {strange} is asked for; only a temperature is known'
      )
    until = told.get('until') or []
    new = int(next((told[n] for n in _LENGTHS if told.get(n)), MAX_NEW_TOKENS))
    room = self.max_tokens
    if self.family.encoder is None:
      room -= new
    if room < 1:
      raise ValueError(
        f'{new} new tokens are asked for; the model takes {self.max_tokens} '
        'tokens in all'
      )
    return generation.Task(
      name='lm_eval',
      max_tokens=room,
      max_new_tokens=new,
      stop=tuple(
        s for s in ([until] if isinstance(until, str) else until) if s
      ),
      temperature=float(told.get('temperature', 1.0)) if sampled else 0.0,
      seed=self.seed,
    )

  def _write(self, task: generation.Task, texts: Sequence[str]) -> list[str]:
    # The likelihood of an accepted answer, which nobody asks for, needs one.
    items = [
      Item(str(i), text, 0, answers=('-',)) for i, text in enumerate(texts)
    ]
    encoded, _ = generation.encode(task, items, self.family, self.folder)
    queue = generation.queue(task, encoded, range(len(items)), len(items))
    queue = jax.tree.map(jnp.asarray, queue)
    run = jax.jit(lambda p, q: decoding.generate(self.family, p, q).tokens)
    tokens = np.full((len(items) + 1, task.max_new_tokens), -1)
    tokens[np.asarray(queue.slot)] = np.asarray(run(self.params, queue))
    return [
      _text(self.coder, code.stops, task.stop, row)
      for code, row in zip(encoded, tokens[:-1], strict=True)
    ]


def _text(
  coder: continuations.Coder,
  ends: stops.Stops,
  strings: Sequence[str],
  row: np.ndarray,
) -> str:
  """What was generated, up to its end, decoded alone as lm_eval decodes it."""
  ids = [int(index) for index in row if index >= 0]
  places = [place for place, index in enumerate(ids) if index in ends.ends]
  text = coder.tokenizer.decode(ids[: places[0]] if places else ids)
  for string in strings:
    text = text.split(string)[0]
  return text
