"""What somebody did in the console: one line in the log for each change, with the key that it was done with."""

from flask import request

from chargeapp.logs import get_logger
from chargeapp.web.auth import current_caller

log = get_logger()


def note(sentence: str, action: str, **what: object) -> None:
    caller = current_caller()
    log.info(sentence, action=action, key=caller.key_id, key_name=caller.key_name, address=request.remote_addr, **what)
