"Mask files that older versions wrote load to the same masks and the same logits (data/old_mask/make.py says how they were made)."
import copy, json
from pathlib import Path
import pytest, torch
from adaptprune.artifact import TaskMask, mask_hash

old = Path(__file__).parent/'data'/'old_mask'
known = json.loads((old/'known.json').read_text())
ids = torch.arange(2, 30).view(4, 7)
inputs = dict(input_ids=ids, attention_mask=torch.ones_like(ids))

@pytest.mark.parametrize('kind', ['whole', 'magnitude'])
def test_old_files_give_the_same_model(tiny, kind):
    base = tiny('Bert')
    tm = TaskMask.from_pretrained(old/kind)
    assert tm.sparsity==known['sparsity'] and tm.info['task']=='mini-sentiment'
    with torch.no_grad(): logits = tm.load_model(copy.deepcopy(base))(**inputs).logits
    assert mask_hash(tm.mask)==known['mask']
    torch.testing.assert_close(logits, torch.tensor(known['logits']), rtol=0, atol=1e-6)

def test_old_files_give_the_mask_bit_for_bit(tiny):
    base = tiny('Bert')
    pruned = TaskMask.from_pretrained(old/'whole').apply(copy.deepcopy(base))
    mask = TaskMask.from_pretrained(old/'magnitude', reference=base).mask
    for n,m in mask.items(): assert torch.equal(pruned.get_parameter(n), base.get_parameter(n)*m)

def test_old_difference_from_a_sister(tiny):
    sister = TaskMask.from_pretrained(old/'delta', reference=TaskMask.from_pretrained(old/'whole'))
    assert mask_hash(sister.mask)==known['sister']!=known['mask']

@pytest.mark.parametrize('kind', ['whole', 'magnitude'])
def test_the_same_bytes_are_written_again(tiny, kind, tmp_path):
    reference = None if kind=='whole' else tiny('Bert')
    TaskMask.from_pretrained(old/kind, reference=reference).save_pretrained(tmp_path, reference)
    for f in (old/kind).iterdir(): assert (tmp_path/f.name).read_bytes()==f.read_bytes()
