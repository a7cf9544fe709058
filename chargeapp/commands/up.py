"""`chargeapp up`."""

import click


@click.command()
@click.option("--no-demo", is_flag=True, help="Without demo drivers and demo receiver.")
def up(no_demo: bool) -> None:
    """Run API, relay, workers, Redis and a demo callback receiver until Ctrl-C.

    \b
    Examples:
      chargeapp up
      PORT=9000 CHARGEAPP_DATA_DIR=/srv/chargeapp chargeapp up --no-demo
    """
    from chargeapp.commands.everything import run_everything

    run_everything(demo=not no_demo)
