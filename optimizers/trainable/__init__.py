"""An ONNX graph trained by torch in place: read, train, write back; never exported again."""

from optimizers.trainable.batch_norm import reestimate_batch_norm
from optimizers.trainable.module import TrainableGraph
from optimizers.trainable.reading import read_trainable
from optimizers.trainable.weights import Role
from optimizers.trainable.writing import write_trainable

__all__ = [
    "Role",
    "TrainableGraph",
    "read_trainable",
    "reestimate_batch_norm",
    "write_trainable",
]
