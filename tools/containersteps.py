"""The steps of the Dockerfile, one after another in a plain Debian root: for machines without a container engine.

    make container-steps        (tools/containersteps.py, as root, with Debian's debootstrap)

debootstrap makes a root with Debian's own Python where Docker would pull the base image; then every RUN and COPY of the
variant is done in it, each as its user and in its folder, and at the end the image's own command and one small search.
So it shows that the recipe's commands work and that nothing is missing but what the base brings. It shows nothing about
the base image itself, nor about layers. Files of the root stay below ``build/container`` until the next run.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from containerfile import PATH, Step, left_out, plan

ROOT = Path(__file__).resolve().parents[1]
# What stands in for a base image: Debian's release, and the packages that have what the image has.
BASES = {"python:3.11-slim-bookworm": ("bookworm", "ca-certificates python3.11 python3.11-venv")}
MIRROR = "http://deb.debian.org/debian"
# Of this machine, so that the network is the same inside; pip is told what it is told here, too.
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
SEARCH = ("pahq", "task=tracr-proportion", "method=acdc", "threshold=0.1", "wandb=disabled")


def files_of(context: Path, source: str, ignored: Sequence[str]) -> Iterator[Path]:
    """The files that a COPY of ``source`` takes from the context, by their paths below it; links as they are."""
    top = context / source
    if not top.exists():
        raise FileNotFoundError(f"COPY {source}: no such file in the context, {context}")
    for folder, names, files in [(str(top.parent), [], [top.name])] if top.is_file() else os.walk(top):
        below = Path(folder).relative_to(context)
        links = [name for name in names if Path(folder, name).is_symlink()]
        names[:] = [name for name in names if name not in links and _may_hold(below / name, ignored)]
        for name in (*files, *links):
            if not left_out(ignored, (below / name).as_posix()):
                yield below / name


def _may_hold(folder: Path, ignored: Sequence[str]) -> bool:
    """Whether anything below the folder can be in the image: a later line may take files in again."""
    again = [line[1:] for line in ignored if line.startswith("!")]
    return not left_out(ignored, folder.as_posix()) or any(Path(line).is_relative_to(folder) for line in again)


def copy(step: Step, root: Path, context: Path, ignored: Sequence[str]) -> int:
    """Do a COPY; how many files it took."""
    options = dict(word[2:].partition("=")[::2] for word in step.words if word.startswith("--"))
    *sources, target = [word for word in step.words if not word.startswith("--")]
    if set(options) - {"chown"}:
        raise ValueError(f"line {step.line}: COPY knows --chown alone here")
    owner, group = map(int, options.get("chown", "0:0").split(":"))
    into = root / os.path.normpath(os.path.join(step.folder, target)).lstrip("/")
    count = 0
    for source in sources:
        top = context / source
        for path in files_of(context, source, ignored):
            place = into / (path.relative_to(source) if top.is_dir() else path.name)
            missing = [folder for folder in place.parents if not folder.exists()]
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(context / path, place, follow_symlinks=False)
            for made in (*missing, place):
                os.chown(made, owner, group, follow_symlinks=False)
            count += 1
    return count


def home_of(root: Path, user: str) -> str:
    """The home of a user by number, as Docker takes it from the image."""
    for line in (root / "etc" / "passwd").read_text().splitlines():
        fields = line.split(":")
        if fields[2] == user.split(":")[0]:
            return fields[5]
    return "/"


def inside(
    root: Path, words: Sequence[str], user: str, folder: str, said: Mapping[str, str], bound: Sequence[str]
) -> None:
    """Run a command in the root. Its mounts are its own and go with it."""
    mounts = [("mount", "-t", "proc", "proc", f"{root}/proc"), ("mount", "--rbind", "/dev", f"{root}/dev")]
    for path in bound:
        (root / path.lstrip("/")).mkdir(parents=True, exist_ok=True)
        mounts.append(("mount", "--rbind", path, f"{root}{path}"))
    enter = [("cd", str(root)), ("exec", "chroot", f"--userspec={user}", str(root), "/usr/bin/env", "-i")]
    begin = " && ".join(map(shlex.join, [*mounts, *enter])) + ' "$@"'
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    everything = {"HOME": home_of(root, user), **pip, **said}
    pairs = [f"{name}={value}" for name, value in everything.items()]
    entered = ["/bin/sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", folder, *words]
    subprocess.run(["unshare", "--mount", "sh", "-c", begin, "sh", *pairs, *entered], check=True)


def debian(image: str, root: Path) -> None:
    """The root that stands in for a base image, made anew."""
    name, _, digest = image.partition("@")
    if name not in BASES or not digest.startswith("sha256:"):
        raise ValueError(f"nothing stands in for the image {image!r} here; known, with a digest: {', '.join(BASES)}")
    if any(line.split()[1].startswith(str(root)) for line in Path("/proc/self/mounts").read_text().splitlines()):
        raise ValueError(f"something is mounted below {root}; unmount it, since that folder is made anew")
    release, packages = BASES[name]
    shutil.rmtree(root, ignore_errors=True)
    root.parent.mkdir(parents=True, exist_ok=True)
    made = ["debootstrap", "--variant=minbase", release, str(root), MIRROR]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
    words = (
        f"apt-get update -q && apt-get install -q -y --no-install-recommends {packages} && rm -rf /var/lib/apt/lists/*"
    )
    shutil.copy("/etc/resolv.conf", root / "etc")
    inside(root, ["/bin/sh", "-c", words], "0:0", "/", {"PATH": PATH}, ())
    if CERTIFICATES.exists():
        shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))


def follow(arguments: Mapping[str, str], bound: Sequence[str], root: Path) -> None:
    """Everything, each step with its seconds; CalledProcessError at the first one that fails."""
    steps = plan((ROOT / "Dockerfile").read_text(), arguments)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    clock = time.monotonic()
    debian(steps.image, root)
    _told(f"FROM {steps.image}: Debian's own in its place", clock)
    for step in steps.steps:
        clock = time.monotonic()
        if step.name == "WORKDIR":
            (root / step.folder.lstrip("/")).mkdir(parents=True, exist_ok=True)
            _told(f"line {step.line}: WORKDIR {step.folder}", clock)
        elif step.name == "COPY":
            count = copy(step, root, ROOT, ignored)
            _told(f"line {step.line}: COPY {' '.join(step.words)}: {count} files", clock)
        else:
            inside(root, ["/bin/sh", "-c", step.words[0]], step.user, step.folder, dict(step.environment), bound)
            _told(f"line {step.line}: RUN {step.words[0]} (user {step.user})", clock)
    folder = steps.steps[-1].folder
    for words in (steps.command, SEARCH):
        clock = time.monotonic()
        inside(root, words, steps.user, folder, dict(steps.environment), bound)
        _told(f"started: {' '.join(words)}", clock)


def _told(what: str, clock: float) -> None:
    print(f"== {what}: {time.monotonic() - clock:.0f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Follow the Dockerfile in a plain Debian root.")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE", help="as docker build has it")
    parser.add_argument("--bind", action="append", default=[], metavar="FOLDER", help="a folder that is seen inside")
    said = parser.parse_args()
    lacking = [name for name in ("debootstrap", "chroot", "unshare") if shutil.which(name) is None]
    if os.geteuid() != 0 or lacking:
        sys.stderr.write(f"make container-steps needs root{''.join(f' and {name}' for name in lacking)}\n")
        return 2
    arguments = dict(word.partition("=")[::2] for word in said.build_arg)
    try:
        follow(arguments, said.bind, ROOT / "build" / "container")
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"make container-steps: the step above this line ended with status {error.returncode}\n")
        return 1
    except (ValueError, OSError) as error:
        sys.stderr.write(f"make container-steps: {error}\n")
        return 1
    print("make container-steps: every step is done")
    return 0


if __name__ == "__main__":
    sys.exit(main())
