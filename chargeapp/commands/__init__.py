"""The `chargeapp` command line. A group is imported only when it is called, so that --help answers at once."""

import importlib
import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

COMMANDS = {
    "up": ("chargeapp.commands.up:up", "Run everything on this machine, with a demo receiver."),
    "web": ("chargeapp.commands.processes:web", "Run the API."),
    "relay": ("chargeapp.commands.processes:relay", "Move due outbox rows into the queues."),
    "worker": ("chargeapp.commands.processes:worker", "Run the jobs of one queue."),
    "db": ("chargeapp.commands.db:db", "Bring the database up to date, or look at it."),
    "acl": ("chargeapp.commands.acl:acl", "Manage the built-in access list."),
    "keys": ("chargeapp.commands.keys:keys", "Make, list and revoke the API keys of callers."),
    "requests": ("chargeapp.commands.requests:requests", "List, show, follow and redeliver requests."),
    "dead-letters": ("chargeapp.commands.dead_letters:dead_letters", "List and replay what could not be processed."),
    "audit": ("chargeapp.commands.audit:audit", "Hand out every decision, without driver tokens."),
    "backup": ("chargeapp.commands.backups:backup", "Copy the database while everything runs."),
    "restore": ("chargeapp.commands.backups:restore", "Put a backup in place of the database."),
    "migrate-store": (
        "chargeapp.commands.migrate_store:migrate_store",
        "Move the store to PostgreSQL while everything runs.",
    ),
    "purge": ("chargeapp.commands.backups:purge", "Forget what retention demands."),
    "secrets": ("chargeapp.commands.secrets:secrets", "Make secrets, and change those that sign callbacks."),
    "tokens": ("chargeapp.commands.tokens:tokens", "Seal driver tokens anew, and erase a driver's data."),
    "status": ("chargeapp.commands.status:status", "Show how everything does, on one screen."),
    "top": ("chargeapp.commands.top:top", "Watch the same, live."),
    "doctor": ("chargeapp.commands.doctor:doctor", "Check everything, and say what to do."),
    "completion": ("chargeapp.commands.completion:completion", "Complete commands in bash, zsh and fish."),
}


class LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list["CompletionItem"]:
        """Click's own would import every command to see whether it is hidden."""
        from click.shell_completion import CompletionItem

        named = [
            CompletionItem(name, help=help_) for name, (_, help_) in COMMANDS.items() if name.startswith(incomplete)
        ]
        return named + click.Command.shell_complete(self, ctx, incomplete)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="chargeapp")
def cli() -> None:
    """Asynchronous authorization for EV charging that never loses a request.

    \b
    Examples:
      chargeapp up                     everything on this machine
      chargeapp status                 who is at work, what waits, what was done
      chargeapp doctor                 what works, and what to do about the rest
      chargeapp requests list --state failed
    """


def main() -> None:
    """Says a user's mistake, or the system's trouble, in one line instead of a traceback."""
    from chargeapp.errors import ChargeappError

    try:
        cli(prog_name="chargeapp")
    except (ChargeappError, OSError) as error:
        from chargeapp.commands.printing import stop_output

        click.echo(f"chargeapp: {error}", err=True)
        stop_output()
        sys.exit(1)
