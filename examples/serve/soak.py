"""Load the server for some minutes, as its users would: texts of mixed lengths, any task, several connections, and now and then a mistake.

    python soak.py --out ../../results/serving.json sentiment=masks/sentiment ...          ten minutes, then a line in the record
    python soak.py --int8 --pairs similarity,inference --seconds 180 --out ... sentiment=int8/sentiment ...

Every answer is compared with the one that was computed alone before the server was started, and every mistake must be refused in the right way.
Each connection asks its next question when it has its answer, so the latencies are those of a server that is always busy."""
import argparse, asyncio, json, os, random, socket, statistics, subprocess, sys, time
from pathlib import Path

import httpx, torch

from adaptprune import load, load_task
from adaptprune.timing import machine, versions

here = Path(__file__).resolve().parent

def pool(task, most_tokens, count, seed=0):
    "Questions of mixed lengths: one to some sentences of the mini task of that name, joined"
    from adaptprune.head import load_tokenizer
    draw,tokenizer = random.Random(f'{task}{seed}'),load_tokenizer('minilm')
    rows = [tuple(r[c] for c in ('text_a', 'text_b') if c in r) for r in load_task(f'mini-{task}')['dev']]
    found = {}
    while len(found)<count:
        some = draw.sample(rows, draw.choice([1, 1, 1, 2, 3, 5, 8]))
        texts = tuple(' '.join(part) for part in zip(*some))
        n = len(tokenizer(*texts)['input_ids'])
        if n<=most_tokens: found[texts] = n
    return found

def alone(a, questions):
    "The answer to each question, computed by itself and by other code than the server's"
    want = {}
    if a.int8:
        from server import Int8
        engine = Int8(a.folders, a.pairs, a.threads)
        for task,texts in questions: want[task,texts] = engine.answer([task], [texts])[0]
        return want
    for task in a.folders:
        p = load(a.folders[task])
        for t,texts in questions:
            if t==task: want[task,texts] = p.predict([texts if len(texts)>1 else texts[0]])[0]
    return want

def difference(got, want):
    "Largest difference between two answers; infinite if they are of different kinds"
    if not isinstance(want, dict): return abs(got.get('score', float('inf'))-want)
    if got.get('probabilities', {}).keys()!=want['probabilities'].keys(): return float('inf')
    return max(abs(got['probabilities'][c]-p) for c,p in want['probabilities'].items())

mistakes = {'unknown task': (dict(task='nothing', text='Hello.'), 404), 'empty text': (dict(task=None, text='  ', second=' '), 422),
    'too long': (dict(task=None, text='word '*400, second='word'), 413), 'no text': (dict(task=None), 422)}

def mistake(draw, about):
    "A wrong question, and the status that it must get"
    body,status = draw.choice(list(mistakes.values()))
    task = body['task'] or draw.choice(list(about))
    left = {k: v for k,v in body.items() if k!='second' or about[task]['texts']>1}
    return dict(left, task=task), status

def resident(pid):
    "Bytes of memory that a process holds"
    return int(Path(f'/proc/{pid}/statm').read_text().split()[1])*os.sysconf('SC_PAGE_SIZE')

class Load:
    "What the connections share"
    def __init__(self, url, want, about, seconds, tolerance):
        self.url,self.want,self.about,self.tolerance = url,want,about,tolerance
        self.questions = list(want)
        self.end = time.monotonic()+seconds
        self.latencies,self.errors,self.mixed,self.worst,self.refused,self.per_task = [],{},0,0.,0,{}

    def failed(self, words): self.errors[words] = self.errors.get(words, 0)+1

    async def ask(self, client, draw):
        "One question, and a look at its answer"
        if draw.random()<.02:
            body,status = mistake(draw, self.about)
            r = await client.post('/predict', json=body)
            self.refused += 1
            if r.status_code!=status: self.failed(f'a mistake got {r.status_code} and not {status}')
            return
        task,texts = draw.choice(self.questions)
        began = time.perf_counter()
        r = await client.post('/predict', json=dict(zip(('text', 'second'), texts), task=task))
        self.latencies.append(time.perf_counter()-began)
        if r.status_code!=200: return self.failed(f'status {r.status_code}')
        self.per_task[task] = self.per_task.get(task, 0)+1
        d = difference(r.json(), self.want[task,texts])
        self.worst = max(self.worst, d)
        self.mixed += r.json()['task']!=task or d>self.tolerance

    async def connection(self, i):
        draw = random.Random(i)
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
            while time.monotonic()<self.end:
                try: await self.ask(client, draw)
                except httpx.HTTPError as e: self.failed(type(e).__name__)

    async def watch(self, pid, every=1.):
        "Memory of the server, second by second"
        held = []
        while time.monotonic()<self.end:
            held.append(resident(pid))
            await asyncio.sleep(every)
        return held

def wait_until_up(url, process, most=120):
    for _ in range(most*5):
        if process.poll() is not None: sys.exit(f'The server ended with {process.returncode}.')
        try:
            r = httpx.get(url+'/health')
            if r.status_code==200: return r.json()
        except httpx.HTTPError: pass
        time.sleep(.2)
    sys.exit('The server did not start.')

def percentiles(xs):
    cuts = statistics.quantiles(xs, n=100, method='inclusive')
    return {f'p{p}': round(1e3*cuts[p-1], 1) for p in (50, 95, 99)} | dict(max=round(1e3*max(xs), 1))

def visible(want, tolerance):
    "Of all pairs of questions of one task, the share whose answers are so different that a mix-up shows"
    shown = []
    for t in {t for t,_ in want}:
        ps = [w if not isinstance(w, dict) else next(iter(w['probabilities'].values())) for (u,_),w in want.items() if u==t]
        shown += [abs(x-y)>2*tolerance for i,x in enumerate(ps) for y in ps[:i]]
    return round(sum(shown)/len(shown), 4)

async def run(a, url, pid, about, want):
    load = Load(url, want, about, a.seconds, a.tolerance)
    began,load_before = time.monotonic(),os.getloadavg()
    held,*_ = await asyncio.gather(load.watch(pid), *(load.connection(i) for i in range(a.connections)))
    wall = time.monotonic()-began
    minutes = [round(statistics.median(held[i:i+60])/2**20, 1) for i in range(0, len(held), 60)]
    answered = sum(load.per_task.values())
    return dict(seconds=round(wall, 1), connections=a.connections, answered=answered, answered_by_task=load.per_task, a_second=round(answered/wall, 1),
        latency_ms=percentiles(load.latencies), errors=load.errors, mistakes_refused=load.refused, mixed_up=load.mixed,
        largest_difference_to_alone=load.worst, tolerance=a.tolerance, mix_ups_that_would_show=visible(want, a.tolerance),
        memory_mib=dict(first_minute=minutes[0], last_minute=minutes[-1], by_minute=minutes, peak=round(max(held)/2**20, 1)),
        load_average=dict(before=load_before, after=os.getloadavg()))

def write(path, name, record):
    "Put one run into the file of records, beside the others"
    have = json.loads(Path(path).read_text()) if Path(path).exists() else {}
    Path(path).write_text(json.dumps({**have, name: record}, indent=1)+'\n')

def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument('tasks', nargs='+', metavar='NAME=FOLDER', help='as for server.py; NAME is sentiment, similarity or inference')
    ask.add_argument('--seconds', type=float, default=600)
    ask.add_argument('--connections', type=int, default=8)
    ask.add_argument('--questions', type=int, default=100, help='different ones for each task (default: 100)')
    ask.add_argument('--tolerance', type=float, default=1e-5, help='between an answer and the one computed alone (default: 1e-5)')
    ask.add_argument('--int8', action='store_true')
    ask.add_argument('--pairs', default='')
    ask.add_argument('--threads', type=int, default=1)
    ask.add_argument('--out', help='file of records, to which this run is added')
    a = ask.parse_args()
    torch.set_num_threads(a.threads)
    began = time.time()
    a.folders = dict(t.split('=', 1) for t in a.tasks)
    a.pairs = [n for n in a.pairs.split(',') if n]
    found = {t: pool(t, 128, a.questions) for t in a.folders}
    want = alone(a, [(t, texts) for t in found for texts in found[t]])
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    how = [*(['--int8', '--pairs', ','.join(a.pairs)] if a.int8 else []), '--threads', str(a.threads), '--port', str(port)]
    server = subprocess.Popen([sys.executable, str(here/'server.py'), *a.tasks, *how])
    url = f'http://127.0.0.1:{port}'
    try:
        health = wait_until_up(url, server)
        result = asyncio.run(run(a, url, server.pid, health['tasks'], want))
        after = httpx.get(url+'/health').json()
    finally:
        server.terminate()
        server.wait(30)
    lengths = sorted(n for f in found.values() for n in f.values())
    tokens = dict(least=lengths[0], median=int(statistics.median(lengths)), greatest=lengths[-1])
    software = versions('fastapi', 'uvicorn', 'starlette', 'httpx', 'onnxruntime')
    record = dict(command=' '.join(['python', 'examples/serve/soak.py', *sys.argv[1:]]), engine='int8 compact files, ONNX Runtime' if a.int8 else 'masks, MultiTask',
        machine=dict(machine(), **software, threads=a.threads), wall_s=round(time.time()-began), tokens=tokens, questions=len(want),
        rows_in_a_batch=round(after['answered']/max(1, after['batches']), 2), **result)
    print(json.dumps(record, indent=1))
    if a.out: write(a.out, 'int8' if a.int8 else 'masks', record)
    if record['errors'] or record['mixed_up']: sys.exit('There were errors or mix-ups.')

if __name__=='__main__': main()
