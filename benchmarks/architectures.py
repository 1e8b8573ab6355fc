"""Which architectures go which way: adapt, mask file, several tasks on one base, compact, plain encoder, whole model, ONNX.

    python benchmarks/architectures.py                      # writes results/architectures.json, a few minutes on one core
    python benchmarks/architectures.py --families Bert,GPT2 # some of them, to see that it works

The checks are those of tests/test_architectures.py, on tiny models of two layers with random weights: each way must give
the same answers back. A way that is closed is recorded with the first line of its error."""
import json, os, re, sys, tempfile, time
from pathlib import Path

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tests'))
os.environ.setdefault('HF_MODULES_CACHE', tempfile.mkdtemp())

import transformers
from test_architectures import cut_of, families as known, learnt, ways

from adaptprune.cli import script, text_table
from adaptprune.files import write_file
from adaptprune.results import environment
from adaptprune.timing import versions

def first_line(e):
    "What an error says, without colours"
    return re.sub(r'\x1b\[[0-9;]*m', '', (str(e) or type(e).__name__).splitlines()[0])

def reason(e):
    "What an error says, and what the first error behind it said"
    behind = e
    while behind.__cause__ is not None: behind = behind.__cause__
    cause = '' if first_line(behind) in first_line(e) else f' (cause: {first_line(behind)})'
    return (first_line(e).partition(' This is step')[0]+cause)[:400]

def tried(family, way, res):
    "One check: is the way open, the reason if not, and what can be taken out"
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as d:
        try: ways[way](family, res, Path(d))
        except Exception as e: got = dict(open=False, reason=reason(e))
        else: got = dict(open=True)
    if way=='compact' and got['open']: got['takes_out'] = cut_of(family)
    return dict(got, seconds=round(time.perf_counter()-start, 2))

def checked(family):
    "One architecture, all ways"
    res = learnt(family)
    row = dict(family=family, model=type(res.base).__name__, pooling=res.model.pooling)
    return dict(row, ways={way: tried(family, way, res) for way in ways})

def line(row):
    "A row of the table that is printed"
    return dict(family=row['family'], **{way: 'yes' if r['open'] else 'no' for way,r in row['ways'].items()})

def main(
    families:str=None, # names such as Bert,GPT2 (default: all)
    out:str=str(root/'results/architectures.json'), # file to write
):
    "Check every architecture, and write the record"
    names = families.split(',') if families else known
    transformers.utils.logging.set_verbosity_error()
    rows = []
    for i,family in enumerate(names):
        rows.append(checked(family))
        print(f'{i+1} of {len(names)}: {family}', file=sys.stderr, flush=True)
    command = 'python benchmarks/architectures.py'+(f' --families {families}' if families else '')
    libraries = versions('onnx', 'onnxruntime', 'onnxscript')
    record = dict(command=command, environment=dict(environment(), **libraries), families=rows)
    write_file(out, (json.dumps(record, indent=1)+'\n').encode())
    print(text_table(list(map(line, rows))))

if __name__=='__main__': script(main)
