//! One validation for the relay, the command line and the operator. It sees what a configuration alone can show; what
//! takes a look at the table or the brokers is the relay's `check`.

mod replay_request;
mod secrets;
mod sink;
mod source;

use crate::dead_letter::OnAggregate;
use crate::names::{CQL_NAME, HostPort, TOPIC, is_cql_name, is_identity, is_topic};
use crate::problems::Problems;
use crate::relay_config::{Http, Log};
use crate::sink::{Guarantee, journal_topic};
use crate::{API_VERSION, RelayConfig, Tracing, limits};
use std::net::SocketAddr;

/// Where a configuration comes from: it decides how secrets are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// The relay's own file.
    File,
    /// The custom resource.
    Resource,
}

/// Checks a configuration as the relay loads it.
///
/// # Errors
/// All that is wrong with it.
pub fn validate(config: &RelayConfig) -> Result<(), Problems> {
    let mut problems = Problems::default();
    check(config, Form::File, &mut problems);
    problems.into_result()
}

/// Adds what is wrong to `problems`, with paths as in the relay's file.
pub(crate) fn check(config: &RelayConfig, form: Form, problems: &mut Problems) {
    if config.api_version != API_VERSION {
        problems.refuse_text("apiVersion", &config.api_version, API_VERSION);
    }
    identity(config, problems);
    source::check(&config.source, form, problems);
    source::polling(config, problems);
    source::snapshot(config, problems);
    sink::check(&config.sink, form, problems);
    retry(config, problems);
    dead_letter(config, problems);
    if let Some(request) = &config.dead_letter.replay_request {
        replay_request::check(request, form, problems);
    }
    journal(config, problems);
    state(config, problems);
    http(&config.http, form, problems);
    tracing(config.tracing.as_ref(), problems);
    log(&config.log, problems);
    match serde_json::to_value(config) {
        Ok(tree) => limits::check(&tree, problems),
        // Only a path that is no UTF-8 cannot be written.
        Err(error) => problems.refuse_text("", &error.to_string(), "paths in UTF-8"),
    }
}

fn identity(config: &RelayConfig, problems: &mut Problems) {
    let accepted =
        "letters, digits, dots, underscores and dashes, from a letter or digit to a letter or digit";
    if config.identity.is_empty() {
        problems.missing("identity", accepted);
    } else if !is_identity(&config.identity) {
        problems.refuse_text("identity", &config.identity, accepted);
    }
}

fn retry(config: &RelayConfig, problems: &mut Problems) {
    let (initial, max) = (
        config.retry.initial_backoff_milliseconds,
        config.retry.max_backoff_milliseconds,
    );
    if max < initial && !problems.has("retry.initialBackoffMilliseconds") {
        let accepted = format!("at least retry.initialBackoffMilliseconds, {initial}");
        problems.refuse("retry.maxBackoffMilliseconds", max, accepted);
    }
}

fn dead_letter(config: &RelayConfig, problems: &mut Problems) {
    let dead_letter = &config.dead_letter;
    match &dead_letter.topic {
        Some(topic) if !is_topic(topic) => problems.refuse_text("deadLetter.topic", topic, TOPIC),
        Some(topic) if *topic == config.sink.topic => {
            problems.refuse_text("deadLetter.topic", topic, "a topic other than sink.topic");
        }
        Some(topic) if !dead_letter.to_topic() && !problems.has("deadLetter.target") => {
            problems.refuse_text("deadLetter.topic", topic, "no topic with deadLetter.target Table");
        }
        None if dead_letter.to_topic() => problems.missing("deadLetter.topic", TOPIC),
        _ => {}
    }
    if dead_letter.on_aggregate == OnAggregate::Hold
        && !dead_letter.to_table()
        && !problems.has("deadLetter.target")
        && !problems.has("deadLetter.onAggregate")
    {
        let accepted =
            "Continue, or deadLetter.target Table or Both: after a restart the table tells what is held";
        problems.refuse_text("deadLetter.onAggregate", "Hold", accepted);
    }
    if let Some(replay) = &dead_letter.replay {
        if !dead_letter.to_table() && !problems.has("deadLetter.target") {
            let accepted = "deadLetter.target Table or Both with deadLetter.replay; or no deadLetter.replay";
            problems.refuse_text("deadLetter.target", "Topic", accepted);
        }
        let (initial, max) = (replay.initial_backoff_seconds, replay.max_backoff_seconds);
        if max < initial && !problems.has("deadLetter.replay.initialBackoffSeconds") {
            let accepted = format!("at least deadLetter.replay.initialBackoffSeconds, {initial}");
            problems.refuse("deadLetter.replay.maxBackoffSeconds", max, accepted);
        }
    }
    let Some(table) = &dead_letter.table else { return };
    let (keyspace, name) = dead_letter.keyspace_and_table(&config.state.keyspace);
    let path = "deadLetter.table";
    if table.split('.').count() > 2 || !table.split('.').all(is_cql_name) {
        problems.refuse_text(
            path,
            table,
            format!("table or keyspace.table, each of {CQL_NAME}"),
        );
    } else if !dead_letter.to_table() {
        problems.refuse_text(path, table, "no table with deadLetter.target Topic");
    } else if (keyspace, name) == (&config.source.keyspace, &config.source.table) {
        problems.refuse_text(path, table, "a table other than the outbox table");
    }
}

/// The journal's topic is named after the identity.
fn journal(config: &RelayConfig, problems: &mut Problems) {
    if config.sink.guarantee != Guarantee::ExactlyOnce {
        return;
    }
    let name = journal_topic(&config.identity);
    if !config.identity.is_empty() && !is_topic(&name) {
        let accepted =
            "at most 241 characters with sink.guarantee ExactlyOnce: its journal is a topic of that name";
        problems.refuse_text("identity", &config.identity, accepted);
    }
    if config.sink.topic == name {
        problems.refuse_text("sink.topic", &name, "a topic other than the identity's journal");
    }
    if config.dead_letter.topic.as_ref() == Some(&name) {
        problems.refuse_text(
            "deadLetter.topic",
            &name,
            "a topic other than the identity's journal",
        );
    }
}

fn state(config: &RelayConfig, problems: &mut Problems) {
    let state = &config.state;
    if !is_cql_name(&state.keyspace) || is_system_keyspace(&state.keyspace) {
        problems.refuse_text(
            "state.keyspace",
            &state.keyspace,
            format!("a keyspace of your own: {CQL_NAME}"),
        );
    }
    // Else every checkpoint would hold ids for more than a horizon, and a restart would read more than one.
    if state.checkpoint_interval() > config.source.horizon() && !problems.has("source.horizonSeconds") {
        let accepted = format!(
            "at most source.horizonSeconds, {} s",
            config.source.horizon_seconds
        );
        problems.refuse(
            "state.checkpointIntervalMilliseconds",
            state.checkpoint_interval_milliseconds,
            accepted,
        );
    }
}

fn http(http: &Http, form: Form, problems: &mut Problems) {
    let listen = &http.listen;
    if form == Form::Resource && *listen != Http::default().listen {
        let accepted = "nothing in an OutboxRelay: the operator chooses the port";
        problems.refuse_text("http.listen", listen, accepted);
    } else if listen.parse::<SocketAddr>().is_err() {
        problems.refuse_text(
            "http.listen",
            listen,
            "an IP address and a port, as in 0.0.0.0:9090 or [::]:9090",
        );
    }
    if let Some(tls) = &http.tls {
        secrets::server_tls("http.tls", tls, form, problems);
    }
    let (secret, file) = (http.token_secret_ref.as_ref(), http.token_file.as_deref());
    secrets::one_file("http.token", secret, file, form, problems);
}

fn tracing(tracing: Option<&Tracing>, problems: &mut Problems) {
    let Some(Tracing { endpoint, .. }) = tracing else {
        return;
    };
    let accepted =
        "the URL that takes OTLP over HTTP, without a user name, as in http://otel-collector:4318/v1/traces";
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| endpoint.strip_prefix(scheme));
    let plain =
        |rest: &str| !rest.is_empty() && !rest.contains('@') && rest.bytes().all(|b| b.is_ascii_graphic());
    if endpoint.is_empty() {
        problems.missing("tracing.endpoint", accepted);
    } else if !rest.is_some_and(plain) {
        problems.refuse_text("tracing.endpoint", endpoint, accepted);
    }
}

fn log(log: &Log, problems: &mut Problems) {
    if !log.level.split(',').all(is_log_directive) {
        let accepted = "error, warn, info, debug, trace or off; or several as in info,relay::source=debug";
        problems.refuse_text("log.level", &log.level, accepted);
    }
}

/// `level` or `target=level`.
fn is_log_directive(text: &str) -> bool {
    let (target, level) = text.rsplit_once('=').unwrap_or(("x", text));
    ["error", "warn", "info", "debug", "trace", "off"].contains(&level)
        && !target.is_empty()
        && target
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b':'))
}

fn is_system_keyspace(name: &str) -> bool {
    name == "system" || name.starts_with("system_")
}

/// Checks a list of addresses that must not be empty.
fn addresses(
    path: &str,
    list: &[String],
    default_port: Option<u16>,
    accepted: &str,
    problems: &mut Problems,
) {
    if list.is_empty() {
        problems.missing(path, format!("a list of {accepted}"));
    }
    for (index, address) in list.iter().enumerate() {
        if HostPort::parse(address, default_port).is_none() {
            problems.refuse_text(format!("{path}[{index}]"), address, accepted);
        }
    }
}

/// Checks the name of something in ScyllaDB.
fn cql_name(path: impl Into<String>, name: &str, problems: &mut Problems) {
    if !is_cql_name(name) {
        problems.refuse_text(path, name, CQL_NAME);
    }
}
