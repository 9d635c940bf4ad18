"""Makes the pictures of docs/src/method.md: the scores of a toy, noise schedules, and the curves of a healthy and of a sick
run. Nothing but Python's standard library is needed; the two runs take some minutes on a CPU.

    cargo build --release && cargo build --release --examples
    python scripts/book_pictures.py target/release
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURES = ROOT / "docs" / "src" / "img"
# The two runs differ in the generator's learning rate alone.
RATES = {"healthy": "2e-5", "sick": "1e-3"}
CONFIG = """teacher = "models/shapes"
output = "runs/{name}"
data = {{ kind = "shapes" }}
guidance_scale = 2.0

[generator]
batch = 4
learning_rate = {rate}
warmup_steps = 10
timesteps = [399]
start = "models/shapes/unet_one_step/diffusion_pytorch_model.safetensors"

[fake]
learning_rate = 2e-4
loss = "velocity"
steps_per_generator_step = 2

[pace]
steps = 240
grid_every = 240
checkpoint_every = 240
"""
FIGURES = ["sample_deviation", "sample_mean", "fake", "matching"]
# The report's style sheet gives these colours by the page's theme; a picture in the book has one theme.
COLOURS = {"#010101": "#333333", "#020202": "#e4e4e4", "#030303": "#e3f1e3"}


def figures(page):
    """The plots of a report by their titles: width, height, content."""
    found = {}
    for title, size, content in re.findall(r"<figure><b>(\w+)</b><svg ([^>]*)>(.*?)</svg>", page, re.S):
        width, height = (int(re.search(rf'{side}="(\d+)"', size)[1]) for side in ("width", "height"))
        for old, new in COLOURS.items():
            content = content.replace(old, new)
        found.setdefault(title, (width, height, content))
    return found


def arranged(page, columns=2):
    """The plots of FIGURES in one picture, and below them which colour is which run."""
    plots, cells, title = figures(page), [], 22
    width, height, _ = plots[FIGURES[0]]
    for place, name in enumerate(FIGURES):
        x, y = place % columns * (width + 16), place // columns * (height + title + 12)
        cells.append(f'<text x="{x + 4}" y="{y + 15}" font-family="sans-serif" font-size="13">{name}</text>')
        cells.append(f'<svg x="{x}" y="{y + title}" width="{width}" height="{height}">{plots[name][2]}</svg>')
    rows = -(-len(FIGURES) // columns)
    bottom = rows * (height + title + 12) + 8
    names = [(colour, f"runs/{name}") for colour, name in re.findall(r'<i style="background:(#\w+)"></i> runs/(\w+):', page)]
    for place, (colour, name) in enumerate(dict.fromkeys(names)):
        cells.append(f'<rect x="{4 + 160 * place}" y="{bottom}" width="12" height="12" fill="{colour}"/>')
        cells.append(f'<text x="{22 + 160 * place}" y="{bottom + 11}" font-family="sans-serif" font-size="13">{name}</text>')
    full = (columns * (width + 16) - 16, bottom + 22)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{full[0]}" height="{full[1]}" viewBox="0 0 {full[0]} {full[1]}">'
    return head + f'<rect width="{full[0]}" height="{full[1]}" fill="white"/>' + "".join(cells) + "</svg>\n"


def main():
    programs = Path(sys.argv[1]).resolve()
    PICTURES.mkdir(exist_ok=True)
    for example in ("score_field", "schedule_table"):
        subprocess.run([programs / "examples" / example], cwd=PICTURES, check=True)
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        (folder / "models").symlink_to(ROOT / "models")
        for name, rate in RATES.items():
            (folder / f"{name}.toml").write_text(CONFIG.format(name=name, rate=rate))
            subprocess.run([programs / "dmd", "distill", f"{name}.toml"], cwd=folder, check=True)
        report = [programs / "dmd", "report", "runs/healthy", "runs/sick", "--out", "report.html"]
        subprocess.run(report, cwd=folder, check=True)
        (PICTURES / "healthy-sick.svg").write_text(arranged((folder / "report.html").read_text()))


if __name__ == "__main__":
    main()
