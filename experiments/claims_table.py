"""The README's table of results/claims.json."""

_SUITES = {'encoder': 'MiniLM', 'lm': 'SmolLM2-135M'}
_KINDS = {'lfs': 'LFS', 'dis': 'DIS', 'lfs_dis': 'LFS, then DIS'}


def table(results: dict) -> str:
  """Merges searched for one task beside its expert, by suite and task."""
  figures = results['figures']
  lines = [
    '| searched for one task | its expert | '
    + ' | '.join(_KINDS.values())
    + ' |',
    '|---|---|' + '---|' * len(_KINDS),
  ]
  suites = [name for name in _SUITES if f'{name}_searches' in figures]
  for suite in suites:
    for task in _tasks(figures, suite):
      expert = figures[f'{suite}_{task}_expert_heldout']
      cells = [
        _points(results, f'{suite}_{task}_{k}_minus_expert') for k in _KINDS
      ]
      name = task.removeprefix('lm_')
      lines.append(_row(f'{_SUITES[suite]}, {name}', 100 * expert, cells))
    cells = [
      _points(results, f'{suite}_{kind}_minus_expert') for kind in _KINDS
    ]
    label = f'{_SUITES[suite]}, mean of {len(_tasks(figures, suite))} tasks'
    lines.append(_row(label, None, cells))
  for source in ('amazon', 'tweets', 'nyt'):
    name = 'encoder_movie_{}_' + source
    if f'encoder_movie_expert_{source}' not in figures:
      continue
    expert = figures[f'encoder_movie_expert_{source}']
    cells = [_points(results, f'{name.format(k)}_minus_expert') for k in _KINDS]
    lines.append(_row(f'MiniLM, movie, on {source}', 100 * expert, cells))
  lines += ['', _told(results, suites)]
  return '\n'.join(lines)


def _row(label: str, expert: float | None, cells: list[str]) -> str:
  own = '' if expert is None else f'{expert:.1f}'
  return ' | '.join([f'| {label}', own, *cells]) + ' |'


def _tasks(figures: dict, suite: str) -> list[str]:
  end = '_expert_heldout'
  return [
    name.removeprefix(f'{suite}_').removesuffix(end)
    for name in figures
    if name.startswith(f'{suite}_') and name.endswith(end)
  ]


def _points(results: dict, name: str) -> str:
  """A difference in points with its interval."""
  value, (low, high) = results['figures'][name], results['intervals'][name]
  return f'{100 * value:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})'


def _told(results: dict, suites: list[str]) -> str:
  figures = results['figures']
  searches = sum(figures[f'{suite}_searches'] for suite in suites)
  above = sum(
    figures[f'{suite}_searches_above_expert_holm'] for suite in suites
  )
  most = max(figures[f'{suite}_most_candidates'] for suite in suites)
  text = (
    'Held-out accuracy of the expert, and points above it (95%, paired); one '
    f'seed. Of {searches} searches {above} found a merge that is surely above '
    "the task's own expert, corrected for their number; none took more than "
    f'{most} candidates.'
  )
  for suite in suites:
    gain = figures[f'{suite}_front_volume_gain']
    low, high = results['intervals'][f'{suite}_front_volume_gain']
    text += (
      f' The front of all four tasks of {_SUITES[suite]} dominates '
      f'{figures[f"{suite}_front_volume"]:.2f} of the box between worst and '
      'best values, experts and hand-made merges '
      f'{figures[f"{suite}_others_volume"]:.2f} (difference {gain:+.2f}, '
      f'{low:+.2f} to {high:+.2f}).'
    )
  return text
