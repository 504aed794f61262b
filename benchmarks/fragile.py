"""The test images whose correct prediction is nearest to its end, by the boundary radius, and a picture of them.

    python benchmarks/fragile.py --out results/benchmarks/fragile.json --picture docs/images/fragile.png

Of test images of GTSRB that the stored plain model has right, the ten with the smallest l2 boundary radius are attacked
by FMN. Printed are their class, the class on the other side of the boundary, the radius, and FMN's distance.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from keras_fim import attacks, boundary_radius, data
from keras_fim.evaluation import predicted_classes, samples
from keras_fim.evaluation.report import table
from keras_fim.records import versions, write_json
from keras_fim.training.trained import load_model, record_of

_COUNT, _SCALE = 10, 4


def draw(path: Path, images: np.ndarray, adversarials: np.ndarray) -> None:
    """The images above, what FMN makes of them below."""
    from PIL import Image

    rows = [np.concatenate(list(part), axis=1) for part in (images, adversarials)]
    pixels = np.rint(255 * np.concatenate(rows, axis=0)).astype(np.uint8)
    picture = Image.fromarray(pixels)
    picture.resize((picture.width * _SCALE, picture.height * _SCALE), Image.Resampling.NEAREST).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="gtsrb-plain")
    parser.add_argument("--images", type=int, help="so many, the same number of each class (default: all)")
    parser.add_argument("--data-dir")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/fragile.json"))
    parser.add_argument("--picture", type=Path)
    arguments = parser.parse_args()
    model, source = load_model(arguments.model), record_of(arguments.model)["config"]["data"]
    images, labels = samples(data.load(source, data_dir=arguments.data_dir)[1], arguments.images)
    right = predicted_classes(model, images) == labels
    images, labels = images[right], labels[right]
    radii = boundary_radius(model, images)
    order = np.argsort(radii.radius)[:_COUNT]  # NaN comes last
    images, labels = images[order], labels[order]
    result = attacks.FMN()(model, images, labels)
    names = data.info(source).class_names
    rows = [
        {
            "class": names[label],
            "rival": names[rival],
            "boundary radius": float(radius),
            "FMN's distance": float(distance),
        }
        for label, rival, radius, distance in zip(
            labels, radii.rival[order], radii.radius[order], result.distances, strict=True
        )
    ]
    config = {"model": arguments.model, "images": len(right), "correct": int(right.sum())}
    write_json(arguments.out, {"config": config, "rows": rows, "versions": versions()})
    if arguments.picture:
        draw(arguments.picture, images, result.adversarials)
    print(table(rows))


if __name__ == "__main__":
    main()
