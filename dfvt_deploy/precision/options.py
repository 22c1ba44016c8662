"""The options of `convert`."""

from dataclasses import replace
from pathlib import Path

from ..cores import int8_saturates
from ..errors import BadInput
from ..files import check_utf8
from ..names import onnx_file
from ..options import Options, argument, option
from ..types import Int8Target, Precision, RangeMethod, SearchUnit

#: The least multiple that a canvas is made of, as in `tasks.dense`.
_SIZE_MULTIPLE = 32

#: AutoCast's own limit: beyond 512 the steps between FP16 numbers are 0.5 and more.
_DATA_MAX = 512.0

#: Calibration images that are used at most: of a task of one size, and of a dense task.
_IMAGES = {Precision.FP16: (64, 16), Precision.INT8: (256, 32)}


class ConvertOptions(Options):
    """Which models are converted, to what, and what they are compared on."""

    command = "convert"

    models: tuple[str, ...] = argument((), help="Names under --exports; all of them by default.")
    precision: Precision = option(help="Precision of the new file.", words=("fp16", "int8"))
    target: Int8Target = option(Int8Target.CPU, help="With int8: what will run the file.")
    exports: Path = option(Path("exports"), help="Folder of exported models.")
    calibration: Path | None = option(
        None, help="Folder of images like those that the model will see; sample images by default."
    )
    images: int | None = option(
        None,
        help="Most images that are used; by default 64, with int8 256, for dense tasks 16 and 32.",
        minimum=1,
    )
    max_side: int = option(512, help="Longest side of a dense model's canvas while calibrating.")
    keep_fp32: tuple[str, ...] = option(
        (), help="Name of a node, or an operator, that stays in FP32; may be given again."
    )
    data_max: float = option(
        _DATA_MAX, help="With fp16: nodes that touch a larger value on any image stay in FP32."
    )
    method: RangeMethod = option(
        RangeMethod.ENTROPY, help="With int8: how the ranges of activations are chosen."
    )
    weight_bits: int | None = option(
        None,
        help="With int8 on CPUs: weights of 7 bits give the same answers on every CPU; those of 8 "
        "round less, and saturate on x86 without VNNI. By default what this CPU calls for.",
        minimum=7,
        maximum=8,
    )
    search: SearchUnit | None = option(
        None, help="Look for what must stay in FP32 so that the limits hold."
    )
    min_agreement: float | None = option(
        None,
        help="Least share of images, pixels or detections with the same answer.",
        minimum=0,
        maximum=1,
    )

    def check(self) -> None:
        if self.precision is Precision.FP32:
            raise BadInput("fp32 is what export writes; --precision takes fp16 or int8")
        onnx_file(self.precision, self.target)  # refuses bf16
        if self.precision is Precision.FP16:
            self.refuse("is for --precision int8", "target", "method", "weight_bits")
        else:
            self.refuse("is for --precision fp16", "data_max")
        if self.target is Int8Target.OPENVINO:
            self.refuse("is not for --target openvino, where NNCF chooses the ranges", "method")
        if self.target is Int8Target.TENSORRT:
            self.refuse("is for CPUs, not for --target tensorrt", "weight_bits")
        if self.max_side < _SIZE_MULTIPLE or self.max_side % _SIZE_MULTIPLE:
            raise BadInput(
                f"--max-side {self.max_side} is not a positive multiple of {_SIZE_MULTIPLE}"
            )
        if not self.data_max > 0:  # false for NaN too
            raise BadInput(
                f"--data-max {self.data_max:g} is not above 0; inf lets no value keep a node in "
                "FP32"
            )

    def check_files(self) -> None:
        check_utf8(self.exports, "--exports")
        if self.calibration is not None and not self.calibration.is_dir():
            raise BadInput(f"--calibration {self.calibration} is not a folder")
        if self.calibration is not None:
            check_utf8(self.calibration.resolve(), "--calibration")

    @property
    def range_method(self) -> str | None:
        """How INT8 ranges are chosen; None for FP16."""
        if self.precision is not Precision.INT8:
            return None
        return "nncf" if self.target is Int8Target.OPENVINO else str(self.method)

    def resolved(self) -> "ConvertOptions":
        """These options with the bits of a weight that this CPU calls for."""
        if self.precision is not Precision.INT8 or self.target is Int8Target.TENSORRT:
            return self
        return replace(self, weight_bits=self.weight_bits or (7 if int8_saturates() else 8))

    def most_images(self, dense: bool) -> int:
        """The most calibration images that are used, by default fewer of a dense model's."""
        return _IMAGES[self.precision][dense] if self.images is None else self.images
