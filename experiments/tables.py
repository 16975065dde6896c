"""Writes the README's tables from results/, so that they cannot differ.

python -m experiments.tables          # rewrites README.md
python -m experiments.tables --check  # fails if it is out of date
"""

import json
import pathlib
import re

from absl import app, flags

from experiments import claims_table, compare_table, df_merge_table

CHECK = flags.DEFINE_bool('check', False, 'Compare, do not write.')
_PROJECT = pathlib.Path(__file__).resolve().parent.parent
_ROWS = {
  'lfs': 'layer-wise search (ours)',
  'modelwise': 'model-wise search (ours)',
  'task_arithmetic': 'task arithmetic, tuned',
  'ties': 'TIES, tuned',
  'tsv_m': 'TSV-Merge, tuned',
  'uniform': 'uniform average',
  'base': 'base',
  'experts': 'the experts, each on its own task',
}
_PARTS = {
  'gradient': 'a climb along the gradient, against none',
  'fidelity': 'rungs of 50 and 200 items a task, against 200 alone',
  'surrogate': 'screening by the surrogate',
  'racing': 'races inside rungs',
}
_KINDS = {
  'layerwise': 'layer-wise (LFS), a method for each group of layers',
  'layerwise_depthwise': 'LFS, then depth-wise (DIS); cost of the second',
  'depthwise': 'depth-wise (DIS)',
  'front': 'a front of all four tasks: its knee',
  'pruning': 'pruned to four of six layers',
  'task_arithmetic': 'task arithmetic, tuned',
  'ties': 'TIES, tuned',
  'uniform': 'uniform average',
  'base': 'base',
  'experts': 'the experts, each on its own task',
}
_MERGES = {
  'linear': 'linear',
  'ties': 'ties, density 0.3',
  'dare_ties': 'dare_ties, density 0.3',
  'della': 'della, density 0.5',
}


def encoder_suite(results: dict) -> str:
  """Held-out means of the encoder suite."""
  figures, intervals = results['figures'], results['intervals']
  lines = ['| model | held-out accuracy, mean of four tasks | 95% interval |']
  lines += ['|---|---|---|']
  for name, label in _ROWS.items():
    key = f'{name}_heldout_mean'
    if key not in figures:
      continue
    low, high = intervals[key]
    lines.append(f'| {label} | {figures[key]:.4f} | {low:.4f} to {high:.4f} |')
  low, high = intervals['lfs_minus_task_arithmetic']
  gap_low, gap_high = intervals['gap_closed']
  lines += [
    '',
    f'Means over {len(results["seeds"])} search seeds. Layer-wise search '
    f'is {figures["lfs_minus_task_arithmetic"]:+.4f} ({low:+.4f} to '
    f'{high:+.4f}, paired) above tuned task arithmetic and closes '
    f'{figures["gap_closed"]:.0%} ({gap_low:.0%} to {gap_high:.0%}) of its gap '
    f'to the experts, with at most {figures["candidates"]} candidates '
    f'({figures["full_evaluations"]:.0f} full-evaluation equivalents).',
  ]
  return '\n'.join(lines)


def ablation(results: dict) -> str:
  """The default search, and what each part of a search pays at equal cost."""
  figures, intervals = results['figures'], results['intervals']

  def row(name: str, label: str) -> str:
    low, high = intervals[f'{name}_heldout_mean']
    value = figures[f'{name}_heldout_mean']
    return f'| {label} | {value:.4f} | {low:.4f} to {high:.4f} |'

  names = {'default': 'the default search', **_ROWS}
  lines = ['| model | held-out accuracy, mean of four tasks | 95% interval |']
  lines += ['|---|---|---|']
  lines += [
    row(name, label)
    for name, label in names.items()
    if f'{name}_heldout_mean' in figures
  ]
  low, high = intervals['gap_closed']
  lines += [
    '',
    f'Means over {len(results["seeds"])} seeds, each within '
    f'{figures["full_evaluations"]:.0f} full evaluations of 200 search items a '
    f'task. The search closes {figures["gap_closed"]:.0%} ({low:.0%} to '
    f'{high:.0%}) of the gap between tuned task arithmetic and the experts; it '
    f'is {_signed(results, "default_minus_task_arithmetic")} above the former, '
    f'{_signed(results, "default_minus_tsv_m")} above tuned TSV-Merge.',
    '',
    '| part | gain, held-out accuracy (95%) | in the default |',
    '|---|---|---|',
  ]
  lines += [
    f'| {label} | {_signed(results, f"{name}_gain")} '
    f'| {"yes" if figures[f"{name}_default"] else "no"} |'
    for name, label in _PARTS.items()
  ]
  return '\n'.join(lines)


def _signed(results: dict, name: str) -> str:
  """A difference with its interval."""
  low, high = results['intervals'][name]
  return f'{results["figures"][name]:+.4f} ({low:+.4f} to {high:+.4f})'


def merge_speed(results: dict) -> str:
  """Whole merges against mergekit, and what one costs inside a search."""
  figures, limits = results['figures'], results['limits']
  lines = [
    '| whole process | ours | mergekit 0.1.5 | faster | our peak memory |'
  ]
  lines += ['|---|---|---|---|---|']
  for name, label in _MERGES.items():
    lines.append(
      f'| {label} | {figures[f"{name}_s"]:.1f} s '
      f'| {figures[f"{name}_mergekit_s"]:.1f} s '
      f'| {figures[f"{name}_speedup_vs_mergekit"]:.1f}x '
      f'| {figures[f"{name}_peak_memory_mb"]:.0f} MB |'
    )
  lines += [
    '',
    'SmolLM2-135M in float32, base and three experts, 2 CPU cores, the median '
    f'of {results["environment"]["repeats"]} runs in turns. Inside a search '
    'nothing is read, sorted or drawn again: a candidate of MiniLM with four '
    f'experts is merged in {figures["resident_linear_ms"]:.0f} ms (linear; '
    f'moving its bytes once takes {limits["resident_linear_ms"]:.0f} ms at the '
    f'measured copy bandwidth), {figures["resident_ties_ms"]:.0f} ms (TIES) or '
    f'{figures["resident_dare_ties_ms"]:.0f} ms (DARE-TIES).',
  ]
  return '\n'.join(lines)


def eval_speed(results: dict) -> str:
  """Scoring models beside torch, on the same items."""
  f, peers = results['figures'], results['environment']['peers']
  rows = [
    (
      f'MiniLM classification, {f["minilm_items"]} texts',
      f['minilm_s'],
      f['minilm_torch_s'],
      f['minilm_speed_vs_torch'],
    ),
    *(
      (
        f'SmolLM2-135M likelihood, {label}',
        f[f'likelihood_{name}_s'],
        f[f'likelihood_{name}_torch_s'],
        f[f'likelihood_{name}_speed_vs_torch'],
      )
      for name, label in (
        ('words', 'answers of one word'),
        ('endings', 'four endings of ten words'),
      )
    ),
    (
      'SmolLM2-135M, 64 new tokens, batch 8',
      f['generation_batch_8_s'],
      f['generation_batch_8_torch_s'],
      f['smollm2_generation_speed_vs_torch'],
    ),
  ]
  lines = ['| same items, two threads | ours | torch | faster |']
  lines += ['|---|---|---|---|']
  lines += [
    f'| {name} | {ours:.1f} s | {theirs:.1f} s | {ratio:.1f}x |'
    for name, ours, theirs, ratio in rows
  ]
  lines += [
    '',
    f'float32 on 2 CPU cores, medians of {results["environment"]["repeats"]} '
    f'turns, beside transformers {peers["transformers"]} with torch '
    f'{peers["torch"]} (likelihoods: lm-eval {peers["lm_eval"]}). Likelihoods '
    f'run at {f["matmul_rate_fraction"]:.0%} of the matmul rate of the '
    'machine, counted without padding and shared prompts once.',
  ]
  return '\n'.join(lines)


_SUITES = {
  'lm_suite': 'SmolLM2-135M, four LoRA experts',
  'vision_suite': 'ViT-S/14, four image experts',
  'domain_suite': 'MiniLM, sentiment in four domains',
}


def spaces(results: dict) -> str:
  """What every kind of search reaches on the encoder suite."""
  figures, intervals = results['figures'], results['intervals']
  lines = [
    '| search | held-out accuracy, mean of four tasks (95%) | candidates | '
    'minutes |',
    '|---|---|---|---|',
  ]
  for name, label in _KINDS.items():
    low, high = intervals[f'{name}_heldout_mean']
    cost = ' | '
    if f'{name}_candidates' in figures:
      minutes = figures[f'{name}_search_s'] / 60
      cost = f'{figures[f"{name}_candidates"]} | {minutes:.0f}'
    lines.append(
      f'| {label} | {figures[f"{name}_heldout_mean"]:.3f} '
      f'({low:.3f} to {high:.3f}) | {cost} |'
    )
  gain = figures['front_volume_gain']
  low, high = intervals['front_volume_gain']
  lines += [
    '',
    f'One seed, {figures["heldout_items"]} held-out items; minutes beside '
    'other work on 2 CPU cores, compilation included. The front has '
    f'{figures["front_members"]} members; of the box between the worst and the '
    f'best values they dominate {figures["front_volume"]:.2f}, experts and '
    f'hand-made merges together {figures["others_volume"]:.2f} (difference '
    f'{gain:+.2f}, {low:+.2f} to {high:+.2f}).',
  ]
  return '\n'.join(lines)


def suites(every: dict[str, dict]) -> str:
  """Held-out means of the other suites, a row each."""
  names = [name for name in _ROWS if name != 'modelwise']
  head = ['suite', *(_ROWS[name] for name in names), 'search − TA (95%)']
  lines = ['| ' + ' | '.join(head) + ' |', '|---' * len(head) + '|']
  for key, label in _SUITES.items():
    figures, intervals = every[key]['figures'], every[key]['intervals']
    low, high = intervals['lfs_minus_task_arithmetic']
    cells = [
      f'{figures[f"{name}_heldout_mean"]:.3f}'
      if f'{name}_heldout_mean' in figures
      else ''
      for name in names
    ]
    seeds = len(every[key]['seeds'])
    lines.append(
      f'| {label}; {seeds} seed{"s" if seeds > 1 else ""}, '
      f'{figures["heldout_items"]} held-out items | '
      + ' | '.join(cells)
      + f' | {figures["lfs_minus_task_arithmetic"]:+.3f} '
      f'({low:+.3f} to {high:+.3f}) |'
    )
  return '\n'.join(lines)


TABLES = {
  'encoder_suite': (encoder_suite, 'encoder_suite'),
  'merge_speed': (merge_speed, 'merge_speed'),
  'eval_speed': (eval_speed, 'eval_speed'),
  'suites': (suites, *_SUITES),
  'spaces': (spaces, 'spaces'),
  'ablation': (ablation, 'ablation'),
  'claims': (claims_table.table, 'claims'),
  'search_compare': (compare_table.table, 'search_compare'),
  'df_merge': (df_merge_table.table, 'df_merge'),
}


def render(readme: str) -> str:
  """The README with every `<!-- results:NAME -->` block written anew."""
  for name, (table, *files) in TABLES.items():
    read = {
      file: json.loads((_PROJECT / 'results' / f'{file}.json').read_text())
      for file in files
    }
    text = table(read if len(files) > 1 else read[files[0]])
    block = f'<!-- results:{name} -->\n{text}\n<!-- end -->'
    pattern = rf'<!-- results:{name} -->.*?<!-- end -->'
    readme, found = re.subn(
      pattern, lambda _, b=block: b, readme, flags=re.DOTALL
    )
    if not found:
      raise ValueError(f'README.md has no block <!-- results:{name} -->')
  return readme


def main(argv: list[str]) -> None:
  del argv
  path = _PROJECT / 'README.md'
  have = path.read_text()
  want = render(have)
  if CHECK.value and have != want:
    raise SystemExit('README.md differs from results/: run experiments.tables')
  if not CHECK.value:
    path.write_text(want)


if __name__ == '__main__':
  app.run(main)
