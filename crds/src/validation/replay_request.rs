//! A replay that is asked for once.

use super::Form;
use crate::names::is_request_id;
use crate::problems::{Found, Problems};
use crate::replay::ReplayRequest;

const PATH: &str = "deadLetter.replayRequest";

pub(super) fn check(request: &ReplayRequest, form: Form, problems: &mut Problems) {
    if form == Form::File {
        let accepted =
            "no request in a relay's own configuration: run outbox-relay dead-letters replay instead";
        problems.add(PATH, Found::Value("a section".to_owned()), accepted);
        return;
    }
    let path = format!("{PATH}.id");
    let accepted = "visible characters without spaces, as in 2026-01-31T12:00, another one for each request";
    if request.id.is_empty() && !problems.has(&path) {
        problems.missing(path, accepted);
    } else if !is_request_id(&request.id) && !problems.has(&path) {
        problems.refuse_text(path, &request.id, accepted);
    }
    for (field, text) in [
        ("eventId", &request.event_id),
        ("eventType", &request.event_type),
        ("aggregateId", &request.aggregate_id),
    ] {
        if text.as_ref().is_some_and(String::is_empty) {
            problems.refuse_text(
                format!("{PATH}.{field}"),
                "",
                "a text that is not empty, or no such field",
            );
        }
    }
    // What was given and could not be read is told already.
    if request.is_without_filter() && !problems.has(PATH) {
        let accepted = "a filter: eventId, eventType, aggregateId, class, or olderThanSeconds, of which 0 takes all letters";
        problems.add(PATH, Found::Value("no filter".to_owned()), accepted);
    }
}
