"""Every hook name that lrp_lens spells, in HookedTransformer's canonical form."""

from typing import Any

from transformer_lens.utilities import get_act_name

from lrp_lens.checks import is_whole
from lrp_lens.errors import InputError


class Names:
    """Canonical names of hook points and of the ledger's own records.

    Example:
        >>> Names.attention(3, "z")
        'blocks.3.attn.hook_z'
    """

    EMBED = "hook_embed"
    POS_EMBED = "hook_pos_embed"
    EMBED_NORM = "embed.ln"
    FINAL_NORM = "ln_final"
    UNEMBED_INPUT = "unembed.hook_in"
    LOGITS = "unembed.hook_out"
    RETURNED_LOGITS = "logits"
    MASKED = ("hook_attn_scores", "hook_pattern")

    BRIDGE_EMBED_NORM_OUTPUT = "embed_ln.hook_out"

    @staticmethod
    def block(layer: int) -> str:
        return f"blocks.{layer}"

    @staticmethod
    def layer_of(name: str) -> int | None:
        """The layer in which a hook point lies; None outside the blocks.

        Example:
            >>> Names.layer_of("blocks.3.attn.hook_z"), Names.layer_of("hook_embed")
            (3, None)
        """
        room, _, rest = name.partition(".")
        return int(rest.partition(".")[0]) if room == "blocks" else None

    @staticmethod
    def resid_pre(layer: int) -> str:
        return f"blocks.{layer}.hook_resid_pre"

    @staticmethod
    def resid_mid(layer: int) -> str:
        return f"blocks.{layer}.hook_resid_mid"

    @staticmethod
    def resid_post(layer: int) -> str:
        return f"blocks.{layer}.hook_resid_post"

    @staticmethod
    def attn_out(layer: int) -> str:
        return f"blocks.{layer}.hook_attn_out"

    @staticmethod
    def mlp_out(layer: int) -> str:
        return f"blocks.{layer}.hook_mlp_out"

    @staticmethod
    def attention(layer: int, part: str) -> str:
        return f"blocks.{layer}.attn.hook_{part}"

    @staticmethod
    def attention_module(layer: int) -> str:
        """Prefix of everything inside one attention layer."""
        return f"blocks.{layer}.attn."

    @staticmethod
    def o_projection(layer: int) -> str:
        """TransformerBridge's output of the output projection, before any post-norm."""
        return f"blocks.{layer}.attn.o.hook_out"

    @staticmethod
    def mlp(layer: int, part: str) -> str:
        return f"blocks.{layer}.mlp.hook_{part}"

    @staticmethod
    def qk_norm(layer: int, part: str) -> str:
        return f"blocks.{layer}.attn.{part}_norm"

    @staticmethod
    def expert_weights(layer: int) -> str:
        return f"blocks.{layer}.mlp.hook_expert_weights"

    @staticmethod
    def expert(layer: int, index: int, part: str) -> str:
        return f"blocks.{layer}.mlp.experts.{index}.hook_{part}"

    @staticmethod
    def scale(norm: str) -> str:
        return f"{norm}.hook_scale"

    @staticmethod
    def normalized(norm: str) -> str:
        return f"{norm}.hook_normalized"

    @staticmethod
    def norm_output(norm: str) -> str:
        """A norm's output, gain and bias applied."""
        return f"{norm}.output"

    @staticmethod
    def raw(name: str) -> str:
        """What attention or MLP computed before a post-norm."""
        return f"{name}.raw"

    @staticmethod
    def moe_input(layer: int) -> str:
        """What a mixture of experts reads."""
        return f"blocks.{layer}.mlp.hook_in"


def resolve_name(key: Any, n_layers: int) -> str:
    """A canonical hook name from ActivationCache's forms: "blocks.5.attn.hook_z", ("z", 5), ("resid_pre", -1).

    Raises:
        InputError: if the key is neither a string nor a tuple that transformer_lens understands.
    """
    if isinstance(key, str):
        return key if "." in key or key.startswith("hook_") else _long_form(key, key)
    if isinstance(key, tuple) and key and isinstance(key[0], str):
        name, *rest = key
        layer = rest[0] if rest else None
        if layer is not None and not is_whole(layer):
            raise InputError(f"A layer is a whole number in [0, {n_layers}); received {key!r}.")
        if layer is not None:
            if not -n_layers <= int(layer) < n_layers:
                raise InputError(f"A layer lies in [0, {n_layers}); received {key!r}.")
            rest[0] = int(layer) % n_layers
        return _long_form(key, name, *rest)
    raise InputError(f"A hook point is a name or a tuple such as ('z', 5); received {key!r}.")


def _long_form(key: Any, *parts: Any) -> str:
    try:
        return str(get_act_name(*parts))
    except (ValueError, TypeError, IndexError, AttributeError, KeyError) as error:
        raise InputError(
            f"A hook point is a name or a tuple such as ('z', 5); transformer_lens does not understand {key!r}."
        ) from error
