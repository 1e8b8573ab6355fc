"Figures that a reader can move: their numbers are those of the records, they are small, ask for nothing, and draw in a browser."
import io,json,re,shutil,sys
from base64 import b64decode
from pathlib import Path
from statistics import mean,stdev
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt, numpy as np, pytest
from PIL import Image
from matplotlib.colors import to_rgb
from adaptprune.claims import Claim, Evidence, claims, task_titles, tally, verdict_table
from adaptprune.figures import Figure, Still, css_look, picture, slider, tabs
from adaptprune.results import method_looks, method_name

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/'tools'))
pages = {'forgetting': 'explanations/method', 'thetas': 'explanations/method_run', 'how-much': 'experiments/against_baselines',
    'atlas': 'experiments/topology', 'claims': 'experiments/claims', 'frontier': 'tutorials/what_you_save'}
moving = 'how-much', 'atlas', 'claims', 'frontier'
each = pytest.mark.parametrize('name', moving)

def bundle(name):
    "What the page of a figure stores of it"
    nb = json.loads((root/'nbs'/f'{pages[name]}.ipynb').read_text(encoding='utf-8'))
    found = [o['data'] for c in nb['cells'] for o in c.get('outputs', []) if f'id="{name}"' in ''.join(o.get('data', {}).get('text/html', ''))]
    return {kind: ''.join(v) for kind,v in found[0].items()}

def html(name): return bundle(name)['text/html']

def numbers(name): return json.loads(re.search(r'const fig = .*?, D = (\{.*\})$', html(name), re.M)[1])

def lines(name): return [json.loads(l) for l in (root/'results'/name).read_text().splitlines()]

def score(r): return r['report']['metrics'][r['report']['metric']]

def runs_of(name, task, sparsity):
    "Scores of one method in the record of the comparison; fine-tuning has no sparsity"
    return [score(r) for r in lines('paper_cpu.jsonl') if method_name(r['name'])==name and task_titles[r['cell']['task']]==task
        and not r['name'].endswith('float32') and (sparsity is None or r['cell'].get('sparsity', .5)==sparsity)]

# Sizes and what all have in common

def test_all_six_are_small():
    sizes = {name: len(html(name)) for name in pages}
    assert sum(sizes.values())<500_000, sizes

def test_page_of_topology_is_light(): assert (root/'nbs'/'experiments'/'topology.ipynb').stat().st_size<1_500_000

@pytest.mark.parametrize('name', pages)
def test_nothing_is_fetched(name):
    found = re.findall(r'src="(?!data:)[^"]*|href="(?![\w/.]+\.ipynb)[^"]*|@import|fetch\(|XMLHttpRequest|import\(|url\((?!data:)', html(name))
    assert found==[]

@each
def test_viewers_without_scripts_have_something(name):
    "A picture, or the same as a table; and words in place of either"
    b = bundle(name)
    assert len(b['text/plain'])>20
    assert b['image/png'] in b['text/html'] and re.search('<img class="still" [^>]*alt="[^"]{20,}"', b['text/html']) \
        if name!='claims' else '|---|' in b['text/markdown']

@each
def test_colours_of_text_come_from_the_page(name):
    css = html(name).split('</style>')[0]
    assert 'fill: currentColor' in css and not re.search(r'(?<![-\w])(color|fill): #(000|fff|333)(?![^}]*background)', css)

# Numbers

def test_how_much_has_the_recorded_scores():
    D = numbers('how-much')
    checked = 0
    for task,T in D['tasks'].items():
        full = mean(runs_of('fine-tuning', task, None))
        for name,points in T['lines'].items():
            for p in points:
                values = runs_of(name, task, p['s'])
                assert p['n']==len(values) and p['share']==pytest.approx(mean(values)/full, abs=1e-4)
                assert (p['bar'] is None)==(len(values)==1) and (p['bar'] is None or p['bar']==pytest.approx(stdev(values)/full, abs=1e-4))
                checked += 1
    assert checked>=50 and set(D['tasks'])==set(task_titles.values())

def test_how_much_has_the_paper():
    published = json.loads((root/'results'/'published.json').read_text())
    for k,title in task_titles.items():
        table = published['tasks'][k]
        want = [[s, pytest.approx(v/table['finetune'], abs=1e-4)] for s,v in zip(published['sparsity'], table['mask']) if v]
        assert numbers('how-much')['tasks'][title]['paper']==want

def test_atlas_has_every_mask_of_its_methods():
    record = json.loads((root/'results'/'topology.json').read_text())
    weights = record['shared']['cross']['weights']
    def want(m):
        cross = [round(k/w, 4) for k,w in zip(m['cross']['kept'], weights)]
        return m['cell']['sparsity'], m['cell'].get('seed', 0), [round(v, 4) for v in m['heads']['density']], cross, \
            [round(v, 4) for v in m['magnitude']['kept'][0]]
    wanted = sorted(want(m) for m in record['masks'])
    got = sorted((m['sparsity'], m['seed'], m['heads'], m['cross'], m['deciles']) for m in numbers('atlas')['masks'])
    assert len(got)>=60 and all(g in wanted for g in got)
    ours = 'magnitude', 'imp', 'random', 'default', 'default, float32'
    assert len(got)==sum(m['name'] in ours or m['name'].startswith('default, start=rank') for m in record['masks'])

def test_frontier_has_the_recorded_times():
    D = numbers('frontier')
    rows = [(f"{s['cell']['batch']} x {s['cell']['tokens']}", r) for s in lines('frontier.json') for r in s['rows']]
    for size,r in rows:
        if r['model'] not in D['clocks']: continue
        assert D['clocks'][r['model']][r['route']][size]==[round(r['ms'][q], 2) for q in ('median', 'q25', 'q75')]
        assert D['MB'][r['model']][r['route']]==round(r['bytes']/1e6, 1)
    assert len({size for size,_ in rows})==9 and {n['model'] for n in D['networks']}==set(D['clocks'])

def test_frontier_has_the_recorded_scores():
    cut = {}
    for r in lines('structured.jsonl'):
        if r['cell']['sparsity']==.4: cut.setdefault((task_titles[r['cell']['task']], r['cell']['remove']), []).append(score(r))
    found = {(task, float(n['model'].split('%')[0])/100): s for n in numbers('frontier')['networks'] if n['kind']=='compact'
        for task,s in n['scores'].items()}
    assert found.keys()==cut.keys()
    for key,(value,sd,shown) in found.items():
        assert value==pytest.approx(mean(cut[key]), abs=1e-4) and sd==pytest.approx(stdev(cut[key]), abs=1e-4)
        assert shown.endswith(f'({len(cut[key])})')

# The claims

@pytest.fixture(scope='module')
def evidence(): return Evidence(root/'results')

def test_board_has_the_verdicts_of_the_records(evidence):
    found = claims(evidence)
    assert re.findall('data-verdict="(\\w+)"', html('claims'))==[c.verdict for c in found]
    want = [[[x, *(None if v is None or v!=v else round(float(v), 4) for v in pair)] for x,pair in c.series.items()] for c in found]
    assert numbers('claims')['series']==want
    assert bundle('claims')['text/markdown']==verdict_table(found, 'reproduction.ipynb')

def test_links_of_the_board_lead_somewhere(evidence):
    "Each claim has its section on the page about reproduction"
    page = json.loads((root/'nbs'/'experiments'/'reproduction.ipynb').read_text(encoding='utf-8'))
    headings = re.findall('^## (.*)$', '\n'.join(''.join(c['source']) for c in page['cells'] if c['cell_type']=='markdown'), re.M)
    slugs = {re.sub(r'[^\w.\- ]', '', h.lower()).strip().replace(' ', '-') for h in headings}
    assert {c.section for c in claims(evidence)}<=slugs

def test_rules_and_words_are_there(evidence):
    for c in claims(evidence):
        assert len(c.rule)>20 and c.paper and c.here and all(isinstance(t, bool) or t in (True, False) for t in c.tests)
    assert tally([Claim('', '', '', '', '', [True])])=='1 hold, 0 hold in part, 0 fail, 0 are open'

def test_a_verdict_follows_the_records(tmp_path, evidence):
    "With worse masks in the record, the same rule says otherwise; without runs of BERT-base its claim is open"
    shutil.copytree(root/'results', tmp_path/'results')
    rows = lines('paper_cpu.jsonl')
    for r in rows:
        if r['name']=='default': r['report']['metrics'][r['report']['metric']] = .01
    (tmp_path/'results'/'paper_cpu.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    was,now = ({c.section: c.verdict for c in claims(e)} for e in (evidence, Evidence(tmp_path/'results')))
    assert was['half-of-the-weights-can-go-at-nearly-no-cost']=='partly' and now['half-of-the-weights-can-go-at-nearly-no-cost']=='fails'
    first = 'a-learnt-mask-beats-a-mask-by-magnitude-and-both-beat-chance'
    assert (was[first], now[first], now['open'])==('holds', 'fails', 'open')

# The parts

def test_looks_in_the_page():
    assert all(set(css_look(n))=={'color', 'marker', 'dash'} for n in method_looks)
    assert css_look('feature extraction')==dict(color='currentColor', marker='', dash='7 4')
    assert css_look('adaptprune')['color']==method_looks['adaptprune']['color']

def test_choices_are_escaped_and_named_after_the_figure():
    said = tabs('f', 'task', {'a"b': '<x>'}, 'a"b')
    assert 'name="f-task"' in said and '&lt;x&gt;' in said and 'value="a&quot;b" checked' in said
    assert 'name="f-at"' in slider('f', 'at', 3, 1, 'what') and 'max="3"' in slider('f', 'at', 3, 1, 'what')
    with pytest.raises(ValueError, match="'c' is none of the choices of 'task'"): tabs('f', 'task', {'a': 'A'}, 'c')

def test_data_cannot_end_the_script():
    f = Figure('f', 'A figure', ['</script>'], 'function draw() {}', '<svg></svg>')
    assert f.html().count('</script>')==1 and 'hidden>' not in f.html() and set(f._repr_mimebundle_())=={'text/html', 'text/plain'}

def test_a_small_picture_keeps_the_colour_of_each_method():
    fig,ax = plt.subplots(figsize=(7, 3))
    for i,look in enumerate(method_looks.values()): ax.plot([0, 1], [i, i], color=look['color'], ls=look['ls'], marker=look['marker'], mfc='white')
    pixels = np.asarray(Image.open(io.BytesIO(b64decode(picture(fig)))).convert('RGB')).reshape(-1, 3).astype(int)
    for look in method_looks.values():
        wanted = np.round(255*np.array(to_rgb(look['color'])))
        assert abs(pixels-wanted).sum(1).min()<=12, look['color']

def test_a_still_is_smaller_than_what_a_notebook_stores():
    fig,ax = plt.subplots()
    ax.plot(range(9))
    still = Still(fig, 'A line')
    assert not plt.fignum_exists(fig.number) and 1000<len(still.png)<20_000 and repr(still)=='A line'

# In a browser

probe = """(fig => { const labels = [...fig.querySelectorAll('svg text')]
  const least = Math.min(...labels.map(e => parseFloat(getComputedStyle(e).fontSize)))
  return {labels: labels.length, least, stills: fig.querySelectorAll('.still').length, wide: fig.scrollWidth} })(document.querySelector('figure'))"""

@pytest.fixture
def browser():
    pytest.importorskip('websocket', reason='websocket-client, by which Chromium is told what to do, is not installed')
    from chromium import Chromium,program
    if not program: pytest.skip('needs Chromium')
    with Chromium() as c: yield c

@each
def test_it_draws_on_a_phone(name, tmp_path, browser):
    "It draws, its labels have 9 pixels or more, the picture is gone, nothing hangs over at 390 pixels, and no script fails"
    page = tmp_path/'page.html'
    page.write_text(f'<!doctype html><meta charset="utf-8"><body style="width:366px; margin:12px">{html(name)}', encoding='utf-8')
    browser('Emulation.setDeviceMetricsOverride', width=500, height=900, deviceScaleFactor=1, mobile=False)
    browser.open(page.as_uri())
    browser.until("document.querySelectorAll('figure svg text').length>=8 && !document.querySelector('figure .still')")
    found = browser.js(probe)
    assert found['labels']>=8 and found['least']>=9 and found['stills']==0 and found['wide']<=366
    assert not browser.errors
