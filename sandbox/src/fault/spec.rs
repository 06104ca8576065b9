//! Rules from JSON. All problems of a rule are reported at once: field, value, what is accepted.

use serde_json::Value;

use super::fields::{Fields, Problem};
use super::pattern::Pattern;
use super::rule::{Effect, ErrorName, Rule, Stage};

const KINDS: [&str; 8] = [
    "late_log_rows",
    "old_log_time",
    "write_timeout",
    "missing_rows",
    "slow",
    "error",
    "no_answer",
    "disconnect",
];

/// Reads a rule.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(body: &Value) -> Result<Rule, Vec<Problem>> {
    let mut fields = Fields::new(body)?;
    let Some(effect) = effect(&mut fields) else {
        // Without a kind nobody knows which fields belong.
        return Err(fields.into_problems());
    };
    let stage = effect.stage();
    let mut rule = Rule::new(effect);
    match stage {
        Stage::Request => {
            rule.statement = fields.text("statement").map(Pattern::new);
            rule.node = fields.number("node", 0, 255).map(|node| node as usize);
        }
        Stage::Write => {
            rule.table = fields.text("table").map(Pattern::new);
            rule.contains = fields.text("contains");
        }
        Stage::Read => rule.table = fields.text("table").map(Pattern::new),
    }
    if let Some(percent) = fields.number("share_percent", 1, 100) {
        rule.share_percent = percent as u8;
    }
    rule.times = fields.number("times", 1, u64::MAX);
    rule.seed = fields.number("seed", 0, u64::MAX).unwrap_or(0);
    fields.finish(&format!("for {}", rule.effect.kind()))?;
    Ok(rule)
}

fn effect(fields: &mut Fields<'_>) -> Option<Effect> {
    Some(match fields.choice("kind", &KINDS)? {
        "late_log_rows" => Effect::LateLogRows(fields.duration("delay_milliseconds")),
        "old_log_time" => Effect::OldLogTime(fields.duration("back_milliseconds")),
        "write_timeout" => Effect::WriteTimeout {
            applied: fields.required_flag("applied"),
        },
        "missing_rows" => Effect::MissingRows,
        "slow" => Effect::Slow(fields.duration("delay_milliseconds")),
        "error" => Effect::Error {
            error: error_name(fields),
            executed: fields.flag("executed").unwrap_or(false),
        },
        "no_answer" => Effect::NoAnswer,
        _ => Effect::Disconnect,
    })
}

/// Any name will do where none was understood: the problem is noted, and the rule never made.
fn error_name(fields: &mut Fields<'_>) -> ErrorName {
    let names = ErrorName::ALL.map(ErrorName::as_str);
    let given = fields.choice("error", &names);
    let found = ErrorName::ALL
        .into_iter()
        .find(|name| Some(name.as_str()) == given);
    found.unwrap_or(ErrorName::ServerError)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn rules_survive_the_round_trip() {
        let rules = [
            Rule::late_log_rows(Duration::from_millis(1_500))
                .table("ks.*")
                .contains("e-7")
                .times(2),
            Rule::old_log_time(Duration::from_secs(60))
                .share_percent(10)
                .seed(9),
            Rule::write_timeout(true).table("ks.t"),
            Rule::missing_rows().table("ks.t_scylla_cdc_log"),
            Rule::slow(Duration::from_millis(5))
                .statement("insert into")
                .node(2),
            Rule::error(ErrorName::Overloaded),
            Rule::no_answer(),
            Rule::disconnect(),
        ];
        for rule in rules {
            assert_eq!(parse(&rule.to_json()), Ok(rule));
        }
    }

    #[test]
    fn every_problem_is_named() {
        let check = |body: Value, expected: &[(&str, &str)]| {
            let problems = parse(&body).unwrap_err();
            assert_eq!(problems.len(), expected.len(), "{problems:?}");
            for (problem, (field, accepted)) in problems.iter().zip(expected) {
                assert_eq!(problem.field, *field);
                assert!(problem.accepted.contains(accepted), "{}", problem.accepted);
            }
        };
        check(json!([]), &[("", "a JSON object")]);
        check(json!({}), &[("kind", "late_log_rows, old_log_time")]);
        check(json!({ "kind": "slower" }), &[("kind", "disconnect")]);
        check(json!({ "kind": 7 }), &[("kind", "disconnect")]);
        check(
            json!({ "kind": "slow" }),
            &[("delay_milliseconds", "from 1 to 86400000")],
        );
        check(
            json!({ "kind": "error", "error": "Boom", "executed": 1, "table": "ks.t", "share_percent": 0 }),
            &[
                ("error", "ServerError, Overloaded"),
                ("executed", "true, false"),
                ("share_percent", "from 1 to 100"),
                ("table", "for error: kind, error, executed, statement, node"),
            ],
        );
        check(
            json!({ "kind": "write_timeout", "times": 0 }),
            &[("applied", "true"), ("times", "from 1")],
        );
    }
}
