"""Writes the UCI handwritten digits (1797 scans, 8×8, CC BY 4.0) that scikit-learn carries as a folder of
pictures for `cargo run -p dmd-ablations -- --tables pictures --pictures FOLDER`.

    venv/bin/pip install scikit-learn pillow
    venv/bin/python scripts/digits.py FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
digits = load_digits()
with open(folder / "metadata.jsonl", "w") as lines:
    for i, (image, label) in enumerate(zip(digits.images, digits.target)):
        name = f"{i:04}.png"
        Image.fromarray(np.minimum(image * 16, 255).astype(np.uint8)).convert("RGB").save(folder / name)
        lines.write(json.dumps({"file_name": name, "text": str(label)}) + "\n")
