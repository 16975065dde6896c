"""Whole prompts: examples in front, and a chat around them.

A chat becomes text only when a model is known, since its template is the
model's own.
"""

import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from automerge_jax.io import chat_templates


class Chat(NamedTuple):
  """A conversation that a model shall continue.

  Attributes:
    messages: (role, content), of the roles system, user and assistant.
    opened: whether the last message is the beginning of the model's own.
  """

  messages: tuple[tuple[str, str], ...]
  opened: bool = False


def chat(
  prompt: str, shown: Sequence[tuple[str, str]], system: str | None
) -> Chat:
  """A chat that shows examples (prompt, answer) as turns, then asks."""
  messages = [('system', system)] if system else []
  for question, answer in shown:
    messages += [('user', question), ('assistant', answer.strip())]
  return Chat((*messages, ('user', prompt)))


def plain(prompt: str, shown: Sequence[tuple[str, str]], separator: str) -> str:
  """A prompt behind examples, each (prompt, answer as it is appended)."""
  before = [question + answer + separator for question, answer in shown]
  return ''.join([*before, prompt])


def render(conversation: Chat, folder: str | pathlib.Path) -> str:
  """A chat as the text that a model of this folder expects.

  The text holds no token that its tokenizer adds by itself.

  Raises:
    ValueError: if the folder has no chat template, or the template refuses.
  """
  tokenizer = _tokenizer(str(pathlib.Path(folder).resolve()))
  messages = [{'role': r, 'content': c} for r, c in conversation.messages]
  try:
    text = tokenizer.apply_chat_template(
      messages,
      tokenize=False,
      add_generation_prompt=not conversation.opened,
      continue_final_message=conversation.opened,
    )
  except Exception as error:  # a template may raise anything
    roles = [role for role, _ in conversation.messages]
    raise ValueError(
      f'the chat template of {folder} refuses messages of the roles {roles}: '
      f'{error}'
    ) from error
  first = tokenizer.bos_token
  if first and text.startswith(first) and _adds_first(tokenizer):
    text = text[len(first) :]
  return text


@functools.lru_cache(maxsize=4)
def _tokenizer(folder: str) -> Any:
  if chat_templates.read(folder) is None:
    raise ValueError(
      f'{folder} has no chat template, which a task with `chat_template: true` '
      'needs; set it to false, or name a model that has one'
    )
  import transformers  # takes a second, and is seldom needed

  return transformers.AutoTokenizer.from_pretrained(
    folder, local_files_only=True
  )


def _adds_first(tokenizer: Any) -> bool:
  ids = tokenizer('a')['input_ids']
  return ids[:1] == [tokenizer.bos_token_id]
