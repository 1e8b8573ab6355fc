"""What can only be checked on a GPU, in one call of a few minutes: the tests marked `gpu`, then what a step costs.

    python benchmarks/gpu.py [--out results/step_gpu.json]

`make gpu` runs it. It ends after five minutes at most, prints each target beside what was measured, and exits with 1 where a test
or a benchmark failed. Without a GPU it says so and does nothing."""
import argparse, json, subprocess, sys, time
from pathlib import Path
import torch

root = Path(__file__).resolve().parent.parent
limits = dict(tests=110, benchmark=180)             # seconds
tests = [sys.executable, '-m', 'pytest', '-q', '-m', 'gpu', '--noconftest', '-p', 'no:cacheprovider', '-rs', 'tests/test_gpu.py']

def verdicts(record):
    "Each target with what was measured: a line for each shape"
    for shape,found in record['models']['bert']['shapes'].items():
        peaks = record['models']['bert']['memory'].get(shape, {})
        asked = [('step over that of fused AdamW', found['to_adamw_fused']['ours']['median'], 1.),
            ('threshold update, ms', 1000*found['move']['ours']['median'], 3.)]
        if peaks: asked += [('peak memory over that of AdamW', peaks['ours']['peak_to_adamw'], 1.),
            ('the same with updates inside the backward pass', peaks['ours_in_backward']['peak_to_adamw'], .85)]
        for what,value,most in asked: yield f'{shape}, {what}: {value:.3f}, at most {most:g} asked: {"met" if value<=most else "NOT met"}'

def ran(command, seconds):
    "Run a command; the exit code, 124 where it took too long"
    try: return subprocess.run(command, cwd=root, timeout=seconds).returncode
    except subprocess.TimeoutExpired: return 124

def main():
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument('--out', default='results/step_gpu.json', help='JSON file for the record of the benchmark')
    ask.add_argument('--rounds', default='8', help='rounds of the benchmark')
    a = ask.parse_args()
    if not torch.cuda.is_available():
        print('There is no GPU here, so its tests and its benchmark were not run; the recorded ones are in results/step_gpu.json.')
        return
    began = time.perf_counter()
    tested = ran(tests, limits['tests'])
    print(f'tests: {"passed" if not tested else "FAILED"}, {time.perf_counter()-began:.0f} s', flush=True)
    benchmark = [sys.executable, 'benchmarks/step.py', '--device', 'cuda', '--rounds', a.rounds, '--out', a.out]
    timed = ran(benchmark, limits['benchmark'])
    print(f'benchmark: {"done" if not timed else "FAILED"}, {time.perf_counter()-began:.0f} s in all')
    if not timed: print('\n'.join(verdicts(json.loads((root/a.out).read_text()))))
    sys.exit(1 if tested or timed else 0)

if __name__=='__main__': main()
