"""Edges and circuits of a HookedTransformer, one at a time, by its own split inputs and per-head results.

Slow and literal: transformer_lens' flags give every reader an input of its own (`hook_q_input`, `hook_mlp_in`), whose
gradient autograd finds, and every head an output of its own (`hook_result`).  Nothing of lrp_lens.circuits is used.
"""

import contextlib

import torch

FLAGS = ("use_split_qkv_input", "use_attn_result", "use_hook_mlp_in")


@contextlib.contextmanager
def split(model):
    """Every reader an input, every head an output of its own."""
    before = {flag: getattr(model.cfg, flag) for flag in FLAGS}
    try:
        model.set_use_split_qkv_input(True)
        model.set_use_attn_result(True)
        if not model.cfg.attn_only:
            model.set_use_hook_mlp_in(not model.cfg.parallel_attn_mlp)
        yield
    finally:
        for flag, value in before.items():
            setattr(model.cfg, flag, value)


def _share(model, cache, layer, which, tensor):
    """A share of what a sublayer writes, through the norm after it with that norm's own scale."""
    olmo = model.cfg.original_architecture in ("Olmo2ForCausalLM", "Olmo3ForCausalLM")
    label = which if olmo else f"{which}_post"
    norm = getattr(model.blocks[layer], label, None)
    if norm is None or not (olmo or model.cfg.use_normalization_before_and_after):
        return tensor
    assert not type(norm).__name__.startswith("LayerNorm")
    return tensor / cache[f"blocks.{layer}.{label}.hook_scale"] * norm.w


def writer_outputs(model, cache):
    """Label → [batch, pos, d_model], in the order of the forward pass, zero biases left out."""
    found = {"embed": cache["hook_embed"]}
    if "hook_pos_embed" in cache:
        pos = cache["hook_pos_embed"]
        found["pos_embed"] = pos.expand_as(found["embed"])
    for layer in range(model.cfg.n_layers):
        block, prefix = model.blocks[layer], f"blocks.{layer}"
        result = cache[f"{prefix}.attn.hook_result"]
        for head in range(model.cfg.n_heads):
            found[f"L{layer}H{head}"] = _share(model, cache, layer, "ln1", result[:, :, head])
        if block.attn.b_O.any():
            found[f"L{layer} b_O"] = block.attn.b_O.expand_as(found["embed"])
        if model.cfg.attn_only:
            continue
        out, bias = cache[f"{prefix}.hook_mlp_out"], getattr(block.mlp, "b_out", None)
        if bias is None or not bias.any():
            found[f"L{layer} MLP"] = out
        else:
            found[f"L{layer} MLP"] = out - bias
            found[f"L{layer} b_out"] = bias.expand_as(out)
    return found


def reader_points(model):
    """Label → (hook point, head or None), in the order of the graph."""
    found = {}
    n_kv = model.cfg.n_key_value_heads or model.cfg.n_heads
    for layer in range(model.cfg.n_layers):
        for part in "qkv":
            count = model.cfg.n_heads if part == "q" else n_kv
            letter = "H" if count == model.cfg.n_heads else "KV"
            for head in range(count):
                found[f"L{layer}{letter}{head} {part}"] = (f"blocks.{layer}.hook_{part}_input", head)
        if not model.cfg.attn_only:
            found[f"L{layer} MLP"] = (f"blocks.{layer}.hook_mlp_in", None)
    found["logits"] = (f"blocks.{model.cfg.n_layers - 1}.hook_resid_post", None)
    return found


def is_before(model, writer, reader):
    """Whether a writer stands before a reader."""
    if reader == "logits" or writer in ("embed", "pos_embed"):
        return True
    at = [int(label[1:].split("H")[0].split("K")[0].split(" ")[0]) for label in (writer, reader)]
    if at[0] != at[1]:
        return at[0] < at[1]
    attention = "H" in writer or writer.endswith("b_O")
    return reader.endswith("MLP") and attention and not model.cfg.parallel_attn_mlp


def edges(model, tokens, other, metric, rules):
    """{(writer, reader): [batch, pos]}: output (or its difference) times the gradient at the reader's input."""
    with split(model):
        with torch.no_grad():
            _, own = model.run_with_cache(tokens)
            outputs = writer_outputs(model, own)
            if other is not None:
                replaced = writer_outputs(model, model.run_with_cache(other)[1])
                outputs = {label: value - replaced[label] for label, value in outputs.items()}
        inputs = {}

        def keep(tensor, hook):
            inputs[hook.name] = tensor
            tensor.retain_grad()

        points = reader_points(model)
        names = {name for name, _ in points.values()}
        hooks = [(name, keep) for name in names]
        embedding = [("hook_embed", lambda tensor, hook: tensor.detach().requires_grad_(True))]
        with model.hooks(fwd_hooks=embedding + rules.hooks(model) + hooks):
            metric(model(tokens)).sum().backward()
        model.zero_grad()
        found = {}
        for reader, (name, head) in points.items():
            gradient = inputs[name].grad
            if gradient is None:  # a rule cuts it off
                gradient = torch.zeros_like(inputs[name])
            gradient = gradient if head is None else gradient[:, :, head]
            for writer, output in outputs.items():
                if is_before(model, writer, reader):
                    found[writer, reader] = (output * gradient).sum(-1)
    return found


def run_circuit(model, tokens, other, kept):
    """Logits with each edge outside `kept` ((writer, reader[, position])) replaced by the other run's, one by one."""
    fixed = ("pos_embed", "b_O", "b_out")
    with torch.no_grad(), split(model):
        replaced = writer_outputs(model, model.run_with_cache(other)[1])
        own = {}

        def keep(tensor, hook):
            own[hook.name] = tensor.clone()

        def rebuild(reader, head):
            def hook(tensor, hook):
                tensor = tensor.clone()
                current = writer_outputs(model, Partial(own, model))
                at = tensor if head is None else tensor[:, :, head]
                for writer in replaced:
                    if writer.endswith(fixed) or not is_before(model, writer, reader):
                        continue
                    for position in range(at.shape[1]):
                        if (writer, reader) in kept or (writer, reader, position) in kept:
                            continue
                        at[:, position] += replaced[writer][:, position] - current[writer][:, position]
                return tensor

            return hook

        watched = [
            name
            for name in model.hook_dict
            if name.endswith(("hook_embed", "hook_result", "hook_mlp_out", "hook_scale"))
        ]
        hooks = [(name, keep) for name in watched]
        hooks += [(name, rebuild(reader, head)) for reader, (name, head) in reader_points(model).items()]
        return model.run_with_hooks(tokens, fwd_hooks=hooks)


class Partial(dict):
    """What a run has computed so far; what it has not is zero (nothing before it reads that)."""

    def __init__(self, own, model):
        super().__init__(own)
        self.model = model

    def __missing__(self, name):
        shape = self["hook_embed"].shape
        if name.endswith("hook_result"):
            return torch.zeros(*shape[:2], self.model.cfg.n_heads, shape[2])
        return torch.ones(*shape[:2], 1) if name.endswith("hook_scale") else torch.zeros(shape)
