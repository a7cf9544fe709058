"""What any process needs, built once and only when first used: safe to make before a fork."""

from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from redis import Redis

from chargeapp import failpoints
from chargeapp.config import Settings
from chargeapp.domain.retry_policy import RetryPolicy
from chargeapp.errors import DatabaseUnavailable, MisconfiguredError, RequestRefused
from chargeapp.event_feed import EventFeed
from chargeapp.outbound.access_list import AccessList
from chargeapp.outbound.authorization_service import AuthorizationService
from chargeapp.outbound.callback_endpoint import CallbackEndpoint
from chargeapp.outbound.circuit_breaker import CircuitBreaker
from chargeapp.outbound.http_client import HttpClient
from chargeapp.outbound.webhook_signers import WebhookSigners
from chargeapp.relay import Relay
from chargeapp.security.address_policy import AddressPolicy
from chargeapp.security.callback_url import parse_callback_url
from chargeapp.security.driver_tokens import TokenUnreadable, TokenVault
from chargeapp.security.secrets_file import Secrets, load_secrets
from chargeapp.security.signatures import Signer
from chargeapp.services.retention import Retention
from chargeapp.storage.database import Database
from chargeapp.storage.moved import PURPOSE
from chargeapp.storage.wakeups import Wakeups
from chargeapp.storage.webhook_secrets import WEBHOOK_SECRETS
from chargeapp.tracing import NO_TRACING, Tracing
from chargeapp.transport.broker import Transport
from chargeapp.transport.embedded_redis import embedded_redis_url
from chargeapp.transport.redis_client import connect
from chargeapp.transport.rq_transport import RqTransport

if TYPE_CHECKING:
    from chargeapp.transport.kafka_transport import KafkaTransport

# How much longer than a callback's own deadline it may take until its result is recorded.
RECORDING_GRACE_SECONDS = 5.0


class Runtime:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        failpoints.look_in(settings.chargeapp_data_dir / "failpoints")

    def verify(self) -> "Runtime":
        """Says at the start what would fail at the first request; raises MisconfiguredError. Connects to nothing."""
        _ = self.database, self.vault, self.signer, self.tracing
        _ = self.kafka if self.settings.uses_kafka else self.redis
        if (url := self.settings.authorization_service_url) is not None:
            try:
                parse_callback_url(url)
            except RequestRefused as error:
                reason = str(error).removeprefix("callback_url ")
                raise MisconfiguredError(f"AUTHORIZATION_SERVICE_URL {reason}") from error
        return self

    @cached_property
    def signer(self) -> Signer:
        return Signer(self.secrets.webhook_secret)

    @cached_property
    def tracing(self) -> Tracing:
        endpoint = self.settings.otel_exporter_otlp_endpoint
        if endpoint is None:
            return NO_TRACING
        try:
            # Optional, and slow to import.
            from chargeapp.otlp_tracing import OtlpTracing
        except ModuleNotFoundError as error:
            raise MisconfiguredError(
                f"OTEL_EXPORTER_OTLP_ENDPOINT: {error.name} is missing; pip install 'chargeapp[tracing]'"
            ) from error
        return OtlpTracing(endpoint)

    @cached_property
    def database(self) -> Database:
        return Database(self.settings.resolved_database_url, self.unseal_address)

    def unseal_address(self, sealed: bytes) -> str:
        """Where the store went; raises DatabaseUnavailable."""
        try:
            return self.address_vault.open(sealed)
        except TokenUnreadable as error:
            raise DatabaseUnavailable(
                "The store has moved to PostgreSQL, and its address was sealed with other keys. Set DATABASE_URL to it."
            ) from error

    @cached_property
    def wakeups(self) -> Wakeups:
        return self.database.wakeups(self.settings.chargeapp_data_dir / "wakeups")

    @cached_property
    def redis(self) -> Redis:
        return connect(self.redis_url)

    @cached_property
    def redis_probe(self) -> Redis:
        """For a look that must not take long, even if Redis accepts connections and then says nothing."""
        return connect(self.redis_url, timeout_seconds=0.5)

    @property
    def uses_redis(self) -> bool:
        """With Kafka it counts requests for the rate limit, if there is one."""
        return bool(self.settings.redis_url) or not self.settings.uses_kafka

    @property
    def redis_url(self) -> str:
        return self.settings.redis_url or embedded_redis_url(self.settings.chargeapp_data_dir)

    @cached_property
    def kafka(self) -> dict[str, Any]:
        """What every client of Kafka is told; raises MisconfiguredError. Connects to nothing."""
        if not self.settings.kafka_bootstrap_servers:
            raise MisconfiguredError("KAFKA_BOOTSTRAP_SERVERS: needed with BROKER=kafka, such as kafka-1:9092")
        try:
            # Optional, and slow to import.
            from chargeapp.transport.kafka_client import client_settings
        except ModuleNotFoundError as error:
            raise MisconfiguredError(f"BROKER: {error.name} is missing; pip install 'chargeapp[kafka]'") from error
        return client_settings(self.settings)

    @cached_property
    def transport(self) -> Transport:
        return self.kafka_transport if self.settings.uses_kafka else RqTransport(self.redis)

    def close_transport(self) -> None:
        if "kafka_transport" in vars(self):
            self.kafka_transport.close()

    @cached_property
    def kafka_transport(self) -> "KafkaTransport":
        client = self.kafka
        from chargeapp.transport.kafka_transport import KafkaTransport

        return KafkaTransport(client)

    @cached_property
    def relay(self) -> Relay:
        grace = self.settings.callback_timeout_seconds + RECORDING_GRACE_SECONDS
        feed = EventFeed(self.database, self.kafka_transport.publish_events) if self.settings.uses_kafka else None
        return Relay(self.database, self.transport, self.wakeups, grace, self.retention, feed=feed)

    @cached_property
    def retention(self) -> Retention:
        return Retention(
            requests=timedelta(days=self.settings.retention_days),
            driver_tokens=timedelta(hours=self.settings.driver_token_retention_hours),
        )

    @cached_property
    def secrets(self) -> Secrets:
        return load_secrets(self.settings)

    @cached_property
    def vault(self) -> TokenVault:
        return TokenVault(self.secrets.driver_token_keys, self.secrets.driver_token_hash_key)

    @cached_property
    def secret_vault(self) -> TokenVault:
        """Seals callers' webhook secrets; changes its keys together with the driver tokens."""
        return self.vault.for_purpose(WEBHOOK_SECRETS)

    @cached_property
    def address_vault(self) -> TokenVault:
        """Seals where the store went, for those that still look for it in the file."""
        return self.vault.for_purpose(PURPOSE)

    @cached_property
    def address_policy(self) -> AddressPolicy:
        return AddressPolicy(self.settings.callback_allowed_networks)

    @cached_property
    def retry_policy(self) -> RetryPolicy:
        return RetryPolicy(
            max_retries=self.settings.callback_max_retries,
            first_delay_seconds=self.settings.callback_retry_delay_millis / 1000,
            rounds_seconds=self.settings.callback_rounds_seconds,
        )

    @cached_property
    def authorizer(self) -> AccessList | AuthorizationService:
        url = self.settings.authorization_service_url
        if url is None:
            return AccessList(self.database)
        return AuthorizationService(
            url,
            HttpClient(policy=None, pool_size=self.settings.queue_consumer_threads, tracing=self.tracing),
            self.settings.authorization_max_retries,
            self.circuit_breaker,
        )

    @cached_property
    def circuit_breaker(self) -> CircuitBreaker | None:
        return CircuitBreaker() if self.settings.authorization_circuit_breaker_enabled else None

    def circuit_state(self) -> str:
        """Of this process: empty where it asks no service."""
        if self.settings.authorization_service_url is None or self.circuit_breaker is None:
            return ""
        return self.circuit_breaker.state

    @cached_property
    def callback_endpoint(self) -> CallbackEndpoint:
        return CallbackEndpoint(
            HttpClient(self.address_policy, pool_size=self.settings.queue_consumer_threads, tracing=self.tracing),
            WebhookSigners(self.database, self.secret_vault, self.signer),
            self.settings.callback_timeout_seconds,
        )
