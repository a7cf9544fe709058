"""`chargeapp status`: how everything does, on one screen."""

import json
import traceback

import click

from chargeapp.commands.opened import closing_runtime
from chargeapp.errors import ChargeappError

DOWN = 2


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def status(as_json: bool) -> None:
    """Show on one screen who is at work, what waits and what was done.

    Ends with 0 if all is well, 1 if requests are accepted but have to wait (or decisions are `unknown` because the
    circuit breaker is open), and 2 if no request can be accepted here. What to do about it: chargeapp doctor

    \b
    Examples:
      chargeapp status
      chargeapp status --json | jq -r .status
      chargeapp status > /dev/null || chargeapp doctor
    """
    from chargeapp.commands.overview import look
    from chargeapp.commands.overview_screen import console, described, screen
    from chargeapp.commands.printing import stop_output
    from chargeapp.config import load_settings

    try:
        with closing_runtime(load_settings()) as runtime:
            found = look(runtime)
        if as_json:
            click.echo(json.dumps(described(found), indent=2))
        else:
            console().print(screen(found))
    except BrokenPipeError:
        raise
    # Python's own status would be 1, which monitoring takes for `requests are accepted`.
    except Exception as error:
        if not isinstance(error, ChargeappError | OSError):
            traceback.print_exception(error)
        click.echo(f"chargeapp: {error}", err=True)
        stop_output()
        raise SystemExit(DOWN) from error
    raise SystemExit(found.health.exit_code)
