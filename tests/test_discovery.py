"""Which directories are roots, and which files below them are transcripts."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import Home, assistant, user, write
from conftest import RunCm

from indexer import config
from indexer.discovery import Discovery, discover
from indexer.errors import CmError


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes Claude config directories; none is named in the environment."""
    monkeypatch.delenv("CLAUDE_CONFIG_DIR", raising=False)

    def make(name: str) -> Path:
        made = tmp_path / name
        (made / "projects").mkdir(parents=True)
        return made

    return make


def roots(*option: object) -> list[str]:
    return config.roots([str(path) for path in option])[0]


def paths(*found_in: Path) -> list[str]:
    return sorted(found.path for found in discover([str(root) for root in found_in]).files)


# Roots


def test_without_settings_both_default_places_count(root, monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    old, new = root(".claude"), root(".config/claude")
    assert roots() == [str(old), str(new)]


def test_a_default_place_without_projects_is_no_root(root, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CONFIG_HOME")
    (tmp_path / ".claude").mkdir()
    new = root(".config/claude")
    assert roots() == [str(new)]
    assert config.roots()[1] == [str(tmp_path / ".claude"), str(new)]


def test_xdg_config_home_moves_the_second_default_place(root, tmp_path, monkeypatch):
    root(".config/claude")
    elsewhere = root("settings/claude")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    assert roots() == [str(elsewhere)]


def test_a_relative_xdg_path_is_ignored_as_its_specification_says(root, monkeypatch):
    usual = root(".config/claude")
    monkeypatch.setenv("XDG_CONFIG_HOME", "settings")
    assert roots() == [str(usual)]


def test_an_empty_claude_config_dir_is_as_if_it_were_not_set(root, monkeypatch):
    old = root(".claude")
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", "")
    assert roots() == [str(old)]


def test_claude_config_dir_takes_the_place_of_the_defaults(root, monkeypatch):
    root(".claude")
    other = root("other")
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(other))
    assert roots() == [str(other)]


def test_claude_config_dir_may_list_several_with_spaces_and_tildes(root, monkeypatch):
    one, two = root("one"), root("two")
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", f" ~/one , {two},, /nowhere ")
    assert roots() == [str(one), str(two)]


def test_cm_roots_goes_before_claude_config_dir(root, monkeypatch):
    one, two, three = root("one"), root("two"), root("three")
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(three))
    monkeypatch.setenv("CM_ROOTS", f"~/one{os.pathsep}{two}")
    assert roots() == [str(one), str(two)]


def test_a_comma_separates_in_claude_config_dir_and_not_in_cm_roots(root, monkeypatch):
    odd = root("one,two")
    monkeypatch.setenv("CM_ROOTS", str(odd))
    assert roots() == [str(odd)]


def test_the_root_option_goes_before_everything_and_repeats(root, monkeypatch):
    one, two, three = root("one"), root("two"), root("three")
    monkeypatch.setenv("CM_ROOTS", str(three))
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", str(three))
    assert roots(two, one) == [str(two), str(one)]


def test_projects_itself_stands_for_its_parent_wherever_it_is_named(root, monkeypatch):
    one = root("one")
    assert roots(one / "projects") == [str(one)]
    assert roots(one / "projects", one) == [str(one)]
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", f"{one}/projects/")
    assert roots() == [str(one)]
    monkeypatch.setenv("CM_ROOTS", f"{one}/projects")
    assert roots() == [str(one)]


def test_a_root_option_that_does_not_exist_is_an_error_that_names_it(tmp_path):
    with pytest.raises(CmError, match="nowhere"):
        roots(tmp_path / "nowhere")


def test_a_root_that_is_relative_is_known_by_its_absolute_path(root, tmp_path, monkeypatch):
    one = root("one")
    monkeypatch.chdir(tmp_path)
    assert roots("one") == [str(one)]


# Files


def test_transcripts_are_found_at_every_depth(home: Home):
    expected = [
        write(home.transcript(), [user()]),
        write(home.flat_subagent(), [user()]),
        write(home.subagent(), [user()]),
        write(home.subagent(agent="a2", workflow="run-1"), [user()]),
        write(home.root / "projects" / "a" / "b" / "c" / "d" / "e" / "x.jsonl", [user()]),
        write(home.root / "projects" / "at-the-top.jsonl", [user()]),
    ]
    assert paths(home.root) == sorted(map(str, expected))


def test_only_names_that_end_in_jsonl_below_projects_are_transcripts(home: Home):
    kept = write(home.transcript(), [user()])
    folder = kept.parent
    for name in ("x.jsonl.backup", "x.json", "jsonl", ".jsonl.swp", "sessions-index.json"):
        write(folder / name, [user()])
    write(home.root / "history.jsonl", [user()])
    (folder / "directory.jsonl").mkdir()
    assert paths(home.root) == [str(kept)]


def test_a_linked_directory_is_walked_once(home: Home, tmp_path):
    outside = tmp_path / "elsewhere"
    write(outside / "x.jsonl", [user()])
    for name in ("one", "two"):
        (home.root / "projects" / name).symlink_to(outside)
    assert len(paths(home.root)) == 1


def test_projects_may_itself_be_a_link(tmp_path):
    write(tmp_path / "elsewhere" / "x.jsonl", [user()])
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "projects").symlink_to(tmp_path / "elsewhere")
    assert paths(tmp_path / "root") == [str(tmp_path / "root" / "projects" / "x.jsonl")]


def test_a_linked_file_is_found_once_and_under_its_own_name(home: Home):
    real = write(home.transcript(), [user()])
    (real.parent / "a-link.jsonl").symlink_to(real)
    (home.root / "projects" / "b-link.jsonl").symlink_to(real)
    assert paths(home.root) == [str(real)]


def test_a_link_to_a_file_outside_is_found_once(home: Home, tmp_path):
    outside = write(tmp_path / "elsewhere" / "kept.txt", [user()])
    for name in ("one.jsonl", "two.jsonl"):
        (home.root / "projects" / name).symlink_to(outside)
    assert len(paths(home.root)) == 1


@pytest.mark.parametrize("link", ["a/link", "z/link"])
def test_a_directory_deep_below_is_found_under_its_own_name_and_not_under_that_of_a_link(home: Home, link):
    real = write(home.root / "projects" / "m" / "deep" / "er" / "x.jsonl", [user()])
    name = home.root / "projects" / link
    name.parent.mkdir()
    name.symlink_to(real.parent)
    assert paths(home.root) == [str(real)]


def test_links_in_circles_and_into_nothing_end(home: Home):
    kept = write(home.transcript(), [user()])
    (kept.parent / "up").symlink_to(home.root / "projects")
    (kept.parent / "self").symlink_to(kept.parent / "self")
    (kept.parent / "gone.jsonl").symlink_to("/nowhere")
    (kept.parent / "down").mkdir()
    (kept.parent / "down" / "back").symlink_to("..")
    found = discover([str(home.root)])
    assert [file.path for file in found.files] == [str(kept)]
    assert found.unreadable == {}


def test_two_roots_that_are_one_directory_give_each_file_once(home: Home, tmp_path):
    kept = write(home.transcript(), [user()])
    (tmp_path / "alias").symlink_to(home.root)
    assert paths(home.root, tmp_path / "alias") == [str(kept)]


def test_a_fifo_and_a_socket_named_as_a_transcript_are_left_alone(home: Home):
    folder = write(home.transcript(), [user()]).parent
    os.mkfifo(folder / "x.jsonl")
    (folder / "y.jsonl").symlink_to(folder / "x.jsonl")
    (folder / "z.jsonl").symlink_to("/dev/null")
    assert paths(home.root) == [str(home.transcript())]


def test_a_fifo_does_not_hold_up_a_refresh(home: Home, run_cm: RunCm):
    write(home.transcript(), [user(), assistant()])
    os.mkfifo(home.transcript().parent / "x.jsonl")
    done = run_cm("refresh", "--json", timeout=20)
    assert (done.returncode, json.loads(done.stdout)["files_parsed"]) == (0, 1)


def test_what_is_found_says_where_how_big_and_how_old(home: Home):
    kept = write(home.transcript(), [user()])
    (found,) = discover([str(home.root)]).files
    status = kept.stat()
    assert found == (str(kept), str(home.root), status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


def test_one_place_below_a_root_can_be_looked_at_alone(home: Home):
    write(home.transcript("one", "/p/one"), [user()])
    two = write(home.transcript("two", "/p/two"), [user()])
    for place in (two, two.parent):
        found = Discovery()
        found.walk(str(home.root), str(place))
        assert [file.path for file in found.finish().files] == [str(two)]


def test_a_folder_that_cannot_be_read_is_named_and_the_rest_is_indexed(
    home: Home, run_cm: RunCm, make_unreadable: Callable[[Path], None]
):
    write(home.transcript("one", "/p/one"), [user(), assistant()])
    shut = write(home.transcript("two", "/p/two"), [user(), assistant()]).parent
    make_unreadable(shut)
    done = run_cm("refresh", "--json")
    assert done.returncode == 3
    assert str(shut) in done.stderr
    assert json.loads(done.stdout)["files_parsed"] == 1


def test_a_folder_that_became_unreadable_has_no_files_gone(
    home: Home, run_cm: RunCm, make_unreadable: Callable[[Path], None]
):
    shut = write(home.transcript("two", "/p/two"), [user(), assistant()]).parent
    write(home.subagent("two", "a1", "/p/two"), [assistant()])
    assert run_cm("refresh").returncode == 0
    make_unreadable(shut)
    done = run_cm("refresh", "--json")
    assert (done.returncode, json.loads(done.stdout)["files_gone"]) == (3, 0)
