"""What people do with cqlsh: load a schema file, look around, read in pages."""

import os
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

ORDERS = Path(__file__).parents[3] / "examples" / "orders"


def cqlsh(*arguments, text=None, check=True):
    command = ["cqlsh", "--no-color", os.environ["NODE_HOST"], os.environ["NODE_PORT"], *arguments]
    # Neither the user's cqlshrc nor a history in the user's home.
    with tempfile.TemporaryDirectory() as home, tempfile.NamedTemporaryFile("w", suffix=".credentials") as credentials:
        if os.environ.get("NODE_USER"):
            # In a file, for cqlsh warns of passwords among its arguments.
            values = (os.environ["NODE_USER"], os.environ["NODE_PASSWORD"])
            credentials.write("[plain_text_auth]\nusername = %s\npassword = %s\n" % values)
            credentials.flush()
            command += ["--credentials", credentials.name]
        environment = {**os.environ, "HOME": home}
        done = subprocess.run(command, input=text, text=True, capture_output=True, timeout=120, env=environment)
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
        assert not done.stderr.strip(), done.stderr
    return done


@pytest.fixture(scope="module")
def keyspace():
    name = "sh_" + uuid.uuid4().hex[:12]
    cqlsh(
        "-e",
        f"CREATE KEYSPACE {name} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}};"
        f"CREATE TYPE {name}.place (street text, number int);"
        f"CREATE TABLE {name}.t (p int, c int, s text static, v frozen<place>, PRIMARY KEY (p, c)) "
        "WITH CLUSTERING ORDER BY (c DESC) AND cdc = {'enabled': true};",
    )
    yield name
    cqlsh("-e", f"DROP KEYSPACE {name};")


@pytest.mark.parametrize("schema", ["schema.cql", "schema-plain.cql"])
def test_the_example_schema_loads_and_loads_again(schema, tmp_path):
    # In a keyspace of its own: the node may be one that somebody uses.
    name = "orders_" + uuid.uuid4().hex[:12]
    text = (ORDERS / schema).read_text()
    assert "orders_ks." in text
    loaded = tmp_path / schema
    loaded.write_text(text.replace("orders_ks", name))
    cqlsh("-f", str(loaded))
    cqlsh("-f", str(loaded))
    query = f"SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{name}';"
    tables = cqlsh("-e", query).stdout
    cqlsh("-e", f"DROP KEYSPACE {name};")
    for table in ("orders", "event_store", "outbox_messages", "dead_letter_queue"):
        assert table in tables


def test_rows_show_in_pages(keyspace):
    inserts = "".join(
        f"INSERT INTO {keyspace}.t (p, c, s, v) VALUES (1, {c}, 'x', {{street: 'Main', number: {c}}});"
        for c in range(250)
    )
    cqlsh(text=inserts)
    shown = cqlsh("-e", f"PAGING 100; SELECT * FROM {keyspace}.t WHERE p = 1;").stdout
    assert "(250 rows)" in shown
    assert "{street: 'Main', number: 249}" in shown
    assert shown.index("number: 249") < shown.index("number: 0}")


def test_describe_names_what_is_there(keyspace):
    table = cqlsh("-e", f"DESCRIBE TABLE {keyspace}.t;").stdout
    release = cqlsh("-e", "SELECT release_version FROM system.local;").stdout
    if " 3." in release:
        # What ScyllaDB calls itself; cqlsh then leaves DESCRIBE to older ones of its kind, and says so.
        assert "WARN: DESCRIBE" in table
        return
    assert "PRIMARY KEY (p, c)" in table
    assert "CLUSTERING ORDER BY (c DESC)" in table
    everything = cqlsh("-e", f"DESCRIBE KEYSPACE {keyspace};").stdout
    assert "CREATE KEYSPACE" in everything
    assert "CREATE TYPE" in everything
    assert keyspace in cqlsh("-e", "DESCRIBE KEYSPACES;").stdout
    assert "t  t_scylla_cdc_log" in cqlsh("-e", f"USE {keyspace}; DESCRIBE TABLES;").stdout
    assert "'NoSuchTable' not found" in cqlsh("-e", f'DESCRIBE TABLE {keyspace}."NoSuchTable";', check=False).stderr


def test_batches_and_conditions(keyspace):
    shown = cqlsh(
        "-e",
        f"BEGIN BATCH INSERT INTO {keyspace}.t (p, c) VALUES (2, 1); INSERT INTO {keyspace}.t (p, c) VALUES (2, 2); "
        f"APPLY BATCH; INSERT INTO {keyspace}.t (p, c) VALUES (2, 1) IF NOT EXISTS; "
        f"SELECT count(*) FROM {keyspace}.t WHERE p = 2;",
    ).stdout
    assert "[applied]" in shown
    assert "False" in shown


def test_errors_are_said(keyspace):
    wrong = cqlsh("-e", f"SELECT nope FROM {keyspace}.t;", check=False)
    assert wrong.returncode != 0
    assert "code=2200" in wrong.stderr
    assert "SyntaxException" in cqlsh("-e", "SELEC 1;", check=False).stderr
