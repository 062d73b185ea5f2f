"""Places elsewhere for tests: a store that breaks where a test says so, and an S3-compatible
server."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch
from urllib.request import Request, urlopen

import fsspec
from fsspec.spec import AbstractFileSystem
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem


class Died(BaseException):
    """The process that was using the store is no more."""


class Store(AbstractFileSystem):  # type: ignore[misc]
    """Objects in memory, at ``fake://``, which appear whole when they are closed.

    Attributes:
        objects: by their paths.
        breaks: is called before each operation with its name (write, close, info, cat_file, ls,
            rm_file, rm) and its path; may raise, or return True for an object that is being
            closed to be cut off in silence.
    """

    protocol = "fake"
    cachable = False
    objects: dict[str, bytes] = {}  # noqa: RUF012
    breaks: Callable[[str, str], bool | None] = staticmethod(lambda _operation, _path: None)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        assert mode == "wb"
        return Sending(path, type(self))

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        assert not create_parents

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        type(self).breaks("info", path)
        if path not in self.objects:
            raise FileNotFoundError(errno.ENOENT, "no such object", path)
        return {"name": path, "size": len(self.objects[path]), "type": "file"}

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        type(self).breaks("cat_file", path)
        if path not in self.objects:
            raise FileNotFoundError(errno.ENOENT, "no such object", path)
        return self.objects[path][start:end]

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        type(self).breaks("ls", path)
        inside = {
            f"{path}/{name.removeprefix(f'{path}/').split('/')[0]}"
            for name in self.objects
            if name.startswith(f"{path}/")
        }
        if not inside:
            raise FileNotFoundError(path)
        return [{"name": name} for name in inside] if detail else sorted(inside)

    def rm_file(self, path: str) -> None:
        type(self).breaks("rm_file", path)
        if self.objects.pop(path, None) is None:
            raise FileNotFoundError(path)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        inside = [name for name in self.objects if name.startswith(f"{path}/")]
        if not inside:
            raise FileNotFoundError(path)
        for name in inside:
            type(self).breaks("rm", name)
            del self.objects[name]


class Sending(io.BytesIO):
    """An object that is being sent."""

    def __init__(self, path: str, store: type[Store]) -> None:
        super().__init__()
        self.path = path
        self.store = store

    def write(self, chunk: Any) -> int:
        self.store.breaks("write", self.path)
        return super().write(chunk)

    def discard(self) -> None:
        super().close()

    def close(self) -> None:
        if not self.closed:
            content = self.getvalue()
            if self.store.breaks("close", self.path):
                content = content[: len(content) // 2]
            self.store.objects[self.path] = content
            super().close()

    def __del__(self) -> None:
        """Else it would be closed, as a file is, and so completed."""


@contextmanager
def fake_store() -> Iterator[type[Store]]:
    """Have an empty store at ``fake://``, another than those before, which may yet be in use."""
    kind = type("Store", (Store,), {"objects": {}})
    fsspec.register_implementation("fake", kind, clobber=True)
    yield kind


def refused(path: str) -> PermissionError:
    return PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)


BUCKET = "bucket"


@contextmanager
def s3_server() -> Iterator[str]:
    """Run an S3-compatible server with an empty bucket; yield its address. What runs meanwhile, in
    this process or started by it, finds it and may write there."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        with patch.dict(os.environ, variables):
            S3FileSystem.clear_instance_cache()  # connections to servers of before
            fsspec.filesystem("s3").mkdir(BUCKET)
            yield variables["AWS_ENDPOINT_URL"]
    finally:
        server.stop()
