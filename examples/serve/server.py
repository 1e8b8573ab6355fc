"""Many classifiers in one process, over HTTP: questions of any task are collected for a few milliseconds and answered as one mixed batch.

    python server.py sentiment=masks/sentiment inference=masks/inference                          masks beside one base
    python server.py --int8 --pairs inference sentiment=int8/sentiment inference=int8/inference   folders of `adaptprune compress`"""
import argparse, asyncio, copy, json, logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np, torch, uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from adaptprune import MultiTask, TaskMask
from adaptprune.export import OnnxRunner
from adaptprune.head import load_tokenizer
from adaptprune.taskcard import old_length

log = logging.getLogger('uvicorn.error')

kinds = 'classification','multilabel','regression'

class About(NamedTuple):
    "What a task is"
    kind:str # 'classification', 'multilabel' or 'regression'
    classes:tuple # names; none for a score
    texts:int # texts in a question, one or two
    max_length:int # tokens that are read of a question

class Masks:
    "Mask files beside one base"
    def __init__(self, files):
        cards = {n: TaskMask.from_pretrained(f).card for n,f in files.items()}
        bad = next((n for n,c in cards.items() if c is None or c.kind not in kinds), None)
        if bad: raise ValueError(f"{files[bad]} answers with no labels and no score: this server has no use for it.")
        self.tasks = {n: About(c.kind, c.classes, len(c.text), c.max_length or old_length) for n,c in cards.items()}
        self.many = MultiTask.from_pretrained(files)
        self.many.use(next(iter(files)))                        # a batch then begins and ends with a task, not with the base
        self.tokenizer = copy.deepcopy(self.many.tokenizer)     # its own: the other one is at work in another thread

    def n_tokens(self, task, texts): return len(self.tokenizer(*texts)['input_ids'])

    def answer(self, tasks, rows):
        "An answer for each row: a dict of label and probabilities, or a score"
        return self.many.predict([r if len(r)>1 else r[0] for r in rows], tasks)

class Int8:
    "Folders of `adaptprune compress`, with `model_int8.onnx`; needs no PyTorch model"
    def __init__(self, folders, pairs=(), threads=1):
        self.tasks,self.tokenizers,self.sessions = {},{},{}
        for n,f in folders.items():
            config,report = (json.loads((Path(f)/name).read_text()) for name in ('config.json', 'report.json'))
            if report['kind'] not in ('classifier', 'regressor'): raise ValueError(f"{f} holds a model of the kind {report['kind']!r}: a server of labels has no use for it.")
            classes = () if report['kind']=='regressor' else tuple(v for _,v in sorted(config['id2label'].items(), key=lambda kv: int(kv[0])))
            several = config.get('problem_type')=='multi_label_classification'
            kind = 'multilabel' if several else 'classification' if classes else 'regression'
            self.tasks[n] = About(kind, classes, 1+(n in pairs), report['settings']['max_length'])
            self.tokenizers[n] = load_tokenizer(f)
            self.sessions[n] = OnnxRunner(Path(f)/'model_int8.onnx', threads)

    def n_tokens(self, task, texts): return len(self.tokenizers[task](*texts)['input_ids'])

    def answer(self, tasks, rows):
        "As for masks. Each row by itself: its scale in eight bits, and so its answer, then does not depend on its company"
        return [self.one(t, r) for t,r in zip(tasks, rows)]

    def one(self, task, texts):
        logits = self.sessions[task](self.tokenizers[task](*texts, return_tensors='np'))[0]
        about = self.tasks[task]
        if about.kind=='regression': return float(logits[0])
        if about.kind=='multilabel':
            p = dict(zip(about.classes, (1/(1+np.exp(-logits))).tolist()))
            return dict(labels=[c for c,x in p.items() if x>.5], probabilities=p)
        e = np.exp(logits-logits.max())
        p = (e/e.sum()).tolist()
        best = int(np.argmax(p))
        return dict(label=about.classes[best], probability=p[best], probabilities=dict(zip(about.classes, p)))

class Full(Exception): "As many questions wait as may"

class Batcher:
    "Collects questions, and has one thread answer them"
    def __init__(self,
        answer, # function of tasks and rows, as of `Masks`
        size:int=32, # most questions in a batch
        wait:float=.004, # seconds that the first question of a batch waits for others
        room:int=256 # most questions that wait
    ):
        self.answer,self.size,self.wait = answer,size,wait
        self.queue = asyncio.Queue(room)
        self.thread = ThreadPoolExecutor(1, 'answers')
        self.answered = self.batches = 0

    async def ask(self, task, texts):
        "The answer to one question; raises `Full`, and what the engine raises"
        future = asyncio.get_running_loop().create_future()
        try: self.queue.put_nowait((task, texts, future))
        except asyncio.QueueFull: raise Full from None
        return await future

    async def collect(self):
        "The next batch, without questions that nobody waits for any more"
        jobs = [await self.queue.get()]
        if self.queue.qsize()<self.size-1: await asyncio.sleep(self.wait)
        while len(jobs)<self.size and not self.queue.empty(): jobs.append(self.queue.get_nowait())
        return [j for j in jobs if not j[2].done()]

    async def run(self):
        "Answer until cancelled. A batch that fails is answered with its error, and the next one goes on"
        while True:
            jobs = await self.collect()
            if not jobs: continue
            tasks,rows,futures = zip(*jobs)
            try: got = await asyncio.get_running_loop().run_in_executor(self.thread, self.answer, list(tasks), list(rows))
            except asyncio.CancelledError:
                for f in futures: f.cancel()
                raise
            except Exception as e:
                log.exception('A batch failed.')
                got = [e]*len(jobs)
            self.batches += 1
            self.answered += len(jobs)
            for f,a in zip(futures, got):
                if f.done(): continue
                if isinstance(a, Exception): f.set_exception(a)
                else: f.set_result(a)

class Question(BaseModel):
    task: str
    text: str
    second: str|None = None

def refuse(status, words, **headers): raise HTTPException(status, words, headers or None)

def check(engine, q, max_chars):
    "The texts of a question that can be answered; another is refused, with the reason"
    about = engine.tasks.get(q.task) or refuse(404, f"No task {q.task!r}: there are {', '.join(engine.tasks)}.")
    texts = (q.text,) if q.second is None else (q.text, q.second)
    if len(texts)!=about.texts: refuse(422, f"The task {q.task!r} takes {'text and second' if about.texts>1 else 'text alone, no second'}.")
    if not all(t.strip() for t in texts): refuse(422, "The text is empty.")
    n = sum(map(len, texts))
    if n>max_chars: refuse(413, f"The text has {n:,} characters, and {max_chars:,} are taken.")
    n = engine.n_tokens(q.task, texts)
    if n>about.max_length: refuse(413, f"The text has {n:,} tokens, and the task {q.task!r} reads {about.max_length:,}: cut or split it.")
    return texts

def make_app(
    engine, # `Masks` or `Int8`
    max_chars:int=10_000, # most characters in a question
    **how # for `Batcher`
):
    "The server"
    @asynccontextmanager
    async def life(app):
        app.state.batcher = Batcher(engine.answer, **how)
        app.state.worker = asyncio.create_task(app.state.batcher.run())
        yield
        app.state.worker.cancel()
        app.state.batcher.thread.shutdown()

    app = FastAPI(title='adaptprune', lifespan=life)

    @app.get('/health')
    async def health():
        b,alive = app.state.batcher,not app.state.worker.done()
        about = {n: a._asdict() for n,a in engine.tasks.items()}
        found = dict(status='ok' if alive else 'stopped', tasks=about, waiting=b.queue.qsize(), answered=b.answered, batches=b.batches)
        return JSONResponse(found, 200 if alive else 503)

    @app.post('/predict')
    async def predict(q:Question):
        texts = check(engine, q, max_chars)
        try: got = await app.state.batcher.ask(q.task, texts)
        except Full: refuse(503, "Too many questions wait: ask again in a second.", **{'Retry-After': '1'})
        except Exception: refuse(500, "The model gave no answer: the server's log says why.")
        return dict(task=q.task, **(got if isinstance(got, dict) else dict(score=got)))

    return app

def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument('tasks', nargs='+', metavar='NAME=FOLDER')
    ask.add_argument('--int8', action='store_true', help='the folders are of adaptprune compress; answer by ONNX Runtime')
    ask.add_argument('--pairs', default='', help='with --int8: names of the tasks on two texts, comma-separated')
    ask.add_argument('--host', default='127.0.0.1')
    ask.add_argument('--port', type=int, default=8000)
    ask.add_argument('--threads', type=int, default=1, help='of the model (default: 1)')
    ask.add_argument('--size', type=int, default=32, help='most questions in a batch (default: 32)')
    ask.add_argument('--wait', type=float, default=4, help='milliseconds that a question waits for others (default: 4)')
    ask.add_argument('--room', type=int, default=256, help='most questions that wait; more get a 503 (default: 256)')
    a = ask.parse_args()
    bad = next((t for t in a.tasks if '=' not in t), None)
    if bad: ask.error(f"{bad!r} is no NAME=FOLDER, such as sentiment=masks/sentiment")
    folders = dict(t.split('=', 1) for t in a.tasks)
    if len(folders)<len(a.tasks): ask.error('two tasks have one name')
    pairs = [n for n in a.pairs.split(',') if n]
    unknown = set(pairs)-set(folders)
    if unknown: ask.error(f"--pairs names {', '.join(unknown)}, and there is no such task")
    torch.set_num_threads(a.threads)
    engine = Int8(folders, pairs, a.threads) if a.int8 else Masks(folders)
    uvicorn.run(make_app(engine, size=a.size, wait=a.wait/1e3, room=a.room), host=a.host, port=a.port, access_log=False)

if __name__=='__main__': main()
