"""Writing down what a host computes between q · kᵀ and pattern · v, to run it in blocks of rows.

1. `ByRows` is entered around a host's forward pass.  From `begin` on, the product q · kᵀ is not formed: the host gets a
   `Deferred` tensor, which has a shape and no numbers.
2. What the host computes from it (scale, soft-cap, masks, sinks, softmax) is written down, operation by operation;
   masks that it makes of positions are, too.
3. When it multiplies by v, the program runs (`lrp_lens.ops.by_rows`), and the host goes on with z.

Only operations that treat rows one by one are known; any other is refused.
"""

import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lrp_lens.ops.by_rows import Attention, Block, Node, PartOf, Program
from lrp_lens.ops.deferred import (
    Deferred,
    NotByRowsError,
    Shapes,
    holds_deferred,
    is_about_shape,
    mapped,
    meta_of,
    name_of,
    node_of,
    node_or_tensor,
    tensors_in,
)
from lrp_lens.ops.fused import CONSTANT, Form, Pattern, Scores, form_after

_PRODUCTS = {"matmul", "__matmul__", "bmm", "baddbmm"}
_ORDER = {"__le__", "__lt__", "__ge__", "__gt__", "le", "lt", "ge", "gt"}
_ELEMENTWISE = _ORDER | set(
    """add sub mul div true_divide __add__ __radd__ __sub__ __mul__ __rmul__ __truediv__ neg __neg__ tanh where
    masked_fill isnan zeros_like __and__ __or__ __invert__ bitwise_not contiguous nan_to_num clamp dropout float
    double""".split()
)
_IN_PLACE = {"add_": operator.add, "__iadd__": operator.add}
_OF_A_ROW = {"softmax", "max", "amax", "sum", "cat"}


class ByRows(TorchFunctionMode):
    """While this is entered, attention from `begin` to its z is taken row by row.

    Args:
        length: number of positions, if masks that a host makes for all layers are put off, too; they outlive it.
    """

    def __init__(self, length: int | None = None) -> None:
        super().__init__()
        self.length = length
        self.current: Attention | None = None
        self._base: tuple[Callable[[Block, Tensor, Tensor], Tensor], Node, Tensor, Tensor] | None = None
        self._marked: set[str] = set()
        self._made: list[Deferred] = []
        self._shapes = Shapes()

    def begin(self, attention: Attention) -> None:
        """q, k and v are there: the next product of queries and keys is put off."""
        self.current, self._made = attention, []

    def mark(self, part: str, tensor: Tensor) -> Tensor:
        """What the host shows as "scores" or "pattern": the functions of that part run here.

        Raises:
            SiteError: if it is no tensor that was put off.
        """
        attention = self.current
        if attention is None or not isinstance(tensor, Deferred):
            raise self._refused(f"its {part} are made elsewhere")
        self._marked.add(part)
        node = node_of(tensor)
        return self._deferred(
            lambda block, part_of: attention.through(part, part_of(node)), node.meta, tensor.device, node.form
        )

    def end(self) -> None:
        """Refuse an attention that is still going on where its z is shown."""
        if self.current is not None:
            raise self._refused("its z is no product of a pattern with v")

    def close(self) -> None:
        """Forget what was written down; tensors that a host keeps hold nothing."""
        self.current, self._base = None, None
        for one in self._made:
            one.node = None
        self._made.clear()
        self._marked.clear()

    # ------------------------------------------------------------------------------- recording
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        length = self.length if self.current is None else self.current.length
        if length is None:
            return func(*args, **kwargs)
        if holds_deferred((args, kwargs)):
            return self._on_deferred(length, func, args, kwargs)
        name = name_of(func)
        known = name in (_ORDER if self.current is None else _ELEMENTWISE)
        if known and len(given := tensors_in((args, kwargs))) > 1:
            shape = torch.broadcast_shapes(*(one.shape for one in given))
            if shape[-2:] == (length, length) and shape.numel() > max(one.numel() for one in given):
                return self._operation(length, func, args, kwargs, given[0].device)
        if self.current is None:
            return func(*args, **kwargs)
        if name in _PRODUCTS and self._base is None:
            return self._product(self.current, func, args, kwargs)
        if name == "ones" and tuple(args) == (length, length):
            made = func(1, 1, **kwargs)
            meta = func(*args, **kwargs | {"device": "meta"})
            return self._deferred(
                lambda block, part_of: made.expand(block.stop - block.start, block.keys - block.first),
                meta,
                made.device,
                CONSTANT,
            )
        return func(*args, **kwargs)

    def _on_deferred(self, length: int, func: Any, args: Any, kwargs: Any) -> Any:
        name = name_of(func)
        first = next(one for one in tensors_in((args, kwargs)) if isinstance(one, Deferred))
        if is_about_shape(func):
            return func(*args, **kwargs)
        if (
            self.current is not None
            and name in _PRODUCTS
            and len(args) == 2
            and isinstance(args[0], Deferred)
        ):
            return self._times_value(self.current, func, *args)
        if name in ("view", "reshape", "expand"):
            return self._reshaped(getattr(Tensor, name), first, args[1:])
        if name == "__getitem__":
            return self._item(first, args[1])
        if name == "tril":
            node, diagonal = node_of(first), kwargs.get("diagonal", 0)
            return self._deferred(
                lambda block, part_of: torch.tril(part_of(node), diagonal + block.start - block.first),
                node.meta,
                first.device,
                node.form if node.form == CONSTANT else None,
            )
        if name in ("to", "type_as"):
            dtype = self._dtype(first, (*args[1:], *kwargs.values()))
            return self._operation(length, Tensor.to, (first, dtype), {}, first.device)
        if name in _IN_PLACE:
            return self._operation(length, _IN_PLACE[name], args, kwargs, first.device)
        axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
        of_a_row = name in _OF_A_ROW and axis in (-1, first.ndim - 1)
        if not of_a_row and name not in _ELEMENTWISE:
            raise self._refused(f"{name} is no known operation on single rows")
        return self._operation(length, func, args, kwargs, first.device)

    def _operation(self, length: int, func: Any, args: Any, kwargs: Any, device: torch.device) -> Any:
        """Write an operation on rows down; of a maximum both results."""
        meta = self._shapes.of(func, args, kwargs)
        args, kwargs = mapped(args, node_or_tensor), mapped(kwargs, node_or_tensor)
        form = self._form(name_of(func), args, kwargs, meta)

        def run(block: Block, part_of: PartOf) -> Any:
            def part(one: Any) -> Any:
                return part_of(one) if isinstance(one, Node) else block.of(one, length)

            return func(*mapped(args, part), **mapped(kwargs, part))

        if isinstance(meta, Tensor):
            return self._deferred(run, meta, device, form)
        both = Node(run, meta[0])
        parts = [
            self._deferred(lambda block, part_of, index=index: part_of(both)[index], one, device)
            for index, one in enumerate(meta)
        ]
        return type(meta)(parts)

    def _form(self, name: str, args: Any, kwargs: Any, meta: Any) -> Form | None:
        """What an operation makes of q · kᵀ, unless it rounds it to less than q and k have."""

        def of(value: Any) -> Form | None:
            if isinstance(value, Node):
                return value.form
            if isinstance(value, dict | list | tuple):
                items = value.values() if isinstance(value, dict) else value
                return CONSTANT if all(of(item) == CONSTANT for item in items) else None
            return CONSTANT

        form = form_after(name, args, kwargs, [of(one) for one in args]) if of(kwargs) == CONSTANT else None
        if not isinstance(form, Scores | Pattern) or self._base is None:
            return form
        wide = meta.dtype.itemsize >= self._base[1].meta.dtype.itemsize
        return form if wide else None

    def _deferred(
        self, run: Callable[..., Any], meta: Tensor, device: torch.device, form: Form | None = None
    ) -> Deferred:
        made = Deferred(Node(run, meta, form), device)
        if self.current is not None:
            self._made.append(made)
        return made

    def _refused(self, why: str) -> NotByRowsError:
        label = "the mask" if self.current is None else self.current.label
        return NotByRowsError(
            f"Attention in blocks of rows runs the host's operations on some rows at a time; at {label} {why}. Use "
            "memory='full'."
        )

    @staticmethod
    def _dtype(first: Tensor, given: Any) -> torch.dtype:
        found = (one for one in given if isinstance(one, torch.dtype | Tensor))
        one = next(found, first)
        return one if isinstance(one, torch.dtype) else one.dtype

    def _reshaped(self, func: Any, tensor: Deferred, sizes: Any) -> Deferred:
        """Leading axes joined, split or repeated; rows and keys stay."""
        node = node_of(tensor)
        meta = func(node.meta, *sizes)
        if meta.shape[-2:] != node.meta.shape[-2:]:
            raise self._refused("an axis of rows or keys is reshaped")

        shape = Tensor.expand if func is Tensor.expand else Tensor.reshape

        def run(block: Block, part_of: PartOf) -> Tensor:
            part: Tensor = part_of(node)  # of a mask, with fewer leading axes than its scores have
            return part if meta.shape == node.meta.shape else shape(part, *meta.shape[:-2], *part.shape[-2:])

        return self._deferred(run, meta, tensor.device, _of_the_same(node, meta))

    def _item(self, tensor: Deferred, index: Any) -> Deferred:
        """New axes in front and whole axes; rows of a batch; or all keys but the last one (a sink)."""
        node, parts = node_of(tensor), index if isinstance(index, tuple) else (index,)
        if isinstance(index, Tensor) and index.ndim == 1 and node.meta.ndim > 2:
            meta = node.meta[:1].expand(len(index), *node.meta.shape[1:])
            run = partial(_rows_of, node, index)
            return self._deferred(run, meta, tensor.device, _of_the_same(node, meta))
        length = node.meta.shape[-2]
        whole = (slice(None), slice(None, length), slice(-length, None))
        if parts != (Ellipsis, slice(None, -1)):
            if not all(one is None or one is Ellipsis or one in whole for one in parts):
                raise self._refused(f"rows or keys are chosen by {index!r}")
            parts = tuple(slice(None) if isinstance(one, slice) else one for one in parts)
        meta = node.meta[parts]
        return self._deferred(
            lambda block, part_of: part_of(node)[parts], meta, tensor.device, _of_the_same(node, meta)
        )

    # ------------------------------------------------------------------------------- the two products
    def _product(self, attention: Attention, func: Any, args: Any, kwargs: Any) -> Any:
        """Put q · kᵀ off, with what is added to it at once."""
        factors = [*args, *(kwargs[one] for one in ("batch1", "batch2") if one in kwargs)]
        query, key = factors[-2:]
        if query.shape[-2] != attention.length or key.shape[-1] != attention.length:
            return func(*args, **kwargs)
        weights = {name: one for name, one in kwargs.items() if name in ("alpha", "beta")}
        added = factors[0].detach() if len(factors) == 3 else None

        def product(block: Block, rows: Tensor, keys: Tensor) -> Tensor:
            if added is None:
                return torch.matmul(rows, keys)
            return torch.baddbmm(block.of(added, attention.length), rows, keys, **weights)

        form = Scores() if added is None else None
        made = self._deferred(
            _never, func(*mapped(args, meta_of), **mapped(kwargs, meta_of)), query.device, form
        )
        self._base = (product, node_of(made), query, key)
        return made

    def _times_value(self, attention: Attention, func: Any, pattern: Deferred, value: Tensor) -> Tensor:
        """Run what was written down: z, and the end of this attention."""
        hidden = {part for part in ("scores", "pattern") if attention.functions.get(part)} - self._marked
        if self._base is None or hidden:
            raise self._refused("scores and pattern are not shown")
        product, base, query, key = self._base
        alike = query.ndim == 4 and query.shape == value.shape == key.mT.shape and query.dtype == value.dtype
        # elsewhere PyTorch has no kernel for float64, and would form all scores
        alike = alike and (query.device.type == "cpu" or query.dtype != torch.float64)
        program = Program(attention, product, base, query.device, node_of(pattern), func, alike)
        self.close()
        return program(query, key, value)


def _never(block: Block, part_of: PartOf) -> Tensor:
    """The product of q and kᵀ is given to a program, not made by it."""
    raise NotByRowsError("A program of attention is given the product of q and kᵀ. Report the architecture.")


def _rows_of(node: Node, index: Tensor, block: Block, part_of: PartOf) -> Tensor:
    part: Tensor = part_of(node)  # of a mask, perhaps one for all prompts
    return part if len(part) == 1 else part[index]


def _of_the_same(node: Node, meta: Tensor) -> Form | None:
    """The form of a node in another shape."""
    return node.form if node.form == CONSTANT or meta.shape == node.meta.shape else None
