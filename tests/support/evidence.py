"""Evidence made by hand: what a profile of a model might have said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from optimizers.contract.evidence import Evidence, Layer, OperatorShare
from optimizers.contract.host import Host
from optimizers.contract.profile import Task

AVX2 = Host(
    architecture="x86_64",
    processor="some processor",
    cpu_features=("avx2", "fma"),
    cpus=2,
    onnxruntime="1.32.0",
)
VNNI = replace(AVX2, cpu_features=("avx2", "avx512_vnni", "avx512f", "fma"))
ARM = replace(AVX2, architecture="aarch64", cpu_features=("asimd",))
ALL_DATA = {"calibration": 512, "train": 5000, "search": 1000}


def operator(name: str, share: float, *, nodes: int = 1, weight_bytes: int = 0) -> OperatorShare:
    return OperatorShare(operator=name, share=share, nodes=nodes, weight_bytes=weight_bytes)


def convolution(
    name: str, share: float, shape: tuple[int, ...] = (64, 64, 3, 3), groups: int = 1
) -> Layer:
    return Layer(name=name, operator="Conv", weight_shape=shape, groups=groups, share=share)


def product(name: str, share: float, shape: tuple[int, ...] = (384, 384)) -> Layer:
    return Layer(name=name, operator="MatMul", weight_shape=shape, groups=1, share=share)


def _evidence(**given: Any) -> Evidence:
    known: dict[str, Any] = {
        "operators": (),
        "layers": (),
        "weight_bytes": 4_000_000,
        "embedding_bytes": 0,
        "activation_bytes": 2_000_000,
        "item_s": 4e-3,
        "batch_item_s": 3.5e-3,
        "batch": 8,
        "outside_share": 0.02,
        "attention_heads": (),
        "residual_blocks": 0,
        "has_batch_norm": False,
        "task": Task.CLASSIFICATION,
        "host": AVX2,
        "provider": "cpu",
        "data": ALL_DATA,
        "has_labels": True,
    }
    return Evidence(**(known | given))


def residual_net(**given: Any) -> Evidence:
    """Like ResNet-18: nearly all time in convolutions of 64 to 256 channels."""
    known: dict[str, Any] = {
        "operators": (
            operator("Conv", 0.83, nodes=20, weight_bytes=3_900_000),
            operator("Add", 0.1, nodes=8),
            operator("Relu", 0.05, nodes=17),
            operator("Gemm", 0.02, weight_bytes=100_000),
        ),
        "layers": (
            convolution("stem", 0.2, (64, 3, 7, 7)),
            convolution("middle", 0.3, (128, 64, 3, 3)),
            convolution("late", 0.33, (256, 128, 3, 3)),
            Layer(name="head", operator="Gemm", weight_shape=(10, 256), groups=1, share=0.02),
        ),
        "residual_blocks": 4,
    }
    return _evidence(**(known | given))


def mobile_net(**given: Any) -> Evidence:
    """Like EfficientNet: depthwise convolutions and gates."""
    known: dict[str, Any] = {
        "operators": (
            operator("Conv", 0.8, nodes=50, weight_bytes=3_900_000),
            operator("Sigmoid", 0.1, nodes=49),
            operator("Mul", 0.1, nodes=49),
        ),
        "layers": (
            convolution("wide", 0.4, (96, 16, 1, 1)),
            convolution("depth", 0.25, (96, 1, 3, 3), groups=96),
            convolution("narrow", 0.15, (24, 96, 1, 1)),
        ),
    }
    return _evidence(**(known | given))


def encoder(**given: Any) -> Evidence:
    """Like MiniLM: products, attention, and a table that is half of the weights."""
    known: dict[str, Any] = {
        "operators": (
            operator("MatMul", 0.85, nodes=48, weight_bytes=43_000_000),
            operator("LayerNormalization", 0.1, nodes=13),
            operator("Gather", 0.05, nodes=2, weight_bytes=47_000_000),
        ),
        "layers": (product("query", 0.4), product("up", 0.45, (384, 1536))),
        "weight_bytes": 90_000_000,
        "embedding_bytes": 47_000_000,
        "activation_bytes": 20_000_000,
        "attention_heads": (12,) * 6,
        "residual_blocks": 12,
        "task": Task.EMBEDDING,
        "has_labels": False,
    }
    return _evidence(**(known | given))


def wide_perceptron(**given: Any) -> Evidence:
    """Large matrices read for one small item."""
    known: dict[str, Any] = {
        "operators": (operator("Gemm", 0.98, nodes=3, weight_bytes=20_000_000),),
        "layers": (product("one", 0.5, (784, 2048)), product("two", 0.48, (2048, 2048))),
        "weight_bytes": 20_000_000,
        "activation_bytes": 20_000,
        "item_s": 1e-3,
        "batch_item_s": 4e-4,
    }
    return _evidence(**(known | given))


def tiny_net(**given: Any) -> Evidence:
    """Like the tutorials' net: 23 µs, most of them spent on starting."""
    known: dict[str, Any] = {
        "operators": (
            operator("Conv", 0.7, nodes=2, weight_bytes=10_000),
            operator("Gemm", 0.3, nodes=3, weight_bytes=240_000),
        ),
        "layers": (convolution("one", 0.35, (6, 3, 5, 5)), convolution("two", 0.35, (16, 6, 5, 5))),
        "weight_bytes": 250_000,
        "activation_bytes": 50_000,
        "item_s": 23e-6,
        "batch_item_s": 15e-6,
        "outside_share": 0.4,
    }
    return _evidence(**(known | given))
