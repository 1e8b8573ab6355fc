"What a teacher adds to the loss, against other ways to say it."
import pytest,torch
from adaptprune.loss import distil_hidden,distil_logits

def test_logits_are_a_divergence():
    a,b,t = torch.randn(6, 3),torch.randn(6, 3),3.
    p,q = (b/t).softmax(-1),(a/t).softmax(-1)
    torch.testing.assert_close(distil_logits(a, b, t), (p*(p/q).log()).sum(-1).mean()*t**2)
    assert distil_logits(b.half(), b.half()).dtype==torch.float32

def test_the_gradient_leads_to_the_teacher():
    a,b = torch.zeros(4, 3, requires_grad=True),torch.randn(4, 3)
    for _ in range(500):
        g, = torch.autograd.grad(distil_logits(a, b), a)
        a.data -= 2*g
    torch.testing.assert_close(a.softmax(-1), b.softmax(-1), atol=1e-3, rtol=0)

@pytest.mark.parametrize('scale', [1e-3, 1., 1e3])
def test_hidden_states_do_not_depend_on_scale(scale):
    a,b = [[torch.randn(2, 5, 7) for _ in range(3)] for _ in range(2)]
    want = sum(((x-y)**2).mean()/(y**2).mean() for x,y in zip(a, b))/3
    torch.testing.assert_close(distil_hidden([x*scale for x in a], [x*scale for x in b]), want)

def test_what_does_not_fit():
    with pytest.raises(ValueError, match='differ in what they predict'): distil_logits(torch.zeros(2, 3), torch.zeros(2, 1))
    with pytest.raises(ValueError, match='2 and 1 layers'): distil_hidden([torch.zeros(1, 2, 3)]*2, [torch.zeros(1, 2, 3)])
