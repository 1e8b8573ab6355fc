"""Run a page as a reader in Colab does: alone in an empty folder, on the library that is installed.
usage: python tools/colab.py PAGE.ipynb      (says what fails, what the page holds and no longer gives, and which answer is wrong)"""
import re,shutil,sys,tempfile
from pathlib import Path
from execnb.nbio import read_nb
from execnb.shell import CaptureShell
from execute import executed,pages,root
from outputs import differences

sys.path.insert(0, str(root/'tests'))
installs = re.compile(r"'install -q (.*?)'")

def wants(fn):
    "What a page installs in Colab, or None if it is not offered there"
    found = [m for c in read_nb(fn).cells if c.cell_type=='code' and 'google.colab' in c.source for m in installs.findall(c.source)]
    return found[0] if found else None

def offered(): return [p for p in pages() if wants(p)]

def main(page):
    from test_exercises import try_answers
    page = Path(page).resolve()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copy(page, folder))
        shell = CaptureShell(copy)
        fresh,error = executed(copy, shell)
        if error: sys.exit(error)
        try_answers(page.relative_to(root/'nbs').with_suffix('').as_posix(), shell.user_ns)
    if told := differences(read_nb(page), fresh): sys.exit(told)

if __name__=='__main__': main(sys.argv[1])
