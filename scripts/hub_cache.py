"""Whether dmd-hub and Python's huggingface_hub open each other's cache with no network. A hub on the loopback device
serves a small repository; each side fetches from it into a cache of its own; then the hub is stopped and each side opens
the other's cache offline. Afterwards Python goes on in the cache of dmd-hub, and dmd-hub in Python's.

    pip install huggingface_hub
    cargo build -p dmd-hub --example fetch
    python scripts/hub_cache.py [target/debug/examples/fetch]
"""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import urllib.parse
from pathlib import Path

PROGRAM = Path(sys.argv[1] if len(sys.argv) > 1 else "target/debug/examples/fetch").resolve()
COMMIT = "1" * 40
WEIGHTS = bytes(i * 7 % 251 for i in range(300_000))
FILES = {
    "README.md": b"# Model\n",
    "model_index.json": b'{"_class_name": "StableDiffusionPipeline"}',
    "scheduler/scheduler_config.json": b"{}",
    "tokenizer/merges.txt": b"",
    "tokenizer/vocab.json": b'{"a": 0}',
    "unet/config.json": b'{"in_channels": 4}',
    "unet/diffusion_pytorch_model.safetensors": WEIGHTS,
    "unet/diffusion_pytorch_model.fp16.safetensors": WEIGHTS[: len(WEIGHTS) // 2],
}
WANTED = [name for name in FILES if name != "README.md" and "fp16" not in name]


def is_lfs(name):
    return name.endswith(".safetensors")


def etag(name):
    data = FILES[name]
    return hashlib.sha256(data).hexdigest() if is_lfs(name) else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def node(name):
    lfs = {"lfs": {"oid": etag(name), "size": len(FILES[name]), "pointerSize": 130}} if is_lfs(name) else {}
    return {"type": "file", "path": name, "size": len(FILES[name]), "oid": "2" * 40 if is_lfs(name) else etag(name), **lfs}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = urllib.parse.unquote(self.path.partition("?")[0])
        if path.startswith("/api/models/org/model/tree/"):
            return self.answer(200, json.dumps([node(name) for name in FILES]).encode())
        if path.startswith("/api/models/org/model"):
            siblings = [{"rfilename": name} for name in FILES]
            return self.answer(200, json.dumps({"id": "org/model", "sha": COMMIT, "siblings": siblings}).encode())
        if path.startswith("/org/model/resolve/"):
            name = path.removeprefix("/org/model/resolve/").partition("/")[2]
            if name not in FILES:
                return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
            known = {"X_Repo_Commit": COMMIT, "ETag": f'"{etag(name)}"'}
            if is_lfs(name):
                known |= {"X_Linked_Etag": f'"{etag(name)}"', "X_Linked_Size": str(len(FILES[name]))}
                port = self.server.server_address[1]
                return self.answer(302, Location=f"http://localhost:{port}/cdn/{name}", **known)
            return self.answer(307, Location=f"/cdn/{name}", **known)
        name = path.removeprefix("/cdn/")
        if name not in FILES:
            return self.answer(404)
        data = FILES[name]
        headers = {"ETag": f'"{etag(name)}"', "X_Repo_Commit": COMMIT}
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes=") and asked.endswith("-"):
            start = int(asked[6:-1])
            return self.answer(206, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}", **headers)
        self.answer(200, data, **headers)

    do_HEAD = do_GET


def environment(home, endpoint, offline):
    keep = {key: value for key, value in os.environ.items() if not key.upper().startswith(("HF_", "HUGGING", "HTTP", "ALL_P"))}
    return keep | {"HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": "1" if offline else "0"}


def rust(home, endpoint, offline=False, name="org/model", *patterns):
    result = subprocess.run(
        [PROGRAM, name, *patterns], env=environment(home, endpoint, offline), capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.strip()), result.stderr


def python(home, endpoint, offline=False, patterns=None):
    code = (
        "import sys, json; from huggingface_hub import snapshot_download;"
        "a = json.loads(sys.argv[1]); print(snapshot_download('org/model', **a))"
    )
    arguments = {"local_files_only": offline} | ({"allow_patterns": patterns} if patterns else {})
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(arguments)],
        env=environment(home, endpoint, offline),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return Path(result.stdout.strip())


def check(folder, names):
    for name in names:
        assert (folder / name).read_bytes() == FILES[name], name


def shape(home):
    """Every path of a cache, with the targets of links: what both sides must have alike."""
    root = home / "hub" / "models--org--model"
    own = ("trees", ".dmd", ".no_exist")
    paths = [path for path in root.rglob("*") if path.relative_to(root).parts[0] not in own]
    return {str(path.relative_to(root)): os.readlink(path) if path.is_symlink() else "" for path in paths}


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
endpoint = f"http://127.0.0.1:{server.server_address[1]}"
nobody = "http://127.0.0.1:1"
with tempfile.TemporaryDirectory() as folder:
    ours, theirs = Path(folder, "ours"), Path(folder, "theirs")
    rust(ours, endpoint)
    python(theirs, endpoint, patterns=WANTED)
    assert shape(ours) == shape(theirs), (shape(ours), shape(theirs))
    print("both lay out the same paths and links")

    found = python(ours, nobody, offline=True)
    check(found, WANTED)
    assert not (found / "README.md").exists()
    print("huggingface_hub opens the cache of dmd-hub offline")

    found, _ = rust(theirs, nobody, offline=True)
    check(found, WANTED)
    found, _ = rust(theirs, nobody, offline=True, name=f"org/model@{COMMIT}")
    print("dmd-hub opens the cache of huggingface_hub offline")

    # As an older huggingface_hub leaves it: without a list of files.
    for tree in theirs.rglob("trees/*.json"):
        tree.unlink()
    found, _ = rust(theirs, nobody, offline=True)
    check(found, WANTED)
    print("also without its list of files")

    check(python(ours, endpoint), FILES)
    _, progress = rust(theirs, endpoint, False, "org/model", "*")
    assert sorted(line.split(":")[0] for line in progress.splitlines() if not line.startswith(":")) == sorted(
        set(FILES) - set(WANTED)
    ), progress
    assert shape(ours) == shape(theirs)
    print("each goes on in the other's cache and fetches what is missing alone")

    # What scans a cache finds nothing wrong in ours.
    from huggingface_hub import scan_cache_dir

    scanned = scan_cache_dir(ours / "hub")
    assert not scanned.warnings and len(scanned.repos) == 1, scanned
    print(f"scan_cache_dir: {scanned.size_on_disk} bytes, no warnings")
