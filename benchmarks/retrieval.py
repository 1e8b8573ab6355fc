"""A small retrieval set: which of 5,716 abstracts belongs to this title? A sentence encoder whole, smaller, and in int8.

    python benchmarks/retrieval.py PATH/papers.tsv runs/compress/encoder-40a4bb52    # writes results/retrieval.json

The papers are titles and abstracts of ACL, NAACL and COLING, 2020 to 2025 (columns title and abstract). The smaller encoder is a folder of
`compress`, as `python benchmarks/compress.py --glue-dir PATH --task encoder` makes it: it has seen no paper. Texts are cut at 128 tokens. The floor
is the mean of the word embeddings, without an encoder; words in common are counted by BM25, which a strong user would try first."""
import json, tempfile, time
from pathlib import Path

import numpy as np, pandas as pd, torch

from adaptprune.cli import script
from adaptprune.export import OnnxRunner
from adaptprune.files import write_file
from adaptprune.folder import load_compact
from adaptprune.forms import Forms
from adaptprune.published import model_path
from adaptprune.subject import answers, load_subject, runner
from adaptprune.timing import machine

root = Path(__file__).resolve().parent.parent

def found(scores, right):
    "How well right answers are ranked, from scores (queries, documents)"
    own = scores[np.arange(len(right)), right]
    rank = (scores>own[:,None]).sum(1)+1
    return dict(mrr_10=float(np.where(rank<=10, 1/rank, 0).mean()), recall_1=float((rank==1).mean()), recall_10=float((rank<=10).mean()))

def by_vectors(subject, run, queries, documents, right):
    "Cosines of a function's vectors"
    q,d = (answers(subject, run, texts).numpy() for texts in (queries, documents))
    return found(q@d.T, right)

def static(subject):
    "The mean of the word embeddings alone"
    words = subject.model.get_input_embeddings()
    def run(batch):
        with torch.no_grad(): return subject.vectors((words(batch['input_ids']),)[0], batch)
    return run

def bm25(queries, documents, right, k=1.2, b=.75):
    "Words in common, weighted as in BM25 (Robertson and Zaragoza 2009)"
    from sklearn.feature_extraction.text import CountVectorizer
    count = CountVectorizer(token_pattern=r'(?u)\b\w+\b')
    docs = count.fit_transform(documents).astype(float).tocsr()
    length = np.asarray(docs.sum(1)).ravel()
    n = len(documents)
    df = np.asarray((docs>0).sum(0)).ravel()
    docs.data = docs.data*(k+1)/(docs.data+k*(1-b+b*np.repeat(length/length.mean(), np.diff(docs.indptr))))
    weighted = docs.multiply(np.log1p((n-df+.5)/(df+.5))).tocsr()
    return found((count.transform(queries)@weighted.T).toarray(), right)

def rows_of(whole, small, queries, documents, right):
    "Each way, with its metrics"
    with tempfile.TemporaryDirectory() as d:
        int8 = Forms(['int8'], documents[:64])(whole, whole.model, d, 'whole')[0].run
        ways = {'whole': runner(whole, whole.model), 'whole, int8': int8, 'smaller': runner(whole, load_compact(small).eval()),
            'smaller, int8': onnx_vectors(whole, Path(small)/'model_int8.onnx'), 'mean of word embeddings': static(whole)}
        for name,run in ways.items():
            began = time.perf_counter()
            yield name, by_vectors(whole, run, queries, documents, right), time.perf_counter()-began
    began = time.perf_counter()
    yield 'BM25', bm25(queries, documents, right), time.perf_counter()-began

def onnx_vectors(subject, file):
    "An ONNX file as a function of batches"
    session = OnnxRunner(file)
    def run(batch): return subject.vectors(torch.from_numpy(session(batch)), batch)
    return run

def main(
    papers:str, # table of papers, tab-separated, with the columns title and abstract
    small:str, # folder of `compress`
    model:str='minilm', # the whole encoder: 'minilm', 'mpnet', a folder, or a Hub id
    n_queries:int=1000, # titles to look up, at even distances
    limit:int=None, # use so many papers, to see that it works
    out:str=str(root/'results/retrieval.json') # file of the record
):
    "Measure, and write the record"
    table = pd.read_csv(papers, sep='\t')[:limit]
    right = np.linspace(0, len(table)-1, min(n_queries, len(table))).astype(int)
    queries,documents = table.title.iloc[right].tolist(), table.abstract.tolist()
    rows = []
    for name,metrics,seconds in rows_of(load_subject(model_path(model), kind='encoder'), small, queries, documents, right):
        rows.append(dict(name=name, **metrics, seconds=round(seconds, 1)))
        print(rows[-1], flush=True)
    report = json.loads((Path(small)/'report.json').read_text())
    about = dict(model=model, removed=report['removed'], documents=len(documents), queries=len(queries), rows=rows, machine=machine(),
        command='python benchmarks/retrieval.py PATH/papers.tsv FOLDER', date=time.strftime('%Y-%m-%d'))
    write_file(out, json.dumps(about, indent=1).encode())

if __name__=='__main__': script(main)
