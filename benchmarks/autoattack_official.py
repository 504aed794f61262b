"""The official AutoAttack on a network written down by `benchmarks/autoattack.py`, stage by stage; needs torch only.

python benchmarks/autoattack_official.py CELL.npz OFFICIAL_FOLDER OUT.json
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

STAGES = ("apgd-ce", "apgd-t", "fab-t", "square")


class Network(torch.nn.Module):
    """A chain of layers, of images (batch, channel, row, column), with the weights of a Keras model."""

    def __init__(self, chain: list[dict[str, Any]], arrays: Any) -> None:
        super().__init__()
        self.chain = chain
        self.arrays = {key: torch.from_numpy(arrays[key]) for key in arrays.files if key.startswith("weight")}

    def weights(self, layer: dict[str, Any]) -> list[torch.Tensor]:
        """Those of a layer, in Keras' order."""
        return [self.arrays[key] for key in layer["weights"]]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits."""
        functional = torch.nn.functional
        for layer in self.chain:
            match layer["kind"]:
                case "Rescaling":
                    x = layer["scale"] * x + layer["offset"]
                case "Conv2D":  # odd kernels, stride 1, the same size
                    kernel, *bias = self.weights(layer)
                    x = functional.conv2d(x, kernel.permute(3, 2, 0, 1), *bias, padding=kernel.shape[0] // 2)
                case "BatchNormalization":
                    gamma, beta, mean, variance = self.weights(layer)
                    x = functional.batch_norm(x, mean, variance, gamma, beta, eps=layer["epsilon"])
                case "ReLU":
                    x = functional.relu(x)
                case "MaxPooling2D":
                    x = functional.max_pool2d(x, 2)
                case "Flatten":  # Keras' channels come last
                    x = x.permute(0, 2, 3, 1).reshape(len(x), -1)
                case "Dense":
                    kernel, bias = self.weights(layer)
                    x = x @ kernel + bias
                case other:
                    raise ValueError(f"no such layer here: {other}")
        return x


def main(cell: Path, folder: Path, out: Path) -> None:
    """All stages that `out` does not hold yet, each on what stands."""
    sys.path.insert(0, str(folder))
    from autoattack import AutoAttack

    content = np.load(cell)
    settings = json.loads(str(content["settings"]))
    network = Network(settings["chain"], content).eval()
    images = torch.from_numpy(content["images"]).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(content["labels"])
    with torch.no_grad():
        logits = network(images)
    np.testing.assert_allclose(logits.numpy(), content["logits"], atol=2e-3 * np.abs(content["logits"]).max())
    done = json.loads(out.read_text()) if out.is_file() else {"stages": {}}
    standing = np.flatnonzero((logits.argmax(dim=1) == labels).numpy())
    for stage in STAGES:
        if stage not in done["stages"]:
            attack = AutoAttack(
                network, norm=settings["norm"], eps=settings["epsilon"], seed=0, device="cpu", verbose=False
            )
            attack.attacks_to_run = [stage]
            begin, wall = time.process_time(), time.time()
            points = attack.run_standard_evaluation(images[standing], labels[standing], bs=250)
            with torch.no_grad():
                stands = (network(points).argmax(dim=1) == labels[standing]).numpy()
            seconds = {"cpu_seconds": time.process_time() - begin, "seconds": time.time() - wall}
            done["stages"][stage] = {"standing": standing[stands].tolist(), **seconds}
            done |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
            out.write_text(json.dumps(done))
            print(f"official {stage}: {stands.sum()} of {len(images)} stand", flush=True)
        standing = np.array(done["stages"][stage]["standing"], int)
        if not len(standing):
            break


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
