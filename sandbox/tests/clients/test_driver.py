"""What the Python drivers ask of a node: metadata, types, prepared statements, paging, batches, LWT, errors.

Runs unchanged with scylla-driver and with cassandra-driver.
"""

import os
import uuid
from decimal import Decimal
from ipaddress import ip_address

import pytest
from cassandra import (
    AlreadyExists,
    ConsistencyLevel,
    InvalidRequest,
)
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.policies import RoundRobinPolicy
from cassandra.protocol import SyntaxException
from cassandra.query import BatchStatement, BatchType, SimpleStatement, dict_factory


@pytest.fixture(scope="module")
def session():
    user = os.environ.get("NODE_USER")
    auth = PlainTextAuthProvider(user, os.environ["NODE_PASSWORD"]) if user else None
    profile = ExecutionProfile(load_balancing_policy=RoundRobinPolicy(), row_factory=dict_factory)
    cluster = Cluster(
        [os.environ["NODE_HOST"]],
        port=int(os.environ["NODE_PORT"]),
        auth_provider=auth,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
    )
    session = cluster.connect()
    keyspace = "py_" + uuid.uuid4().hex[:12]
    session.execute(
        f"CREATE KEYSPACE {keyspace} WITH replication = "
        "{'class': 'NetworkTopologyStrategy', 'replication_factor': 1}"
    )
    session.set_keyspace(keyspace)
    yield session
    session.execute(f"DROP KEYSPACE {keyspace}")
    cluster.shutdown()


def test_metadata_knows_tables_types_and_options(session):
    session.execute("CREATE TYPE place (street text, number int)")
    session.execute(
        "CREATE TABLE meta (p int, c timeuuid, s text static, v map<text, frozen<place>>, PRIMARY KEY (p, c)) "
        "WITH CLUSTERING ORDER BY (c DESC) AND cdc = {'enabled': true} AND comment = 'said'"
    )
    # The log's creation is an event of its own, which the driver follows up within seconds.
    session.cluster.refresh_schema_metadata()
    keyspace = session.cluster.metadata.keyspaces[session.keyspace]
    table = keyspace.tables["meta"]
    assert [column.name for column in table.partition_key] == ["p"]
    assert [(column.name, column.is_reversed) for column in table.clustering_key] == [("c", True)]
    assert table.columns["s"].is_static
    assert table.columns["v"].cql_type == "map<text, frozen<place>>"
    assert table.options["comment"] == "said"
    assert "meta_scylla_cdc_log" in keyspace.tables
    assert keyspace.user_types["place"].field_names == ["street", "number"]
    assert "CREATE TABLE" in table.export_as_string()
    session.execute("ALTER TABLE meta ADD extra int")
    assert "extra" in session.cluster.metadata.keyspaces[session.keyspace].tables["meta"].columns
    session.execute("DROP TABLE meta")
    assert "meta" not in session.cluster.metadata.keyspaces[session.keyspace].tables


def test_values_of_every_type_come_back(session):
    session.execute(
        "CREATE TABLE vals (k int PRIMARY KEY, bi bigint, bl blob, bo boolean, de decimal, do double, fl float, "
        "ip inet, t text, tu timeuuid, u uuid, vi varint, l list<int>, s set<text>, m map<text, int>, "
        "tp tuple<int, text>)"
    )
    insert = session.prepare(
        "INSERT INTO vals (k, bi, bl, bo, de, do, fl, ip, t, tu, u, vi, l, s, m, tp) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    values = [1, -(2**63), b"\x00\xff", True, Decimal("-1.50"), 2.5, 0.5, "10.0.0.1", "ü", uuid.uuid1(), uuid.uuid4()]
    values += [2**100, [3, 1], {"b", "a"}, {"x": 1}, (7, None)]
    session.execute(insert, values)
    row = session.execute("SELECT * FROM vals WHERE k = 1").one()
    names = "k bi bl bo de do fl ip t tu u vi l s m tp".split()
    for name, sent in zip(names, values):
        got = row[name]
        if name == "ip":
            got, sent = ip_address(got), ip_address(sent)
        if name == "s":
            got = set(got)
        if name == "m":
            got = dict(got)
        assert got == sent, name


def test_paging_follows_every_row_and_page_state_is_portable(session):
    session.execute("CREATE TABLE paged (p int, c int, PRIMARY KEY (p, c))")
    insert = session.prepare("INSERT INTO paged (p, c) VALUES (?, ?)")
    for p in range(3):
        for c in range(101):
            session.execute(insert, (p, c))
    statement = SimpleStatement("SELECT p, c FROM paged", fetch_size=10)
    assert len({(row["p"], row["c"]) for row in session.execute(statement)}) == 303
    first = session.execute(SimpleStatement("SELECT c FROM paged WHERE p = 1", fetch_size=40))
    state = first.paging_state
    rest = session.execute(SimpleStatement("SELECT c FROM paged WHERE p = 1", fetch_size=40), paging_state=state)
    assert [row["c"] for row in rest.current_rows] == list(range(40, 80))


def test_batches_write_all(session):
    session.execute("CREATE TABLE batched (k int PRIMARY KEY, v text)")
    insert = session.prepare("INSERT INTO batched (k, v) VALUES (?, ?)")
    batch = BatchStatement(batch_type=BatchType.LOGGED, consistency_level=ConsistencyLevel.QUORUM)
    for k in range(20):
        batch.add(insert, (k, str(k)))
    batch.add("INSERT INTO batched (k, v) VALUES (%s, %s)", (20, "simple"))
    session.execute(batch)
    assert session.execute("SELECT count(*) FROM batched").one()["count"] == 21


def test_lightweight_transactions_tell_what_stood_there(session):
    session.execute("CREATE TABLE lwt (k int PRIMARY KEY, v int)")
    insert = session.prepare("INSERT INTO lwt (k, v) VALUES (?, ?) IF NOT EXISTS")
    assert session.execute(insert, (1, 1)).was_applied
    refused = session.execute(insert, (1, 2))
    assert not refused.was_applied
    assert session.execute("UPDATE lwt SET v = 5 WHERE k = 1 IF v = 1").was_applied
    assert session.execute("SELECT v FROM lwt WHERE k = 1").one()["v"] == 5


def test_errors_have_their_kind(session):
    with pytest.raises(SyntaxException):
        session.execute("SELEC 1")
    with pytest.raises(InvalidRequest):
        session.execute("SELECT * FROM no_such_table")
    session.execute("CREATE TABLE twice (k int PRIMARY KEY)")
    with pytest.raises(AlreadyExists):
        session.execute("CREATE TABLE twice (k int PRIMARY KEY)")


def test_client_timestamps_decide(session):
    session.execute("CREATE TABLE stamped (k int PRIMARY KEY, v text)")
    session.execute("INSERT INTO stamped (k, v) VALUES (1, 'new') USING TIMESTAMP 2000")
    session.execute("INSERT INTO stamped (k, v) VALUES (1, 'old') USING TIMESTAMP 1000")
    row = session.execute("SELECT v, writetime(v) AS w FROM stamped WHERE k = 1").one()
    assert (row["v"], row["w"]) == ("new", 2000)


def test_the_cdc_log_is_an_ordinary_table(session):
    session.execute("CREATE TABLE logged (k int PRIMARY KEY, v text) WITH cdc = {'enabled': true, 'postimage': true}")
    session.execute("INSERT INTO logged (k, v) VALUES (1, 'a')")
    rows = list(session.execute("SELECT * FROM logged_scylla_cdc_log"))
    assert sorted(row["cdc$operation"] for row in rows) == [2, 9]
    assert {row["v"] for row in rows} == {"a"}


def test_concurrent_requests_share_a_connection(session):
    session.execute("CREATE TABLE busy (k int PRIMARY KEY, v int)")
    insert = session.prepare("INSERT INTO busy (k, v) VALUES (?, ?)")
    futures = [session.execute_async(insert, (k, k)) for k in range(500)]
    for future in futures:
        future.result()
    assert session.execute("SELECT count(*) FROM busy").one()["count"] == 500
