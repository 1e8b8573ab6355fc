"""Does a notebook hold what it gives when it is executed?
usage: python tools/outputs.py [NB ...]      (all the notebooks under nbs/ if none is named; nothing is written)

Texts must be the same. A number may differ by a twentieth or by .02, as those of a short training do on another machine.
Times (`0.3 s`, `12 ms`, `'seconds': 4`) are not compared, and no cell that opens with `#| varies`: what is another each time."""
import re,sys
from math import isclose
from pathlib import Path
from pages import pages,root

rel,apart = .05, .02
number = re.compile(r'(?<![\w.])[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?(?![\w])')
tag = re.compile(r'<style.*?</style>|<script.*?</script>|<[^>]*>', re.S)
passing = re.compile(r"0x[0-9a-f]+|seconds': [\d.e+-]+|[\d.,]+ (?:s|ms|min)\b")

def said(cell):
    "The text of a cell's outputs, without what goes to stderr"
    for o in cell.get('outputs', []):
        if o['output_type']=='stream' and o.get('name')=='stderr': continue
        data = o.get('data', {})
        if 'text/html' in data: yield tag.sub(' ', ''.join(data['text/html']))      # of a table, the text depends on a width
        else: yield ''.join(o.get('text') or data.get('text/plain', ''))

def words(text):
    "A text without its numbers, its line breaks and the widths of its columns"
    text = ' '.join(number.sub('#', text).split())
    return re.sub(r'-{2,}', '--', text)

def values(text): return [float(n.replace(',', '')) for n in number.findall(text)]

def alike(was, now):
    "Do two texts say the same?"
    was,now = (passing.sub('then', t) for t in (was, now))
    if words(was)!=words(now): return False
    return all(isclose(a, b, rel_tol=rel, abs_tol=apart) for a,b in zip(values(was), values(now)))

def changed(stored, fresh):
    "What the cells of two copies of a notebook say differently: the source, and the two texts"
    for a,b in zip(stored.cells, fresh.cells):
        if a.cell_type!='code' or a.source.lstrip().startswith('#| varies'): continue
        was,now = '\n'.join(said(a)), '\n'.join(said(b))
        if not alike(was, now): yield a.source, was, now

def differences(stored, fresh):
    "The same as a text"
    told = [f'--- {src[:300]}\nheld:\n{was[:600]}\ngives:\n{now[:600]}' for src,was,now in changed(stored, fresh)]
    return '\n\n'.join(told)

def compared(fn):
    "What a file and its execution say differently, as a text; an execution that fails is a difference, too"
    from execnb.nbio import read_nb
    from execute import executed
    fresh,error = executed(fn)
    return f'{fn.name} fails:\n{error}' if error else differences(read_nb(fn), fresh)

def main(fns):
    sys.path.insert(0, str(root))
    bad = 0
    for fn in [Path(f) for f in fns] or pages():
        found = compared(fn.resolve())
        bad += bool(found)
        print(f"{'DIFFERS' if found else 'same   '} {fn}\n{found}".rstrip(), flush=True)
    if bad: sys.exit(f'{bad} notebooks hold what they no longer give')

if __name__=='__main__': main(sys.argv[1:])
