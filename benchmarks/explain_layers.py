"""Which layer's Grad-CAM++ maps are the most faithful, on images of a folder.

    python benchmarks/explain_layers.py MODEL FOLDER [--exports exports] [--images 20]

Prints, for each layer, the mean and its standard error of `faithfulness.figure`, how often the
figure is above chance, and the mean of the correlation with the maps of random weights.
"""

import argparse
import tempfile
import typing
from pathlib import Path

import numpy as np

from dfvt_deploy import explain
from dfvt_deploy.explaining.options import Layer
from dfvt_deploy.image_files import find_images, spread


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--exports", type=Path, default=Path("exports"))
    parser.add_argument("--images", type=int, default=20)
    arguments = parser.parse_args()
    images = spread(find_images(arguments.folder), arguments.images)
    layers = typing.get_args(Layer)
    with tempfile.TemporaryDirectory() as output:
        found = explain(
            images, arguments.model, exports=arguments.exports, layers=layers, output=Path(output)
        )
    print(f"{len(found) // len(layers)} maps a layer, of {len(images)} images")
    print("| layer | figure | above 0 | random weights |\n|---|---|---|---|")
    for layer in layers:
        figures = np.array([x.faithfulness.figure for x in found if x.source == layer])
        sanity = np.mean([x.sanity for x in found if x.source == layer])
        error = figures.std(ddof=1) / len(figures) ** 0.5
        above = f"{(figures > 0).sum()} of {len(figures)}"
        print(f"| {layer} | {figures.mean():.3f} ± {error:.3f} | {above} | {sanity:+.2f} |")


if __name__ == "__main__":
    main()
