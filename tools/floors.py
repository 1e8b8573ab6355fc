"""Draw the house from its imports, and say where one goes up.
usage: python tools/floors.py [--check]      (writes the picture into CONTRIBUTING.md; --check: only say what is wrong)

A room is a module of the package. It may import rooms of lower floors, and rooms of its own floor as long as no circle
closes; this holds inside functions as well. It takes no private name from another room."""
import ast,sys
from graphlib import CycleError,TopologicalSorter
from pathlib import Path

root = Path(__file__).resolve().parent.parent
floors = [['anatomy', 'exercises', 'files', 'identity', 'published', 'timing', 'trees'],
    ['mask', 'theory', 'units', 'causal'],
    ['layer', 'loss', 'pattern', 'sparsity', 'scores', 'kernels', 'optim', 'fisher', 'posttraining', 'compaction', 'latency', 'privacy',
        'start'],
    ['tables', 'multilabel', 'tags', 'spans', 'tasks', 'head', 'recipe', 'methods'],
    ['loop', 'watch', 'trainer'],
    ['setup', 'vectors', 'probes', 'senses', 'teacher', 'prune', 'phrases'],
    ['codec', 'maskfile', 'bases', 'taskcard', 'sentence', 'artifact', 'predict', 'multitask', 'export', 'quantize', 'bench', 'topology',
        'folder', 'trim', 'card', 'subject', 'forms', 'compression', 'task', 'plan', 'tolerance', 'threeheads', 'private'],
    ['results', 'figures', 'claims', 'sweep', 'demo', 'cli']]
floor_of = {room: i for i,rooms in enumerate(floors) for room in rooms}
start,end = '<!-- floors: made by tools/floors.py -->\n','<!-- /floors -->\n'

def rooms(lib):
    "The source of each room of the package in the folder `lib`"
    return {p.stem: p.read_text(encoding='utf-8') for p in sorted(lib.glob('*.py')) if not p.stem.startswith('_')}

def for_types_only(tree):
    "The nodes that only a type checker reads: those under `if TYPE_CHECKING:`"
    tests = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test).endswith('TYPE_CHECKING')]
    return {id(m) for n in tests for b in n.body for m in ast.walk(b)}

def source_room(node, package):
    "The room that a `from` import reads from, '' for the package itself, or None for another library"
    name = node.module or ''
    if node.level: return name.split('.')[0] if node.level==1 else None
    top,_,rest = name.partition('.')
    return rest.split('.')[0] if top==package else None

def imports(src, have, package='adaptprune'):
    "What a module takes from the rooms `have`: pairs of a room and a name, '' for the room itself"
    tree = ast.parse(src)
    skip = for_types_only(tree)
    found,bound = set(), {}
    for node in ast.walk(tree):
        if id(node) in skip: continue
        if isinstance(node, ast.ImportFrom):
            room = source_room(node, package)
            if room: found |= {(room, a.name) for a in node.names}
            if room=='': bound |= {a.asname or a.name: a.name for a in node.names if a.name in have}
        if isinstance(node, ast.Import):
            inner = [(a.asname or a.name, a.name.partition('.')) for a in node.names]
            bound |= {name: room for name,(top,_,room) in inner if top==package and room}
    used = [n for n in ast.walk(tree) if isinstance(n, ast.Attribute) and ast.unparse(n.value) in bound]
    found |= {(room, '') for room in bound.values()}
    return found | {(bound[ast.unparse(n.value)], n.attr) for n in used}

def is_private(name): return name.startswith('_') and not name.endswith('__')

def edges(sources): return {room: sorted({r for r,_ in imports(src, sources)}-{room}) for room,src in sources.items()}

def faults(sources, floor_of=floor_of):
    "What is wrong with the house, a line each"
    graph = edges(sources)
    homeless,empty = sources.keys()-floor_of.keys(), floor_of.keys()-sources.keys()
    bad = [f'{room} stands on no floor: give it one in tools/floors.py' for room in sorted(homeless)]
    bad += [f'{room} is on a floor, but there is no such module' for room in sorted(empty)]
    for room,others in graph.items():
        here = floor_of.get(room, len(floor_of))
        up = [o for o in others if floor_of.get(o, 0)>here]
        bad += [f'{room} (floor {here}) imports {o} (floor {floor_of[o]}): imports go down' for o in up]
        private = [(o, n) for o,n in sorted(imports(sources[room], sources)) if is_private(n) and o!=room]
        bad += [f'{room} takes the private name {n} from {o}' for o,n in private]
    try: TopologicalSorter(graph).prepare()
    except CycleError as e: bad.append('a circle of imports: '+' -> '.join(reversed(e.args[1])))
    return bad

def direct(room, graph):
    "The rooms that `room` imports, without those that it gets through another of them"
    def below(r): return {o for n in graph.get(r, ()) for o in (n, *below(n))}
    return [o for o in graph[room] if not any(o in below(n) for n in graph[room] if n!=o)]

def picture(sources, floor_of=floor_of):
    "The floors from the top down; in each room, the order of its floor's imports, and which rooms it stands on"
    graph = edges(sources)
    order = [r for r in TopologicalSorter(graph).static_order() if r in sources]
    width = max(map(len, sources))
    lines = []
    for floor in sorted(set(floor_of.values()), reverse=True):
        here = [r for r in reversed(order) if floor_of.get(r)==floor]
        for i,r in enumerate(here):
            label = f'floor {floor}' if not i else ''
            lines.append(f'{label:8} {r:{width}}  {", ".join(direct(r, graph))}'.rstrip())
        if floor: lines.append('-'*60)
    return '```text\n'+'\n'.join(lines)+'\n```\n'

def with_picture(text, drawn):
    "CONTRIBUTING.md with the picture between its markers"
    head,_,rest = text.partition(start)
    _,_,tail = rest.partition(end)
    return head+start+drawn+end+tail

def main(check):
    sources,path = rooms(root/'adaptprune'),root/'CONTRIBUTING.md'
    bad,text = faults(sources),path.read_text(encoding='utf-8')
    if bad: sys.exit('\n'.join(['The house does not stand:', *(f'  {b}' for b in bad)]))
    new = with_picture(text, picture(sources))
    if new==text: return print(f'{len(sources)} rooms on {len(floors)} floors, as CONTRIBUTING.md shows them')
    if check: sys.exit('CONTRIBUTING.md shows other floors than the imports. Run `make export`.')
    path.write_text(new, encoding='utf-8')
    print('drew the floors in CONTRIBUTING.md')

if __name__=='__main__': main('--check' in sys.argv)
