"""Whether Kafka answers, and lets us do what we have to."""

from collections.abc import Iterator

from chargeapp.commands.checks import Finding, fail, ok
from chargeapp.errors import MisconfiguredError
from chargeapp.runtime import Runtime
from chargeapp.transport.broker import BrokerRefuses, BrokerUnavailable


def check_kafka(runtime: Runtime) -> Iterator[Finding]:
    servers = ", ".join(runtime.settings.kafka_bootstrap_servers)
    try:
        runtime.transport.ping()
        lag = {queue: jobs.waiting for queue, jobs in runtime.transport.count_jobs().items()}
    except MisconfiguredError as error:
        yield fail("kafka", str(error), "correct it; docs/kafka.md has examples")
    except BrokerRefuses as error:
        yield fail("kafka", f"{servers}: {error}", "grant them to the user; docs/kafka.md lists all that are needed")
    except BrokerUnavailable as error:
        advice = "start it, or correct KAFKA_BOOTSTRAP_SERVERS, KAFKA_SECURITY_PROTOCOL and the login"
        yield fail("kafka", f"{servers}: {error}", advice)
    else:
        yield ok("kafka", f"{servers} answers; {sum(lag.values()):,} messages wait")
