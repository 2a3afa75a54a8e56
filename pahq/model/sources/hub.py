"""Models from a hub: into huggingface_hub's own cache, at a pinned commit, every file's checksum verified.

Weights are downloaded here, in a way that survives a kill: huggingface_hub resumes within one process, but drops what
a killed process had. All else, and the layout of the cache, is huggingface_hub's business; so its settings hold
(HF_ENDPOINT for a mirror, HF_HUB_OFFLINE, HF_HUB_CACHE, HF_TOKEN), and a cache filled elsewhere serves as well.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pahq.errors import PahqError
from pahq.model.sources.tensorfile import NO_PICKLE, file_digest, weight_files

# Safetensors weights (sharded or not, not a repository's second copy of them), configuration, tokenizer. No
# pickle.
HUB_FILES = ("model*.safetensors", "*.json", "*.txt", "tokenizer.model")
_WEIGHTS = re.compile(r"model[^/]*\.safetensors")


def fetch(name: str, revision: str, *, cache: Path | None = None, endpoint: str | None = None) -> Path:
    """A hub repository's folder in the cache: as it is there if complete, else downloaded, with progress on stderr.

    ``revision`` is a commit. A download that was cut goes on where it stopped, after a kill too. Raises PahqError in
    one sentence: no safetensors weights, a checksum that differs, a hub that refuses or cannot be reached.
    """
    folder = _cached(name, revision, cache)
    if folder is None:
        folder = _asked_of_hub(name, revision, cache, endpoint)
    _verify(folder, name)
    return folder


def _cached(name: str, revision: str, cache: Path | None) -> Path | None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                cache_dir=cache,
                allow_patterns=list(HUB_FILES),
                ignore_patterns="*/*",
                local_files_only=True,
            )
        )
        weight_files(folder)
    except (EntryNotFoundError, OSError, PahqError):
        return None  # not, or not wholly, in the cache
    return folder


def _asked_of_hub(name: str, revision: str, cache: Path | None, endpoint: str | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        listed = HfApi(endpoint=endpoint).model_info(name, revision=revision, files_metadata=True, timeout=10)
        weights = [file for file in listed.siblings or [] if _WEIGHTS.fullmatch(file.rfilename)]
        if not weights:
            raise PahqError(f"hub model {name!r} has no safetensors weights at {revision[:12]}; {NO_PICKLE}")
        for file in weights:
            _download(name, revision, file, cache, endpoint)
        return Path(
            snapshot_download(
                name,
                revision=revision,
                cache_dir=cache,
                endpoint=endpoint,
                allow_patterns=list(HUB_FILES),
                ignore_patterns="*/*",
            )
        )
    except PahqError:
        raise
    except OfflineModeIsEnabled:
        raise PahqError(f"hub model {name!r} is not in the cache, and HF_HUB_OFFLINE forbids fetching it") from None
    except HfHubHTTPError as error:
        reason = str(error).strip().splitlines()
        raise PahqError(
            f"the hub refused {name!r} at revision {revision[:12]} ({reason[0] if reason else error!r})"
        ) from None
    except Exception as error:  # no network shows in many ways: name resolution, proxies, time-outs, broken transfers
        raise PahqError(
            f"hub model {name!r} is not in the cache and the hub cannot be reached ({type(error).__name__})"
        ) from None


def _download(name: str, revision: str, file: Any, cache: Path | None, endpoint: str | None) -> None:
    """One large file as the cache's blob of its sha256; what an earlier call left of it is not fetched again."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    if file.lfs is None:  # small enough to lie in git itself
        return
    folder = Path(cache or constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model") / "blobs"
    folder.mkdir(parents=True, exist_ok=True)
    blob, partial = folder / file.lfs.sha256, folder / f"{file.lfs.sha256}.pahq-partial"
    if blob.exists():
        return
    with partial.open("ab") as into:
        fcntl.flock(into, fcntl.LOCK_EX)  # another process may be fetching the same file
        if blob.exists():
            return
        if into.tell() > file.lfs.size:
            into.truncate(0)
        http_get(
            hf_hub_url(name, file.rfilename, revision=revision, endpoint=endpoint),
            into,
            resume_size=os.fstat(into.fileno()).st_size,
            headers=build_hf_headers(),
            expected_size=file.lfs.size,
            displayed_filename=file.rfilename,
            tqdm_class=tqdm,  # huggingface_hub's own says nothing in a log
        )
        into.flush()
        if file_digest([partial]) != file.lfs.sha256:
            partial.unlink()
            raise PahqError(
                f"the download of {file.rfilename} of hub model {name!r} does not have the sha256 that the hub states, "
                "and was thrown away; try again"
            )
        os.replace(partial, blob)


def _verify(folder: Path, name: str) -> None:
    """Compare files with the checksums that name their blobs: sha256, or git's sha1 for those that lie in git."""
    for path in sorted(folder.iterdir()):
        blob = path.resolve()
        if blob == path or not path.is_file():  # a cache of plain copies names no checksum
            continue
        if re.fullmatch(r"[0-9a-f]{64}", blob.name):
            found = file_digest([blob])
        elif re.fullmatch(r"[0-9a-f]{40}", blob.name):
            content = blob.read_bytes()
            found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        else:
            continue
        if found != blob.name:
            raise PahqError(
                f"{path.name} of hub model {name!r} does not have the checksum that names it; delete {blob}, try again"
            )
