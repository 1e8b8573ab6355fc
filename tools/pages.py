"The notebooks of the project, and the cells of them that are run."
import re
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parent.parent
settings = ConfigParser()
settings.read(root/'settings.ini')
flags = settings['DEFAULT']['tst_flags'].split()        # of cells that are slow or need a GPU
not_run = re.compile(rf"^#\| *(eval: *false|{'|'.join(flags)})\b", re.M)

def pages():
    "The notebooks"
    found = sorted((root/'nbs').rglob('*.ipynb'))
    return [p for p in found if not any(o[0] in '._' for o in p.relative_to(root).parts)]

def name(page): return page.relative_to(root/'nbs').with_suffix('').as_posix()

def skipped(cell):
    "Is a cell not to run? Text, `#| eval: false`, a flag of `flags`, and the call that exports"
    return cell.cell_type!='code' or bool(not_run.search(cell.source)) or 'nbdev_export(' in cell.source

def installs(nb):
    "Does a notebook install in Colab what it needs?"
    return any(c.cell_type=='code' and 'google.colab' in c.source for c in nb.cells)
