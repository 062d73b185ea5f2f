"""Copies on a real S3-compatible server."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from stores import BUCKET, s3_server
from test_store import at

from psdp.checkpoint import (
    CheckpointStore,
    Elsewhere,
    Objects,
    fetch_newest,
    find_checkpoint,
    probe,
    read_weights,
)
from psdp.checkpoint.manifest import read_manifest
from psdp.errors import CheckpointError

URL = f"s3://{BUCKET}/runs/mine"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as address:
        yield address


def saved(run: Path, size: int) -> CheckpointStore:
    """Return the store of a run with one checkpoint of so many parameters."""
    run.mkdir()
    (run / "lock.json").write_text("{}")
    (run / "metrics.jsonl").write_text('{"kind": "train"}\n')
    store = CheckpointStore(run, keep=1)
    weights = np.random.default_rng(7).standard_normal(size).astype("float32")
    store.commit(at(1), [store.write_shard(at(1), 0, 1, {"weights": weights})], {})
    return store


def test_an_object_of_several_parts_comes_back_bit_for_bit(server: str, tmp_path: Path) -> None:
    run = saved(tmp_path / "run", 3_500_000).run
    probe(Objects(URL))
    (copied,) = Elsewhere(Objects(URL), run, keep=1).update()
    assert copied.bytes > 14_000_000
    there = fetch_newest(
        Objects(URL), CheckpointStore(tmp_path / "there", 0), pytest.fail, records=True
    )
    ours = find_checkpoint(run)
    np.testing.assert_array_equal(
        read_weights(read_manifest(there)), read_weights(read_manifest(ours))
    )
    assert (tmp_path / "there" / "metrics.jsonl").read_text() == '{"kind": "train"}\n'


def test_what_is_given_up_half_way_leaves_nothing(server: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield bytes(7_000_000)
        raise CheckpointError("the disk is broken")

    with pytest.raises(CheckpointError, match="the disk is broken"):
        Objects(f"s3://{BUCKET}/half").write("way", chunks(), 9_000_000)
    files = fsspec.filesystem("s3")
    files.invalidate_cache()
    assert not files.exists(f"{BUCKET}/half/way")
    uploads = files.call_s3("list_multipart_uploads", Bucket=BUCKET)
    assert "Uploads" not in uploads


def test_a_bucket_that_is_not_there_is_not_made(server: str) -> None:
    url = "s3://no-such-bucket/run"
    with pytest.raises(CheckpointError, match=rf"^{url}/.*: The specified bucket does not exist$"):
        probe(Objects(url))
    with pytest.raises(CheckpointError, match=r"The specified bucket does not exist"):
        fetch_newest(Objects(url), CheckpointStore(Path("nowhere"), 0), pytest.fail)


HANGING = """
import sys, time
from pathlib import Path
from psdp.checkpoint import Elsewhere, Objects
from psdp.servers.copying import Copier
url, run = "s3://bucket/run", Path(sys.argv[1])
copier = Copier(url, lambda: Elsewhere(Objects(url), run, 1))
time.sleep(1)
print("busy" if not copier.idle else "idle", copier.poll(), flush=True)
"""


def test_a_store_that_never_answers_keeps_no_process_from_its_exit(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", 10).run
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        variables = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{deaf.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
        }
        said = subprocess.run(
            [sys.executable, "-c", HANGING, str(run)],
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
    assert (said.stdout, said.stderr) == ("busy []\n", "")
