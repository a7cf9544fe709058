"""One structured line for each thing that happened: JSON for machines, columns for a terminal."""

import logging
import sys

import structlog

from chargeapp.config import Settings


def configure_logging(settings: Settings, process: str) -> None:
    """Send our lines and the libraries' to standard error; every line names the `process`."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    level = getattr(logging, settings.log_level.upper())

    def name_process(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event["process"] = process
        return event

    shared: list[structlog.typing.Processor] = [
        name_process,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            # From below this module: `clock` tells more than a sentence too.
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(allow=("action", "seconds"))],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=level, force=True)
    # RQ, urllib3 and Alembic tell their own story at INFO; ours is told by our own lines.
    for name in ("rq", "rq.worker", "rq.job", "urllib3", "alembic", "gunicorn.error", "flask-limiter"):
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def get_logger() -> structlog.stdlib.BoundLogger:
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger
