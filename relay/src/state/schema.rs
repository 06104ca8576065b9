//! The relay's own tables, as CQL. One text serves start-up, `setup` and `schema`. Pure.

/// Refused by databases that know no tablets.
pub const NO_TABLETS: &str = " AND tablets = {'enabled': false}";

/// Statements that make the state keyspace and its tables, in order. `keyspace` is a validated CQL identifier.
///
/// The keyspace has no tablets: ownership needs lightweight transactions, which ScyllaDB refuses on tablets in many
/// releases. `replication` is the CQL map of the keyspace's replication.
pub fn statements(keyspace: &str, replication: &str, tablets_option: bool) -> Vec<String> {
    let tablets = if tablets_option {
        " AND tablets = {'enabled': false}"
    } else {
        ""
    };
    vec![
        format!("CREATE KEYSPACE IF NOT EXISTS \"{keyspace}\" WITH replication = {replication}{tablets}"),
        slots_table(keyspace),
        processes_table(keyspace),
        audits_table(keyspace),
    ]
}

/// Ownership and checkpoint of a slot share a partition, so that one conditional batch on the epoch guards both.
/// The static columns are the owner and the checkpoint's base, the rows its segments. Only lightweight transactions
/// write here: mixing them with plain writes would break their order. A deletion that a replica missed and that comes
/// back to life does no harm (ids below the bound, an owner whose epoch has passed), so tombstones, one per segment, need
/// no days: without them a takeover reads quickly.
fn slots_table(keyspace: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS \"{keyspace}\".slots (\
         identity text, slot int, \
         owner text static, epoch bigint static, transactional_id text static, \
         format int static, bound bigint static, saved_revision bigint static, checksum bigint static, \
         mark_offset bigint static, mark_sequence bigint static, incarnation uuid static, \
         second bigint, revision bigint, ids blob, \
         PRIMARY KEY ((identity, slot), second, revision)) WITH gc_grace_seconds = 600"
    )
}

/// A column that tells a table of format 1 from one of format 2.
pub const SINCE_FORMAT_2: &str = "mark_sequence";

/// Brings the table of slots from format 1 to format 2.
pub fn to_format_2(keyspace: &str) -> String {
    format!(
        "ALTER TABLE \"{keyspace}\".slots ADD (mark_offset bigint static, mark_sequence bigint static, \
         incarnation uuid static)"
    )
}

/// Heartbeats. Plain writes, whose timestamp is the beat itself: which one is the newest must not depend on clocks.
fn processes_table(keyspace: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS \"{keyspace}\".processes (\
         identity text, process text, beat bigint, placement text, \
         PRIMARY KEY (identity, process))"
    )
}

/// The last recorded audit of each identity.
fn audits_table(keyspace: &str) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS \"{keyspace}\".audits (\
         identity text PRIMARY KEY, audited_at timestamp, window_from timestamp, window_to timestamp, \
         events bigint, not_yet_due bigint, missing bigint, reordered bigint, repeated bigint)"
    )
}
