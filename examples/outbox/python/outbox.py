"""An order and its event in one logged batch; what was not answered is written again as the same write.

    pip install scylla-driver
    SCYLLA=127.0.0.1:9042 python3 outbox.py ../schema.cql
"""

import json
import os
import sys
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime, timezone

from cassandra import ConsistencyLevel, InvalidRequest, Unauthorized, Unavailable
from cassandra.cluster import Cluster
from cassandra.query import BatchStatement, BatchType

ATTEMPTS = 5
TIMEOUT_SECONDS = 2.0
# With these the coordinator wrote nothing. After any other failure the batch may have been applied, or may yet be.
REFUSED = (Unavailable, InvalidRequest, Unauthorized)


class NotWritten(Exception):
    """There is neither row nor event, and there never will be."""


class OutcomeUnknown(Exception):
    """Call again with the same write, now or later, until there is an answer."""


@dataclass(frozen=True)
class Created:
    """One write. All that identifies it is made once, before the first attempt."""

    order_id: uuid.UUID
    customer: str
    total_cents: int
    sequence: int = 1
    event_id: uuid.UUID = field(default_factory=uuid.uuid4)
    microseconds: int = field(default_factory=lambda: time.time_ns() // 1000)


def prepare(session):
    return (
        session.prepare(
            "INSERT INTO app.orders (id, customer, total_cents) VALUES (?, ?, ?) USING TIMESTAMP ?"
        ),
        session.prepare(
            "INSERT INTO app.outbox (aggregate_id, sequence, id, aggregate_type, event_type, payload, created_at) "
            "VALUES (?, ?, ?, 'Order', 'OrderCreated', ?, ?) USING TIMESTAMP ?"
        ),
    )


def write(session, statements, created):
    """Returns once both rows are there."""
    insert_order, insert_event = statements
    payload = json.dumps({"customer": created.customer, "totalCents": created.total_cents})
    at = datetime.fromtimestamp(created.microseconds / 1e6, timezone.utc)
    batch = BatchStatement(BatchType.LOGGED, consistency_level=ConsistencyLevel.LOCAL_QUORUM)
    batch.add(insert_order, (created.order_id, created.customer, created.total_cents, created.microseconds))
    batch.add(
        insert_event,
        (created.order_id, created.sequence, created.event_id, payload, at, created.microseconds),
    )
    # The same keys, values and timestamps: executed twice it leaves what it leaves when executed once.
    batch.is_idempotent = True

    unanswered = None
    for attempt in range(ATTEMPTS):
        try:
            session.execute(batch, timeout=TIMEOUT_SECONDS)
            return
        except REFUSED as error:
            if unanswered is None:
                raise NotWritten(str(error)) from error
        except Exception as error:  # pylint: disable=broad-except
            unanswered = error
        time.sleep(0.1 * 2**attempt)
    raise OutcomeUnknown(str(unanswered)) from unanswered


def main():
    host, _, port = os.environ.get("SCYLLA", "127.0.0.1:9042").rpartition(":")
    cluster = Cluster([host], port=int(port))
    try:
        session = cluster.connect()
        for schema in sys.argv[1:]:
            with open(schema, encoding="utf-8") as file:
                text = "".join(line for line in file if not line.startswith("--"))
            for statement in filter(str.strip, text.split(";")):
                session.execute(statement)
        created = Created(order_id=uuid.uuid4(), customer="Ada", total_cents=300)
        write(session, prepare(session), created)
        row = session.execute("SELECT id FROM app.outbox WHERE aggregate_id = %s", (created.order_id,)).one()
        assert row.id == created.event_id
        print(f"order {created.order_id} event {created.event_id}")
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
