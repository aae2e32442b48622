"""What attention reads: input weights, biases and norms against the hosts' own q, k and v."""

import pytest
import torch

from lrp_lens.errors import InputError, SiteError
from lrp_lens.hosts import resolve
from lrp_lens.hosts.forward import forward
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.reads import input_biases, input_norm, input_weights
from lrp_lens.hosts.scope import attached
from tests import zoo


def norm_by_hand(site, x):
    """(x - mean) / sqrt(var + ε) · gain + bias."""
    if site is None:
        return x
    x = x - x.mean(-1, keepdim=True) if site.centred else x
    x = x / (x.pow(2).mean(-1, keepdim=True) + site.epsilon).sqrt()
    gain, bias = site.gain(), site.bias()
    x = x if gain is None else x * gain
    return x if bias is None else x + bias


@pytest.mark.parametrize(("host", "name"), zoo.models())
def test_weights_and_biases_give_the_hosts_q_k_and_v(host: str, name: str) -> None:
    model = zoo.shared(host, name)
    sites, kept = resolve(model), {}

    def keep(name):
        return lambda tensor, hook: kept.__setitem__(name, tensor.detach())

    names = [
        name
        for layer in (0, 1)
        for name in (Names.resid_pre(layer), *(Names.attention(layer, p) for p in "qkv"))
    ]
    with torch.no_grad(), attached(model, ((sites.record_of[name].port.point, keep(name)) for name in names)):
        forward(model, zoo.prompt_tokens(2, 9), None)
    tolerance = 1e-10 if host != "bridge" and name not in ("gemma2", "gemma3") else 2e-5
    for layer in (0, 1):
        read = norm_by_hand(input_norm(sites, layer, "attention"), kept[Names.resid_pre(layer)])
        for part in "qkv":
            weights, biases = input_weights(model, layer, part), input_biases(model, layer, part)
            value = torch.einsum("bpd,hde->bphe", read, weights)
            value = value if biases is None else value + biases
            expected = kept[Names.attention(layer, part)]
            assert value.shape == expected.shape
            torch.testing.assert_close(value, expected, rtol=0, atol=tolerance)
            if biases is not None and biases.any():  # the test sees a dropped bias
                assert (value - biases - expected).abs().max() > 1e-3


def test_refusals() -> None:
    model = zoo.bridge("gpt2")
    with pytest.raises(InputError, match="A head reads 'q', 'k' and 'v'; received 'z'"):
        input_weights(model, 0, "z")

    class Attention(torch.nn.Module):
        W_Q = torch.zeros(4, 8)

    class Block:
        attn = Attention()

    class Bridge:
        blocks = (Block(),)

    Bridge.__name__ = "TransformerBridge"
    for part, found in (("q", r"\(4, 8\)"), ("k", "missing")):
        with pytest.raises(
            SiteError, match=rf"needs W_{part.upper()} as \[head, d_model, d_head\].*is {found}"
        ):
            input_weights(Bridge(), 0, part)
