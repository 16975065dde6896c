"""The README's table of results/search_compare.json."""

_SCENES = {
  'layerwise': 'tiny encoder, the default (LFS)',
  'published': 'tiny encoder, the published 112 variables',
  'depthwise': 'tiny encoder, layer programs (DIS)',
  'encoder': 'MiniLM, the default (LFS)',
}
_SOLVERS = {
  'ours': 'ours',
  'ours_evolution': 'without gradients',
  'smac': 'SMAC3',
  'pycma': 'pycma',
  'pymoo': 'pymoo',
  'random': 'random',
}
_FRONT = {'parego': 'ParEGO', 'pymoo': 'pymoo', 'random': 'random search'}


def table(results: dict) -> str:
  """Held-out accuracy at a tenth and at the end of the budget, by search."""
  figures = results['figures']
  lines = [
    '| held-out accuracy at a tenth / all of the budget | '
    + ' | '.join(_SOLVERS.values())
    + ' |',
    '|---' * (1 + len(_SOLVERS)) + '|',
  ]
  for scene, label in _SCENES.items():
    cells = [_cell(figures, f'{scene}_{solver}_heldout') for solver in _SOLVERS]
    lines.append(' | '.join([f'| {label}', *cells]) + ' |')
  ratios = ', '.join(
    f'{figures[f"hypervolume_ratio_vs_{peer}"]:.2f} that of {label}'
    for peer, label in _FRONT.items()
  )
  lines += [
    '',
    f'Means over {len(results["seeds"])} seeds, MiniLM over 3; the same items, '
    'spaces and start points for all, and the same choice on select items. '
    f'{_reached(figures, "")} {_reached(figures, "_less_margin")} With '
    'two objectives the held-out hypervolume of ours '
    f'is {ratios}. Candidates a minute at equal items: '
    f'{figures["candidates_per_minute_ratio"]:.1f} times those of merging on '
    'disk and scoring by torch.',
  ]
  return '\n'.join(lines)


def _reached(figures: dict, near: str) -> str:
  """How soon ours is where the best peer ends."""
  where = 'to 0.003 of that' if near else 'where the best peer ends'
  share = figures[f'reached_best_peer{near}']
  median = figures[f'items_fraction_to_best_peer{near}']
  when = 'never' if median > 1 else f'after {median:.0%} of the items'
  return (
    f'Ours comes {where} in {share:.0%} of the runs on the tiny encoder, '
    f'the median run {when}.'
  )


def _cell(figures: dict, name: str) -> str:
  if name not in figures:
    return ''
  return f'{figures[f"{name}_at_tenth"]:.3f} / {figures[name]:.3f}'
