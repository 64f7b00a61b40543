//! The hazards of io_uring, a little of each, and those of them that epoll meets too; `.ci/stress` has them at full volume.

#[path = "../common/hazards.rs"]
mod hazards;

use std::time::Duration;

use crate::common::is_runnable;

/// Defines a test that is skipped aloud where the ring engine cannot run.
macro_rules! on_a_ring {
    ($($test:ident: $body:expr,)+) => {
        $(#[test] fn $test() {
            if is_runnable("ring") {
                $body;
            }
        })+
    };
}

on_a_ring! {
    what_a_socket_takes_in_parts_stays_in_order: hazards::replies_taken_in_small_pieces("ring", 8 << 20),
    a_place_used_again_knows_nothing_of_its_last_user: hazards::places_used_again_and_again("ring", 2_000),
    a_connection_that_is_cut_ends: hazards::connections_that_are_cut_end("ring", 50),
    a_send_that_waits_for_ever_is_cut: hazards::sends_that_wait_for_ever_are_cut("ring", 2),
    completions_that_overflow_are_not_lost: hazards::completions_beyond_the_queue(200),
    submissions_that_do_not_fit_are_not_lost: hazards::submissions_beyond_the_queue(200),
    messages_wait_for_buffers_and_none_starves: hazards::messages_beyond_the_buffers("ring", 100),
    connections_wait_for_a_place_in_the_table: hazards::connections_beyond_the_table(2, 600),
    connections_are_no_files_of_the_process: hazards::connections_beyond_the_limit_of_files(600, 1000),
    a_signal_is_an_empty_wake_up: hazards::signals_under_load(Duration::from_secs(2)),
    a_blocked_reader_stops_nobody: hazards::lively_clients_beside_a_blocked_reader("ring", 20),
    a_paused_peer_is_read_from_again_with_nobody_else_there: hazards::paused_peers_alone("ring", 4),
    a_stalled_peer_costs_the_others_no_system_calls: hazards::enters_beside_a_stalled_peer(300),
    a_busy_poll_keeps_deadlines: hazards::deadlines_while_polling(),
    stalled_peers_do_not_keep_newcomers_waiting: hazards::newcomers_beside_stalled_peers("ring", 20),
}

/// Defines a test on epoll.
macro_rules! on_epoll {
    ($($test:ident($volume:expr),)+) => {
        mod epoll {
            $(#[test] fn $test() {
                super::hazards::$test("epoll", $volume);
            })+
        }
    };
}

on_epoll! {
    replies_taken_in_small_pieces(8 << 20),
    places_used_again_and_again(2_000),
    connections_that_are_cut_end(50),
    sends_that_wait_for_ever_are_cut(2),
    messages_beyond_the_buffers(100),
    lively_clients_beside_a_blocked_reader(20),
    newcomers_beside_stalled_peers(20),
    paused_peers_alone(4),
}
