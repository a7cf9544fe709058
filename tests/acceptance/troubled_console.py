"""A deployment in which a few things went wrong, for the pages that are there to mend them."""

from deployment import Deployment
from servers import Receiver
from sqlalchemy import func, select, update

from chargeapp.clock import utcnow
from chargeapp.domain.charging_session import State
from chargeapp.pipeline import AUTHORIZATION
from chargeapp.security.api_keys import Scope
from chargeapp.services.api_keys import NewKey, create_key
from chargeapp.storage.models import SessionRequest

TOKEN = "driver-token-of-the-actions-1"
FAILED = 5
REFUSED_ONCE = (410, 204)


class Console:
    """A deployment with requests that failed, a dead letter, and a key of each kind that opens the console."""

    def __init__(self, deployment: Deployment, receiver: Receiver) -> None:
        self.deployment = deployment
        self.runtime = deployment.runtime
        paths = [receiver.path(*REFUSED_ONCE) for _ in range(FAILED)]
        self.failed = [deployment.submit(TOKEN, receiver.url(path)) for path in paths]
        for request_id in self.failed:
            deployment.wait_until(request_id, state="failed")
        self.delivered = deployment.submit(TOKEN, receiver.url(receiver.path()))
        deployment.wait_until(self.delivered, state="delivered")
        self.bury()
        self.admin, self.operator = self.make_key("chief", Scope.ADMIN), self.make_key("operator", Scope.OPERATE)

    def make_key(self, name: str, scope: Scope) -> str:
        with self.runtime.database.writing() as session:
            return create_key(session, NewKey(name, name, [scope]), utcnow())

    def bury(self) -> None:
        """As if the first step of a request that is over could not be processed; replaying it does no harm."""
        outbox = AUTHORIZATION.outbox
        dead = {"settled_at": None, "dead_at": utcnow(), "last_error": "cannot be opened", "attempts": 3}
        with self.runtime.database.writing() as session:
            session.execute(update(outbox).where(outbox.request_id == self.delivered).values(**dead))

    def count(self, state: State) -> int:
        with self.runtime.database.reading() as session:
            return session.scalar(select(func.count()).where(SessionRequest.state == state)) or 0

    def is_dead(self) -> bool:
        outbox = AUTHORIZATION.outbox
        with self.runtime.database.reading() as session:
            return session.scalars(select(outbox.id).where(outbox.dead_at.is_not(None))).first() is not None
