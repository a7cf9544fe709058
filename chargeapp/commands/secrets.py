"""`chargeapp secrets`: what production needs and must not make up by itself."""

import click


@click.group()
def secrets() -> None:
    """Make the secrets that production needs.

    \b
    Examples:
      chargeapp secrets generate
    """


@secrets.command()
def generate() -> None:
    """Print new secrets as the lines of an .env file. Nothing is stored.

    Keep them: without DRIVER_TOKEN_HASH_KEY no access list entry is found again, and without DRIVER_TOKEN_KEYS no
    stored driver token can be read. To rotate the latter, put the new key in front of the old ones, with a comma.

    \b
    Examples:
      chargeapp secrets generate
      (umask 077; chargeapp secrets generate > .env)
    """
    from chargeapp.security.secrets_file import new_secrets

    for name, value in new_secrets().items():
        click.echo(f"{name}={value}")
