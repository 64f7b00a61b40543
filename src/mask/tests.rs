//! Every kernel against its naive twin, by way of [`check`].

use std::env;
use std::process::Command;

use proptest::prelude::*;

use super::fuzz::{check, fuzz_mask};
use super::*;

const KEY: Key = Key::new([0x37, 0xfa, 0x21, 0x3d]);

#[test]
fn a_key_goes_on_where_it_was_left() {
    assert_eq!(KEY.advanced(0), KEY);
    assert_eq!(KEY.advanced(1).to_bytes(), [0xfa, 0x21, 0x3d, 0x37]);
    assert_eq!(KEY.advanced(3).to_bytes(), [0x3d, 0x37, 0xfa, 0x21]);
    assert_eq!(KEY.advanced(usize::MAX), KEY.advanced(3));
}

#[test]
fn the_example_of_rfc_6455() {
    // §5.7: "Hello", masked.
    let mut bytes = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert!(!apply_text(&mut bytes, KEY));
    assert_eq!(&bytes, b"Hello");
    apply(&mut bytes, KEY);
    assert_eq!(bytes, [0x7f, 0x9f, 0x4d, 0x51, 0x58]);
}

#[test]
fn all_lengths_at_all_offsets() {
    let mut random = fastrand::Rng::with_seed(1);
    for len in lengths() {
        for offset in 0..64 {
            let shift = SHIFTS[random.usize(..SHIFTS.len())];
            check_at(len, offset, shift, random.usize(..4));
        }
    }
}

#[test]
fn all_shifts_in_all_phases() {
    let mut random = fastrand::Rng::with_seed(2);
    for shift in SHIFTS {
        for phase in 0..4 {
            for len in
                [random.usize(..16), random.usize(16..64), random.usize(64..130), random.usize(130..=LEN_MAX)]
            {
                check_at(len, random.usize(..64), shift, phase);
            }
        }
    }
}

#[test]
#[ignore = "volume: all lengths, offsets, shifts and phases"]
fn all_of_everything() {
    let check_all = |offset| {
        for len in 0..=LEN_MAX {
            for shift in SHIFTS {
                for phase in 0..4 {
                    check_at(len, offset, shift, phase);
                }
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || (thread..64).step_by(threads).for_each(check_all));
        }
    });
}

#[test]
fn a_high_bit_is_seen_wherever_it_is_and_only_there() {
    let mut random = fastrand::Rng::with_seed(3);
    for len in lengths() {
        let (to, shift) = (random.usize(..64), SHIFTS[random.usize(..SHIFTS.len())]);
        let from = to + shift..to + shift + len;
        // The bytes around the payload have their high bits set before masking and after.
        let mut buffer = vec![0xc3; from.end + GUARD];
        buffer[from.clone()].fill(b'a');
        apply(&mut buffer[from.clone()], KEY);
        check(&buffer, from.clone(), to, KEY);
        assert!(!apply_shifted_text(&mut buffer.clone(), from.clone(), to, KEY));
        for place in from.clone() {
            buffer[place] ^= 0x80;
            assert!(apply_shifted_text(&mut buffer.clone(), from.clone(), to, KEY));
            for kernel in Kernel::available() {
                let seen = kernel.apply_shifted_text(&mut buffer.clone(), from.clone(), to, KEY);
                assert!(seen, "{kernel}: {from:?} to {to}, high bit at {place}");
            }
            buffer[place] ^= 0x80;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 64 }, ..ProptestConfig::default() })]

    #[test]
    fn long_payloads(
        payload in prop::collection::vec(any::<u8>(), 0..if cfg!(miri) { 1000 } else { 70_000 }),
        key: [u8; 4],
        offset in 0_usize..128,
        shift in 0_usize..5000,
    ) {
        let from = offset + shift..offset + shift + payload.len();
        let mut buffer = vec![0xa5; from.end + GUARD];
        buffer[from.clone()].copy_from_slice(&payload);
        check(&buffer, from, offset, Key::new(key));
    }

    #[test]
    fn in_pieces_as_in_one(
        payload in prop::collection::vec(any::<u8>(), 0..2000),
        key: [u8; 4],
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5),
    ) {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
        cuts.sort_unstable();
        let (mut whole, mut pieces) = (payload.clone(), payload);
        apply(&mut whole, Key::new(key));
        let mut start = 0;
        for end in cuts.into_iter().chain([pieces.len()]) {
            apply(&mut pieces[start..end], Key::new(key).advanced(start));
            start = end;
        }
        prop_assert_eq!(whole, pieces);
    }
}

#[test]
fn the_fuzz_body_takes_any_input() {
    let mut random = fastrand::Rng::with_seed(4);
    for len in (0..40).chain([64, 135, 136, 300, 5000]) {
        let data: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(len).collect();
        fuzz_mask(&data);
    }
}

#[test]
#[should_panic(expected = "masking 2..9 to 0 in a buffer of 8")]
fn what_ends_outside_the_buffer_is_refused() {
    apply_shifted(&mut [0; 8], 2..9, 0, KEY);
}

#[test]
#[should_panic(expected = "masking 2..4 to 3 in a buffer of 8")]
fn moving_right_is_refused() {
    apply_shifted(&mut [0; 8], 2..4, 3, KEY);
}

#[test]
#[should_panic(expected = "masking 4..2 to 0 in a buffer of 8")]
#[expect(clippy::reversed_empty_ranges, reason = "it is what is refused")]
fn a_range_that_ends_before_it_begins_is_refused() {
    apply_shifted(&mut [0; 8], 4..2, 0, KEY);
}

#[test]
fn kernels_have_names_and_the_scalar_one_is_always_there() {
    assert_eq!(Kernel::available().next(), Some(Kernel::Scalar));
    for kernel in Kernel::ALL {
        assert_eq!(kernel.name().parse().is_ok_and(|parsed: Kernel| parsed == kernel), kernel.is_available());
    }
    let refused = "MMX".parse::<Kernel>().map_err(|refused| refused.to_string());
    assert!(refused.is_err_and(|text| text.starts_with("masking kernel \"MMX\" is not available; available: scalar")));
}

#[test]
#[cfg_attr(miri, ignore = "starts a process")]
fn the_environment_chooses_the_kernel() {
    let best = native::best();
    for kernel in Kernel::available() {
        assert_eq!(kernel_in_use_with(kernel.name()), kernel.name());
    }
    assert_eq!(kernel_in_use_with("none such"), best.name());
}

/// Says what [`the_environment_chooses_the_kernel`] wants to know, in a process of its own; a test like others without.
#[test]
fn the_kernel_in_use_is_available() {
    // A payload that is too long for the short way makes the choice; afterwards also short ones are as requested.
    check_at(1000, 8, 4, 0);
    check_at(20, 8, 4, 0);
    assert!(Kernel::chosen().is_available());
    println!("in use: {}.", Kernel::chosen());
}

fn kernel_in_use_with(name: &str) -> String {
    let this = env::current_exe().expect("the test's own program");
    let output = Command::new(this)
        .args(["--exact", "--nocapture", "mask::tests::the_kernel_in_use_is_available"])
        .env(Kernel::VARIABLE, name)
        .output()
        .expect("the test's own program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    let (_, rest) = text.split_once("in use: ").expect("it says so");
    rest.split('.').next().unwrap_or_default().to_owned()
}

/// Checks all kernels with a random payload of `len` bytes that goes to `offset` from `shift` bytes behind it.
fn check_at(len: usize, offset: usize, shift: usize, phase: usize) {
    let from = offset + shift..offset + shift + len;
    let mut random = fastrand::Rng::with_seed(from.end as u64);
    let mut buffer = vec![0; from.end + GUARD];
    random.fill(&mut buffer);
    check(&buffer, from, offset, KEY.advanced(phase));
}

/// Bytes behind the payload that must stay as they are: more than any vector.
const GUARD: usize = 130;

const LEN_MAX: usize = 300;

/// All lengths up to [`LEN_MAX`], or a sample of them where time is dear.
fn lengths() -> impl Iterator<Item = usize> {
    (0..=LEN_MAX).step_by(if cfg!(miri) { 23 } else { 1 })
}

/// All shifts up to a line, and some beyond.
const SHIFTS: [usize; 73] = {
    let mut shifts = [0; 73];
    let mut i = 0;
    while i <= 64 {
        shifts[i] = i;
        i += 1;
    }
    let beyond = [65, 100, 127, 128, 129, 200, 256, 1000];
    while i < shifts.len() {
        shifts[i] = beyond[i - 65];
        i += 1;
    }
    shifts
};
