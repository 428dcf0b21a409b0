"""Backward passes in Python, through the nodes that torch recorded: for devices that do not exist.

Torch's own engine asks CUDA's driver for streams before it runs a node. Here, as there, a node runs as soon
as all nodes that feed it have run, those recorded last first.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

#: A node of the graph, and the index of one of its gradients.
Edge = tuple[Any, int]
#: The kind of node that ends a path, at a leaf of the graph.
_ACCUMULATE_GRAD = type(torch.autograd.graph.get_gradient_edge(torch.zeros((), requires_grad=True)).node)


class PythonEngine:
    """Runs backward passes.

    Attributes:
        on_gradient: (node, index) -> called when this gradient is complete, as tensor hooks are.
    """

    def __init__(self) -> None:
        self.on_gradient: dict[Edge, Callable[[], None]] = {}

    def watch(self, tensor: Tensor, action: Callable[[], None]) -> None:
        """Call ``action`` when the gradient of a tensor is complete."""
        edge = torch.autograd.graph.get_gradient_edge(tensor)
        self.on_gradient[edge.node, edge.output_nr] = action

    def run(
        self,
        outputs: Sequence[Tensor],
        gradients: Sequence[Tensor | None],
        keep_graph: bool,
        create_graph: bool,
        inputs: Sequence[Tensor] = (),
        allow_unreachable: bool = False,
        accumulate_grad: bool = False,
    ) -> tuple[Tensor | None, ...]:
        """What ``torch.autograd.graph._engine_run_backward`` does, without hooks of torch."""
        roots = [torch.autograd.graph.get_gradient_edge(output) for output in outputs]
        ends = [torch.autograd.graph.get_gradient_edge(tensor) for tensor in inputs]
        complete: dict[Edge, Tensor] = {}
        waiting = _dependencies([root.node for root in roots])
        buffers: defaultdict[Any, dict[int, Tensor]] = defaultdict(dict)
        with torch.set_grad_enabled(create_graph):
            for root, output, gradient in zip(roots, outputs, gradients, strict=True):
                first = torch.ones_like(output) if gradient is None else gradient
                _add(buffers[root.node], root.output_nr, first)
            ready = [_entry(node) for node, count in waiting.items() if not count]
            heapq.heapify(ready)
            while ready:
                node = heapq.heappop(ready)[-1]
                own = buffers.pop(node, {})
                for index, gradient in own.items():
                    self.on_gradient.pop((node, index), lambda: None)()
                    complete[node, index] = gradient
                if own and (node.next_functions or accumulate_grad):
                    _pass_on(node, own, buffers)
                for following, _ in node.next_functions:
                    if following is not None:
                        waiting[following] -= 1
                        if not waiting[following]:
                            heapq.heappush(ready, _entry(following))
        return tuple(complete.get((end.node, end.output_nr)) for end in ends)


def _entry(node: Any) -> tuple[int, int, Any]:
    return -node._sequence_nr(), id(node), node


def _dependencies(roots: Sequence[Any]) -> Counter[Any]:
    """Node -> how many edges lead to it from other nodes of the graph, for every node."""
    counts: Counter[Any] = Counter(dict.fromkeys(roots, 0))
    stack = list(counts)
    while stack:
        for following, _ in stack.pop().next_functions:
            if following is None:
                continue
            if following not in counts:
                stack.append(following)
            counts[following] += 1
    return counts


def _add(buffer: dict[int, Tensor], index: int, gradient: Tensor) -> None:
    buffer[index] = buffer[index] + gradient if index in buffer else gradient


def _pass_on(node: Any, gradients: Mapping[int, Tensor], buffers: Mapping[Any, dict[int, Tensor]]) -> None:
    """Run a node on its gradients, and add what it returns to the buffers of the nodes that follow."""
    if isinstance(node, _ACCUMULATE_GRAD):
        _accumulate(node.variable, gradients[0])
        return
    inputs = [gradients.get(index) for index in range(len(node._input_metadata))]
    if isinstance(node, torch.autograd.function.BackwardCFunction):  # written in Python
        outgoing = _apply_function(node, inputs)
    else:
        answer = node(*inputs)
        outgoing = answer if isinstance(answer, tuple) else (answer,)
    for gradient, (following, index) in zip(outgoing, node.next_functions, strict=False):
        if following is not None and gradient is not None:
            metadata = following._input_metadata[index]
            if gradient.shape != metadata.shape:
                gradient = gradient.sum_to_size(size=tuple(metadata.shape))
            _add(buffers[following], index, gradient.to(metadata.dtype))


def _accumulate(leaf: Tensor, gradient: Tensor) -> None:
    """Add a gradient to that of a leaf; the first one becomes its gradient if it is laid out alike.

    So does torch; but called from Python, its own node would copy the first one, to which Python refers.
    """
    if leaf.grad is not None:
        leaf.grad += gradient
    elif gradient.stride() == leaf.stride():
        leaf.grad = gradient
    else:
        leaf.grad = torch.empty_like(leaf, dtype=gradient.dtype).copy_(gradient)


def _apply_function(node: Any, inputs: Sequence[Tensor | None]) -> list[Tensor | None]:
    """The gradients of a function written in Python, one for each of its ``next_functions``."""
    whole_inputs = [
        torch.zeros(metadata.shape, dtype=metadata.dtype, device=metadata.device)
        if gradient is None
        else gradient
        for gradient, metadata in zip(inputs, node._input_metadata, strict=True)
    ]
    answer = node.apply(*whole_inputs)
    outgoing = answer if isinstance(answer, tuple) else (answer,)
    # Inputs that are not tensors have no node; only those that need a gradient have one that follows.
    own_gradients = iter(
        [gradient for gradient, needs in zip(outgoing, node.needs_input_grad, strict=True) if needs]
    )
    return [None if following is None else next(own_gradients) for following, _ in node.next_functions]
