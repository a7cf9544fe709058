"""All pages of the console that have a file of their own."""

from flask import Blueprint

from chargeapp.runtime import Runtime
from chargeapp.web.console_access_list import add_access_list_pages
from chargeapp.web.console_dead_letters import add_dead_letter_pages
from chargeapp.web.console_entry import add_entry_pages
from chargeapp.web.console_failed import add_failed_pages
from chargeapp.web.console_keys import add_key_pages
from chargeapp.web.console_secrets import add_secret_pages
from chargeapp.web.console_settings import add_settings_page


def add_pages(routes: Blueprint, runtime: Runtime) -> None:
    add_failed_pages(routes, runtime)
    add_dead_letter_pages(routes, runtime)
    add_access_list_pages(routes, runtime)
    add_entry_pages(routes, runtime)
    add_key_pages(routes, runtime)
    add_secret_pages(routes, runtime)
    add_settings_page(routes, runtime)
