//! Each state of a request, its Job and the status, and what comes of it.

use super::*;
use k8s_openapi::jiff::Timestamp;

fn request(id: &str) -> ReplayRequest {
    ReplayRequest {
        id: id.to_owned(),
        ..ReplayRequest::default()
    }
}

fn known(id: &str, phase: ReplayPhase) -> ReplayStatus {
    ReplayStatus {
        id: id.to_owned(),
        phase,
        job: Some(format!("job-{id}")),
        ..ReplayStatus::default()
    }
}

fn at(second: i64) -> Option<Time> {
    Some(Time(Timestamp::from_second(second).unwrap()))
}

fn runs() -> SeenJob {
    SeenJob::Runs {
        since: at(10),
        waits: None,
    }
}

fn ends(complete: bool, said: Option<&str>) -> SeenJob {
    SeenJob::Ended(End {
        since: at(10),
        at: at(20),
        complete,
        said: said.map(str::to_owned),
        why: Some("Job was active longer than specified deadline".to_owned()),
    })
}

fn after(request: Option<&ReplayRequest>, known: Option<&ReplayStatus>, seen: SeenJob) -> Next {
    next(request, known, seen, None, |id| format!("job-{id}"))
}

/// Id, phase, message, and whether the Job is made.
fn told(next: Next) -> String {
    let make = if next.make { ", make" } else { "" };
    match next.status {
        None => "nothing".to_owned(),
        Some(status) => format!(
            "{} {:?} {}{make}",
            status.id,
            status.phase,
            status.message.unwrap_or_default()
        ),
    }
}

#[rustfmt::skip]
#[test]
fn an_id_is_taken_up_first_has_one_job_then_and_ends_once() {
    use ReplayPhase::{Failed, Pending, Running, Succeeded};
    let (a, b) = (request("a"), request("b"));
    let result = r#"{"letters":3,"replayed":3,"failed":0,"waiting":0,"refused":0}"#;
    let waits = SeenJob::Runs { since: None, waits: Some("its pod waits: ErrImagePull".to_owned()) };
    for (request, known, seen, expected) in [
        (None, None, SeenJob::Unasked, "nothing"),
        // The status says so before there is a Job.
        (Some(&a), None, SeenJob::Unasked, "a Pending "),
        (Some(&a), Some(known("a", Pending)), SeenJob::Absent, "a Pending , make"),
        // Somebody made it and could not say so.
        (Some(&a), Some(known("a", Pending)), runs(), "a Running "),
        (Some(&a), Some(known("a", Pending)), ends(true, Some(result)), "a Succeeded "),
        (Some(&a), Some(known("a", Running)), waits, "a Running its pod waits: ErrImagePull"),
        (Some(&a), Some(known("a", Running)), SeenJob::Unknown("no answer".to_owned()), "a Running no answer"),
        (Some(&a), Some(known("a", Pending)), SeenJob::Foreign, "a Pending a Job of its name belongs to somebody else"),
        // Never made a second time.
        (Some(&a), Some(known("a", Running)), SeenJob::Absent, &format!("a Failed {DELETED}")),
        (Some(&a), Some(known("a", Failed)), SeenJob::Unasked, "a Failed "),
        (Some(&a), Some(known("a", Succeeded)), SeenJob::Unasked, "a Succeeded "),
        // What runs ends before another one is taken up, also if nobody asks for it any more.
        (Some(&b), Some(known("a", Running)), runs(), "a Running "),
        (None, Some(known("a", Running)), runs(), "a Running "),
        (Some(&b), Some(known("a", Succeeded)), SeenJob::Unasked, "b Pending "),
        (None, Some(known("a", Succeeded)), SeenJob::Unasked, "a Succeeded "),
        // What did not begin is given up.
        (Some(&b), Some(known("a", Pending)), SeenJob::Absent, "b Pending "),
        (None, Some(known("a", Pending)), SeenJob::Absent, "a Failed it was taken out of the resource before it began"),
    ] {
        assert_eq!(told(after(request, known.as_ref(), seen.clone())), expected, "{known:?} {seen:?}");
    }
    let hindered = next(Some(&a), Some(&known("a", Pending)), SeenJob::Absent, Some("paused"), |_| String::new());
    assert_eq!(told(hindered), "a Pending paused");
    let named = after(Some(&b), None, SeenJob::Unasked).status.unwrap();
    assert_eq!(named.job.as_deref(), Some("job-b"));
}

#[test]
fn what_the_job_said_becomes_the_counts_or_the_reason() {
    let running = known("a", ReplayPhase::Running);
    let end = |complete, said| after(None, Some(&running), ends(complete, said)).status.unwrap();
    let told = end(
        false,
        Some(r#"{"letters":5,"replayed":2,"failed":1,"waiting":2,"refused":4,"message":"failed again: x"}"#),
    );
    assert_eq!(
        told,
        ReplayStatus {
            phase: ReplayPhase::Failed,
            started_at: at(10),
            completed_at: at(20),
            letters: Some(5),
            replayed: Some(2),
            failed: Some(1),
            waiting: Some(2),
            refused: Some(4),
            message: Some("failed again: x".to_owned()),
            ..running.clone()
        }
    );
    for (complete, said, expected) in [
        (
            false,
            Some("no session to scylla:9042"),
            "no session to scylla:9042",
        ),
        (false, None, "Job was active longer than specified deadline"),
        (true, None, "its pod is gone, and with it the number of letters"),
    ] {
        let told = end(complete, said);
        assert_eq!(
            (told.message.as_deref(), told.letters, told.job.as_deref()),
            (Some(expected), None, Some("job-a"))
        );
    }
}
