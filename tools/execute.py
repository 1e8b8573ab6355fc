"""Execute notebooks in place, each in a process of its own, as a reader with a fresh kernel would.
usage: python tools/execute.py [NB ...]      (all the notebooks under nbs/ if none is named)"""
import os,sys,time
os.environ.setdefault('OMP_NUM_THREADS', '1')
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from execnb.nbio import read_nb,write_nb
from execnb.shell import CaptureShell
from fastcore.all import working_directory
from nbdev.clean import clean_nb
from nbdev.config import get_config
from nbdev.doclinks import nbglob
from nbdev.process import NBProcessor

def skipped(nb, flags):
    "Positions of the cells of `nb` that are not to run: `#| eval: false`, a flag of `flags`, or the call that exports"
    def f(c):
        d = c.directives_ or {}
        return d.get('eval:', [''])[0].lower()=='false' or flags & d.keys() or 'nbdev_export(' in c.source
    return {c.idx_ for c in nb.cells if c.cell_type=='code' and f(c)}

def executed(fn):
    "The notebook `fn` with its outputs as they come now, and the error that stopped it, or None"
    cfg = get_config()
    sys.path.insert(0, str(cfg.config_path))
    os.environ['IN_TEST'] = '1'
    nb = read_nb(fn)
    skip = skipped(NBProcessor(fn).nb, set(cfg.tst_flags.split()))
    def pre(c):
        if c.cell_type!='code' or c.idx_ in skip: return True
        c.outputs = []
    shell = CaptureShell(fn)
    try:
        with working_directory(fn.parent): shell.run_all(nb, exc_stop=True, preproc=pre)
    except BaseException: return nb, shell.prettytb(fname=fn.name)
    return nb, None

def execute(fn):
    "Execute the notebook `fn` in place and return its error, or None; a notebook that failed is left as it was"
    nb,error = executed(fn)
    if error: return error
    clean_nb(nb, clean_ids=get_config().clean_ids)
    write_nb(nb, fn)

def main(fns):
    "Execute each of `fns`, saying how long it took; stop at the first that fails"
    for fn in fns or sorted(nbglob(as_path=True)):
        fn,start = Path(fn).resolve(),time.time()
        with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
            try: err = pool.submit(execute, fn).result()
            except Exception as e: err = f'{type(e).__name__}: {e}'
        print(f'{"FAIL" if err else "ok  "} {time.time()-start:6.1f} s  {os.path.relpath(fn)}', flush=True)
        if err: sys.exit(f'{err}\n{fn.name} failed and was left as it was.')

if __name__=='__main__': main(sys.argv[1:])
