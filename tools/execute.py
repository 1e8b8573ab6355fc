"""Execute notebooks in place, each in a process of its own, as a reader with a fresh kernel would.
usage: python tools/execute.py [NB ...]      (all the notebooks under nbs/ if none is named)"""
import os,re,sys,time
os.environ.setdefault('OMP_NUM_THREADS', '1')
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
import pandas as pd
from execnb.nbio import read_nb,write_nb
from execnb.shell import CaptureShell
from fastcore.all import working_directory
from pages import pages,root,skipped

def without_bars(outputs):
    "Outputs without progress bars, which are for who watches; what else went to stderr stays"
    kept = []
    for o in outputs:
        if o.output_type=='stream' and o.name=='stderr':
            o.text = re.sub(r'\r[^\r\n]*', '', ''.join(o.text))
            if not o.text.strip(): continue
        kept.append(o)
    return kept

def executed(fn, shell=None):
    "The notebook `fn` with its outputs as they come now, and the error that stopped it, or None; `shell.user_ns` has its names"
    shell = shell or CaptureShell(fn)
    os.environ['IN_TEST'] = '1'
    pd.reset_option('^display')         # what an earlier page of this process has set
    pd.set_option('display.max_columns', None, 'display.width', 240)       # a table's text stands in the Markdown of the site
    nb = read_nb(fn)
    def pre(cell):
        if skipped(cell): return True
        cell.outputs = []
    try:
        with working_directory(fn.parent): shell.run_all(nb, exc_stop=True, preproc=pre)
    except BaseException: return nb, shell.prettytb(fname=fn.name)
    for c in nb.cells:
        if c.cell_type=='code': c.outputs = without_bars(c.outputs)
    return nb, None

def execute(fn):
    "Execute the notebook `fn` in place and return its error, or None; a notebook that failed is left as it was"
    from nbdev.clean import clean_nb
    from nbdev.config import get_config
    sys.path.insert(0, str(root))
    nb,error = executed(fn)
    if error: return error
    clean_nb(nb, clean_ids=get_config().clean_ids)
    write_nb(nb, fn)

def main(fns):
    "Execute each of `fns`, saying how long it took; stop at the first that fails"
    for fn in fns or pages():
        fn,start = Path(fn).resolve(),time.time()
        with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
            try: err = pool.submit(execute, fn).result()
            except Exception as e: err = f'{type(e).__name__}: {e}'
        print(f'{"FAIL" if err else "ok  "} {time.time()-start:6.1f} s  {os.path.relpath(fn)}', flush=True)
        if err: sys.exit(f'{err}\n{fn.name} failed and was left as it was.')

if __name__=='__main__': main(sys.argv[1:])
