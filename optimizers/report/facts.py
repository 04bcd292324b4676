"""What the planner went by, in words: all of the evidence but the shares of single operators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from optimizers.contract.amounts import byte_count, percent, time_span
from optimizers.contract.evidence import Evidence
from optimizers.contract.host import Host

Fact = tuple[str, str]
"""What it is about, and what is known."""


def facts(evidence: Evidence) -> tuple[Fact, ...]:
    """What is known of a model, each with its numbers."""
    host = evidence.host
    found: list[Fact] = [
        ("One item", _times(evidence)),
        ("Weights", _weights(evidence)),
        ("Activations", f"{byte_count(evidence.activation_bytes)} an item"),
        ("Layers", ", ".join(_layers(evidence)) or "no convolution or product with stored weights"),
        *_blocks(evidence),
        ("Processor", f"{_processor(host)}; computed by {evidence.provider}"),
    ]
    return tuple(found)


def _times(evidence: Evidence) -> str:
    text = f"{time_span(evidence.item_s)} alone"
    if evidence.batch > 1:
        text += f", {time_span(evidence.batch_item_s)} in a run of {evidence.batch}"
    return f"{text}; {percent(evidence.outside_share)} of a run is outside of nodes"


def _weights(evidence: Evidence) -> str:
    text = f"{byte_count(evidence.weight_bytes)}, mostly numbers of {evidence.weight_bits} bits"
    if evidence.embedding_bytes:
        text += f"; {byte_count(evidence.embedding_bytes)} of them are tables of embeddings"
    return text


def _layers(evidence: Evidence) -> Iterator[str]:
    for operator, count in Counter(one.operator for one in evidence.layers).most_common():
        layers = [one for one in evidence.layers if one.operator == operator]
        text = f"{count} {operator}"
        if operator == "Conv":
            channels = [one.weight_shape[0] for one in layers]
            text += f" of {min(channels)} to {max(channels)} channels"
            grouped = sum(one.groups > 1 for one in layers)
            text += f", {grouped} of them grouped" if grouped else ""
        yield text


def _blocks(evidence: Evidence) -> Iterator[Fact]:
    if evidence.attention_heads:
        heads = ", ".join(str(one) for one in sorted(set(evidence.attention_heads)))
        yield "Attention", f"{len(evidence.attention_heads)} times, of {heads} heads"
    if evidence.residual_blocks:
        yield "Residual blocks", f"{evidence.residual_blocks} could be left out"
    if evidence.has_batch_norm:
        yield "Batch normalisation", "is left in the graph"


def _processor(host: Host) -> str:
    features = f" with {', '.join(host.cpu_features)}" if host.cpu_features else ""
    return f"{host.processor} ({host.architecture}){features}, {host.cpus} of its processors"
