"""Loading: every host gives the logits of the Hugging Face directory, or refuses by name."""

import json
import shutil
import socket

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from lrp_lens.errors import InputError
from lrp_lens.hosts.loading import HAS_HOOKED_TRANSFORMER, bridge, hooked, hooked_config, load_model
from lrp_lens.hosts.loading.options import require_options
from tools.demo_model.export import demo_tokenizer

HOSTS = ("HookedTransformer",) * HAS_HOOKED_TRANSFORMER + ("TransformerBridge",)
needs_hooked = pytest.mark.skipif(
    not HAS_HOOKED_TRANSFORMER, reason="TransformerLens 4: no HookedTransformer"
)
needs_4 = pytest.mark.skipif(HAS_HOOKED_TRANSFORMER, reason="TransformerLens 3: HookedTransformer is there")
TOKENS = torch.tensor([[0, 7, 3, 11, 250, 9], [0, 5, 6, 100, 101, 102]])


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a local directory must load without any connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def save_llama(folder, *, tokenizer=True, **options):
    """A tiny random Llama with grouped keys; biases, where there are any, are far from zero."""
    fields = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4)
    fields |= dict(num_key_value_heads=2, vocab_size=434, max_position_embeddings=64, initializer_range=0.25)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**fields | options)).eval()
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
    model.save_pretrained(folder)
    if tokenizer:
        demo_tokenizer().save_pretrained(folder)
    return model


def logits(model):
    with torch.no_grad():
        output = model(TOKENS)
    return output if isinstance(output, torch.Tensor) else output.logits


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", ["model", "my-Llama-2-7b", "gemma-2-2b", "with blanks"])
def test_logits_are_those_of_the_directory_whatever_its_name(tmp_path, host, name):
    original = save_llama(tmp_path / name)
    model = load_model(tmp_path / name, host=host, device="cpu")
    assert type(model).__name__ == host
    assert not model.training
    torch.testing.assert_close(logits(model), logits(original), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("host", HOSTS)
def test_a_head_width_of_its_own(tmp_path, host):
    original = save_llama(tmp_path / "model", head_dim=16)
    model = load_model(str(tmp_path / "model"), host=host, device="cpu")
    assert model.cfg.d_head == 16
    torch.testing.assert_close(logits(model), logits(original), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("host", HOSTS)
def test_float64_is_float64(tmp_path, host):
    original = save_llama(tmp_path / "model").double()
    model = load_model(tmp_path / "model", host=host, dtype=torch.float64, device="cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    torch.testing.assert_close(logits(model), logits(original), atol=1e-5, rtol=1e-5)


def test_auto_prefers_hooked_transformer(tmp_path):
    save_llama(tmp_path / "model")
    assert type(load_model(tmp_path / "model", device="cpu")).__name__ == HOSTS[0]


@needs_hooked
@pytest.mark.parametrize("key", ["attention_bias", "mlp_bias"])
def test_biases_that_the_converter_drops_are_refused(tmp_path, key):
    save_llama(tmp_path / "model", **{key: True})
    with pytest.raises(InputError, match=rf"{key}=true.*host='TransformerBridge'"):
        load_model(tmp_path / "model", host="HookedTransformer")


@pytest.mark.parametrize("key", ["attention_bias", "mlp_bias"])
@pytest.mark.parametrize("host", ["auto", "TransformerBridge"])
def test_biases_are_kept_on_a_bridge(tmp_path, host, key):
    original = save_llama(tmp_path / "model", **{key: True})
    model = load_model(tmp_path / "model", host=host, device="cpu")
    assert type(model).__name__ == "TransformerBridge"
    torch.testing.assert_close(logits(model), logits(original), atol=2e-5, rtol=1e-5)


@needs_hooked
def test_any_other_silent_difference_is_refused(tmp_path):
    """HookedTransformer ignores this kind of rotary scaling without a word."""
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    save_llama(tmp_path / "model", rope_parameters=rope)
    with pytest.raises(InputError, match=r"log-probabilities differ by .*host='TransformerBridge'"):
        load_model(tmp_path / "model", host="HookedTransformer")
    assert type(load_model(tmp_path / "model")).__name__ == "TransformerBridge"


@needs_hooked
def test_an_architecture_without_converter_is_refused(tmp_path):
    from transformers import GemmaConfig, GemmaForCausalLM

    fields = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4)
    config = GemmaConfig(**fields, num_key_value_heads=4, head_dim=8, vocab_size=434)
    GemmaForCausalLM(config).save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"cannot convert a local GemmaForCausalLM.*TransformerBridge"):
        load_model(tmp_path / "model", host="HookedTransformer")
    assert type(load_model(tmp_path / "model")).__name__ == "TransformerBridge"


@needs_hooked
def test_weights_are_the_models_own_and_no_two_share_memory(tmp_path):
    """Handed over as they are read: neither tied weights nor the Hugging Face model may change with one of them."""
    original = save_llama(tmp_path / "model", tie_word_embeddings=True)
    model = load_model(tmp_path / "model", host="HookedTransformer", device="cpu")
    parameters = dict(model.named_parameters())
    places = [one.untyped_storage().data_ptr() for one in parameters.values()]
    assert len(set(places)) == len(places)
    assert all(one.requires_grad and one.is_leaf for one in parameters.values())
    expected = logits(original)
    torch.testing.assert_close(logits(model), expected, atol=2e-5, rtol=1e-5)
    with torch.no_grad():
        parameters["embed.W_E"].zero_()
    torch.testing.assert_close(parameters["unembed.W_U"].T, original.lm_head.weight, atol=0, rtol=0)


def save_gemma3(folder, **options):
    """A tiny random Gemma 3: a window of 4, one layer in two local; norm weights far from zero."""
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    fields = dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, head_dim=16
    )
    fields |= dict(num_key_value_heads=1, vocab_size=434, max_position_embeddings=64, sliding_window=4)
    fields |= dict(query_pre_attn_scalar=24, initializer_range=0.25)
    fields |= dict(layer_types=["sliding_attention", "full_attention"])
    config = Gemma3TextConfig(**fields | options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Gemma3ForCausalLM(config).eval()
        for name, parameter in model.named_parameters():
            if "norm" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    demo_tokenizer().save_pretrained(folder)
    return model


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"final_logit_softcapping": 3.0},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e4},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e2},
            }
        },
    ],
    ids=["plain", "soft-capped", "scaled"],
)
def test_a_local_gemma_3(tmp_path, host, options):
    """Thirty tokens: past the window, and far enough for both rotary bases to show."""
    original = save_gemma3(tmp_path / "gemma-3", **options)
    model = load_model(tmp_path / "gemma-3", host=host, device="cpu")
    assert type(model).__name__ == host
    tokens = torch.arange(2, 32)[None] * 7 % 434
    with torch.no_grad():
        theirs, ours = original(tokens).logits, model(tokens)
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


@needs_hooked
@pytest.mark.parametrize(
    "options",
    [
        {"attention_bias": True},
        {
            "rope_parameters": {
                "full_attention": {"rope_type": "default", "rope_theta": 1e4},
                "sliding_attention": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e2},
            }
        },
    ],
    ids=["biases", "local layers scaled"],
)
def test_a_local_gemma_3_that_does_not_fit(tmp_path, options):
    original = save_gemma3(tmp_path / "model", **options)
    with pytest.raises(InputError, match=r"cannot convert a local Gemma3ForCausalLM.*TransformerBridge"):
        load_model(tmp_path / "model", host="HookedTransformer")
    model = load_model(tmp_path / "model", device="cpu")
    assert type(model).__name__ == "TransformerBridge"
    torch.testing.assert_close(logits(model), logits(original), atol=2e-5, rtol=1e-5)


@needs_hooked
def test_processing_keeps_the_log_probabilities(tmp_path):
    original = save_llama(tmp_path / "model")
    model = load_model(tmp_path / "model", fold_ln=True, center_unembed=True, device="cpu")
    assert model.cfg.normalization_type == "RMSPre"
    assert type(model.ln_final).__name__ == "RMSNormPre"
    expected = logits(original).log_softmax(-1)
    torch.testing.assert_close(logits(model).log_softmax(-1), expected, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("host", HOSTS)
def test_a_directory_without_tokenizer(tmp_path, host):
    original = save_llama(tmp_path / "model", tokenizer=False)
    model = load_model(tmp_path / "model", host=host, device="cpu")
    torch.testing.assert_close(logits(model), logits(original), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("host", HOSTS)
def test_a_hub_that_gives_nothing_is_one_error(monkeypatch, host):
    def nothing(*args, **options):
        raise OSError("no such repository.")

    monkeypatch.setattr(bridge.TransformerBridge, "boot_transformers", nothing)
    if HAS_HOOKED_TRANSFORMER:
        monkeypatch.setattr(hooked.HookedTransformer, "from_pretrained", nothing)
    with pytest.raises(
        InputError, match=r"The hub gave no model 'gpt2': no such repository\. Check the spelling"
    ):
        load_model("gpt2", host=host, device="cpu")


@needs_hooked
@pytest.mark.parametrize("bos_first", [True, False])
def test_a_tokenizer_that_says_bos_comes_first_is_read_once(tmp_path, monkeypatch, bos_first):
    save_llama(tmp_path / "model")
    said = tmp_path / "model" / "tokenizer_config.json"
    said.write_text(json.dumps(json.loads(said.read_text()) | {"add_bos_token": bos_first}))
    reads = []

    def spy(path, **options):
        reads.append(path)
        return read(path, **options)

    read = AutoTokenizer.from_pretrained
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", spy)
    tokenizer = load_model(tmp_path / "model", host="HookedTransformer", device="cpu").tokenizer
    assert len(reads) == (1 if bos_first else 2)  # without the file's word HookedTransformer makes its own
    assert tokenizer("mary")["input_ids"] == [
        tokenizer.bos_token_id,
        *tokenizer.encode("mary", add_special_tokens=False),
    ]


def test_hub_names_go_to_the_real_loaders(monkeypatch):
    calls = []

    def record(name, **options):
        calls.append((name, options))
        model = torch.nn.Linear(1, 1)
        model.cfg = type("Config", (), {"original_architecture": "GPT2LMHeadModel"})()
        return model

    monkeypatch.setattr(bridge.TransformerBridge, "boot_transformers", record)
    load_model("gpt2", host="TransformerBridge", device="cpu")
    assert calls.pop() == ("gpt2", {"dtype": torch.float32, "device": "cpu"})
    if HAS_HOOKED_TRANSFORMER:
        monkeypatch.setattr(hooked.HookedTransformer, "from_pretrained", record)
        assert not load_model("gpt2", host="HookedTransformer", device="cpu", fold_ln=True).training
        name, options = calls.pop()
        assert name == "gpt2"
        assert options["fold_ln"] is True
        assert options["center_writing_weights"] is options["center_unembed"] is False
        with pytest.raises(InputError, match="no entry for the model name 'nobody/nothing'"):
            load_model("nobody/nothing", host="HookedTransformer")
    load_model("nobody/nothing", device="cpu")
    assert calls.pop()[0] == "nobody/nothing"


@needs_hooked
def test_biases_are_refused_for_hub_names_too(monkeypatch):
    def fake(name, **options):
        model = torch.nn.Linear(1, 1)
        model.cfg = type("Config", (), {"original_architecture": "LlamaForCausalLM"})()
        return model

    config = LlamaConfig(architectures=["LlamaForCausalLM"], attention_bias=True)
    monkeypatch.setattr(hooked.HookedTransformer, "from_pretrained", fake)
    monkeypatch.setattr(hooked.AutoConfig, "from_pretrained", lambda name: config)
    with pytest.raises(InputError, match="attention_bias=true"):
        load_model("gpt2", host="HookedTransformer")


@needs_4
def test_hooked_transformer_is_gone(tmp_path):
    save_llama(tmp_path / "model")
    with pytest.raises(InputError, match=r"has no HookedTransformer.*TransformerBridge"):
        load_model(tmp_path / "model", host="HookedTransformer")
    with pytest.raises(InputError, match=r"\['fold_ln'\] need it"):
        load_model(tmp_path / "model", fold_ln=True)


def test_bad_inputs(tmp_path):
    with pytest.raises(InputError, match="host must be one of"):
        require_options("nnsight", {})
    with pytest.raises(InputError, match=r"processing options .*\['fold_everything'\]"):
        load_model(tmp_path, fold_everything=True)
    with pytest.raises(InputError, match="no such model directory"):
        load_model(tmp_path / "missing")
    with pytest.raises(InputError, match="no such model directory"):
        load_model("./missing")
    with pytest.raises(InputError, match=r"must hold config\.json"):
        load_model(tmp_path)
    with pytest.raises(InputError, match="loads weights as they are"):
        load_model(tmp_path, host="TransformerBridge", fold_ln=True)
    save_llama(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").unlink()
    for host in HOSTS:
        with pytest.raises(InputError, match="cannot load the weights"):
            load_model(tmp_path / "model", host=host)


@needs_hooked
def test_a_folder_for_temporary_files_named_after_a_model(tmp_path, monkeypatch):
    save_llama(tmp_path / "model")
    misleading = tmp_path / "llama-files"
    misleading.mkdir()
    monkeypatch.setattr(hooked_config.tempfile, "gettempdir", lambda: str(misleading))
    with pytest.raises(InputError, match="set TMPDIR"):
        load_model(tmp_path / "model", host="HookedTransformer")


def test_nothing_is_written_beside_the_model(tmp_path):
    save_llama(tmp_path / "model")
    before = sorted(path.name for path in (tmp_path / "model").iterdir())
    load_model(tmp_path / "model", device="cpu")
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == before
    shutil.rmtree(tmp_path / "model")
