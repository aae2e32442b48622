"""Attention in blocks of rows: z and its gradients from q, k and v, without a tensor of all rows and keys.

1. A `Program` holds the host's own operations from q · kᵀ to the pattern (`lrp_lens.ops.deferred` writes them down),
   and what rules do at scores, pattern, v and z.
2. Forward: it runs on one block of rows after another, as flash attention does (Dao et al. 2022, 2205.14135).
3. Backward: each block runs again in a graph of its own, rules included, and the gradients at k and v add up (gradient
   checkpointing, Chen et al. 2016, 1604.06174).
4. Keys behind the last row of a block are left out, if row 0 shows that they count for nothing.

Rows are the second last axis and keys the last one.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lrp_lens.ops.gates import accumulation_dtype

Functions = Mapping[str, Sequence[Callable[[Tensor], Tensor | None]]]
"""What runs with gradients, on the rows of a block: at "scores", "pattern" and "z", and on the keys of "v"."""
Product = Callable[..., Tensor]
_CAUSAL = 1e-3
"""Share of z by which keys may differ that count for nothing: rounding."""


@dataclass(frozen=True)
class Block:
    """Rows start … stop - 1 and the keys before `keys`."""

    start: int
    stop: int
    keys: int

    def of(self, tensor: Tensor, length: int) -> Tensor:
        """The part of a tensor that broadcasts to rows and keys."""
        if tensor.ndim and tensor.shape[-1] == length:
            tensor = tensor[..., : self.keys]
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


@dataclass(eq=False)
class Attention:
    """One layer's attention: its length, the rows of a block, and what its rules do."""

    label: str
    batch: int
    length: int
    size: int
    functions: Functions = field(default_factory=dict)

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
    pattern: Node
    times: Product
    """pattern · v."""
    causal: bool = False

    def blocks(self) -> Iterator[Block]:
        """Every row once."""
        length, size = self.attention.length, self.attention.size
        for start in range(0, length, size):
            stop = min(start + size, length)
            yield Block(start, stop, stop if self.causal else length)

    def z(self, block: Block, rows: Tensor, keys: Tensor, value: Tensor) -> Tensor:
        """z of a block, from its parts of q, kᵀ and v."""
        known: dict[int, Any] = {id(self.base): self.product(block, rows, keys)}

        def part_of(node: Node) -> Any:
            if id(node) not in known:
                known[id(node)] = node.run(block, part_of)
            return known[id(node)]

        value = self.attention.through_heads("v", value)
        z = self.times(part_of(self.pattern), value)
        known.clear()  # `part_of` refers to itself, and would keep them until garbage is collected
        return self.attention.through_heads("z", z)

    def parts(self, block: Block, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A block's parts of q, kᵀ and v."""
        rows = query[..., block.start : block.stop, :]
        return rows, key[..., : block.keys], value[..., : block.keys, :]

    def sees_only_itself_first(self, query: Tensor, key: Tensor, value: Tensor) -> bool:
        """Whether row 0 is the same without the keys behind it."""
        length = self.attention.length
        alone, seen = (
            self.z(block, *self.parts(block, query, key, value))
            for block in (Block(0, 1, 1), Block(0, 1, length))
        )
        return bool((alone - seen).abs().amax() <= _CAUSAL * seen.abs().amax())

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """z of all rows, in the graph of the three."""
        return _ByRows.apply(self, query, key, value)


class _ByRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, program: Program, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.program = program
        ctx.save_for_backward(query, key, value)
        program.causal = program.sees_only_itself_first(query, key, value)
        result: Tensor | None = None
        for block in program.blocks():
            z = program.z(block, *program.parts(block, query, key, value))
            if result is None:
                result = z.new_empty(*z.shape[:-2], program.attention.length, z.shape[-1])
            result[..., block.start : block.stop, :] = z
        assert result is not None
        return result

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
                z = program.z(block, *leaves)
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
