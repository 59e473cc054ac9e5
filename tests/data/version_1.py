"""Writes the detector of format version 1 that later versions must read, and what it finds on a drawn chip.

Run once, by the code that wrote version 1; what it wrote is kept as it is:
python tests/data/version_1.py tests/data

The weights are short patterns over and over, so that 46 MB pack into 40 kB.
"""

from __future__ import annotations

import json
import lzma
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from geodetect.anchors import AnchorSpec
from geodetect.detector import Detector
from geodetect.metadata import Architecture, Metadata
from geodetect.network.retinanet import Network
from geodetect.normalization import Normalization

PERIOD = 61  # of the patterns; a prime, so that they fall anew on every filter
LOUDER = {"class_head.out.weight": 100, "box_head.out.weight": 2000}  # patterns leave little for the heads to say


def chip() -> np.ndarray:
    """(1, 4, 64, 64) uint16: bands that rise with x, with y, a checker, and their sum."""
    y, x = np.mgrid[:64, :64]
    checker = (x // 8 + y // 8) % 2
    return np.stack([900 + 8 * x, 1000 + 8 * y, 1100 + 300 * checker, 1200 + 4 * (x + y)])[None].astype(np.uint16)


def patterned(name: str, old: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A tensor of the same shape that packs well; norms do nothing."""
    if old.ndim == 4:
        pattern = rng.standard_normal(PERIOD) * np.sqrt(1.5 / old[0].numel()) * LOUDER.get(name, 1)
        return torch.from_numpy(np.resize(pattern.astype(np.float32), old.numel())).reshape(old.shape)
    ones = name.endswith((".weight", ".running_var"))
    return torch.ones_like(old) if ones else torch.zeros_like(old)


def detector() -> Detector:
    """The detector, with a value of its own in every field."""
    spec = AnchorSpec(scales=(1.0, 1.5), ratios=(0.5, 1.0, 2.0), anchor_size=3.0)
    network = Network(Architecture("efficientnet_b0", anchors=spec), n_classes=2, n_bands=4, weights=None).eval()
    rng = np.random.default_rng(0)
    network.load_state_dict({name: patterned(name, old, rng) for name, old in network.state_dict().items()})
    network.set_norm_eps(1e-4)
    metadata = Metadata(
        classes=["hut", "tent"],
        bands=(4, 1, 2, 3),
        normalization=Normalization((900.0, 1000.0, 1100.0, 1200.0), (300.0, 310.0, 320.0, 330.0)),
        chip_size=64,
        overlap=16,
        pixel_size_m=0.3,
        min_score={"hut": 0.4, "tent": 0.6},
        summary={"epochs": 3, "valid_loss": 0.5, "AP50": 0.75},
    )
    return Detector(network, metadata, precision="float32")


def main(folder: Path) -> None:
    """Write the packed file, and beside it the boxes."""
    made = detector()
    with tempfile.TemporaryDirectory() as place:
        content = made.save(Path(place) / "version_1.safetensors").read_bytes()
    (found,) = made.detect(chip(), min_score=0.6)
    rows = [[*box, label, score] for box, label, score in zip(found.xyxy, found.labels, found.scores, strict=True)]
    (folder / "version_1.safetensors.xz").write_bytes(lzma.compress(content, preset=9 | lzma.PRESET_EXTREME))
    (folder / "version_1.json").write_text(json.dumps([[round(float(v), 4) for v in row] for row in rows]) + "\n")
    sys.stdout.write(
        f"{len(rows)} boxes, scores {rows[-1][-1]:.3f} to {rows[0][-1]:.3f}; sides {found.sizes.mean(0)}\n"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
