use super::*;

/// Committed events of the test's aggregates: aggregate, sequence. The event id follows from both.
fn journal(events: &[(u128, i64)]) -> Vec<Entry> {
    events
        .iter()
        .map(|&(aggregate, sequence)| Entry {
            event_id: event(aggregate, sequence),
            aggregate_id: Uuid::from_u128(aggregate),
            sequence,
            scheduled_us: 1_000,
            committed_us: Some(2_000),
            outcome: Outcome::Committed,
            digest: Some(CONTENT),
        })
        .collect()
}

/// Digest of what every event holds.
const CONTENT: u64 = 7;

fn event(aggregate: u128, sequence: i64) -> Uuid {
    Uuid::from_u128(aggregate << 64 | sequence as u128)
}

/// Messages in the order of one partition.
fn topic(ids: &[Uuid]) -> Vec<Sighting> {
    let sighting = |(offset, id): (usize, &Uuid)| Sighting {
        partition: 0,
        offset: offset as i64,
        event_id: Some(*id),
        digest: CONTENT,
        marks: Marks::default(),
        appended_us: None,
        consumed_us: Some(3_000),
    };
    ids.iter().enumerate().map(sighting).collect()
}

const COMMITTED: [(u128, i64); 4] = [(1, 1), (1, 2), (2, 1), (1, 3)];

struct Case {
    name: &'static str,
    journal: Vec<Entry>,
    gaps: &'static [&'static str],
    topic: Vec<Sighting>,
    dead_letters: Vec<Uuid>,
    bounds: Bounds,
    violations: &'static [&'static str],
}

/// A clean run, for cases to differ from.
fn clean(name: &'static str) -> Case {
    Case {
        name,
        journal: journal(&COMMITTED),
        gaps: &[],
        topic: topic(&COMMITTED.map(|(aggregate, sequence)| event(aggregate, sequence))),
        dead_letters: Vec::new(),
        bounds: Bounds::default(),
        violations: &[],
    }
}

fn check(case: Case) {
    let journal = Journal {
        entries: case.journal,
        gaps: case.gaps.iter().map(ToString::to_string).collect(),
    };
    let report = verify(&journal, &case.topic, &case.dead_letters, &case.bounds);
    assert_eq!(report.violations, case.violations, "{}:\n{report}", case.name);
}

fn repeated() -> Vec<Sighting> {
    topic(&[event(1, 1), event(1, 2), event(1, 1), event(2, 1), event(1, 3)])
}

fn whole(events: &[(u128, i64)]) -> Journal {
    Journal {
        entries: journal(events),
        gaps: Vec::new(),
    }
}

fn swapped(marks: Marks) -> Vec<Sighting> {
    let mut swapped = topic(&[event(1, 2), event(1, 1), event(2, 1), event(1, 3)]);
    swapped[1].marks = marks;
    swapped
}

#[test]
fn what_must_not_be_missing_or_there_twice() {
    check(clean("everything arrived"));
    check(Case {
        topic: Vec::new(),
        journal: Vec::new(),
        violations: &["nothing was committed, so nothing was tested"],
        ..clean("nothing committed")
    });
    check(Case {
        topic: topic(&[event(1, 1), event(2, 1), event(1, 3)]),
        violations: &["1 lost, at most 0 allowed"],
        ..clean("lost")
    });
    check(Case {
        topic: repeated(),
        violations: &["1 duplicated, at most 0 allowed"],
        ..clean("repeat")
    });
    check(Case {
        topic: repeated(),
        bounds: Bounds {
            duplicates: 1,
            ..Bounds::default()
        },
        ..clean("repeat within the bound, after later events")
    });
    check(Case {
        topic: [topic(&[event(9, 9)]), clean("").topic]
            .concat()
            .into_iter()
            .enumerate()
            .map(|(offset, sighting)| Sighting {
                offset: offset as i64,
                ..sighting
            })
            .collect(),
        violations: &["1 foreign, at most 0 allowed"],
        ..clean("foreign event")
    });
    let mut nameless = clean("").topic;
    nameless.push(Sighting {
        offset: 99,
        event_id: None,
        ..nameless[0]
    });
    check(Case {
        topic: nameless,
        violations: &["1 foreign, at most 0 allowed"],
        ..clean("no event id")
    });
    let again = [clean("").topic, clean("").topic].concat();
    check(Case {
        topic: again,
        ..clean("the same records received twice")
    });
}

#[test]
fn order_is_that_of_first_appearances() {
    check(Case {
        topic: swapped(Marks::default()),
        violations: &["1 reordered, at most 0 allowed"],
        ..clean("swapped")
    });
    check(Case {
        topic: swapped(Marks::default()),
        bounds: Bounds {
            ordered: false,
            ..Bounds::default()
        },
        ..clean("swapped where no order is promised")
    });
    check(Case {
        topic: swapped(Marks {
            late: true,
            ..Marks::default()
        }),
        violations: &["1 late, at most 0 allowed"],
        ..clean("late beyond the bound")
    });
    check(Case {
        topic: swapped(Marks {
            late: true,
            ..Marks::default()
        }),
        bounds: Bounds {
            late: 1,
            ..Bounds::default()
        },
        ..clean("late within the bound")
    });
    check(Case {
        topic: swapped(Marks {
            replayed: true,
            ..Marks::default()
        }),
        bounds: Bounds {
            replayed: 1,
            ..Bounds::default()
        },
        ..clean("replayed")
    });
    check(Case {
        topic: swapped(Marks {
            replayed: true,
            reconciled: true,
            ..Marks::default()
        }),
        violations: &["1 replayed, at most 0 allowed", "1 reconciled, at most 0 allowed"],
        ..clean("a mark that nobody expected excuses nothing")
    });
    let mut scattered = clean("").topic;
    scattered[3].partition = 1;
    check(Case {
        topic: scattered,
        violations: &["1 scattered over partitions, at most 0 allowed"],
        ..clean("an aggregate in two partitions")
    });
    let mut shuffled = clean("").topic;
    shuffled.reverse();
    check(Case {
        topic: shuffled,
        ..clean("received out of log order")
    });
}

#[test]
fn dead_letters_are_neither_lost_nor_delivered() {
    let without_last = || topic(&[event(1, 1), event(1, 2), event(2, 1)]);
    let one = Bounds {
        dead_letters: 1..=1,
        ..Bounds::default()
    };
    check(Case {
        topic: without_last(),
        dead_letters: vec![event(1, 3)],
        bounds: one.clone(),
        ..clean("the expected dead letter")
    });
    check(Case {
        topic: without_last(),
        dead_letters: vec![event(1, 3)],
        violations: &["1 dead-lettered, at most 0 allowed"],
        ..clean("an unexpected dead letter")
    });
    check(Case {
        bounds: one.clone(),
        violations: &["0 dead-lettered, at least 1 expected"],
        ..clean("a missing dead letter")
    });
    check(Case {
        dead_letters: vec![event(1, 3)],
        violations: &["1 duplicated, at most 0 allowed"],
        ..clean("delivered and dead-lettered")
    });
    check(Case {
        topic: without_last(),
        dead_letters: vec![event(1, 3), event(1, 3)],
        bounds: one.clone(),
        violations: &["1 duplicated, at most 0 allowed"],
        ..clean("dead-lettered twice")
    });
    check(Case {
        dead_letters: vec![event(9, 9)],
        violations: &["1 foreign, at most 0 allowed"],
        ..clean("a foreign dead letter")
    });
    let mut replayed = clean("").topic;
    replayed[3].marks.replayed = true;
    check(Case {
        topic: replayed,
        dead_letters: vec![event(1, 3)],
        bounds: Bounds {
            replayed: 1,
            ..Bounds::default()
        },
        ..clean("replayed dead letter")
    });
}

#[test]
fn a_write_of_unknown_outcome_may_arrive() {
    let mut unknown = journal(&COMMITTED);
    unknown[3].outcome = Outcome::Unknown;
    check(Case {
        journal: unknown.clone(),
        ..clean("it did")
    });
    check(Case {
        journal: unknown,
        topic: topic(&[event(1, 1), event(1, 2), event(2, 1)]),
        ..clean("it did not")
    });
}

#[test]
fn a_journal_that_repeats_itself_proves_nothing() {
    let same_place = [
        journal(&COMMITTED),
        vec![Entry {
            event_id: event(5, 5),
            ..journal(&COMMITTED)[0]
        }],
    ]
    .concat();
    check(Case {
        journal: same_place,
        topic: [
            clean("").topic,
            vec![Sighting {
                offset: 50,
                event_id: Some(event(5, 5)),
                ..clean("").topic[0]
            }],
        ]
        .concat(),
        violations: &[
            "1 faults of the journal, at most 0 allowed",
            "1 reordered, at most 0 allowed",
        ],
        ..clean("two events at one place")
    });
}

#[test]
fn what_a_killed_load_did_not_note_cannot_be_missed() {
    check(Case {
        gaps: &["the load did not end"],
        violations: &["1 faults of the journal, at most 0 allowed"],
        ..clean("a gap in the journal")
    });
    let five = Bounds {
        committed: 5,
        ..Bounds::default()
    };
    check(Case {
        bounds: five,
        violations: &["4 committed, at least 5 expected"],
        ..clean("hardly anything committed")
    });
}

#[test]
fn an_event_arrives_as_it_was_written() {
    let mut altered = clean("").topic;
    altered[2].digest = CONTENT + 1;
    check(Case {
        topic: altered.clone(),
        violations: &["1 altered, at most 0 allowed"],
        ..clean("another payload")
    });
    let mut unknown = journal(&COMMITTED);
    unknown[2].digest = None;
    check(Case {
        journal: unknown,
        topic: altered,
        ..clean("a payload that the journal does not know")
    });
}

#[test]
fn latency_counts_first_appearances_of_a_live_consumer() {
    let mut messages = repeated();
    messages[0].consumed_us = None;
    messages[1].consumed_us = Some(1_500);
    let report = verify(&whole(&COMMITTED), &messages, &[], &Bounds::default());
    let latency = report.latency.summary();
    let consumption = latency.commit_to_consumption_ms.unwrap();
    assert_eq!(
        (consumption.count, consumption.p50, consumption.max),
        (3, 1.0, 1.0)
    );
    let before_the_answer = latency.schedule_to_consumption_ms.unwrap();
    assert_eq!((before_the_answer.count, before_the_answer.max), (3, 2.0));
    assert_eq!(latency.commit_to_append_ms, None);
}

#[test]
fn the_report_reads_as_table_and_as_json() {
    let case = Case {
        topic: topic(&[event(1, 1), event(2, 1), event(1, 3)]),
        ..clean("lost")
    };
    let report = verify(&whole(&COMMITTED), &case.topic, &[], &Bounds::default());
    let table = report.to_string();
    assert!(
        table.contains(&event(1, 2).to_string()) && table.contains("FAIL\n  1 lost"),
        "{table}"
    );
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["clean"], false);
    assert_eq!(
        (&json["lost"], &json["delivered"]),
        (&serde_json::json!(1), &serde_json::json!(3))
    );
    assert_eq!(json["lost_examples"].as_array().unwrap().len(), 1);
}

#[test]
fn the_readme_shows_the_report_as_it_is() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let case = clean("");
    let report = verify(&whole(&COMMITTED), &case.topic, &[], &Bounds::default());
    let shown = |table: &str| -> Vec<String> {
        table
            .lines()
            .skip_while(|line| !line.starts_with("events  "))
            .take_while(|line| !line.starts_with("latency"))
            .map(|line| line.split("  ").next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(shown(&readme), shown(&report.to_string()));
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    /// Three aggregates of eight events.
    fn all() -> Vec<(u128, i64)> {
        (1..=3)
            .flat_map(|aggregate| (1..=8).map(move |sequence| (aggregate, sequence)))
            .collect()
    }

    /// Any sequence of these events: some missing, some repeated, in any order.
    fn arrivals() -> impl Strategy<Value = Vec<(u128, i64)>> {
        proptest::collection::vec(proptest::sample::select(all()), 0..40)
    }

    proptest! {
        /// The counts are what their definitions say, written down the slow way.
        #[test]
        fn counts_are_what_their_definitions_say(arrived in arrivals()) {
            let ids: Vec<Uuid> = arrived.iter().map(|&(aggregate, sequence)| event(aggregate, sequence)).collect();
            let report = verify(&whole(&all()), &topic(&ids), &[], &Bounds::default());

            let first = |index: usize| !arrived[..index].contains(&arrived[index]);
            let overtaken = |index: usize| {
                let (aggregate, sequence) = arrived[index];
                arrived[..index].iter().any(|&(other, later)| other == aggregate && later > sequence)
            };
            let count = |fits: &dyn Fn(usize) -> bool| (0..arrived.len()).filter(|&index| fits(index)).count() as u64;
            prop_assert_eq!(report.lost.count, all().iter().filter(|event| !arrived.contains(event)).count() as u64);
            prop_assert_eq!(report.duplicated.count, count(&|index| !first(index)));
            prop_assert_eq!(report.reordered.count, count(&|index| first(index) && overtaken(index)));
            prop_assert_eq!(report.delivered, count(&first));
            prop_assert_eq!(report.foreign.count, 0);
        }
    }
}
