"""A small Llama with a tokenizer, as a Hugging Face folder."""

from automerge_jax.io import gguf
from tests import tiny_gguf


def write(folder):
  """Two random layers, 64 wide, without a head of its own; returns `folder`."""
  path = folder.with_suffix('.gguf')
  path.parent.mkdir(parents=True, exist_ok=True)
  tiny_gguf.write(path)
  gguf.to_hugging_face(path, folder)
  return folder
