"How the files in this folder were made, with adaptprune at commit ae306c8 (run it in tests/: `python data/old_mask/make.py`)"
import json, sys, torch, transformers
from pathlib import Path
here = Path(__file__).parent
sys.path.insert(0, str(here.parents[1]))
from conftest import configs
from adaptprune.artifact import TaskMask, mask_hash
from adaptprune.head import AdaptModel
from adaptprune.mask import Mask

def base():
    torch.manual_seed(0)
    return transformers.BertModel(transformers.BertConfig(**configs['Bert'])).eval()

encoder = base()
weights = {n: p.detach() for n,p in encoder.named_parameters() if p.ndim==2}
torch.manual_seed(1)
model = AdaptModel(encoder, 2).eval()
head = {n: p.detach() for n,p in model.named_parameters() if n.startswith('head.')}
noise = torch.Generator().manual_seed(2)
near = {n: w.abs()+.004*torch.rand(w.shape, generator=noise) for n,w in weights.items()}
mask = Mask.from_scores(near, .5)
sister = Mask({n: m ^ (torch.rand(m.shape, generator=noise)<.01) for n,m in mask.items()})
info = dict(task='mini-sentiment', metrics=dict(accuracy=.5), n_out=2, pooling=model.pooling)
tm, other = TaskMask(mask, base(), head, info), TaskMask(sister, base(), info=dict(task='sister'))
tm.save_pretrained(here/'whole')
tm.save_pretrained(here/'magnitude', reference=base())
other.save_pretrained(here/'delta', reference=tm)
ids = torch.arange(2, 30).view(4, 7)
with torch.no_grad(): logits = tm.apply(model)(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
known = dict(mask=mask_hash(mask), sister=mask_hash(sister), sparsity=mask.sparsity, logits=logits.tolist())
(here/'known.json').write_text(json.dumps(known, indent=1)+'\n')
