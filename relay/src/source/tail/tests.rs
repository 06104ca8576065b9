//! The tail against a model of the log: rows have a time at which they become visible, queries take time and fail,
//! pages are short. Every run checks that nothing is lost, that each row is handed over once, that the order per
//! aggregate holds, that `late` is told exactly, and that no bound passes a row that is not resolved.

mod sim;

use sim::{MS, START, Sim, World};

use super::*;

/// Rows of `tokens` aggregates, one every `every` from `from` for `count`, visible `delay(i)` after their time.
fn write(
    world: &mut World,
    from: Micros,
    every: Micros,
    count: usize,
    mut delay: impl FnMut(usize) -> Micros,
) {
    for i in 0..count {
        let time = from + every * i as Micros;
        world.write(i as u64 % 17, time, time + delay(i));
    }
}

#[test]
fn prompt_rows_are_handed_over_within_milliseconds() {
    let mut world = World::one_set(8);
    write(&mut world, START + SECOND, 2 * MS, 2000, |_| MS);
    let report = Sim::new(world, 1).run(START + 20 * SECOND);
    report.check();
    assert!(report.worst_delay <= 15 * MS, "{report:?}");
    assert_eq!(report.late, 0);
}

#[test]
fn a_row_that_surfaces_late_is_found_within_ten_times_its_delay() {
    for delay in [5 * MS, 60 * MS, 300 * MS, 2 * SECOND, 20 * SECOND, 150 * SECOND] {
        let mut world = World::one_set(8);
        write(&mut world, START + SECOND, 20 * MS, 1000, |i| {
            if i % 100 == 50 { delay } else { MS }
        });
        let report = Sim::new(world, 2)
            .with_horizon(180 * SECOND)
            .run(START + 400 * SECOND);
        report.check();
        let bound = 12 * delay + 50 * MS;
        assert!(report.worst_delay <= bound, "{delay}: {report:?}");
    }
}

#[test]
fn a_busy_stream_with_rows_out_of_order_keeps_each_aggregate_in_order() {
    let mut world = World::one_set(2);
    let mut rng = sim::rng(3);
    write(&mut world, START + SECOND, MS / 2, 10_000, |_| {
        sim::below(&mut rng, 40) * MS
    });
    let report = Sim::new(world, 3).with_pages(50).run(START + 60 * SECOND);
    report.check();
    assert!(
        report.late > 0,
        "seventeen aggregates overtake each other: {report:?}"
    );
}

#[test]
fn idle_streams_are_swept_and_their_late_rows_found() {
    let mut world = World::one_set(8);
    world.write(1, START + SECOND, START + SECOND);
    world.write(2, START + 50 * SECOND, START + 75 * SECOND);
    let mut sim = Sim::new(world, 4);
    let report = sim.run(START + 120 * SECOND);
    report.check();
    assert!(sim.bound() >= START + 80 * SECOND, "{}", sim.bound() - START);
    assert!(report.queries("aged") < 400, "{report:?}");
}

#[test]
fn rows_dated_ahead_hide_nothing() {
    let mut world = World::one_set(4);
    write(&mut world, START + SECOND, 10 * MS, 1000, |i| {
        if i % 10 == 0 { -5 * SECOND } else { MS }
    });
    Sim::new(world, 5).run(START + 70 * SECOND).check();
}

#[test]
fn a_backlog_is_read_once_and_evenly() {
    let mut world = World::one_set(8);
    write(&mut world, START - 3600 * SECOND, 30 * MS, 100_000, |_| MS);
    let mut sim = Sim::new(world, 6).starting_at(START - 3600 * SECOND);
    let report = sim.run(START + 60 * SECOND);
    report.check();
    assert!(report.rows_read < 130_000, "{report:?}");
    assert!(report.most_ids < 60_000, "the bounds follow: {report:?}");
}

#[test]
fn a_new_set_keeps_the_order_whatever_the_coordinators_do() {
    for (seed, published) in [
        (7, START + 2 * SECOND),
        (8, START + 65 * SECOND),
        (9, START + 130 * SECOND),
    ] {
        let mut world = World::one_set(8);
        world.add_set(START + 60 * SECOND, published, 5);
        let mut rng = sim::rng(seed);
        for i in 0..4000 {
            let time = START + 50 * SECOND + i * 5 * MS;
            // A coordinator that learns of the set late writes to the old streams for three seconds more.
            let slow = time < START + 63 * SECOND && sim::below(&mut rng, 3) == 0;
            let visible = time + sim::below(&mut rng, 30) * MS;
            if slow {
                world.write_old(i as u64 % 23, time, visible);
            } else {
                world.write(i as u64 % 23, time, visible);
            }
        }
        Sim::new(world, seed).run(START + 240 * SECOND).check();
    }
}

#[test]
fn a_row_in_a_closed_stream_is_found_wherever_it_is_dated() {
    let mut world = World::one_set(4);
    world.add_set(START + 5 * SECOND, START, 4);
    world.write(1, START + SECOND, START + SECOND + MS);
    // Late, within the horizon of the switch, and dated where the closed streams are not swept before it is over.
    world.write_old(2, START + 20 * SECOND, START + 34 * SECOND);
    // What was seen of later times hides it from reads that go by the newest.
    world.write_old(3, START + 30 * SECOND, START + 30 * SECOND + MS);
    Sim::new(world, 1).run(START + 120 * SECOND).check();
}

#[test]
fn sets_that_follow_each_other_within_the_horizon_keep_the_order() {
    let mut world = World::one_set(4);
    for (i, streams) in [(1, 8), (2, 3), (3, 16)] {
        world.add_set(
            START + i * 20 * SECOND,
            START + i * 20 * SECOND - 10 * SECOND,
            streams,
        );
    }
    let mut rng = sim::rng(10);
    write(&mut world, START + 10 * SECOND, 10 * MS, 8000, |_| {
        sim::below(&mut rng, 100) * MS
    });
    Sim::new(world, 10).run(START + 170 * SECOND).check();
}

#[test]
fn a_start_in_the_past_reads_the_sets_in_order() {
    let mut world = World::one_set(4);
    world.add_set(START - 2000 * SECOND, START - 2000 * SECOND, 6);
    world.add_set(START - 1000 * SECOND, START - 1000 * SECOND, 4);
    write(&mut world, START - 3000 * SECOND, 100 * MS, 30_000, |_| MS);
    let report = Sim::new(world, 11)
        .starting_at(START - 3000 * SECOND)
        .run(START + 70 * SECOND);
    report.check();
    assert_eq!(report.late, 0);
}

#[test]
fn records_cut_by_pages_stay_whole() {
    let mut world = World::one_set(2);
    for i in 0..600 {
        world.write_rows(i % 7, START + SECOND + i as Micros * MS, 1 + (i % 5) as i32);
    }
    Sim::new(world, 12).with_pages(3).run(START + 60 * SECOND).check();
}

#[test]
fn failing_queries_lose_nothing() {
    let mut world = World::one_set(8);
    let mut rng = sim::rng(13);
    write(&mut world, START + SECOND, 5 * MS, 4000, |_| {
        sim::below(&mut rng, 3000) * MS
    });
    Sim::new(world, 13)
        .with_failures(30)
        .with_pages(100)
        .run(START + 100 * SECOND)
        .check();
}

#[test]
fn a_slot_that_was_taken_over_begins_at_its_bound() {
    let mut world = World::one_set(4);
    write(&mut world, START + SECOND, 10 * MS, 9000, |_| 2 * MS);
    let mut sim = Sim::new(world, 14).owning(SlotSet::of_share(1, 2));
    sim.run(START + 60 * SECOND);
    sim.add(SlotSet::of_share(2, 2), START);
    sim.run(START + 170 * SECOND).check();
}

#[test]
fn a_slot_that_was_lost_and_won_again_is_read_from_its_checkpoint() {
    let mut world = World::one_set(4);
    write(&mut world, START + SECOND, 4 * MS, 10_000, |_| 2 * MS);
    let mut sim = Sim::new(world, 15);
    for round in 1..=4 {
        sim.run(START + round * 8 * SECOND + 300 * MS);
        for slot in SlotId::all().skip(round as usize).step_by(3) {
            sim.reopen(slot);
        }
    }
    sim.run(START + 100 * SECOND).check();
}

#[test]
fn released_events_come_again() {
    let mut world = World::one_set(4);
    write(&mut world, START - 60 * SECOND, 10 * MS, 10_000, |_| 2 * MS);
    Sim::new(world, 16)
        .starting_at(START - 100 * SECOND)
        .with_releases(5)
        .run(START + 100 * SECOND)
        .check();
}

#[test]
fn a_crash_repeats_only_what_was_not_saved() {
    for seed in 20..26 {
        let mut world = World::one_set(4);
        let mut rng = sim::rng(seed);
        write(&mut world, START + SECOND, 4 * MS, 10_000, |_| {
            match sim::below(&mut rng, 100) {
                0 => sim::below(&mut rng, 25_000) * MS,
                _ => sim::below(&mut rng, 10) * MS,
            }
        });
        let mut sim = Sim::new(world, seed);
        for crash in 1..=3 {
            sim.run(START + crash * 11 * SECOND);
            sim.crash();
        }
        sim.run(START + 130 * SECOND).check();
    }
}

#[test]
fn whatever_happens_together() {
    for seed in 100..112 {
        let mut rng = sim::rng(seed);
        let mut world = World::one_set(1 + sim::below(&mut rng, 12) as u64);
        for i in 1..=sim::below(&mut rng, 3) {
            let start = START + i * 30 * SECOND;
            let published = start - 10 * SECOND + sim::below(&mut rng, 45) * SECOND;
            world.add_set(start, published, 1 + sim::below(&mut rng, 12) as u64);
        }
        for i in 0..5000 {
            let time = START + SECOND + i * 20 * MS + sim::below(&mut rng, 20_000);
            let visible = time
                + match sim::below(&mut rng, 50) {
                    0 => sim::below(&mut rng, 28_000) * MS,
                    1..5 => -sim::below(&mut rng, 5000) * MS,
                    _ => sim::below(&mut rng, 15) * MS,
                };
            world.write(sim::below(&mut rng, 40) as u64, time, visible);
        }
        let mut sim = Sim::new(world, seed)
            .with_pages(1 + sim::below(&mut rng, 200) as usize)
            .with_failures(sim::below(&mut rng, 15) as u32);
        for _ in 0..3 {
            let until = sim.now() + sim::below(&mut rng, 60) * SECOND;
            sim.run(until);
            sim.crash();
        }
        sim.run(START + 260 * SECOND).check();
    }
}

#[test]
fn a_set_that_is_published_late_survives_a_crash() {
    // The horizon is 30 s: when the set is learned, its first rows lie below the bounds.
    let published = START + 100 * SECOND;
    for (seed, (dies, starts)) in [
        (published - SECOND, published + SECOND),
        (published - 20 * SECOND, published + 40 * SECOND),
        (published + SECOND + 10 * MS, published + SECOND + 20 * MS),
        (published + SECOND + 500 * MS, published + SECOND + 900 * MS),
        (published + 3 * SECOND, published + 4 * SECOND),
    ]
    .into_iter()
    .enumerate()
    {
        let mut world = World::one_set(4);
        world.add_set(START + 20 * SECOND, published, 6);
        write(&mut world, START + SECOND, 10 * MS, 15_000, |_| 2 * MS);
        let mut sim = Sim::new(world, 30 + seed as u64);
        sim.run(dies);
        sim.down(starts);
        sim.run(START + 250 * SECOND).check();
    }
}

#[test]
fn a_slot_taken_over_accounts_for_sets_that_its_former_owner_did_not_know() {
    let mut world = World::one_set(4);
    world.add_set(START + 20 * SECOND, START + 90 * SECOND, 6);
    write(&mut world, START + SECOND, 10 * MS, 15_000, |_| 2 * MS);
    let mut sim = Sim::new(world, 36);
    sim.run(START + 80 * SECOND);
    sim.lose(SlotSet::of_share(2, 2));
    sim.run(START + 120 * SECOND);
    sim.win(SlotSet::of_share(2, 2));
    sim.run(START + 250 * SECOND).check();
}

#[test]
fn late_is_told_exactly_when_a_former_owner_saw_deletes() {
    for seed in 40..44 {
        let mut world = World::one_set(3);
        let mut rng = sim::rng(seed);
        for i in 0..4000 {
            let (aggregate, time) = (i as u64 % 11, START + SECOND + i * 10 * MS);
            let delay = match sim::below(&mut rng, 20) {
                0 => sim::below(&mut rng, 4000) * MS,
                _ => MS,
            };
            world.write(aggregate, time, time + delay);
            world.delete(aggregate, time + 3 * MS);
        }
        let mut sim = Sim::new(world, seed);
        for crash in 1..=8 {
            sim.run(START + crash * 4700 * MS);
            sim.crash();
        }
        sim.run(START + 130 * SECOND).check();
    }
}

#[test]
fn a_record_without_its_end_is_delivered_after_the_horizon_and_holds_nothing_up() {
    let mut world = World::one_set(2);
    for i in 0..20 {
        world.write_broken(i, START + 2 * SECOND + i as Micros * 100 * MS, None);
    }
    // More than a slice holds lies behind them, some of it late.
    write(&mut world, START + SECOND, MS, 30_000, |i| {
        if i % 1000 == 500 { 2 * SECOND } else { MS }
    });
    let mut sim = Sim::new(world, 50);
    let report = sim.run(START + 34 * SECOND);
    assert_eq!(sim.broken(), 0);
    assert!(report.worst_delay <= 24 * SECOND, "{report:?}");
    let report = sim.run(START + 60 * SECOND);
    report.check();
    assert_eq!(sim.broken(), 20);
    assert!(report.worst_delay <= 50 * SECOND, "{report:?}");
    assert!(sim.bound() > START + 20 * SECOND, "{}", sim.bound() - START);
}

#[test]
fn a_record_whose_end_surfaces_within_the_horizon_is_whole() {
    let mut world = World::one_set(2);
    for i in 0..200_u64 {
        let time = START + SECOND + i as Micros * 20 * MS;
        world.write_broken(
            i % 7,
            time,
            Some(time + 1 + (i as Micros * 137 * MS) % (25 * SECOND)),
        );
    }
    let mut sim = Sim::new(world, 51);
    sim.run(START + 120 * SECOND).check();
    assert_eq!(sim.broken(), 0);
}

#[test]
fn a_short_budget_starves_no_cursor() {
    let mut world = World::one_set(8);
    write(&mut world, START + SECOND, 5 * MS, 8_000, |i| {
        if i % 500 == 250 { 3 * SECOND } else { MS }
    });
    let mut sim = Sim::new(world, 52).with_spacing(25 * MS);
    let report = sim.run(START + 100 * SECOND);
    report.check();
    assert!(report.worst_delay <= 30 * SECOND, "{report:?}");
    assert!(sim.bound() > START + 20 * SECOND, "{}", sim.bound() - START);
}
