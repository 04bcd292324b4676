"""An ONNX graph that torch runs, with its weights as parameters."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from optimizers.contract.errors import InvalidDocument
from optimizers.trainable.node import Inputs, Mode, Node, to_tensor
from optimizers.trainable.operators.creation import held
from optimizers.trainable.plan import Plans
from optimizers.trainable.registry import OPERATORS
from optimizers.trainable.weights import Role, roles

_HOST_TYPES = (torch.int64, torch.bool)


class TrainableGraph(nn.Module):
    """One graph of the default domain; made by `read_trainable`.

    In training mode batch normalisation uses the statistics of the batch and moves its running
    ones; dropout never drops. Integers (shapes, axes, tables of positions) stay on the processor
    wherever the module is.

    Attributes:
        inputs: Names of what `forward` must be given, stored tensors not among them.
        outputs: Names of what it gives.
    """

    def __init__(self, model: onnx.ModelProto, opset: int, external: Collection[str] = ()) -> None:
        super().__init__()
        self._model = model
        self._external = frozenset(external)
        self._mode = Mode()
        self._roles = roles(model.graph)
        self._slots: dict[str, str] = {}
        self._constants: dict[str, Tensor] = {}
        nodes = [
            Node(one, one.name or f"{one.op_type.lower()}_{number}", opset, self._mode)
            for number, one in enumerate(model.graph.node)
        ]
        computed = _computed_with(nodes)
        for tensor in model.graph.initializer:
            self._store(tensor, on_host=tensor.name not in computed)
        stored = {one.name for one in model.graph.initializer}
        self.inputs = tuple(one.name for one in model.graph.input if one.name not in stored)
        self.outputs = tuple(one.name for one in model.graph.output)
        for node in nodes:
            if node.operator == "Constant":
                self._constants[node.outputs[0]] = held(node)
        running = [node for node in nodes if node.operator != "Constant"]
        self._plans = Plans(running, self.inputs, {*self._slots, *self._constants})

    def weight_names(self) -> dict[str, Role]:
        """The role of each parameter by the name of its stored tensor, in the file's order."""
        return {
            name: self._roles[name]
            for name in self._slots
            if self._roles.get(name, "statistic") != "statistic"
        }

    def weight(self, name: str) -> nn.Parameter:
        """A parameter by the name of its stored tensor; of that tensor's shape and datatype.

        Raises:
            InvalidDocument: There is none of this name.
        """
        if name not in self.weight_names():
            raise InvalidDocument(f"the model has no weight '{name}' that can be trained")
        return self.get_parameter(self._slots[name])

    def forward(
        self, feeds: Mapping[str, Tensor], wanted: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Compute tensors of the graph, and no more than these need.

        Args:
            feeds: One tensor for each input that is needed, of its shape and datatype. Other
                tensors of the graph may be given too and then count instead of what they would
                be: a masked weight, or what a layer shall start from.
            wanted: Names of tensors anywhere in the graph; None: the outputs.

        Raises:
            InvalidData: An input is missing, or something given is not of the graph.
            InvalidDocument: The graph has no tensor of a wanted name.
            NotSupported: A node has a form that is not translated.
        """
        names = self.outputs if wanted is None else tuple(wanted)
        self._mode.training = self.training
        values: dict[str, Tensor] = {**self._constants, **self._state(), **feeds}
        for node, spent in self._plans.plan(names, feeds.keys()):
            results = self._run(node, values)
            values.update({name: one for name, one in results.items() if name not in feeds})
            for name in spent:
                values.pop(name, None)
        return {name: values[name] for name in names}

    def model(self) -> onnx.ModelProto:
        """A copy of the graph with the weights and running statistics of now."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        state = self._state()
        for tensor in model.graph.initializer:
            if tensor.name in self._roles:
                array = state[tensor.name].detach().cpu().numpy()
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        return model

    @property
    def external(self) -> frozenset[str]:
        """Names of the stored tensors that lay in a file of their own."""
        return self._external

    @property
    def mode(self) -> Mode:
        """What all nodes share while they run."""
        return self._mode

    def statistics_names(self) -> list[str]:
        """Stored running means and variances of batch normalisations, as the nodes read them."""
        return [name for name, role in self._roles.items() if role == "statistic"]

    def _store(self, proto: onnx.TensorProto, *, on_host: bool) -> None:
        role = self._roles.get(proto.name)
        tensor = to_tensor(proto)
        if role is None and (on_host or tensor.dtype in _HOST_TYPES):
            self._constants[proto.name] = tensor
            return
        # Names of tensors have points and slashes, which torch forbids.
        slot = self._slots[proto.name] = f"stored_{len(self._slots)}"
        if role is None or role == "statistic":
            self.register_buffer(slot, tensor)
        else:
            self.register_parameter(slot, nn.Parameter(tensor))

    def _state(self) -> dict[str, Tensor]:
        return {name: getattr(self, slot) for name, slot in self._slots.items()}

    def _run(self, node: Node, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        operator = OPERATORS[node.operator]
        inputs = [values[name] if name else None for name in node.inputs]
        together = [
            one
            for position, one in enumerate(inputs)
            if one is not None and position not in operator.on_host
        ]
        device = next((one.device for one in together if one.device.type != "cpu"), None)
        if device is not None:
            inputs = [
                one if one is None or position in operator.on_host else one.to(device)
                for position, one in enumerate(inputs)
            ]
        result = operator.function(node, Inputs(inputs))
        results = result if isinstance(result, tuple) else (result,)
        if any(node.outputs[len(results) :]):
            raise node.refuse(f"more than {len(results)} outputs")
        return dict(zip(node.outputs, results, strict=False))


def _computed_with(nodes: Sequence[Node]) -> set[str]:
    """Tensors that some node computes with, instead of reading them as numbers."""
    return {
        name
        for node in nodes
        for position, name in enumerate(node.inputs)
        if position not in OPERATORS[node.operator].on_host
    }
