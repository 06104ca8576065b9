#!/usr/bin/env python3
"""Writes a container image of files of this machine, without Docker and without a registry.

  image.py OUT.tar NAME:TAG[,NAME:TAG...] [option...]
    --program FILE[=PATH]   a program, at /usr/local/bin unless a path is given, with the shared libraries that it needs
    --file FILE=PATH        a file, or a folder with everything in it
    --link TARGET=PATH      a symbolic link
    --folder PATH           an empty folder that everybody may write to
    --entrypoint A,B,...    what runs
    --user UID              numeric; root otherwise

OUT.tar is an OCI layout and a Docker archive at once: `ctr images import`, `docker load` and `kind load image-archive` take it.
"""

import argparse
import hashlib
import io
import json
import os
import platform
import subprocess
import sys
import tarfile

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PASSWD = b"root:x:0:0:root:/root:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin\n"
GROUP = b"root:x:0:\nnonroot:x:65532:\n"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


class Layer:
    """One layer: each path once, folders before what lies in them, no times and no owners, so that equal files make an
    equal image."""

    def __init__(self, out):
        self.tar = tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT)
        self.paths = set()

    def add(self, path, kind, mode, **more):
        path = path.strip("/")
        if path in self.paths:
            return None
        if os.path.dirname(path):
            self.folder(os.path.dirname(path))
        self.paths.add(path)
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode = kind, mode
        for name, value in more.items():
            setattr(entry, name, value)
        return entry

    def folder(self, path, mode=0o755):
        entry = self.add(path, tarfile.DIRTYPE, mode)
        if entry:
            self.tar.addfile(entry)

    def text(self, path, content):
        entry = self.add(path, tarfile.REGTYPE, 0o644, size=len(content))
        if entry:
            self.tar.addfile(entry, io.BytesIO(content))

    def link(self, target, path):
        entry = self.add(path, tarfile.SYMTYPE, 0o777, linkname=target)
        if entry:
            self.tar.addfile(entry)

    def file(self, source, path):
        """What a symbolic link points to takes its place."""
        if os.path.isdir(source):
            for name in sorted(os.listdir(source)):
                # Some distributions leave links to what another package would bring.
                if os.path.exists(os.path.join(source, name)):
                    self.file(os.path.join(source, name), os.path.join(path, name))
            return
        mode = 0o755 if os.access(source, os.X_OK) else 0o644
        entry = self.add(path, tarfile.REGTYPE, mode, size=os.path.getsize(source))
        if entry:
            with open(source, "rb") as content:
                self.tar.addfile(entry, content)

    def libraries(self, program):
        listing = subprocess.run(["ldd", program], capture_output=True, text=True)
        # A static program needs none, and ldd calls that an error.
        for word in listing.stdout.split():
            if word.startswith("/") and os.path.exists(word):
                self.file(word, word)
        if "not found" in listing.stdout:
            sys.exit(f"image.py: {program} needs libraries that are missing:\n{listing.stdout}")


def pair(text, what):
    left, sign, right = text.partition("=")
    if not sign or not right:
        sys.exit(f"image.py: {what} {text}: FROM=PATH is expected")
    return left, right


def fill(options, out):
    layer = Layer(out)
    layer.folder("/tmp", 0o1777)
    layer.text("/etc/passwd", PASSWD)
    layer.text("/etc/group", GROUP)
    if os.path.exists(CERTIFICATES):
        layer.file(CERTIFICATES, CERTIFICATES)
    for text in options.program:
        source, _, path = text.partition("=")
        layer.file(source, path or "/usr/local/bin/" + os.path.basename(source))
        layer.libraries(source)
    for text in options.file:
        layer.file(*pair(text, "--file"))
    for text in options.link:
        layer.link(*pair(text, "--link"))
    for path in options.folder:
        layer.folder(path, 0o777)
    layer.tar.close()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def described(kind, data):
    return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest(data), "size": len(data)}


def full(name):
    first = name.split("/")[0]
    if "/" not in name:
        return "docker.io/library/" + name
    return name if "." in first or ":" in first or first == "localhost" else "docker.io/" + name


def write(options, layer):
    architecture = ARCHITECTURES.get(platform.machine(), platform.machine())
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {
                "Entrypoint": options.entrypoint.split(","),
                "Env": ["PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"],
                "User": options.user,
            },
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": described("config.v1+json", config),
            "layers": [described("layer.v1.tar", layer)],
        }
    ).encode()
    names = options.names.split(",")
    index = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            described("manifest.v1+json", manifest)
            | {"platform": {"architecture": architecture, "os": "linux"}, "annotations": {"io.containerd.image.name": full(name)}}
            for name in names
        ],
    }
    blob = lambda data: "blobs/sha256/" + digest(data)[7:]
    docker = [{"Config": blob(config), "RepoTags": names, "Layers": [blob(layer)]}]
    parts = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps(index).encode(),
        "manifest.json": json.dumps(docker).encode(),
    }
    parts |= {blob(data): data for data in (config, manifest, layer)}
    with tarfile.open(options.out + ".partial", "w") as tar:
        for name, data in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    os.rename(options.out + ".partial", options.out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("names")
    for name in ("program", "file", "link", "folder"):
        parser.add_argument("--" + name, action="append", default=[])
    parser.add_argument("--entrypoint", required=True)
    parser.add_argument("--user", default="")
    options = parser.parse_args()
    layer = io.BytesIO()
    fill(options, layer)
    write(options, layer.getvalue())


main()
