"""Settings: the config file, the environment and options, and which of them counts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import builders
import pytest

from indexer import config, settings
from indexer.errors import BadInput


@pytest.fixture
def file() -> Path:
    """Where the config file is, or will be."""
    path = Path(os.environ["XDG_CONFIG_HOME"]) / "cm" / "config.toml"
    path.parent.mkdir(parents=True)
    return path


def problem(file: Path, text: str) -> str:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(BadInput) as error:
        settings.load()
    return str(error.value)


def test_without_a_file_the_defaults_count(monkeypatch, tmp_path):
    monkeypatch.delenv("CM_DB")
    assert config.database() == str(tmp_path / "xdg-data" / "cm" / "cm.db")
    assert config.roots()[1] == [str(tmp_path / ".claude"), str(tmp_path / "xdg-config" / "claude")]
    assert (config.timezone(), config.start_of_week(), config.workers()) == (None, "monday", None)


def test_the_file_counts_before_a_default(file, monkeypatch, tmp_path):
    monkeypatch.delenv("CM_DB")
    (tmp_path / "history" / "projects").mkdir(parents=True)
    file.write_text(
        'roots = ["~/history"]\ndatabase = "~/mine.db"\ntimezone = "Asia/Kathmandu"\n'
        'start_of_week = "Sunday"\nworkers = 3\n'
    )
    assert config.roots()[0] == [str(tmp_path / "history")]
    assert config.database() == str(tmp_path / "mine.db")
    assert (config.timezone(), config.start_of_week(), config.workers()) == ("Asia/Kathmandu", "sunday", 3)


def test_the_environment_counts_before_the_file(file, monkeypatch, tmp_path):
    file.write_text('roots = ["/a"]\ndatabase = "/a.db"\ntimezone = "UTC"\nstart_of_week = "sunday"\nworkers = 3\n')
    monkeypatch.setenv("CM_ROOTS", os.pathsep.join(["/b", "/c"]))
    monkeypatch.setenv("CM_DB", "/b.db")
    monkeypatch.setenv("CM_TIMEZONE", "Europe/Berlin")
    monkeypatch.setenv("CM_START_OF_WEEK", "Friday")
    monkeypatch.setenv("CM_WORKERS", "7")
    assert config.roots()[1] == ["/b", "/c"]
    assert config.database() == "/b.db"
    assert (config.timezone(), config.start_of_week(), config.workers()) == ("Europe/Berlin", "friday", 7)


def test_claude_codes_own_variable_counts_before_the_file_and_after_ours(file, monkeypatch):
    file.write_text('roots = ["/a"]\n')
    monkeypatch.setenv("CLAUDE_CONFIG_DIR", "/b, /c")
    assert config.roots()[1] == ["/b", "/c"]
    monkeypatch.setenv("CM_ROOTS", "/d")
    assert config.roots()[1] == ["/d"]


def test_an_option_counts_before_all(file, monkeypatch, tmp_path):
    file.write_text('database = "/a.db"\ntimezone = "UTC"\nstart_of_week = "sunday"\nworkers = 3\n')
    monkeypatch.setenv("CM_TIMEZONE", "Europe/Berlin")
    monkeypatch.setenv("CM_ROOTS", "/b")
    assert config.roots([str(tmp_path)])[1] == [str(tmp_path)]
    assert config.database("/c.db") == "/c.db"
    assert config.timezone("Asia/Tokyo") == "Asia/Tokyo"
    assert (config.start_of_week("tuesday"), config.workers(9)) == ("tuesday", 9)


def test_cm_config_names_another_file(monkeypatch, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text("workers = 5\n")
    monkeypatch.setenv("CM_CONFIG", str(other))
    assert config.workers() == 5
    other.unlink()
    with pytest.raises(BadInput, match="CM_CONFIG names "):
        config.workers()


def test_a_relative_path_starts_where_the_file_is(file, monkeypatch):
    monkeypatch.delenv("CM_DB")
    file.write_text('database = "cm.db"\nroots = ["claude"]\n')
    assert config.database() == str(file.parent / "cm.db")
    assert config.roots()[1] == [str(file.parent / "claude")]


def test_a_changed_file_is_read_again(file):
    file.write_text("workers = 2\n")
    assert config.workers() == 2
    file.write_text("workers = 12\n")
    assert config.workers() == 12


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ('# mine\n\ntimezones = "UTC"\n', 3, "unknown key 'timezones'"),
        ("workers = 2\n\n[colours]\nblue = 1\n", 3, "unknown key 'colours'"),
        ('workers = "4"\n', 1, "workers must be a whole number"),
        ("workers = true\n", 1, "workers must be a whole number"),
        ("\nworkers = 0\n", 2, "workers must be a whole number"),
        ('roots = "~/.claude"\n', 1, "roots must be a list"),
        ('workers = 2\nroots = [\n  "a",\n  3,\n]\n', 2, "roots must be a list"),
        ("roots = []\n", 1, "roots must be a list"),
        ("database = 1\n", 1, "database must be the path of a file"),
        ('note.x = 1\ndatabase = "a"\n', 1, "unknown key 'note'"),
        ('start_of_week = "mon"\n', 1, "start_of_week must be one of monday, "),
        ('x = """\nworkers = 2\n"""\n', 1, "unknown key 'x'"),
        ('workers = 2\ntimezone = "Mars/Olympus"\n', 2, "timezone must be the name of a time zone"),
        ('timezone = "America"\n', 1, "timezone must be the name of a time zone"),
        ("projects = 3\n", 1, "projects must be a table"),
        ('[projects]\na = "A"\nb = 3\n', 3, "project 'b' must be"),
        ('[projects]\n"/a" = { name = "A", colour = "red" }\n', 2, "project '/a' must be"),
        ('[projects]\n\n[projects.a]\nname = ""\n', 3, "name of project 'a' must be a printable text"),
    ],
)
def test_a_mistake_is_told_with_file_and_line(file, text, line, says):
    assert problem(file, text).startswith(f"{file}:{line}: {says}")


def test_a_mistake_is_found_in_a_file_with_windows_line_ends(file):
    file.write_bytes(b"\xef\xbb\xbfworkers = 2\r\nroots = [\r\n  'a',\r\n]\r\nx = 1\r\n")
    with pytest.raises(BadInput, match=r"config\.toml:5: unknown key 'x'"):
        settings.load()


def test_broken_toml_is_told_with_its_line(file):
    told = problem(file, "workers = 2\nroots =\n")
    assert told.startswith(f"{file}: ")
    assert "(at line 2, column " in told


def test_a_file_that_cannot_be_read_is_an_error_not_a_default(file):
    file.write_bytes(b"database = '\xff'\n")
    with pytest.raises(BadInput, match="it is not UTF-8"):
        settings.load()
    file.unlink()
    file.mkdir()
    with pytest.raises(BadInput, match="make it a readable file"):
        settings.load()


@pytest.mark.parametrize(
    ("variable", "value", "ask"),
    [
        ("CM_WORKERS", "many", config.workers),
        ("CM_WORKERS", "0", config.workers),
        ("CM_TIMEZONE", "Mars/Olympus", config.timezone),
        ("CM_START_OF_WEEK", "someday", config.start_of_week),
    ],
)
def test_a_wrong_value_in_the_environment_is_told_by_its_name(monkeypatch, variable, value, ask):
    monkeypatch.setenv(variable, value)
    with pytest.raises(BadInput, match=f"{variable} {value}: "):
        ask()


def test_a_mistake_in_the_file_ends_a_command_before_anything_is_written(file, home, db, run_cm):
    builders.write(home.transcript(), [builders.assistant()])
    file.write_text("worker = 2\n")
    done = run_cm("refresh", "--quiet")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"cm: {file}:1: unknown key 'worker'; use {', '.join(settings.KEYS)}\n"
    assert not db.exists()


def test_a_refresh_without_a_file_does_not_load_the_parser_of_one(home, run_cm):
    builders.write(home.transcript(), [builders.assistant()])
    run_cm("refresh")
    done = run_cm("refresh", "--quiet", env={"PYTHONVERBOSE": "1"})
    assert "import 'indexer.settings'" in done.stderr
    assert "tomllib" not in done.stderr


def test_the_file_says_where_the_index_is_and_what_goes_into_it(file, tmp_path, run_cm):
    home = builders.Home(tmp_path / "elsewhere")
    builders.write(home.transcript(), [builders.assistant()])
    file.write_text(f'roots = ["{home.root}"]\ndatabase = "{tmp_path}/mine.db"\nworkers = 2\n')
    done = run_cm("refresh", "--json", env={"CM_DB": None, "CLAUDE_CONFIG_DIR": None})
    assert json.loads(done.stdout)["responses_added"] == 1
    assert (tmp_path / "mine.db").exists()


# Projects


def test_a_project_is_shown_by_the_name_its_path_is_given(file):
    file.write_text('[projects]\n"/home/dev/app" = "The App"\n"~/notes/" = "Notes"\n')
    assert settings.project_label("/home/dev/app", "app") == "The App"
    assert settings.project_label(os.path.expanduser("~/notes"), "notes") == "Notes"
    assert settings.project_label("/srv/app", "app") == "app"


def test_a_project_is_shown_by_the_name_its_name_is_given_unless_its_path_has_one(file):
    file.write_text('[projects]\napp = "App"\n"/srv/app" = "Server"\n')
    assert settings.project_label("/home/dev/app", "app") == "App"
    assert settings.project_label("/srv/app", "app") == "Server"


def test_a_project_is_shown_behind_its_group(file):
    file.write_text('[projects]\napp = { group = "Shop" }\n"/srv/api" = { name = "API", group = "Shop" }\n')
    assert settings.project_label("/home/dev/app", "app") == "Shop/app"
    assert settings.project_label("/srv/api", "api") == "Shop/API"


def test_stats_shows_projects_by_their_aliases(file, home, run_cm):
    builders.write(home.transcript(), [builders.assistant()])
    file.write_text(f'[projects]\n"{builders.PROJECT}" = "The App"\n')
    assert "The App" in run_cm("stats").stdout
    # A name for people's eyes: programs get what stands in the transcripts.
    assert "The App" not in run_cm("stats", "--json").stdout


# cm config


def test_cm_config_shows_each_value_and_its_source(file, home, db, run_cm):
    file.write_text('# zones\ntimezone = "UTC"\n\n[projects]\napp = "The App"\n')
    shown = json.loads(run_cm("config", "--json", env={"CM_WORKERS": "4"}).stdout)
    assert shown["config"] == {"value": str(file), "source": "default"}
    assert shown["roots"] == {"value": [str(home.root)], "source": "CLAUDE_CONFIG_DIR"}
    assert shown["database"] == {"value": str(db), "source": "CM_DB"}
    assert shown["timezone"] == {"value": "UTC", "source": f"{file}:2"}
    assert shown["start_of_week"] == {"value": "monday", "source": "default"}
    assert shown["workers"] == {"value": 4, "source": "CM_WORKERS"}
    assert shown["projects"] == {"value": {"app": "The App"}, "source": f"{file}:4"}
    assert shown["database"] != json.loads(run_cm("config", "--json", "--db", "/x.db").stdout)["database"]


def test_cm_config_tells_people_the_same(file, home, run_cm):
    file.write_text('timezone = "UTC"\n[projects]\napp = { name = "App", group = "Shop" }\n')
    lines = run_cm("config").stdout.splitlines()
    assert any(line.split() == ["timezone", "UTC", f"{file}:1"] for line in lines)
    assert any(line.split() == ["projects", "app:", "Shop/App", f"{file}:2"] for line in lines)
    assert any("workers" in line and "as many as pay off" in line and "default" in line for line in lines)


def test_cm_config_says_where_no_history_was_found(run_cm, tmp_path):
    done = run_cm("config")
    assert done.returncode == 0
    assert f"none found in {tmp_path / '.claude'}" in done.stdout


def test_a_place_of_transcripts_that_is_not_there_is_told_at_every_refresh(file, home, monkeypatch, run_cm):
    builders.write(home.transcript(), [builders.assistant()])
    monkeypatch.delenv("CLAUDE_CONFIG_DIR")
    file.write_text(f'workers = 2\nroots = ["{home.root}", "/nope"]\n')
    for _ in range(2):
        done = run_cm("refresh", "--quiet")
        assert done.returncode == 3
        assert f"{file}:2 names /nope: no such directory; correct that" in done.stderr
    assert "names /nope" in run_cm("daily").stderr
    assert "names /nope" in run_cm("status").stdout
    file.write_text(f'roots = ["{home.root}"]\n')
    assert run_cm("refresh", "--quiet").stderr == ""


def test_history_that_can_no_longer_be_found_is_told(home, monkeypatch, run_cm):
    monkeypatch.delenv("CLAUDE_CONFIG_DIR")
    usual = Path.home() / ".claude"
    builders.write(usual / "projects" / "p" / f"{builders.SESSION}.jsonl", [builders.assistant()])
    assert run_cm("refresh", "--quiet").returncode == 0
    usual.rename(usual.with_name("elsewhere"))
    done = run_cm("refresh", "--quiet")
    assert done.returncode == 3
    assert f"there is no history in {usual}/projects or " in done.stderr
    assert "what was indexed before stays" in done.stderr
    assert json.loads(run_cm("stats", "--json").stdout)["messages_count"] == 1
