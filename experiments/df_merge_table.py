"""The README's table of results/df_merge.json."""

from configs import df_merge
from experiments.df_merge_plot import LABELS, SUITES

_CEILINGS = {
  'experts': 'the experts, each on its own task',
  'multitask': 'one model fine-tuned on all tasks',
}
_RIVALS = {
  'gta_bo': 'the same search without Fisher information',
  'random_search': 'random search',
  'best_hand_made': 'the best hand-made merge',
}


def table(results: dict) -> str:
  """Held-out means of every method by suite, and what DF-Merge is above."""
  figures = results['figures']
  suites = [name for name in SUITES if f'{name}_df_merge_ei' in figures]
  lines = [
    '| held-out accuracy | ' + ' | '.join(SUITES[s] for s in suites) + ' |',
    '|---|' + '---|' * len(suites),
  ]
  for name, label in (LABELS | _CEILINGS).items():
    cells = [_mean(results, f'{suite}_{name}') for suite in suites]
    if any(cells):
      lines.append(f'| {label} | ' + ' | '.join(cells) + ' |')
  return '\n'.join([*lines, '', _told(results, suites)])


def _mean(results: dict, key: str) -> str:
  if key not in results['figures']:
    return ''
  low, high = results['intervals'][key]
  value = results['figures'][key]
  return f'{100 * value:.1f} ({100 * low:.1f} to {100 * high:.1f})'


def _told(results: dict, suites: list[str]) -> str:
  """Paired differences, and what a step costs."""
  figures, sentences = results['figures'], []
  for suite in suites:
    parts = []
    for rival, label in _RIVALS.items():
      key = f'{suite}_df_merge_ei_minus_{rival}'
      low, high = results['intervals'][key]
      if rival == 'best_hand_made':
        label += f' ({LABELS[results[rival][suite]]})'
      parts.append(
        f'{label} {100 * figures[key]:+.1f} ({100 * low:+.1f} to '
        f'{100 * high:+.1f})'
      )
    seeds = len(results['seeds'][suite])
    sentences.append(
      f'{SUITES[suite]}, points of DF-Merge (EI) minus {", ".join(parts)}; '
      f'{figures[f"{suite}_df_merge_ei_full_evaluations"]:.0f} full '
      f'evaluations, {seeds} seed{"s" if seeds > 1 else ""}.'
    )
    chosen = f'{suite}_steps_{df_merge.STEPS[suite]}'
    early = f'{suite}_steps_{df_merge.EARLY}'
    if chosen in figures:
      low, high = results['intervals'][chosen]
      sentences.append(
        'Chosen on the search items, as published, DF-Merge (EI) has '
        f'{100 * figures[chosen]:.1f} ({100 * low:.1f} to {100 * high:.1f})'
        + (
          f', after {df_merge.EARLY} evaluations {100 * figures[early]:.1f}.'
          if chosen != early
          else '.'
        )
      )
    step = figures.get(f'{suite}_cost_step_s')
    if step:
      share = figures[f'{suite}_cost_fisher_s'] / step
      sentences.append(
        f'A step takes {step:.1f} s, {share:.0%} of it for Fisher information.'
      )
  return ' '.join(sentences)
