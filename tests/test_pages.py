"The pages of experiments give their result first; a method has one name and one look on all of them. No page is wider than a laptop."
import json,re
from pathlib import Path
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt, pandas as pd, pytest
from matplotlib.colors import to_hex
from adaptprune.results import Folded, mean_sd, method_looks, method_name, method_names, provenance, read_results, tidy
from adaptprune.topology import plot_components, plot_emptied, plot_heads, plot_layers

root = Path(__file__).resolve().parent.parent
pages = sorted((root/'nbs'/'experiments').glob('*.ipynb'))
each = pytest.mark.parametrize('page', pages, ids=lambda p: p.stem)
read = [p for d in ('tutorials', 'explanations', 'experiments', 'case_studies') for p in sorted((root/'nbs'/d).glob('*.ipynb'))]

def cells(page): return json.loads(page.read_text(encoding='utf-8'))['cells']

def outputs(cell, kind): return [''.join(o.get('data', {}).get(kind, '')) for o in cell.get('outputs', [])]

def first_screen(page):
    "The cells before the first heading of a section"
    found = []
    for c in cells(page):
        if c['cell_type']=='markdown' and re.search('^## ', ''.join(c['source']), re.M): break
        found.append(c)
    return found

@each
def test_result_first(page):
    "Finding with a number, figure or table of verdicts, and where they come from, before the first section"
    code = [c for c in first_screen(page) if c['cell_type']=='code']
    said = [t for c in code for t in outputs(c, 'text/markdown')]
    assert re.match(r'\*\*.*\d', said[0]), said[0]
    assert any(t for c in code for t in outputs(c, 'image/png')) or any('|---|' in t for t in said)
    assert 'made by `' in said[-1] and 'seed' in said[-1] or page.stem=='serving', said[-1]

@each
def test_code_of_the_first_screen_is_folded(page):
    for c in first_screen(page):
        if c['cell_type']=='code': assert re.match(r'#\| (code-fold: true|echo: false)', ''.join(c['source']))

@each
def test_limits_and_references(page):
    text = '\n'.join(''.join(c['source']) for c in cells(page) if c['cell_type']=='markdown')
    assert '## What it does not show' in text and '## References' in text and 'https://arxiv.org' in text

@each
def test_tables_say_something(page):
    "No NaN, no name of an earlier page or of a sweep file for a method; folded lists of all runs keep their recorded names"
    shown = '\n'.join(t for c in cells(page) for t in outputs(c, 'text/html'))
    shown = re.sub('<details>.*?</details>', '', shown, flags=re.S)
    assert '>NaN<' not in shown and '>None<' not in shown
    old = r">(ours|today's|IMP|MP|Rnd|distilled|magnitude, float32)<"
    assert not re.findall(old, shown.replace('<th>distilled</th>', '')), page.stem     # a recipe, in a table of its fields

@pytest.mark.parametrize('page', read, ids=lambda p: f'{p.parent.name}/{p.stem}')
def test_code_is_not_wider_than_a_laptop(page):
    "Neither what a reader sees nor what it unfolds"
    for c in cells(page):
        src = ''.join(c['source'])
        if c['cell_type']!='code': continue
        limit = 120 if re.search(r'^#\| (code-fold: true|echo: false)', src, re.M) else 92
        assert not [l for l in src.splitlines() if len(l)>limit and not l.startswith('#|')]

@pytest.mark.parametrize('page', read, ids=lambda p: f'{p.parent.name}/{p.stem}')
def test_no_directive_in_prose(page):
    "A cell that was meant to run would be shown as words"
    assert not [c for c in cells(page) if c['cell_type']=='markdown' and ''.join(c['source']).lstrip().startswith('#|')]

def test_expected_time_of_the_cell_for_a_gpu():
    "A number in words, as the page runs where there are no records"
    said = '\n'.join(''.join(c['source']) for c in cells(root/'nbs'/'tutorials'/'ten_minutes.ipynb'))
    step = json.loads((root/'results'/'step_gpu.json').read_text())['models']['bert']['shapes']['32x128']['seconds']['ours']['median']
    assert f'a step took {1000*step:.0f} ms on an H100' in said and 2000*step<120

def test_names():
    assert method_name('distilled')=='adaptprune' and method_name('imp, float32')=='iterative magnitude'
    assert method_name('default, step=adam') is None
    assert set(method_looks) <= {*method_names.values(), 'linear model, untouched vectors'}

def test_looks_tell_methods_apart():
    looks = [(l['color'], l['marker'], str(l['ls'])) for l in method_looks.values()]
    assert len(set(looks))==len(looks)
    colors = [l['color'] for l in method_looks.values() if l['marker']]
    assert len(set(colors))==len(colors)

def part(component, sparsity): return dict(component=component, kept=round(100*(1-sparsity)), weights=100, sparsity=sparsity)

def colors_of(masks):
    ax = plot_components(masks, looks=method_looks)
    colors = {l.get_label(): to_hex(l.get_color()) for l in ax.lines if l.get_label() in masks}
    plt.close(ax.figure)
    return colors

def test_a_method_looks_the_same_whatever_stands_beside_it():
    a,b = [part('embedding', .4), part('query', .5)], [part('embedding', .6), part('query', .7)]
    first,second = colors_of({'magnitude': a, 'random': b}), colors_of({'adaptprune': b, 'random': a, 'magnitude': b})
    assert first=={k: second[k] for k in first}=={k: method_looks[k]['color'] for k in first}

def test_lines_take_looks_and_other_labels_go_by_position():
    rows = [dict(layer=i, kept=50, weights=100, sparsity=.5) for i in range(2)]
    ax = plot_layers({'mine': rows, 'random': rows}, looks=method_looks)
    colors = {l.get_label(): l.get_color() for l in ax.lines}
    plt.close(ax.figure)
    assert colors['random']==method_looks['random']['color']!=colors['mine']

def test_grids_of_heads_can_share_a_scale():
    def rows(density): return [dict(layer=0, head=h, density=density, silent=False, blind=False, emptied=False) for h in range(2)]
    def scale(density, **kwargs):
        ax = plot_heads(rows(density), **kwargs)
        plt.close(ax.figure)
        return ax.images[0].norm.vmax
    assert scale(.1)==.1 and scale(.1, top=.3)==scale(.2, top=.3)==.3

def test_bars_of_what_is_emptied_can_share_an_axis():
    row = dict(component='query', rows=10, columns=10, empty_rows=1, empty_columns=0, rows_by_chance=0., columns_by_chance=0.)
    ax = plot_emptied([row], top=.6)
    plt.close(ax.figure)
    assert ax.get_ylim()==(0, .6)

def test_mean_sd():
    assert mean_sd(dict(mean=.8612, std=.0014, count=3))=='0.861 ± 0.001 (3)'
    assert mean_sd(dict(mean=.8612, std=float('nan'), count=1), digits=2)=='0.86 (1)'

def test_tidy():
    table = tidy(pd.DataFrame({.9999: [1.23456, None], 'n': [2, 3], 'what': ['a', None]}, index=[.2, .5]), digits=2)
    assert list(table.index)==['0.2', '0.5'] and list(table.columns)==['0.9999', 'n', 'what']
    assert table.values.tolist()==[['1.23', 2, 'a'], ['', 3, '']]
    assert tidy(pd.DataFrame({'a': [-.0001]})).a[0]=='0.000'

def test_folded_shows_all_rows_and_words():
    html = Folded(pd.DataFrame({'a': ['x'*80]*70}), 'Seventy')._repr_html_()
    assert html.startswith('<details><summary>Seventy</summary>') and html.count('x'*80)==70

def test_provenance_comes_from_the_lines():
    rows = read_results(root/'results'/'tuning.jsonl')
    said = provenance(rows, 'results/tuning.jsonl')
    assert f'{len(rows)} runs' in said and 'seed 0' in said and '`adaptprune sweep sweeps/tuning.toml --glue-dir PATH`' in said
    assert provenance([dict(environment=dict(device='A'), cell={})], 'f').startswith('*A · seed 0 · 1 runs in `f`')
