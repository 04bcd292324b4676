"""Puts products with narrow weights into a graph, in place of MatMul, Gemm and Gather.

y = x W becomes y = MatMulNBits(x, W). A Gemm, which the library's own quantiser passes over in
silence, becomes such a product and an Add: y = alpha x W + b = x (alpha W) + b.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Final, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from optimizers.quantization.narrowed import Narrowed
from optimizers.quantization.nbits import Floats, NarrowWeight

PRODUCTS: Final = ("MatMul", "Gemm")
_DOMAIN: Final = "com.microsoft"
_INT8_PRODUCTS: Final = 4
"""MatMulNBits's accuracy_level; every other takes a path that is several times slower."""

Quantise = Callable[[Floats, str], NarrowWeight]
"""Weight [rows, columns], and the name of the value it is multiplied with → the same in codes."""


class Source(NamedTuple):
    """A stored float weight, and how it becomes W [rows, columns]: alpha times it, or turned."""

    name: str
    transposed: bool = False
    alpha: float = 1.0


class Place(NamedTuple):
    """A node whose weight became narrow.

    Attributes:
        node: Its name.
        operator: What it was: MatMul, Gemm or Gather.
        source: Its weight.
    """

    node: str
    operator: str
    source: Source

    @property
    def use(self) -> str:
        """What a weight is stored for; places of one source and one use share it."""
        return "embedding" if self.operator == "Gather" else "product"


class _Stored(NamedTuple):
    """A narrow weight, and the names of its codes, scales and zero points in the graph."""

    weight: NarrowWeight
    names: list[str]


class _LeftAloneError(Exception):
    """A node stays as it is; the text says why."""


class Narrowing:
    """A graph that is being narrowed; a weight that several nodes read is quantised once.

    Attributes:
        result: The account of it.
        places: The nodes whose weights are narrow now.
    """

    def __init__(self, model: onnx.ModelProto, quantise: Quantise) -> None:
        """Take a model that may be changed; its nodes have names, see `graph.prepare`."""
        self.result = Narrowed()
        self._model = model
        self._graph = model.graph
        self._quantise = quantise
        # A caller may replace an initializer that is an input as well.
        self._replaceable = {value.name for value in model.graph.input}
        self._weights = {
            tensor.name: tensor
            for tensor in model.graph.initializer
            if tensor.name not in self._replaceable
        }
        self._made: dict[tuple[str, Source], _Stored] = {}
        self.places: list[Place] = []

    def products(self, chosen: Collection[str]) -> None:
        """Narrow the MatMul and Gemm of these names that have a constant weight."""
        self._replace(PRODUCTS, chosen, self._product)

    def embeddings(self, chosen: Collection[str]) -> None:
        """Narrow the Gather of these names that read a constant table; its rows are columns."""
        tables = {
            node.name
            for node in self._graph.node
            if node.op_type == "Gather" and self._is_table(node.input[0])
        }
        self._replace(("Gather",), tables.intersection(chosen), self._embedding)

    def finish(self) -> onnx.ModelProto:
        """The model, without the weights that nobody reads any more."""
        drop_unread(self._model)
        if _DOMAIN not in {opset.domain for opset in self._model.opset_import}:
            self._model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
        return self._model

    def _replace(
        self,
        operators: Collection[str],
        chosen: Collection[str],
        make: Callable[[onnx.NodeProto], list[onnx.NodeProto]],
    ) -> None:
        nodes = []
        for node in self._graph.node:
            made = [node]
            if node.op_type in operators and node.name in chosen:
                try:
                    made = make(node)
                    self.result.names.append(node.name)
                except _LeftAloneError as why:
                    self.result.left[node.name] = str(why)
            nodes.extend(made)
        del self._graph.node[:]
        self._graph.node.extend(nodes)

    def _product(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        given = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        bias = node.input[2] if len(node.input) > 2 else ""
        if given.get("transA", 0):
            raise _LeftAloneError("its input is transposed")
        if bias and given.get("beta", 1.0) != 1.0:
            raise _LeftAloneError("its bias is scaled")
        source = Source(node.input[1], bool(given.get("transB", 0)), given.get("alpha", 1.0))
        weight, names = self._stored(Place(node.name, node.op_type, source), node.input[0])
        result = f"{node.output[0]}_without_bias" if bias else node.output[0]
        product = helper.make_node(
            "MatMulNBits",
            [node.input[0], *names],
            [result],
            name=node.name,
            domain=_DOMAIN,
            K=weight.rows,
            N=weight.columns,
            bits=weight.bits,
            block_size=weight.block_size,
            accuracy_level=_INT8_PRODUCTS,
        )
        if not bias:
            return [product]
        return [product, helper.make_node("Add", [result, bias], node.output, f"{node.name}_bias")]

    def _embedding(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        if any(one.name == "axis" and one.i != 0 for one in node.attribute):
            raise _LeftAloneError("it does not pick rows")
        source = Source(node.input[0], transposed=True)
        weight, names = self._stored(Place(node.name, node.op_type, source), node.input[1])
        return [
            helper.make_node(
                "GatherBlockQuantized",
                [names[0], node.input[1], *names[1:]],
                node.output,
                name=node.name,
                domain=_DOMAIN,
                gather_axis=0,
                quantize_axis=1,
                bits=weight.bits,
                block_size=weight.block_size,
            )
        ]

    def _is_table(self, name: str) -> bool:
        stored = self._weights.get(name)
        floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
        return stored is not None and len(stored.dims) == 2 and stored.data_type in floats

    def _float_weight(self, source: Source) -> Floats:
        stored = self._weights.get(source.name)
        if stored is None:
            raise _LeftAloneError("its weight is no constant")
        if stored.data_type != onnx.TensorProto.FLOAT:
            kind = onnx.TensorProto.DataType.Name(stored.data_type).lower()
            raise _LeftAloneError(f"its weight is {kind}, not float")
        weight = numpy_helper.to_array(stored)
        if weight.ndim != 2:
            raise _LeftAloneError(f"its weight has {weight.ndim} dimensions, not 2")
        scaled = np.float32(source.alpha) * (weight.T if source.transposed else weight)
        return np.ascontiguousarray(scaled, np.float32)

    def _stored(self, place: Place, value: str) -> _Stored:
        use, source = place.use, place.source
        made = self._made.get((use, source))
        if made is None:
            weight = self._float_weight(source)
            narrow = self._quantise(weight, value)
            if use == "embedding" and narrow.rows % narrow.block_size:
                raise _LeftAloneError(
                    f"its rows of {narrow.rows} are no multiple of the block of {narrow.block_size}"
                )
            if narrow.stored_bytes >= weight.nbytes:
                raise _LeftAloneError("its weight would not become smaller")
            made = _Stored(narrow, list(self._store(f"{source.name}_{use}", narrow, use)))
            self._made[use, source] = made
            self.result.count(weight, narrow)
        self.places.append(place)
        return made

    def _store(self, prefix: str, weight: NarrowWeight, use: str) -> Iterator[str]:
        codes = weight.codes
        if use == "embedding":  # one row of the table after the other, without blocks
            codes = codes.reshape(len(codes), -1)
        for suffix, array in (
            (f"q{weight.bits}", codes),
            ("scales", weight.scales),
            ("zero_points", weight.zero_points),
        ):
            if array is not None:
                name = _free_name(f"{prefix}_{suffix}", {*self._weights, *self._replaceable})
                self._weights[name] = numpy_helper.from_array(array, name)
                self._graph.initializer.append(self._weights[name])
                yield name


def drop_unread(model: onnx.ModelProto) -> None:
    """Take stored tensors that nobody reads out of a model, but for those a caller may give."""
    graph = model.graph
    used = {*_names_read(graph), *(value.name for value in (*graph.input, *graph.output))}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _free_name(wanted: str, taken: Collection[str]) -> str:
    while wanted in taken:
        wanted += "_"
    return wanted


def _names_read(graph: onnx.GraphProto) -> Iterator[str]:
    """Every value that a node reads, those in loops and branches too."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _names_read(inner)
                yield from (value.name for value in inner.output)
