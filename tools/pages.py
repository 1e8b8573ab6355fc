"The notebooks of the project, and the cells of them that are run."
import re
from pathlib import Path

root = Path(__file__).resolve().parent.parent
not_run = re.compile(r'^#\| *(eval: *false|slow|gpu)\b', re.M)

def pages(): return sorted(p for p in (root/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)

def skipped(cell):
    "Is a cell not to run? Text, `#| eval: false`, what is slow or needs a GPU, and the call that exports"
    return cell.cell_type!='code' or bool(not_run.search(cell.source)) or 'nbdev_export(' in cell.source
