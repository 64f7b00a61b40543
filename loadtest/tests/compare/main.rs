//! The program compares servers of a few lines: these are this very program, under other names.
//!
//! So is a load generator that measures nothing and says what it is told to, for figures that are known beforehand.

mod demo;
mod ends;
mod fakes;
mod figures;
mod script;
mod support;

use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

fn main() -> ExitCode {
    let name = std::env::args_os().next().unwrap_or_default();
    match Path::new(&name).file_name().and_then(|name| name.to_str()) {
        Some("fake-server") => fakes::server::serve(),
        Some("fake-loadtest") => fakes::generate(),
        Some("ringback" | "tungstenite-echo") => fakes::server::serve_tungstenite(),
        _ => libtest_mimic::run(&arguments(), trials()).exit_code(),
    }
}

/// Those of the command line, and RUST_TEST_THREADS as the other test binaries take it.
fn arguments() -> Arguments {
    let mut arguments = Arguments::from_args();
    if arguments.test_threads.is_none() {
        let threads = std::env::var("RUST_TEST_THREADS").ok();
        arguments.test_threads =
            threads.map(|threads| threads.parse().expect("RUST_TEST_THREADS is a number"));
    }
    arguments
}

fn trials() -> Vec<Trial> {
    macro_rules! trials {
        ($($module:ident::$test:ident),* $(,)?) => {
            vec![$(Trial::test(concat!(stringify!($module), "::", stringify!($test)), || {
                $module::$test();
                Ok(())
            })),*]
        };
    }
    trials![
        demo::a_signal_ends_it_and_stops_the_servers,
        demo::it_compares_the_two_servers_beside_it,
        demo::missing_servers_are_told_in_one_line,
        demo::too_short_a_time_is_refused,
        ends::a_disk_that_is_full_is_not_the_servers_fault,
        ends::a_hangup_that_is_ignored_ends_nothing,
        ends::a_second_signal_kills_the_servers_at_once,
        ends::a_server_that_cannot_start_stops_the_others,
        ends::a_server_that_counts_nothing_fails_the_run,
        ends::a_server_that_ends_fails_the_run,
        ends::a_server_that_never_listens_fails_the_run,
        ends::a_slice_without_a_message_fails_the_run,
        ends::a_wrapper_is_no_server,
        ends::an_error_is_in_the_json_file_too,
        ends::any_error_of_an_echo_fails_the_run,
        ends::files_that_cannot_be_written_are_told_before_anything_is_measured,
        ends::mistakes_are_told_in_one_line_and_start_nothing,
        ends::servers_that_do_not_end_are_killed_at_the_same_time,
        ends::signals_stop_the_servers,
        ends::the_rounds_that_are_complete_are_told_in_every_form,
        ends::what_a_wrapper_leaves_is_stopped_too,
        ends::what_a_wrapper_starts_is_stopped_with_it,
        ends::what_is_not_a_report_fails_the_run,
        ends::wrong_echoes_are_found_by_the_generator_itself,
        figures::a_churn_is_counted_by_connections,
        figures::a_run_with_the_generator_itself,
        figures::an_open_loop_is_judged_by_its_latency,
        figures::equals_are_said_to_be_alike,
        figures::few_rounds_tell_nothing_apart,
        figures::idle_connections_are_held_at_a_fresh_server,
        figures::ratios_are_taken_to_a_second_reference,
        figures::ratios_are_taken_to_the_baseline,
        figures::the_order_follows_from_the_seed,
        figures::the_page_and_the_charts_need_nothing_else,
        figures::what_a_server_counts_is_told_a_message,
        figures::what_the_generator_complains_of_is_told_once,
        script::help_is_shown_and_nothing_else_is_done,
        script::the_result_replaces_what_was_there,
        script::without_a_result_what_was_there_stays,
    ]
}
