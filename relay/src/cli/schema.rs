//! `outbox-relay schema`: the recommended outbox table and the relay's own tables.

use super::{Exit, SchemaArgs};
use crate::dead_letters::table;
use crate::state::schema;

pub fn schema(args: &SchemaArgs) -> Exit {
    println!(
        "-- The outbox. One partition per aggregate, clustered by a column that rises: that keeps its order."
    );
    let options = if args.polling { POLLED } else { STREAMED };
    println!("{};\n", outbox_table(&args.keyspace, &args.table, options));
    println!("-- The relay's own tables; `outbox-relay setup` makes them too.");
    let replication = "{'class': 'NetworkTopologyStrategy', 'replication_factor': 3}";
    if args.polling {
        println!("-- On a database that knows no tablets, without the option that switches them off.");
    }
    for statement in schema::statements(&args.state_keyspace, replication, true) {
        println!("{statement};");
    }
    println!("{};", table::create_table(&args.state_keyspace, "dead_letters"));
    Exit::Fine
}

/// Log rows stay for a week, so that an outage over a weekend loses nothing.
const STREAMED: &str = "cdc = {'enabled': true, 'ttl': '604800'}";

/// Every look passes over the tombstones of what was delivered. A deleted row that comes back, because a replica was away
/// for longer than this, is delivered again.
const POLLED: &str = "gc_grace_seconds = 3600";

fn outbox_table(keyspace: &str, table: &str, options: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS \"{keyspace}\".\"{table}\" (\n  \
         aggregate_id uuid,\n  sequence bigint,\n  id uuid,\n  aggregate_type text,\n  event_type text,\n  \
         payload text,\n  created_at timestamp,\n  PRIMARY KEY (aggregate_id, sequence)\n\
         ) WITH {options}"
    )
}
