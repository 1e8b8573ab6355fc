"""Run a page as a reader in Colab does: alone in an empty folder, on the library that is installed.
usage: python tools/colab.py PAGE.ipynb      (says what fails, which answer is wrong, and what the page holds and no longer gives)"""
import copy,re,sys,tempfile
from pathlib import Path
import nbformat
from outputs import differences
from pages import pages,root,skipped

installs = re.compile(r"'install -q (.*?)'")

def read(fn): return nbformat.read(fn, as_version=4)

def wants(fn):
    "What a page installs in Colab, or None if it is not offered there"
    found = [m for c in read(fn).cells if c.cell_type=='code' and 'google.colab' in c.source for m in installs.findall(c.source)]
    return found[0] if found else None

def offered(): return [p for p in pages() if wants(p)]

def answers(page):
    "A cell that tries the answers which a page folds away, where the page has run"
    name = page.relative_to(root/'nbs').with_suffix('').as_posix()
    found = 'from test_exercises import try_answers,with_exercises', f'if {name!r} in with_exercises: try_answers({name!r}, globals())'
    lines = 'import sys', f'sys.path.append({str(root/"tests")!r})', *found
    return nbformat.v4.new_code_cell('\n'.join(lines))

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
