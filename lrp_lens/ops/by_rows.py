"""Attention in blocks of rows: z and its gradients from q, k and v, without a tensor of all rows and keys.

1. A `Program` holds the host's own operations from q · kᵀ to the pattern (`lrp_lens.ops.deferred` writes them down),
   and what rules do at scores, pattern, v and z.
2. Forward: it runs on one block of rows after another, as flash attention does (Dao et al. 2022, 2205.14135).
3. Backward: each block runs again in a graph of its own, rules included, and the gradients at k and v add up (gradient
   checkpointing, Chen et al. 2016, 1604.06174).
4. Keys behind the last row of a block are left out, if row 0 shows that they are hidden; so are those before the window
   of its first row, if that row shows it.
5. What is softmax(scale · q kᵀ + mask) v, with nothing that rules do inside, is left to a fused kernel (`ops.fused`):
   block by block, or all rows at once where the mask hides just what is behind a row.
6. A single block of all rows stays in the graph, and is not formed again.

Rows are the second last axis and keys the last one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lrp_lens.ops.fused import Form, Pattern, fused, is_causal, mask_of
from lrp_lens.ops.gates import accumulation_dtype

Functions = Mapping[str, Sequence[Callable[[Tensor], Tensor | None]]]
"""What runs with gradients, on the rows of a block: at "scores", "pattern" and "z", and on the keys of "v"."""
Product = Callable[..., Tensor]
MORE_ROWS = 4
"""Times as many rows has a block of which only a mask is made, the same for all heads."""
_NUMBERS = 2**20
"""At most so many has a part of a mask that is looked at."""


@dataclass(frozen=True)
class Block:
    """Rows start … stop - 1 and the keys first … keys - 1."""

    start: int
    stop: int
    keys: int
    first: int = 0

    def of(self, tensor: Tensor, length: int) -> Tensor:
        """The part of a tensor that broadcasts to rows and keys."""
        if tensor.ndim and tensor.shape[-1] == length:
            tensor = tensor[..., self.first : self.keys]
        if tensor.ndim > 1 and tensor.shape[-2] == length:
            tensor = tensor[..., self.start : self.stop, :]
        return tensor


PartOf = Callable[["Node"], Any]


@dataclass(frozen=True, eq=False)
class Node:
    """One operation that was put off."""

    run: Callable[[Block, PartOf], Any]
    """Block, and what gives the part of another node → this one's part."""
    meta: Tensor
    """Shape and dtype of its result."""
    form: Form | None = None
    """What it is of q · kᵀ, where that is known."""


@dataclass(eq=False)
class Attention:
    """One layer's attention: its length, the rows of a block, and what its rules do."""

    label: str
    batch: int
    length: int
    size: int
    functions: Functions = field(default_factory=dict)
    window: int | None = None
    """A row sees so many keys, itself included; None for all."""
    found: dict[str, tuple[int, int, bool]] = field(default_factory=dict)
    """Label → batch, length, and whether their mask hides just what is behind a row, as the last pass found out."""

    def through(self, part: str, tensor: Tensor) -> Tensor:
        """What the functions of a part pass on; in the graph only, as they keep values."""
        for function in self.functions.get(part, ()) if torch.is_grad_enabled() else ():
            found = function(tensor)
            tensor = tensor if found is None else found
        return tensor

    def through_heads(self, part: str, tensor: Tensor) -> Tensor:
        """The same for v and z, which the host shows as [batch, pos, head, d_head]."""
        if not self.functions.get(part):
            return tensor
        shown = tensor.reshape(self.batch, -1, *tensor.shape[-2:]).transpose(1, 2)
        return self.through(part, shown).transpose(1, 2).reshape(tensor.shape)


@dataclass(eq=False)
class Program:
    """What makes z of q, kᵀ and v."""

    attention: Attention
    product: Callable[[Block, Tensor, Tensor], Tensor]
    """q · kᵀ of a block's factors."""
    base: Node
    """Stands for that product."""
    device: torch.device
    pattern: Node
    times: Product
    """pattern · v."""
    may_be_fused: bool = False
    """Whether q, k and v are such as a fused kernel takes."""
    size: int = 0
    """Rows of a block."""
    causal: bool = False
    windowed: bool = False
    """Keys before the window of a block's rows are left out."""

    def blocks(self) -> Iterator[Block]:
        """Every row once."""
        length, window = self.attention.length, self.attention.window
        for start in range(0, length, self.size):
            stop = min(start + self.size, length)
            first = max(0, start - window + 1) if self.windowed and window is not None else 0
            yield Block(start, stop, stop if self.causal else length, first)

    def value_of(self, node: Node, block: Block, product: Tensor) -> Any:
        """What a node gives for a block, from the block's q · kᵀ."""
        known: dict[int, Any] = {id(self.base): product}

        def part_of(node: Node) -> Any:
            if id(node) not in known:
                known[id(node)] = node.run(block, part_of)
            return known[id(node)]

        found = part_of(node)
        known.clear()  # `part_of` refers to itself, and would keep them until garbage is collected
        return found

    def z(self, block: Block, mask: Tensor | None, rows: Tensor, keys: Tensor, value: Tensor) -> Tensor:
        """z of a block, from its parts of q, kᵀ and v, and its `mask`."""
        if mask is not None and isinstance(self.pattern.form, Pattern):
            return fused(rows, keys.mT, value, mask, self.pattern.form.scores.scale)
        value = self.attention.through_heads("v", value)
        z = self.times(self.value_of(self.pattern, block, self.product(block, rows, keys)), value)
        return self.attention.through_heads("z", z)

    @property
    def is_fused(self) -> bool:
        """Whether a fused kernel makes z: of this form, and with nothing that rules do inside."""
        acting = torch.is_grad_enabled() and bool(self.attention.functions)
        return self.may_be_fused and isinstance(self.pattern.form, Pattern) and not acting

    def mask(self, block: Block) -> Tensor | None:
        """What is added to a block's scale · q kᵀ, [1, 1 or head, row, key]; None where no fused kernel makes z."""
        form = self.pattern.form
        if not isinstance(form, Pattern) or not self.is_fused:
            return None
        source, meta = form.source, self.base.meta

        def scores(product: float) -> Tensor:
            sizes = (1, 1, block.stop - block.start, block.keys - block.first)
            like = torch.full(sizes, product, dtype=meta.dtype, device=self.device)
            found: Tensor = self.value_of(source, block, like)
            return found

        with torch.no_grad():
            return mask_of(scores, form.scores)

    def parts(self, block: Block, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A block's parts of q, kᵀ and v."""
        keys = slice(block.first, block.keys)
        return query[..., block.start : block.stop, :], key[..., keys], value[..., keys, :]

    def hidden(self, row: int, query: Tensor, key: Tensor) -> Tensor:
        """Which keys a row does not see, whatever the head, [key]."""
        block = Block(row, row + 1, self.attention.length)
        product = self.product(block, query[..., row : row + 1, :], key)
        pattern: Tensor = self.value_of(self.pattern, block, product)
        return (pattern == 0).flatten(0, -2).all(0)

    def prepare(self, query: Tensor, key: Tensor) -> None:
        """Find out how many rows a block has, and which keys it needs.

        Rows of scores are there for every head; of those that a fused kernel makes, only the rows of the mask.
        """
        self.size = self.attention.size
        mask = None if self.attention.functions else self.mask(Block(0, 1, self.attention.length))
        if mask is not None and mask.shape[:-2].numel() == 1:
            self.size *= MORE_ROWS
        self.causal = bool(self.hidden(0, query, key)[1:].all())
        self.windowed = self.causal and self.attention.window is not None
        self.windowed = self.windowed and all(
            bool(self.hidden(block.start, query, key)[: block.first].all())
            for block in self.blocks()
            if block.first
        )

    @property
    def at_once(self) -> bool:
        """Whether a fused kernel makes all rows at once: every row sees itself and all before it, and no more."""
        if not self.is_fused:
            return False
        batch, length = self.attention.batch, self.attention.length
        *sizes, at_once = self.attention.found.get(self.attention.label, (0, 0, False))
        size = min(MORE_ROWS * self.attention.size, max(1, _NUMBERS // length))
        if sizes == [batch, length]:  # a prefix would show in the first row, a window in the last
            ends = (Block(start, start + 1, length) for start in (0, length - 1))
            return at_once and all(is_causal(self.mask(block), block.start) for block in ends)
        blocks = (Block(start, min(start + size, length), length) for start in range(0, length, size))
        at_once = all(is_causal(self.mask(block), block.start) for block in blocks)
        self.attention.found[self.attention.label] = (batch, length, at_once)
        return at_once

    def run(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """z of all rows, out of the graph."""
        self.prepare(query, key)
        result: Tensor | None = None
        for block in self.blocks():
            mask = self.mask(block)
            if mask is None and self.is_fused:
                self.may_be_fused = False
                return self.run(query, key, value)
            z = self.z(block, mask, *self.parts(block, query, key, value))
            if result is None:
                result = z.new_empty(*z.shape[:-2], self.attention.length, z.shape[-1])
            result[..., block.start : block.stop, :] = z
        assert result is not None
        return result

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """z of all rows, in the graph of the three."""
        if isinstance(self.pattern.form, Pattern) and self.at_once:
            return fused(query, key.mT, value, None, self.pattern.form.scores.scale)
        if self.attention.size >= self.attention.length:
            every = Block(0, self.attention.length, self.attention.length)
            return self.z(every, self.mask(every), query, key, value)
        return _ByRows.apply(self, query, key, value)


class _ByRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, program: Program, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.program = program
        ctx.save_for_backward(query, key, value)
        return program.run(query, key, value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        program, tensors, needed = ctx.program, ctx.saved_tensors, ctx.needs_input_grad[1:]
        sums: list[Tensor | None] = [None, None, None]
        for block in program.blocks():
            leaves = [
                part.detach().requires_grad_(need)
                for part, need in zip(program.parts(block, *tensors), needed, strict=True)
            ]
            with torch.enable_grad():
                z = program.z(block, program.mask(block), *leaves)
            if not z.requires_grad:
                continue
            asked = [leaf for leaf in leaves if leaf.requires_grad]
            at_z = gradient[..., block.start : block.stop, :]
            found = iter(torch.autograd.grad(z, asked, at_z, allow_unused=True))
            for index, leaf in enumerate(leaves):
                part = next(found) if leaf.requires_grad else None
                if part is not None:
                    whole = tensors[index]
                    if sums[index] is None:
                        sums[index] = torch.zeros_like(whole, dtype=accumulation_dtype(whole.dtype))
                    into = program.parts(block, *(sums[index],) * 3)[index]
                    into += part
        return None, *(
            None if one is None else one.to(tensor.dtype) for one, tensor in zip(sums, tensors, strict=True)
        )
