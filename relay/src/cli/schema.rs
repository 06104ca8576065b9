//! `outbox-relay schema`: the recommended outbox table and the relay's own tables.

use super::{Exit, SchemaArgs};
use crate::dead_letters::table;
use crate::state::schema;

pub fn schema(args: &SchemaArgs) -> Exit {
    println!(
        "-- The outbox. One partition per aggregate, clustered by a column that rises: that keeps its order."
    );
    println!("{};\n", outbox_table(&args.keyspace, &args.table));
    println!("-- The relay's own tables; `outbox-relay setup` makes them too.");
    let replication = "{'class': 'NetworkTopologyStrategy', 'replication_factor': 3}";
    for statement in schema::statements(&args.state_keyspace, replication, true) {
        println!("{statement};");
    }
    println!("{};", table::create_table(&args.state_keyspace, "dead_letters"));
    Exit::Fine
}

/// Log rows stay for a week, so that an outage over a weekend loses nothing.
fn outbox_table(keyspace: &str, table: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS \"{keyspace}\".\"{table}\" (\n  \
         aggregate_id uuid,\n  sequence bigint,\n  id uuid,\n  aggregate_type text,\n  event_type text,\n  \
         payload text,\n  created_at timestamp,\n  PRIMARY KEY (aggregate_id, sequence)\n\
         ) WITH cdc = {{'enabled': true, 'ttl': '604800'}}"
    )
}
