"""Collect the pixel sources into ``pixels.npz``: run once by a maintainer, with the extra ``tiny`` installed.

python -m evoprune.tiny.collect
"""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from .pixels import archive

LONG_SIDE = 448  # a photograph's longer side after scaling: seven of them stay well below 4 MB

# file, package, title, licence as the package states it
PHOTOS = (
    ("astronaut.png", "skimage", "Eileen Collins, NASA", "public domain"),
    ("chelsea.png", "skimage", "Chelsea the cat, Stefan van der Walt", "CC0"),
    ("coffee.png", "skimage", "Coffee cup, Rachel Michetti, Pikolo Espresso Bar", "CC0"),
    ("hubble_deep_field.jpg", "skimage", "Hubble eXtreme Deep Field, NASA", "public domain"),
    ("rocket.jpg", "skimage", "Launch of DSCOVR, SpaceX", "public domain"),
    ("china.jpg", "sklearn", "Summer Palace, danielbuechele", "CC BY 2.0"),
    ("flower.jpg", "sklearn", "Dahlia, vultilion", "CC BY 2.0"),
)


def _source(package: str, name: str) -> Path:
    import skimage
    import sklearn

    if package == "skimage":
        return Path(skimage.__file__).parent / "data" / name
    return Path(sklearn.__file__).parent / "datasets" / "images" / name


def main() -> None:
    """Write ``pixels.npz`` and ``pixels.json`` (sources, licences, sha256 of every source file)."""
    import sklearn
    from sklearn.datasets import load_digits

    digits = load_digits()
    arrays = {
        "digits": np.clip(digits.images * 255 / 16, 0, 255).round().astype(np.uint8),
        "labels": digits.target.astype(np.int64),
    }
    csv = Path(sklearn.__file__).parent / "datasets" / "data" / "digits.csv.gz"
    sources = [
        {
            "array": "digits",
            "file": csv.name,
            "package": f"scikit-learn {version('scikit-learn')}",
            "title": "Optical Recognition of Handwritten Digits (test part), E. Alpaydin, C. Kaynak, UCI",
            "licence": "CC BY 4.0",
            "sha256": hashlib.sha256(csv.read_bytes()).hexdigest(),
        }
    ]
    for number, (name, package, title, licence) in enumerate(PHOTOS):
        path = _source(package, name)
        picture = Image.open(path).convert("RGB")
        scale = LONG_SIDE / max(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        arrays[f"photo_{number}"] = np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
        project = {"skimage": "scikit-image", "sklearn": "scikit-learn"}[package]
        sources.append(
            {
                "array": f"photo_{number}",
                "file": name,
                "package": f"{project} {version(project)}",
                "title": title,
                "licence": licence,
                "changes": f"scaled to {size[0]} x {size[1]}",
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
        )
    np.savez_compressed(archive(), **arrays)
    archive().with_suffix(".json").write_text(json.dumps(sources, indent=1) + "\n")
    print(f"{archive()}: {archive().stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
