"""A GPU that computes nothing: what a step asks of one, seen on a machine that has none.

The device's tensors are torch's fake ones on ``cuda``: they have shapes, types and a device but no values, so
a step of any size takes no memory. What the host computes, it computes. A :class:`Ledger` sees each call of
an operator as torch would send it to the GPU.

:func:`fake_gpu` changes how torch treats devices in the whole process, for good: use a process of its own.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from accelerate import PartialState
from python_engine import PythonEngine
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from contrastive.training.stages import StageStack

ROOT = Path(__file__).resolve().parent.parent
DEVICE = torch.device("cuda", 0)
#: Code whose calls a message locates.
OWN_CODE = (str(ROOT / "contrastive"), str(ROOT / "plugins"))

aten = torch.ops.aten
#: Operators whose output has a size that only the values on the device determine.
SIZED_BY_VALUES = {
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.unique_consecutive.default,
    aten.bincount.default,
}
#: Operators that return a value of the device to the host.
READS = {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
COPIES = {aten._to_copy.default, aten.copy_.default}
#: Updates in place for which torch has no fake kernel.
WITHOUT_FAKE_KERNEL = {aten._fused_sgd_.default}


class Wait(NamedTuple):
    """A moment at which the host waits for the device: the operator and the function that calls it."""

    operator: str
    function: str  # file.py: qualified name
    line: int
    stage: str


class DeviceError(Exception):
    """A call that a GPU would refuse, or whose output has a size that only the device knows."""


class _Stages(StageStack):
    """Stages that turn at gradients of the Python engine, which does not call torch's hooks."""

    def __init__(self, engine: PythonEngine):
        super().__init__()
        self._engine = engine

    def turn_at_gradient(self, tensors: Iterable[Tensor], name: str) -> None:
        for tensor in tensors:
            if tensor.requires_grad:
                self._engine.watch(tensor, lambda: self.turn(name))


class Ledger(TorchDispatchMode):
    """Counts what a step asks of the device, by stage.

    Args:
        fake: makes the tensors.

    Attributes:
        stages: set it as ``method.stages``.
        calls: stage -> calls of operators that are not views.
        operators: stage -> operator -> the same calls.
        waits: where the host waits for the device, and how often.
    """

    def __init__(self, fake: FakeTensorMode):
        super().__init__()
        self.fake = fake
        self.engine = PythonEngine()
        self.stages = _Stages(self.engine)
        self.waits: Counter[Wait] = Counter()
        self.restart()

    def restart(self) -> None:
        """Count from zero; waits stay."""
        self.operators: dict[str, Counter[str]] = {}

    @property
    def calls(self) -> dict[str, int]:
        return {stage: counts.total() for stage, counts in self.operators.items()}

    def move(self, module: nn.Module) -> None:
        """Replace the parameters and buffers of a module by fake ones on the device."""
        with self.fake:
            module._apply(lambda tensor: self.fake.from_tensor(tensor.detach()).to(DEVICE))

    def wait(self, operator: str) -> None:
        """Note that the host waits for the device, here."""
        self.waits[Wait(operator, *_caller(), self.stages.current)] += 1

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace != "aten":
            return func(*args, **kwargs)
        if func is aten.is_pinned.default:
            return getattr(args[0], "is_in_pinned_memory", False)
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        if func is aten._pin_memory.default:
            pinned_copy = self.fake.from_tensor(args[0]).clone()
            pinned_copy.is_in_pinned_memory = True
            return pinned_copy
        if not any(isinstance(tensor, FakeTensor) for tensor in tensors) and not _is_cuda(
            kwargs.get("device")
        ):
            with _disable_current_modes():
                return func(*args, **kwargs)
        if not func.is_view:
            self.operators.setdefault(self.stages.current, Counter())[str(func)] += 1
        self._check(func, args, kwargs, tensors)
        if func is aten._local_scalar_dense.default:
            return _plausible_value(args[0])
        if func in WITHOUT_FAKE_KERNEL:
            return None
        return func(*args, **kwargs)

    def _check(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], tensors: list[Tensor]) -> None:
        """Note a wait; raise DeviceError for what no GPU does."""
        if func in COPIES:
            self._check_copy(func, args, kwargs)
            return
        if not any(_is_cuda(tensor.device) for tensor in tensors):
            return
        if func in SIZED_BY_VALUES:
            raise DeviceError(f"{func} returns a tensor whose size the host must wait for: {_place()}")
        if func in READS:
            self.wait(str(func))
        on_host = [tensor for tensor in tensors if not _is_cuda(tensor.device)]
        if func in INDEXING:
            self._check_index(func, args, on_host)
        elif any(tensor.ndim for tensor in on_host):
            raise DeviceError(f"{func} mixes tensors of the host and of the device: {_place()}")

    def _check_copy(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if func is aten.copy_.default:
            target, source = args[:2]
            to_device = _is_cuda(target.device)
            asynchronous = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
        else:
            source = args[0]
            device = kwargs.get("device")
            to_device = _is_cuda(source.device if device is None else device)
            asynchronous = kwargs.get("non_blocking", False)
        if to_device == _is_cuda(source.device):
            return
        if to_device and not (asynchronous and getattr(source, "is_in_pinned_memory", False)):
            self.wait(f"{func} to the device")
        if not to_device and not asynchronous:
            self.wait(f"{func} to the host")

    def _check_index(self, func: Any, args: tuple[Any, ...], on_host: list[Tensor]) -> None:
        indices = [index for index in args[1] if index is not None]
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices):
            fills = func is not aten.index.Tensor and len(indices) == 1 and args[2].numel() == 1
            if func is aten.index.Tensor:
                raise DeviceError(f"{func} with a mask returns a size the host must wait for: {_place()}")
            if fills:
                return  # as masked_fill, for which the host's number is an argument
            self.wait(f"{func} with a mask")
        if on_host:
            self.wait(f"{func} with a tensor of the host")


class _Event:
    """An event of a stream in which nothing happens."""

    def __init__(self, **_: Any):
        pass

    def record(self, *_: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass


@contextmanager
def fake_gpu() -> Iterator[Ledger]:
    """Within it the processor that Accelerate finds is a fake GPU, which computes in bfloat16.

    Tensors made within ``with ledger.fake`` are fake. With the ledger entered too, their calls are counted.
    """
    ledger = Ledger(FakeTensorMode(allow_non_fake_inputs=True))
    with ExitStack() as stack:
        for target, value in (
            ("torch.cuda.amp.common.amp_definitely_not_available", lambda: False),
            ("torch.cuda.is_bf16_supported", lambda *_, **__: True),
            ("torch.cuda.Event", _Event),
            ("torch.cuda.synchronize", lambda *_: ledger.wait("torch.cuda.synchronize")),
            ("torch.nn.Module._apply", _apply),
            ("torch.autograd._engine_run_backward", ledger.engine.run),
        ):
            stack.enter_context(mock.patch(target, value))
        stack.enter_context(mock.patch.object(PartialState(), "device", DEVICE))
        # Kernels over lists of tensors are for these types only.
        for name in ("torch.utils._foreach_utils", "torch.optim.optimizer"):
            module = import_module(name)  # torch.optim hides the second one
            types = [*module._foreach_supported_types, FakeTensor]
            stack.enter_context(mock.patch.object(module, "_foreach_supported_types", types))
        yield ledger


def _apply(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """``nn.Module._apply``, which replaces parameters; torch's own swaps fake ones, which then fails."""
    for child in module.children() if recurse else ():
        child._apply(fn)
    with torch.no_grad():
        for name, parameter in module._parameters.items():
            if parameter is not None and (tensor := fn(parameter)) is not parameter:
                module._parameters[name] = nn.Parameter(tensor, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fn(buffer)
    return module


def _is_cuda(device: torch.device | str | None) -> bool:
    return device is not None and torch.device(device).type == "cuda"


def _plausible_value(tensor: Tensor) -> Any:
    """What the host reads, so that a step goes on: one, or true."""
    if tensor.dtype == torch.bool:
        return True
    return 1.0 if tensor.is_floating_point() else 1


def _caller() -> tuple[str, int]:
    """The innermost function of our own code that is running, and its line."""
    frame = sys._getframe()
    while frame is not None:
        if frame.f_code.co_filename.startswith(OWN_CODE):
            path = Path(frame.f_code.co_filename).relative_to(ROOT)
            function = frame.f_code.co_qualname.partition(".<locals>")[0]
            return f"{path}: {function}", frame.f_lineno
        frame = frame.f_back  # type: ignore[assignment]
    return "autograd", 0


def _place() -> str:
    function, line = _caller()
    return f"{function}, line {line}"
