"""The options of `build-trt`."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from ..files import cache_directory
from ..names import onnx_file
from ..options import Options, Size, argument, option
from ..types import Flavor, Int8Target, Precision

#: Fields of `BuildOptions` that mean nothing to TensorRT-RTX, which measures nothing as it builds.
_TENSORRT_ONLY = (
    *("target", "hardware_compatible", "version_compatible"),
    *("timing_cache", "timing_cache_folder"),
)


class BuildOptions(Options):
    """Which engines are built, and how."""

    command = "build-trt"

    models: tuple[str, ...] = argument((), help="Names under --exports; all of them by default.")
    exports: Path = option(Path("exports"), help="Folder of exported models.")
    precision: Precision | Literal["all"] = option(
        Precision.FP16,
        help="Precision of the engines; all means every file that was converted.",
        words=("fp32", "fp16", "int8", "all"),
    )
    flavor: Flavor = option(
        Flavor.TENSORRT, help="tensorrt builds for this GPU; rtx, for RTX GPUs, needs none."
    )
    target: str | None = option(
        None, help="Triton release whose TensorRT must be installed, such as tritonserver:26.07."
    )
    min_batch: int | None = option(None, help="Smallest batch; 1 by default.", minimum=1)
    opt_batch: int | None = option(
        None, help="Batch that runs fastest; by default 8, for dense tasks 1.", minimum=1
    )
    max_batch: int | None = option(
        None, help="Largest batch; by default 64, for dense tasks 4.", minimum=1
    )
    min_size: Size | None = option(None, help="Smallest canvas of a dense model; 32x32.")
    opt_size: Size | None = option(
        None, help="Canvas that runs fastest; detection 800x1088, segmentation 512x704."
    )
    max_size: Size | None = option(
        None, help="Largest canvas; detection 1344x1344, segmentation 2048x2048."
    )
    tf32: bool = option(False, help="Let float32 layers compute in TF32.")
    optimization_level: int = option(
        3, help="A higher level builds longer and may run faster.", minimum=0, maximum=5
    )
    workspace: int | None = option(
        None,
        help="Most scratch memory of a layer in MiB; the GPU's memory by default.",
        minimum=1,
        maximum=2**20,
    )
    hardware_compatible: bool = option(
        False, help="Build for every GPU from compute capability 8.0; slower."
    )
    version_compatible: bool = option(
        False, help="Let later releases of the same major version load the engine; slower."
    )
    strip_weights: bool = option(
        False, help="Leave the weights out; the engine must be refitted before use."
    )
    compute_capability: tuple[str, ...] = option(
        (), help="With rtx: a kind of GPU to build for, such as 8.9; may be given again."
    )
    timing_cache: bool = option(True, help="Keep TensorRT's measurements between builds.")
    timing_cache_folder: Path | None = option(
        None, help="Folder of the measurements; the user's cache by default."
    )

    def check(self) -> None:
        if self.precision != "all":
            onnx_file(self.precision, Int8Target.TENSORRT)  # refuses bf16
        if self.target is not None:
            from .machine import triton_release

            triton_release(self.target)
        if not self.timing_cache:
            self.refuse("does nothing with --no-timing-cache; omit one", "timing_cache_folder")
        if self.flavor is Flavor.TENSORRT:
            self.refuse("is for --flavor rtx; TensorRT builds for its GPU", "compute_capability")
        else:
            self.refuse("is for --flavor tensorrt", *_TENSORRT_ONLY)

    def for_rtx(self) -> "BuildOptions":
        """The options of the same engines for TensorRT-RTX."""
        own: dict[str, Any] = {f.name: f.default for f in fields(self) if f.name in _TENSORRT_ONLY}
        return replace(self, flavor=Flavor.RTX, **own)

    @property
    def timing_cache_directory(self) -> Path | None:
        """The folder of TensorRT's measurements; None where none are kept."""
        if not self.timing_cache:
            return None
        return self.timing_cache_folder or cache_directory() / "timing"
