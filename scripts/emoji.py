"""Fetches drawings of emoji from the npm registry and writes them as image folders with captions: what the emoji model of
configs/emoji-*.toml is trained on. Needs npm, and Pillow.

    venv/bin/python scripts/emoji.py data/emoji

| style | package | drawings by | licence |
| --- | --- | --- | --- |
| noto | emoji-datasource-google | Google, Noto Color Emoji | Apache-2.0 |
| fluent | @lobehub/fluent-emoji-3d | Microsoft, Fluent Emoji | MIT |
| twemoji | emoji-datasource-twitter | Twitter and contributors | CC BY 4.0 |

Names and keywords are CLDR's, from emojibase-data (MIT). The model draws in the styles noto and fluent; the third judges it.
Flags and skin tones are left out. Of every tenth name, the drawing in one of the two styles is held out, so that the model
has to draw it from the name's other drawing and the style's others.

DIR/train, DIR/held-out and DIR/judge are image folders: pictures of 64x64 on white and metadata.jsonl.
"""

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from PIL import Image

SIDE = 64
STYLES = {
    "noto": ("emoji-datasource-google@16.0.0", "package/img/google/64/{}.png"),
    "fluent": ("@lobehub/fluent-emoji-3d@1.1.0", "package/assets/{}.webp"),
    "twemoji": ("emoji-datasource-twitter@16.0.0", "package/img/twitter/64/{}.png"),
}
DRAWN = ["noto", "fluent"]
NAMES = "emojibase-data@17.0.0"
FLAGS, COMPONENTS = 9, 2


def fetch(package, folder):
    """The package as a tar file, by npm with its own settings."""
    told = subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, capture_output=True, text=True)
    return tarfile.open(folder / told.stdout.split()[-1])


def with_article(name):
    """The name as people type it; names of many things, and of kinds of one thing, have no article."""
    if ":" in name or (name.endswith("s") and not name.endswith(("ss", "us"))):
        return name
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def captions(name, keywords, style):
    """Two ways to ask for a drawing."""
    words = [word for word in keywords if word != name][:3]
    return [f"{with_article(name)}, {style} style", f"{', '.join([name, *words])}, {style} style"]


def picture(package, pattern, code):
    """A drawing on white, or nothing where the style has none."""
    for spelling in (code, code.replace("-fe0f", "")):
        try:
            data = package.extractfile(pattern.format(spelling)).read()
        except KeyError:
            continue
        image = Image.open(io.BytesIO(data)).convert("RGBA")
        # Transparent pixels have no colour of their own: blended before they are resized.
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image)
        return white.convert("RGB").resize((SIDE, SIDE), Image.LANCZOS)
    return None


def held_out(code, styles):
    """The style in which a name's drawing is held out: in one of ten names that have both."""
    number = int(hashlib.sha256(code.encode()).hexdigest(), 16)
    if number % 10 or len(styles) < len(DRAWN):
        return None
    return styles[number // 10 % len(styles)]


def main():
    out = Path(sys.argv[1])
    lists = {}
    for kind in ("train", "held-out", "judge"):
        (out / kind).mkdir(parents=True, exist_ok=True)
        lists[kind] = []
    with tempfile.TemporaryDirectory() as folder:
        names = json.load(fetch(NAMES, Path(folder)).extractfile("package/en/data.json"))
        packages = {style: (fetch(package, Path(folder)), pattern) for style, (package, pattern) in STYLES.items()}
        for entry in sorted(names, key=lambda entry: entry["hexcode"]):
            if entry.get("group") in (FLAGS, COMPONENTS, None):
                continue
            code, name = entry["hexcode"].lower(), entry["label"].lower()
            drawings = {style: picture(*package, code) for style, package in packages.items()}
            drawings = {style: drawing for style, drawing in drawings.items() if drawing is not None}
            hidden = held_out(code, [style for style in DRAWN if style in drawings])
            for style, drawing in drawings.items():
                kind = "held-out" if style == hidden else "train" if style in DRAWN else "judge"
                file = f"{code}-{style}.png"
                drawing.save(out / kind / file, optimize=True)
                texts = captions(name, entry.get("tags", []), style)
                # Measured by one caption each, trained by both.
                for text in texts if kind == "train" else texts[:1]:
                    lists[kind].append({"file_name": file, "text": text})
    for kind, lines in lists.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (out / kind / "metadata.jsonl").write_text(text, encoding="utf-8")
        print(f"{out / kind}: {len({line['file_name'] for line in lines})} drawings, {len(lines)} captions")


if __name__ == "__main__":
    main()
