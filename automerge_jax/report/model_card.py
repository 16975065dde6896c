"""The model card: README.md of an exported Hugging Face folder."""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import yaml

from automerge_jax.report import tables, wording


def render(
  summary: Mapping[str, Any],
  recipe_yaml: str,
  files: Mapping[str, str],
  *,
  base_model: Sequence[str] = (),
  license_id: str | None = None,
  vocabulary: bool = False,
) -> str:
  """The card as Markdown with YAML front matter.

  Args:
    summary: see `summary.build`.
    recipe_yaml: the recipe that rebuilds the model.
    files: what each further file of the folder holds, `{name: description}`;
      the folder `heads`, if there, is explained.
    base_model: model ids that the merge descends from, if they are known.
    license_id: licence of the merge, if it is known.
    vocabulary: whether it is a language model rather than an encoder.
  """
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
    autoescape=False,  # Markdown: names pass the `plain` filter instead
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  environment.filters.update(
    percent=wording.percent,
    points=wording.points,
    heading=wording.heading,
    p_value=tables.p_value,
    plain=plain,
  )
  models = summary['models']
  program = (summary['coefficients'] or {}).get('program')
  card = environment.get_template('model_card.md').render(
    summary=summary,
    front_matter=_front_matter(base_model, license_id),
    models=[(name, models[name]['heldout']) for name in tables.ordered(models)],
    tests=summary['comparisons']['merged_vs_own_expert'],
    own=summary['experts_on_own_task']['heldout']['mean'],
    reading=lambda test: tables.READINGS[wording.task_standing(test)],
    method=wording.methods(summary['method']),
    program=program if wording.restacked(program) else None,
    by_layer=wording.by_layer(program),
    depth=wording.depth,
    places=_places(program),
    front=wording.front(summary) if summary['front'] else '',
    constraint=wording.constraint,
    recipe=recipe_yaml.rstrip('\n'),
    fence=_fence(recipe_yaml),
    files=dict(files),
    notes=tables.notes,
    vocabulary=vocabulary,
    with_heads=any(name.startswith('heads/') for name in files),
  )
  return card.rstrip('\n') + '\n'


def plain(text: str) -> str:
  """Text that Markdown shows as it is, on one line."""
  text = re.sub(r'\s+', ' ', str(text)).strip()
  text = text.replace('&', '&amp;').replace('<', '&lt;').replace('>', '&gt;')
  return re.sub(r'([\\`*_\[\]|$~#])', r'\\\1', text)


def _places(program: Mapping[str, Any] | None) -> str:
  """Whether the layers of a program are where they were."""
  sources = [row['sources'] for row in (program or {'layers': []})['layers']]
  if sources == [[i] for i in range(len(sources))]:
    return 'in their places'
  flat = [layer for row in sources for layer in row]
  return 'in their order' if flat == sorted(set(flat)) else 'stacked anew'


def _front_matter(base_model: Sequence[str], license_id: str | None) -> str:
  fields: dict[str, Any] = {
    'library_name': 'transformers',
    'tags': ['merge', 'automerge_jax'],
  }
  if base_model:
    fields['base_model'] = list(base_model)
    fields['base_model_relation'] = 'merge'
  if license_id:
    fields['license'] = license_id
  return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True).strip()


def _fence(text: str) -> str:
  """Backticks that no run inside the text can close."""
  longest = max((len(run) for run in re.findall('`+', text)), default=0)
  return '`' * max(3, longest + 1)
