"""Run a page as a reader in Colab does: alone in an empty folder, on the library that is installed.
usage: python tools/colab.py PAGE.ipynb      (says what fails, which answer is wrong, and what the page holds and no longer gives)"""
import copy,sys,tempfile
from pathlib import Path
import nbformat
from outputs import differences
from pages import installs,name,pages,root,skipped

def read(fn): return nbformat.read(fn, as_version=4)

def offered(): return [p for p in pages() if installs(read(p))]

def answers(page):
    "A cell that tries the answers which a page folds away, where the page has run"
    path = f'import sys; sys.path.append({str(root/"tests")!r})'
    return nbformat.v4.new_code_cell(f'{path}\nfrom test_exercises import try_answers\ntry_answers({name(page)!r}, globals())')

def main(page):
    from nbclient import NotebookClient
    page = Path(page).resolve()
    stored = read(page)
    stored.cells = [c for c in stored.cells if not skipped(c)]
    fresh = copy.deepcopy(stored)
    for c in fresh.cells: c.outputs = []
    fresh.cells.append(answers(page))
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(fresh, timeout=None, kernel_name='python3', resources=dict(metadata=dict(path=folder))).execute()
    if told := differences(stored, fresh): sys.exit(told)

if __name__=='__main__': main(sys.argv[1])
