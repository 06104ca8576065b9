//! `outbox-relay status`: what a running relay says of itself.

use std::fmt::Write as _;
use std::time::Duration;

use crds::relay_status::{Audit, Health, RelayStatus};
use reqwest::header::{AUTHORIZATION, HeaderValue};

use super::{Exit, StatusArgs, TrustArgs};
use crate::secrets;

/// A relay answers from memory; one that takes longer does not work.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Exit code 1 if the relay cannot be reached or is not ready.
pub async fn status(args: &StatusArgs) -> Exit {
    let url = format!("{}/status", args.url.trim_end_matches('/'));
    let client = match client(&args.trust) {
        Ok(client) => client,
        Err(error) => {
            eprintln!("{error}");
            return Exit::Usage;
        }
    };
    let (text, status) = match fetch(&client, &url).await {
        Ok(answer) => answer,
        Err(error) => {
            eprintln!(
                "no status from {url}: {error}; is the relay running, is --url where it listens (https with http.tls), and \
                 are --ca-file and --token-file its own?"
            );
            return Exit::Failed;
        }
    };
    print!("{}", if args.json { text } else { table(&status) });
    if status.ready { Exit::Fine } else { Exit::Failed }
}

/// What the relay that listens there says of itself.
pub(super) async fn ask(url: &str, trust: &TrustArgs) -> Result<RelayStatus, String> {
    let url = format!("{}/status", url.trim_end_matches('/'));
    fetch(&client(trust)?, &url).await.map(|(_, status)| status)
}

/// With the token on every request.
fn client(trust: &TrustArgs) -> Result<reqwest::Client, String> {
    let mut builder = reqwest::Client::builder().timeout(TIMEOUT);
    if let Some(path) = &trust.ca_file {
        let authorities = secrets::certificates("--ca-file", path).map_err(|error| error.to_string())?;
        builder = builder.tls_built_in_root_certs(false);
        for authority in authorities {
            let der = authority.to_der().map_err(|error| error.to_string())?;
            let authority = reqwest::Certificate::from_der(&der).map_err(|error| error.to_string())?;
            builder = builder.add_root_certificate(authority);
        }
    }
    if let Some(path) = &trust.token_file {
        let token = secrets::token("--token-file", path).map_err(|error| error.to_string())?;
        // A token has printable characters only, which a header takes.
        let mut value =
            HeaderValue::try_from(format!("Bearer {token}")).map_err(|error| error.to_string())?;
        value.set_sensitive(true);
        builder = builder.default_headers([(AUTHORIZATION, value)].into_iter().collect());
    }
    builder.build().map_err(|error| error.to_string())
}

async fn fetch(client: &reqwest::Client, url: &str) -> Result<(String, RelayStatus), String> {
    let response = client
        .get(url)
        .send()
        .await
        .and_then(reqwest::Response::error_for_status);
    let text = response
        .map_err(|error| error.to_string())?
        .text()
        .await
        .map_err(|error| error.to_string())?;
    let status = serde_json::from_str(&text).map_err(|error| format!("not a status document: {error}"))?;
    Ok((text + "\n", status))
}

fn table(status: &RelayStatus) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<16}{value}");
    };
    line("identity", status.identity.clone());
    line("share", status.share.clone());
    line("version", status.version.clone());
    line("phase", format!("{:?}", status.phase));
    let ready = status
        .not_ready_because
        .as_ref()
        .map_or("yes".to_owned(), |because| format!("no: {because}"));
    line("ready", ready);
    let ranges: Vec<_> = status
        .slots
        .ranges
        .iter()
        .map(|[first, last]| format!("{first}-{last}"))
        .collect();
    line(
        "slots",
        format!(
            "{} of {} ({})",
            status.slots.owned,
            status.slots.wanted,
            ranges.join(", ")
        ),
    );
    line("breaker", format!("{:?}", status.breaker.state));
    line(
        "lag",
        format!(
            "{} ms, {} in flight",
            status.lag.milliseconds, status.lag.in_flight
        ),
    );
    let age = status
        .checkpoint_age_milliseconds
        .map_or("none yet".to_owned(), |age| format!("{age} ms old"));
    line("checkpoint", age);
    if let Some(seconds) = status.retention.headroom_seconds {
        line("retention", headroom(seconds));
    }
    line("processed", status.totals.processed.to_string());
    line(
        "dead letters",
        format!(
            "{} written, {} pending",
            status.totals.dead_lettered, status.dead_letters_pending
        ),
    );
    line("late", status.totals.late.to_string());
    let order = status
        .order
        .reason
        .as_ref()
        .map_or("preserved".to_owned(), |why| format!("not promised: {why}"));
    line("order", order);
    if let Some(audit) = &status.audit {
        line("audit", audited(audit));
    }
    for part in status
        .components
        .iter()
        .filter(|part| part.health != Health::Healthy)
    {
        line(
            &part.name,
            format!(
                "{:?}: {}",
                part.health,
                part.message.as_deref().unwrap_or("no reason given")
            ),
        );
    }
    text
}

fn audited(audit: &Audit) -> String {
    let verdict = if audit.is_clean() { "clean" } else { "findings" };
    format!(
        "{verdict} at {}: of {} events {} missing, {} reordered, {} repeated, {} not yet due",
        audit.time, audit.events, audit.missing, audit.reordered, audit.repeated, audit.not_yet_due
    )
}

fn headroom(seconds: i64) -> String {
    if seconds < 0 {
        format!(
            "the oldest unresolved row expired {} s ago",
            seconds.unsigned_abs()
        )
    } else {
        format!("{seconds} s until the oldest unresolved row expires")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_works_is_told_in_a_line_each_and_what_does_not_by_name() {
        let text = table(&crate::status::sample(false));
        let expected = "\
identity        orders
share           2/3
version         1.2.3
phase           CircuitOpen
ready           no: sink: no broker
slots           21 of 22 (21-30, 32-42)
breaker         Open
lag             4000 ms, 7 in flight
checkpoint      300 ms old
retention       the oldest unresolved row expired 5 s ago
processed       90
dead letters    3 written, 2 pending
late            1
order           not promised: the key is random
sink            Failed: no broker
";
        assert_eq!(text, expected);

        let text = table(&crate::status::sample(true));
        for line in [
            "ready           yes\n",
            "order           preserved\n",
            "checkpoint      none yet\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        for absent in ["retention", "source ", "sink "] {
            assert!(!text.contains(absent), "{absent}\n{text}");
        }
    }
}
