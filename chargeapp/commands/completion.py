"""`chargeapp completion`: the TAB key for bash, zsh and fish."""

import json

import click

SHELLS = ("bash", "zsh", "fish")
# Click looks for this name, which it makes of that of the program.
VARIABLE = "_CHARGEAPP_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def completion(shell: str, as_json: bool) -> None:
    """Print what makes SHELL complete commands, options and their values.

    \b
    Examples:
      chargeapp completion bash > ~/.local/share/bash-completion/completions/chargeapp
      chargeapp completion zsh > ~/.zfunc/_chargeapp
      chargeapp completion fish > ~/.config/fish/completions/chargeapp.fish
      eval "$(chargeapp completion bash)"        for this shell only
    """
    from click.shell_completion import get_completion_class

    from chargeapp.commands import cli

    kind = get_completion_class(shell)
    assert kind is not None
    complete = kind(cli, {}, "chargeapp", VARIABLE)
    # Click's own `source` would first ask bash for its version, and complain where there is none.
    script = (complete.source_template % complete.source_vars()).strip()
    click.echo(json.dumps({"shell": shell, "script": script}) if as_json else script)
