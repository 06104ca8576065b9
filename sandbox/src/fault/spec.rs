//! Rules from and to JSON. All problems of a rule are reported at once: field, value, what is accepted.

use std::time::Duration;

use serde_json::{Value, json};

use super::fields::{Fields, Problem};
use super::pattern::Pattern;
use super::rule::{AfterTimeout, Effect, ErrorName, Rule, RuleStatus, Stage};

const KINDS: [&str; 12] = [
    "late_log_rows",
    "old_log_time",
    "duplicate_log_rows",
    "lost_log_rows",
    "write_timeout",
    "unlearned_lwt",
    "clock_skew",
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
    let node = |fields: &mut Fields<'_>| fields.number("node", 0, 255).map(|node| node as usize);
    match stage {
        Stage::Request => {
            rule.statement = fields.text("statement").map(Pattern::new);
            rule.node = node(&mut fields);
        }
        Stage::Clock => rule.node = node(&mut fields),
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
        "duplicate_log_rows" => Effect::DuplicateLogRows(fields.delay("delay_milliseconds")),
        "lost_log_rows" => Effect::LostLogRows,
        "write_timeout" => Effect::WriteTimeout(after_timeout(fields)),
        "unlearned_lwt" => Effect::UnlearnedLwt,
        "clock_skew" => Effect::ClockSkew(clock_skew(fields)),
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

fn after_timeout(fields: &mut Fields<'_>) -> AfterTimeout {
    let applied = fields.required_flag("applied");
    let delay = fields.delay("delay_milliseconds");
    match (applied, delay.is_zero()) {
        (true, true) => AfterTimeout::Applied,
        (true, false) => AfterTimeout::Replayed(delay),
        (false, true) => AfterTimeout::Never,
        (false, false) => {
            fields.refuse("delay_milliseconds", "a delay only with \"applied\": true");
            AfterTimeout::Never
        }
    }
}

/// Microseconds; exactly one of two fields says in which direction.
fn clock_skew(fields: &mut Fields<'_>) -> i64 {
    let ahead = fields.delay("ahead_milliseconds").as_micros() as i64;
    let behind = fields.delay("behind_milliseconds").as_micros() as i64;
    if (ahead == 0) == (behind == 0) {
        fields.refuse(
            "ahead_milliseconds",
            "either this or behind_milliseconds, from 1 on",
        );
    }
    ahead - behind
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

impl RuleStatus {
    /// The rule as it could be given again, with `id` and `hits`.
    pub fn to_json(&self) -> Value {
        let mut out = self.rule.to_json();
        out["id"] = json!(self.id);
        out["hits"] = json!(self.hits);
        out
    }
}

impl Rule {
    pub fn to_json(&self) -> Value {
        let mut out =
            json!({ "kind": self.effect.kind(), "share_percent": self.share_percent, "seed": self.seed });
        let milliseconds = |duration: &Duration| json!(duration.as_millis() as u64);
        match &self.effect {
            Effect::LateLogRows(delay) | Effect::Slow(delay) => {
                out["delay_milliseconds"] = milliseconds(delay)
            }
            Effect::OldLogTime(back) => out["back_milliseconds"] = milliseconds(back),
            Effect::DuplicateLogRows(delay) if !delay.is_zero() => {
                out["delay_milliseconds"] = milliseconds(delay)
            }
            Effect::WriteTimeout(AfterTimeout::Never) => out["applied"] = json!(false),
            Effect::WriteTimeout(AfterTimeout::Applied) => out["applied"] = json!(true),
            Effect::WriteTimeout(AfterTimeout::Replayed(delay)) => {
                out["applied"] = json!(true);
                out["delay_milliseconds"] = milliseconds(delay);
            }
            Effect::ClockSkew(micros @ 0..) => out["ahead_milliseconds"] = json!(micros / 1_000),
            Effect::ClockSkew(micros) => out["behind_milliseconds"] = json!(-micros / 1_000),
            Effect::Error { error, executed } => {
                out["error"] = json!(error.as_str());
                out["executed"] = json!(executed);
            }
            Effect::DuplicateLogRows(_)
            | Effect::LostLogRows
            | Effect::UnlearnedLwt
            | Effect::MissingRows
            | Effect::NoAnswer
            | Effect::Disconnect => {}
        }
        let mut optional = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                out[key] = value;
            }
        };
        optional(
            "table",
            self.table.as_ref().map(|pattern| json!(pattern.as_str())),
        );
        optional(
            "statement",
            self.statement.as_ref().map(|pattern| json!(pattern.as_str())),
        );
        optional("contains", self.contains.as_ref().map(|text| json!(text)));
        optional("node", self.node.map(|node| json!(node)));
        optional("times", self.times.map(|times| json!(times)));
        out
    }
}

#[cfg(test)]
mod tests {
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
            Rule::duplicate_log_rows(Duration::ZERO),
            Rule::duplicate_log_rows(Duration::from_secs(1)).times(1),
            Rule::lost_log_rows().table("ks.t"),
            Rule::write_timeout(true).table("ks.t"),
            Rule::write_timeout(false),
            Rule::replayed_write(Duration::from_secs(4)).contains("e-7"),
            Rule::unlearned_lwt(),
            Rule::clock_ahead(Duration::from_secs(3)).node(1),
            Rule::clock_behind(Duration::from_millis(30)),
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
            json!({ "kind": "write_timeout", "applied": false, "delay_milliseconds": 5 }),
            &[("delay_milliseconds", "only with")],
        );
        check(
            json!({ "kind": "clock_skew", "table": "ks.t" }),
            &[
                ("ahead_milliseconds", "behind_milliseconds"),
                (
                    "table",
                    "for clock_skew: kind, ahead_milliseconds, behind_milliseconds, node",
                ),
            ],
        );
        check(
            json!({ "kind": "write_timeout", "times": 0 }),
            &[("applied", "true"), ("times", "from 1")],
        );
    }
}
