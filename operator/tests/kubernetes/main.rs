//! The operator on a real control plane: etcd, kube-apiserver, kube-controller-manager and kube-scheduler. It runs as a
//! process of its own with the rights of its own service account.
//!
//! There is no kubelet, so no container runs. [`played`] plays what is missing: it says that pods run, and answers
//! `/status` where the relays would.
//!
//! Cases wait for others far more than they work, so more of them run side by side than there are cores: that takes a
//! harness of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends at the first thing that is not as it must be"
)]

mod autoscaling;
mod bench;
mod changes;
mod children;
mod cluster;
mod definition;
mod deletion;
mod jobs;
mod outages;
mod played;
mod quiet;
mod replay;
mod running;
mod sidecar;
mod truth;
mod upgrade;

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Builder;

/// Cases side by side unless `--test-threads` says otherwise. Each has an operator of its own; with more of them the
/// control plane answers so slowly on two cores that nothing is won.
const SIDE_BY_SIDE: usize = 12;

/// Each case by its name; one that is not named here is code that nobody calls, which the lints refuse.
macro_rules! cases {
    ($($module:ident: $($case:ident)+;)+) => {
        vec![$($(
            Trial::test(concat!(stringify!($module), "::", stringify!($case)), || {
                let runtime = Builder::new_current_thread().enable_all().build()?;
                runtime.block_on($module::$case());
                Ok(())
            }),
        )+)+]
    };
}

fn main() {
    // The longest ones first.
    let mut cases = cases! {
        autoscaling: shares_follow_the_lag_and_nobody_reads_it_without_permission;
        quiet: in_ten_minutes_without_a_change_nothing_is_written under_load_a_status_is_written_once_in_ten_seconds;
        truth:
            nothing_new_is_not_written_and_numbers_are_written_rarely
            what_relays_say_and_do_not_say_is_told
            a_data_event_becomes_one_kubernetes_event_also_across_a_restart;
        outages:
            while_the_api_server_is_away_relays_run_on_and_afterwards_an_operator_works
            when_the_leader_is_killed_another_one_takes_over;
        deletion:
            a_job_that_fails_is_told_of_and_there_is_a_way_out
            state_goes_by_a_job_after_the_relays_have_stopped
            a_namespace_that_is_deleted_is_not_held_up
            only_a_resource_whose_state_is_to_go_has_a_finalizer;
        replay:
            a_request_is_carried_out_once_and_told_whoever_leads
            a_request_waits_while_paused_and_a_job_that_is_deleted_is_not_made_again
            beside_sidecars_a_job_has_what_it_needs_and_leaves_nothing
            a_resource_that_goes_with_its_state_takes_its_replay_along;
        upgrade: resources_of_every_older_definition_go_on_with_the_present_one;
        sidecar:
            from_one_placement_to_the_other_the_former_drains_first
            the_applications_pods_are_found_configured_and_told_of
            a_rotated_secret_is_no_reason_to_restart_sidecars;
        changes:
            a_restart_goes_from_share_to_share_each_ready_before_the_next
            a_broken_reference_leaves_what_runs_and_a_rotated_secret_rolls_it
            scaling_starts_the_new_shares_when_the_last_old_one_has_stopped
            what_only_a_relay_sees_to_be_wrong_stops_at_the_first_share
            what_only_the_operator_sees_to_be_wrong_becomes_a_condition
            pausing_stops_all_shares_and_resuming_starts_them;
        children:
            five_fields_become_a_relay_that_is_ready_and_deletion_leaves_nothing
            what_belongs_to_somebody_else_is_not_touched
            children_that_others_change_or_remove_become_as_they_must_be;
        definition:
            every_sample_is_accepted
            envelopes_that_do_not_fit_together_are_refused
            secrets_that_are_half_named_are_refused
            replays_that_cannot_be_are_refused
            what_is_wrong_is_refused_with_what_would_be_right
            names_that_fit_no_service_and_what_is_missing_are_refused
            what_is_the_key_of_progress_cannot_change;
    };
    let bench = Trial::test("bench::a_thousand_resources", || {
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(bench::a_thousand_resources());
        Ok(())
    });
    // Takes minutes: make bench-operator.
    cases.push(bench.with_ignored_flag(true));
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(SIDE_BY_SIDE);
    libtest_mimic::run(&arguments, cases).exit();
}
