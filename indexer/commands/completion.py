"""`cm completion`."""

from __future__ import annotations

import click

from ..cli import cli


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what switches on completion in a shell.

    \b
      bash   echo 'eval "$(cm completion bash)"' >> ~/.bashrc
      zsh    echo 'eval "$(cm completion zsh)"' >> ~/.zshrc      (after compinit)
      fish   cm completion fish > ~/.config/fish/completions/cm.fish

    It completes commands, options, and from the index projects and models.
    """
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # click has all three
    click.echo(kind(cli, {}, "cm", "_CM_COMPLETE").source())
