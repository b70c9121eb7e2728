"""Files for networks that leave: compressed, SciPy's, ONNX."""

from ong_jax.export import compressed as compressed
from ong_jax.export import onnx_graph as onnx_graph
from ong_jax.export import sparse as sparse
