"""Running a model with every edge outside a circuit replaced, exactly, for many circuits at once.

What a reader sees is a sum over writers, of which a circuit keeps some as the run has them, and takes the others from
elsewhere (a corrupted run, a mean, or zero):

    input(reader) = Σ_w  mask · output_w(this run) + (1 - mask) · other_w
                  = Σ_w other_w  +  Σ_w  mask · (output_w(this run) - other_w).

1. Keep the differences output - other of all writers so far in one buffer, [writer, row, pos, d_model]; a row is one
   prompt in one circuit.
2. At each layer form the inputs of all its q, k and v by one product of mask and buffer, take them through norm and W
   and put them in at hook_q, hook_k and hook_v.
3. Put the MLP's input in at the stream it reads, and the logits' at the last state of the stream.  The stream between
   them is then nobody's input, so nothing else needs to be replaced.
4. z and MLP outputs of the run fill the buffer.

Source: edge ablation as in Conmy et al. 2304.14997 and Hanna et al. 2403.17806.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lrp_lens.circuits.readers import stream_before
from lrp_lens.circuits.writers import Writers
from lrp_lens.errors import SiteError
from lrp_lens.hosts.names import Names
from lrp_lens.hosts.reads import input_biases, input_norm, input_weights
from lrp_lens.hosts.token_batch import TokenBatch
from lrp_lens.ops.gates import wide
from lrp_lens.run.plain import keeping, plain_logits

Hooks = list[tuple[Any, Callable[..., Tensor | None]]]


@dataclass(eq=False)
class AblatedRun:
    """One forward pass of circuits × prompts, its readers' inputs put together edge by edge."""

    writers: Writers
    masks: Bool[Tensor, "circuit writer reader ..."]
    """Edges that keep this run's output, with or without an axis of positions; fixed writers included."""
    other: Float[Tensor, "writer batch pos d_model"]
    """What replaces the outputs of the other edges."""
    buffer: Tensor = field(init=False)
    kept: dict[str, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        n_writers, batch, length, d_model = self.other.shape
        self.buffer = self.other.new_zeros(len(self.masks), n_writers, batch, length, d_model)
        self.weights = self.masks.to(self.other.dtype)
        self.streams: dict[int, Tensor] = {}
        total = torch.zeros_like(self.other[0])
        for index, stop in enumerate(sorted({0, *self.writers.graph.stops})):
            previous = sorted({0, *self.writers.graph.stops})[index - 1] if index else 0
            total = total + self.other[previous:stop].sum(0)
            self.streams[stop] = total

    def logits(self, batch: TokenBatch, keep: Hooks) -> Float[Tensor, "rows read d_vocab"]:
        """Run all circuits on all prompts, circuit by circuit in the order of the rows.

        Args:
            batch: the prompts.
            keep: further hooks, such as one that keeps only the positions a metric reads.
        """
        n = len(self.masks)
        mask = None if batch.left_mask is None else batch.left_mask.repeat(n, 1)
        raw = [name for layer in range(self.writers.graph.n_layers) if (name := self.writers.raw(layer))]
        ports, modules = keeping(self.writers.model, raw, self.kept)
        hooks = [*ports, *self.hooks(), *keep]
        return plain_logits(self.writers.model, batch.ids.repeat(n, 1), hooks, modules, mask)

    def hooks(self) -> Hooks:
        """The edits and readings of one pass."""
        graph = self.writers.graph
        hooks: Hooks = [(self._point(Names.EMBED), self._read_embedding)]
        first = 0
        for layer in range(graph.n_layers):
            for part in "qkv":
                width = graph.n_heads if part == "q" else graph.n_key_value_heads
                readers = slice(first, first + width)
                edit = self._edit_heads(layer, part, readers)
                hooks.append((self._point(Names.attention(layer, part)), edit))
                first += width
            hooks.append((self._point(Names.attention(layer, "z")), self._read_heads(layer)))
            if graph.mlp:
                name = stream_before(self.writers.sites, layer)
                hooks.append((self._point(name), self._edit_stream(first)))
                hooks.append((self._point(Names.mlp_out(layer)), self._read_mlp(layer)))
                first += 1
        last = Names.resid_post(graph.n_layers - 1)
        return [*hooks, (self._point(last), self._edit_stream(first))]

    def _point(self, name: str) -> Any:
        record = self.writers.sites.record_of.get(name)
        if record is None or record.port is None:
            raise SiteError(
                f"A circuit is run by edits at hook points; {self.writers.sites.host} has none at {name!r}. Use the "
                "other host for this model."
            )
        return record.port.point

    # ------------------------------------------------------------------------------- readers
    def inputs(self, readers: slice) -> Float[Tensor, "reader rows pos d_model"]:
        """The stream as each of these readers sees it (they stand before the same writers)."""
        stop = self.writers.graph.stops[readers.start]
        masks, buffer = self.weights[:, :stop, readers], self.buffer[:, :stop]
        equation = "cwr,cwbpd->rcbpd" if masks.ndim == 3 else "cwrp,cwbpd->rcbpd"
        found = torch.einsum(equation, masks, buffer) + self.streams[stop]
        return found.flatten(1, 2)

    def _edit_heads(self, layer: int, part: str, readers: slice) -> Callable[..., Tensor]:
        model, norm = self.writers.model, input_norm(self.writers.sites, layer, "attention")

        def edit(tensor: Tensor, hook: Any) -> Tensor:
            weights, biases = wide(input_weights(model, layer, part)), input_biases(model, layer, part)
            inputs = self.inputs(readers)
            read = inputs if norm is None else norm.norm.forward(inputs)
            value = torch.einsum("hbpd,hde->bphe", read, weights.to(read))
            value = value if biases is None else value + biases.to(value)
            return value.to(tensor.dtype).reshape(tensor.shape).contiguous()

        return edit

    def _edit_stream(self, reader: int) -> Callable[..., Tensor]:
        def edit(tensor: Tensor, hook: Any) -> Tensor:
            value = self.inputs(slice(reader, reader + 1))[0]
            return value.to(tensor.dtype).reshape(tensor.shape).contiguous()

        return edit

    # ------------------------------------------------------------------------------- writers
    def _enter(self, first: int, outputs: Float[Tensor, "writer rows pos d_model"]) -> None:
        """Note how far these outputs are from what would replace them."""
        rows = slice(first, first + len(outputs))
        shaped = outputs.unflatten(1, (len(self.masks), -1)).transpose(0, 1)
        self.buffer[:, rows] = shaped - self.other[rows]

    def _read_embedding(self, tensor: Tensor, hook: Any) -> None:
        self._enter(0, wide(tensor)[None])

    def _read_heads(self, layer: int) -> Callable[..., None]:
        def read(tensor: Tensor, hook: Any) -> None:
            self._enter(self.writers.starts[layer], self.writers.attention(layer, tensor.detach()))

        return read

    def _read_mlp(self, layer: int) -> Callable[..., None]:
        graph = self.writers.graph
        first = self.writers.starts[layer] + graph.n_heads + ((layer, "b_O") in graph.biases)

        def read(tensor: Tensor, hook: Any) -> None:
            raw = self.writers.raw(layer)
            self._enter(first, self.writers.mlp(layer, tensor, self.kept.get(raw)))

        return read
