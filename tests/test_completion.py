"""Completion in the shell: what is offered, that the shells take it, and that it is silent when something is wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import builders
import pytest
from builders import assistant
from conftest import clean_environment

from indexer import refresh
from indexer.cli import COMMANDS


@pytest.fixture
def complete(run_cm):
    """What is offered for the last word of a line, as the script for bash gets it."""

    def ask(line, shell="bash", **env):
        words = line.split(" ")
        env |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1), "_CM_COMPLETE": f"{shell}_complete"}
        if shell == "fish":
            env["COMP_CWORD"] = words[-1]
        done = run_cm(env=env)
        assert (done.returncode, done.stderr) == (0, "")
        return [item for item in done.stdout.splitlines() if item]

    def values(line, **env):
        return [item.partition(",")[2] for item in ask(line, **env)]

    values.raw = ask
    return values


@pytest.fixture
def history(home):
    """Two projects, one with a space in its name, and two models."""
    builders.write(home.transcript(), [assistant(cwd="/home/dev/app")])
    other = assistant(cwd="/home/dev/my notes", sessionId="other", model="claude-haiku-4-5-20251001")
    builders.write(home.transcript("other"), [other])
    refresh()


def test_commands_are_offered_and_not_what_the_default_command_takes(complete):
    assert complete("cm ") == list(COMMANDS)
    assert complete("cm sta") == [name for name in COMMANDS if name.startswith("sta")]
    assert complete("cm nothing") == []


def test_options_are_offered_for_the_command_they_follow(complete):
    assert complete("cm refresh --f") == ["--full"]
    assert complete("cm refresh --full --w") == ["--workers"]
    assert "--json" in complete("cm status --")


def test_values_of_options_are_offered(complete):
    assert complete("cm query x --format m") == ["markdown"]
    assert complete("cm completion ") == ["bash", "zsh", "fish"]
    assert complete.raw("cm status --db ") == ["file,"]
    assert complete.raw("cm status --root ") == ["dir,"]


def test_an_alias_completes_like_its_command(complete):
    assert complete("cm session --") == complete("cm sessions --")
    assert "--project" in complete("cm session --")


def test_without_a_command_the_options_of_the_default_one_are_offered(complete):
    assert "--since" in complete("cm --s")
    assert "--version" in complete("cm --v")
    assert complete("cm -").count("--help") == 1


def test_projects_and_models_are_those_of_the_index(complete, history):
    assert complete("cm daily --project ") == ["app", r"my\\ notes"]
    assert complete("cm daily --project a") == ["app"]
    assert complete("cm daily --project /home/dev/a") == ["/home/dev/app"]
    assert complete("cm daily --model claude-h") == ["claude-haiku-4-5-20251001"]
    assert complete("cm --project a") == ["app"]
    assert complete("cm session --project a") == ["app"]


def test_a_project_is_offered_by_the_name_it_is_shown_by_too(complete, history, tmp_path):
    (tmp_path / "config.toml").write_text('[projects]\napp = { name = "Till", group = "Shop" }\n')
    assert complete("cm daily --project S", CM_CONFIG=str(tmp_path / "config.toml")) == ["Shop/Till"]


def test_the_index_that_the_line_names_is_the_one_that_is_asked(complete, history, db):
    elsewhere = db.with_name("elsewhere.db")
    db.rename(elsewhere)
    assert complete("cm daily --project ") == []
    assert complete(f"cm daily --db {elsewhere} --project a") == ["app"]


def test_a_name_that_would_act_on_the_terminal_is_not_offered(complete, home):
    builders.write(home.transcript(), [assistant(cwd="/home/dev/a\x1b[31mb")])
    builders.write(home.transcript("other"), [assistant(cwd="/home/dev/abc", sessionId="other")])
    refresh()
    assert complete("cm daily --project a") == ["abc"]


def test_named_queries_are_offered(complete):
    assert complete("cm query dearest") == complete("cm queries dearest") == ["dearest-sessions"]


@pytest.mark.parametrize("content", [None, b"", b"not an index" * 1000])
def test_without_a_usable_index_nothing_is_offered_and_nothing_said(complete, db, content):
    if content is not None:
        db.parent.mkdir()
        db.write_bytes(content)
    assert complete("cm daily --project ") == []


def test_a_broken_config_file_offers_nothing_and_says_nothing(complete, tmp_path):
    (tmp_path / "config.toml").write_text("worker = 2\n")
    env = {"CM_CONFIG": str(tmp_path / "config.toml"), "CM_DB": None}
    assert complete("cm daily --project ", **env) == []


def test_whatever_fails_says_nothing(run_cm):
    for env in ({"COMP_WORDS": "cm"}, {"COMP_WORDS": "cm", "COMP_CWORD": "many"}, {}):
        done = run_cm(env={"_CM_COMPLETE": "bash_complete", **env})
        assert (done.stdout, done.stderr) == ("", "")
        assert done.returncode != 0


def test_help_stands_beside_what_zsh_and_fish_offer(complete):
    assert complete.raw("cm verif", "zsh") == ["plain", "verify", COMMANDS["verify"][1]]
    assert complete.raw("cm verif", "fish") == [f"plain,verify\t{COMMANDS['verify'][1]}"]


# In real shells


@pytest.fixture
def on_path(tmp_path):
    """The environment of a shell that finds `cm`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "cm"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m indexer "$@"\n')
    script.chmod(0o755)
    return clean_environment({"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"})


def shell(name, program, environment):
    where = shutil.which(name)
    if where is None:
        pytest.skip(f"{name} is not installed")
    done = subprocess.run([where, *program], check=False, env=environment, capture_output=True, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


BASH = """
set -eu
eval "$(cm completion bash)"
complete -p cm >/dev/null
COMP_WORDS=({words}) COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
COMPREPLY=()
_cm_completion cm
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("cm refr", ["refresh"]),
        ("cm refresh --f", ["--full"]),
        ("cm daily --project ''", ["app", r"my\ notes"]),
        (r"cm daily --project 'my\ n'", [r"my\ notes"]),
        ("cm session --model claude-o", ["claude-opus-4-5-20251101"]),
    ],
)
def test_bash_completes(on_path, history, words, offered):
    assert shell("bash", ["--norc", "-c", BASH.format(words=words)], on_path) == offered


ZSH = """
autoload -Uz compinit && compinit -u -d "$HOME/.zcompdump"
eval "$(cm completion zsh)"
print -r -- $_comps[cm]
"""


def test_zsh_takes_the_script(on_path):
    assert shell("zsh", ["-f", "-c", ZSH], on_path) == ["_cm_completion"]


FISH = """
cm completion fish | source
complete -C 'cm refr'
"""


def test_fish_completes(on_path):
    assert shell("fish", ["--no-config", "-c", FISH], on_path) == [f"refresh\t{COMMANDS['refresh'][1]}"]


def test_another_shell_is_refused(run_cm):
    done = run_cm("completion", "tcsh")
    assert done.returncode == 2
    assert "'bash', 'zsh', 'fish'" in done.stderr
