"""From config files to the library's frozen settings."""

import pathlib
from typing import Any

from automerge_jax.search.settings import Settings
from automerge_jax.tasks import experts


def settings(config) -> Settings:
  """Settings of a config with a `search` part."""
  how: dict[str, Any] = config.search.to_dict()
  how = {k: tuple(v) if isinstance(v, list) else v for k, v in how.items()}
  how['batch_size'] = how['batch_size'] or None
  folder = pathlib.Path(config.experts)
  return Settings(
    tasks=tuple(config.tasks),
    base=folder / experts.BASE,
    experts=folder,
    seed=config.seed,
    **how,
  )
