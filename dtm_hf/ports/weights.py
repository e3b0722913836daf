"""What the weights of a graph are kept in: transformers' quantizers, and ours for what they do not do."""

from typing import TYPE_CHECKING, Any

from transformers.exporters import ExportFormat, OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer
from transformers.exporters.quantizers import ExportQuantizer

if TYPE_CHECKING:
    import onnx_ir
    import openvino

# Smaller tensors are not worth a cast of their own.
_SMALLEST = 256


class HalfWeights(ExportQuantizer):
    """
    Keeps float32 weights of an ONNX graph as float16 and casts them back: half the file, the same arithmetic. ONNX
    Runtime folds the casts when it opens the graph. Its CPU kernels compute in float32 alone, so that float16
    arithmetic would be slower.
    """

    supported_formats = (ExportFormat.ONNX,)
    required_packages = ("onnx_ir",)

    def quantize(self, model: "onnx_ir.Model", sample_inputs: dict[str, Any], export_format) -> "onnx_ir.Model":
        import numpy as np
        import onnx_ir as ir

        graph = model.graph
        largest = float(np.finfo(np.float16).max)
        for name, value in list(graph.initializers.items()):
            tensor = value.const_value
            if tensor is None or tensor.dtype != ir.DataType.FLOAT or tensor.size < _SMALLEST:
                continue
            # Vectors are small, and among them are the scales of int8 matrices, which lie where a half has few bits.
            if len(tensor.shape) < 2:
                continue
            weights = tensor.numpy()
            if np.abs(weights).max() > largest:
                continue
            half = ir.Value(
                name=f"{name}_fp16",
                shape=value.shape,
                type=ir.TensorType(ir.DataType.FLOAT16),
                const_value=ir.Tensor(weights.astype(np.float16), name=f"{name}_fp16"),
            )
            graph.initializers.pop(name)
            graph.register_initializer(half)
            cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT})
            cast.outputs[0].shape, cast.outputs[0].type = value.shape, value.type
            value.replace_all_uses_with(cast.outputs[0])
            graph.insert_before(next(iter(graph)), cast)
        return model


class ByteMatrices(OnnxRuntimeQuantizer):
    """
    Keeps matrices as int8, of which seven bits are used; activations are quantized as they come, row by row of the
    matrix a scale of its own. A processor without dot products of bytes (AVX2 alone) adds pairs of products in 16
    bits, which eight bits overflow: such a port spoke otherwise there than where it was made. ONNX Runtime has no fast
    int8 convolution with groups: convolutions are kept as [`HalfWeights`].
    """

    def __init__(self):
        matrices = ["MatMul", "Gemm"]
        super().__init__(OnnxRuntimeDynamicConfig(op_types_to_quantize=matrices, per_channel=True, reduce_range=True))

    def quantize(self, model: "onnx_ir.Model", sample_inputs: dict[str, Any], export_format) -> "onnx_ir.Model":
        model = super().quantize(model, sample_inputs, export_format)
        return HalfWeights().quantize(model, sample_inputs, export_format)


class HalfConstants(ExportQuantizer):
    """
    [`HalfWeights`] of an OpenVINO graph. OpenVINO's own compression rounds vectors too, and a backbone then differs
    from its source by more than its bar.
    """

    supported_formats = (ExportFormat.OPENVINO,)
    required_packages = ("openvino",)

    def quantize(self, model: "openvino.Model", sample_inputs: dict[str, Any], export_format) -> "openvino.Model":
        import numpy as np
        from openvino import opset13

        largest = float(np.finfo(np.float16).max)
        for node in model.get_ordered_ops():
            if node.get_type_name() != "Constant" or node.get_element_type().get_type_name() != "f32":
                continue
            shape = list(node.get_output_shape(0))
            # A vector comes with axes of 1 beside its own.
            if np.prod(shape) < _SMALLEST or sum(size > 1 for size in shape) < 2 or np.abs(node.data).max() > largest:
                continue
            half = opset13.constant(node.data.astype(np.float16), name=f"{node.get_friendly_name()}_fp16")
            node.output(0).replace(opset13.convert(half, "f32").output(0))
        return model


_QUANTIZERS = {
    ("onnx", "fp16"): HalfWeights,
    ("onnx", "int8"): ByteMatrices,
    ("openvino", "fp16"): HalfConstants,
}


def quantizer_of(export_format: str, weights: str) -> ExportQuantizer | None:
    """
    What turns a float32 graph into one with other weights; `None` for `"fp32"`.

    Args:
        export_format (`str`): as transformers names it.
        weights (`str`): `"fp32"`, `"fp16"` or `"int8"`, one that the format has.
    """
    return None if weights == "fp32" else _QUANTIZERS[export_format, weights]()
