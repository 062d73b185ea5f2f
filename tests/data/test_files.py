"""Files that a person names: what is read of a folder, and what is left out."""

import os
from functools import partial
from pathlib import Path

import pytest

from psdp.data.files import MissingFile, find_files, head_of, read_file
from psdp.errors import DataError


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return root


def names(root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in find_files(root).files]


def test_a_link_to_a_folder_elsewhere_is_followed_once(tmp_path: Path) -> None:
    make(tmp_path, "in/m.txt", "out/a.txt", "out/deep/b.txt")
    for link in ("z", "b"):
        (tmp_path / "in" / link).symlink_to(tmp_path / "out")
    assert names(tmp_path / "in") == ["b/a.txt", "b/deep/b.txt", "m.txt"]


def test_a_folder_that_is_read_anyway_is_read_under_its_own_name(tmp_path: Path) -> None:
    make(tmp_path, "own/a.txt")
    (tmp_path / "alias").symlink_to("own")
    assert names(tmp_path) == ["own/a.txt"]


@pytest.mark.parametrize("target", [".", "..", "/"])
def test_a_link_to_where_it_is_in_itself_is_not_followed(tmp_path: Path, target: str) -> None:
    make(tmp_path, "in/a.txt", "beside.txt")
    (tmp_path / "in" / "up").symlink_to(target)
    assert names(tmp_path / "in") == ["a.txt"]


def test_links_behind_links_are_followed(tmp_path: Path) -> None:
    make(tmp_path, "in/a.txt", "out/b.txt", "far/c.txt")
    (tmp_path / "in" / "one").symlink_to(tmp_path / "out")
    (tmp_path / "out" / "two").symlink_to(tmp_path / "far")
    (tmp_path / "far" / "three").symlink_to(tmp_path / "out")
    assert names(tmp_path / "in") == ["a.txt", "one/b.txt", "one/two/c.txt"]


def test_a_folder_named_by_a_link_is_that_folder(tmp_path: Path) -> None:
    make(tmp_path, "own/a.txt")
    (tmp_path / "alias").symlink_to("own")
    assert find_files(tmp_path / "alias").files == (tmp_path / "alias" / "a.txt",)


def test_what_psdp_wrote_is_left_out(tmp_path: Path) -> None:
    checkpoint = "runs/one/checkpoints/step-000010-v000010/manifest.json"
    make(tmp_path, "a.txt", "runs/notes.txt", "runs/one/config.json", "runs/one/metrics.jsonl")
    make(tmp_path, checkpoint, "begun/config.json", "begun/lock.json")
    make(tmp_path, "report/report.html", "report/runs.csv", "report/curves.csv")
    make(tmp_path, "model/config.json", "model/readme.md")
    assert names(tmp_path) == ["a.txt", "model/config.json", "model/readme.md", "runs/notes.txt"]
    own = [folder.relative_to(tmp_path).as_posix() for folder in find_files(tmp_path).own]
    assert own == ["begun", "report", "runs/one"]
    with pytest.raises(DataError, match=r"holds no files .* that psdp wrote are skipped"):
        find_files(tmp_path / "begun")


def test_a_dangling_link_is_told_of_as_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to("none.txt")
    for path in (tmp_path, tmp_path / "dangling"):
        message = r"dangling is a link to none\.txt, which does not exist; restore"
        with pytest.raises(MissingFile, match=message) as refused:
            find_files(path)
        assert "cluster" not in str(refused.value)


def test_a_folder_of_tokens_is_left_out_of_the_texts_that_it_lies_in(tmp_path: Path) -> None:
    make(tmp_path, "a.txt", "tokens/tokens.json", "tokens/tokens-000000.npy")
    assert names(tmp_path) == ["a.txt"]


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for look in (read_file, partial(head_of, count=4)):
        with pytest.raises(DataError, match="pipe is not a regular file"):
            look(tmp_path / "pipe")
        with pytest.raises(DataError, match="is a folder, where a file is needed"):
            look(tmp_path)
