"""What can only be checked on a GPU, in one call of a few minutes: the tests marked `gpu`, then what a step costs.

    python benchmarks/gpu.py [--out results/step_gpu.json]

`make gpu` runs it. Without a GPU it says so and does nothing."""
import argparse, subprocess, sys, time
from pathlib import Path
import torch

root = Path(__file__).resolve().parent.parent
tests = [sys.executable, '-m', 'pytest', '-q', '-m', 'gpu', '--noconftest', '-p', 'no:cacheprovider', '-rs', 'tests/test_gpu.py']

def main():
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument('--out', default='results/step_gpu.json', help='JSON file for the record of the benchmark')
    ask.add_argument('--rounds', default='10', help='rounds of the benchmark')
    a = ask.parse_args()
    if not torch.cuda.is_available():
        print('There is no GPU here, so its tests and its benchmark were not run; the recorded ones are in results/step_gpu.json.')
        return
    began = time.perf_counter()
    tested = subprocess.run(tests, cwd=root).returncode
    print(f'tests: {"passed" if not tested else "FAILED"}, {time.perf_counter()-began:.0f} s', flush=True)
    timed = subprocess.run([sys.executable, 'benchmarks/step.py', '--device', 'cuda', '--rounds', a.rounds, '--out', a.out], cwd=root).returncode
    print(f'{time.perf_counter()-began:.0f} s in all')
    sys.exit(tested or timed)

if __name__=='__main__': main()
