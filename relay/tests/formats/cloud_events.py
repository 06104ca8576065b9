"""Reads messages with the CloudEvents SDK for Python: one per line of standard input, as JSON with bytes in base64; prints
what the SDK takes them for, one per line."""

import base64
import json
import sys

from cloudevents.core.bindings.kafka import KafkaMessage, from_kafka_event

for line in sys.stdin:
    given = json.loads(line)
    headers = {name: base64.b64decode(value) for name, value in given["headers"].items()}
    event = from_kafka_event(KafkaMessage(headers, base64.b64decode(given["key"]), base64.b64decode(given["value"])))
    attributes = {name: str(value) for name, value in event.get_attributes().items()}
    data = event.get_data()
    binary = isinstance(data, bytes)
    data = {"base64": base64.b64encode(data).decode()} if binary else {"value": data}
    print(json.dumps({"attributes": attributes, **data}))
