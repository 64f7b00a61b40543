//! The hazards of io_uring at full volume.

use std::time::Duration;

use crate::common::{is_runnable, volume};
use crate::connections;
use crate::hazards;

#[test]
#[ignore = "volume: 1 GiB in reads of 1 to 1000 bytes, 60 s"]
fn what_a_socket_takes_in_parts_stays_in_order() {
    if is_runnable("ring") {
        hazards::replies_taken_in_small_pieces("ring", volume(1 << 30));
    }
}

#[test]
#[ignore = "volume: 10^6 connections over 64 places, 120 s"]
fn a_place_used_again_knows_nothing_of_its_last_user() {
    if is_runnable("ring") {
        hazards::places_used_again_and_again("ring", volume(1_000_000));
    }
}

#[test]
#[ignore = "volume: 1,000 connections cut, 50 s"]
fn a_connection_that_is_cut_ends() {
    if is_runnable("ring") {
        hazards::connections_that_are_cut_end("ring", volume(1000));
    }
}

#[test]
#[ignore = "volume: 20 connections cut with 9 MB unsent, 15 s"]
fn a_send_that_waits_for_ever_is_cut() {
    if is_runnable("ring") {
        hazards::sends_that_wait_for_ever_are_cut("ring", volume(20));
    }
}

#[test]
#[ignore = "volume: 1,000 clients for 16 completions, 5 s"]
fn completions_that_overflow_are_not_lost() {
    if is_runnable("ring") {
        hazards::completions_beyond_the_queue(connections(volume(1000)).max(100));
    }
}

#[test]
#[ignore = "volume: 1,000 clients for 4 submissions, 5 s"]
fn submissions_that_do_not_fit_are_not_lost() {
    if is_runnable("ring") {
        hazards::submissions_beyond_the_queue(connections(volume(1000)).max(100));
    }
}

#[test]
#[ignore = "volume: 1,000 messages of 64 KiB for 16 buffers of 2 KiB, 5 s"]
fn messages_wait_for_buffers_and_none_starves() {
    if is_runnable("ring") {
        hazards::messages_beyond_the_buffers("ring", connections(volume(1000)).max(100));
    }
}

#[test]
#[ignore = "volume: 10,000 connections for 256 places, 20 s"]
fn connections_wait_for_a_place_in_the_table() {
    if is_runnable("ring") {
        hazards::connections_beyond_the_table(volume(4), connections(2500));
    }
}

#[test]
#[ignore = "volume: a signal a millisecond for 60 s"]
fn a_signal_is_an_empty_wake_up() {
    if is_runnable("ring") {
        hazards::signals_under_load(
            Duration::from_millis(600 * volume(100) as u64).max(Duration::from_secs(2)),
        );
    }
}

#[test]
#[ignore = "volume: 64 clients beside one that does not read, 30 s"]
fn a_blocked_reader_makes_nobody_slow() {
    if !is_runnable("ring") {
        return;
    }
    let (beside, alone) = hazards::lively_clients_beside_a_blocked_reader("ring", volume(5_000).max(50));
    // A time slice or two of others on the machine are nobody's fault.
    let bound = 3 * alone + Duration::from_millis(20);
    assert!(beside <= bound, "p99 is {beside:?}, more than {bound:?}");
}

#[test]
#[ignore = "volume: 5,000 newcomers beside stalled peers, 10 s"]
fn stalled_peers_do_not_keep_newcomers_waiting() {
    if is_runnable("ring") {
        hazards::newcomers_beside_stalled_peers("ring", volume(5_000));
    }
}

#[test]
#[ignore = "volume: 5,000 connections where 3,000 files may be open, 5 s"]
fn connections_are_no_files_of_the_process() {
    if is_runnable("ring") {
        hazards::connections_beyond_the_limit_of_files(
            volume(3_000).max(200),
            connections(volume(5_000).max(300)),
        );
    }
}

#[test]
#[ignore = "volume: 100 peers that send without reading, then read, each alone, 100 s"]
fn a_paused_peer_is_read_from_again_with_nobody_else_there() {
    if is_runnable("ring") {
        hazards::paused_peers_alone("ring", volume(100));
    }
}

#[test]
#[ignore = "volume: 100,000 echoes beside a stalled peer, 10 s"]
fn a_stalled_peer_costs_the_others_no_system_calls() {
    if is_runnable("ring") {
        hazards::enters_beside_a_stalled_peer(volume(100_000) as u64);
    }
}

#[test]
#[ignore = "with those that take a worker's ring at its limits"]
fn a_busy_poll_keeps_deadlines() {
    if is_runnable("ring") {
        hazards::deadlines_while_polling();
    }
}
