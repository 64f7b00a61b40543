//! Lists of CPUs, as `taskset -c` and `/sys/devices/system/cpu/online` write them.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

/// The kernel has no CPU of this number or a higher one.
const CPUS_MAX: usize = 8192;

/// CPUs by number: at least one, none twice. It displays as `0,2-3`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(Vec<usize>);

impl CpuList {
    /// From numbers of which none comes twice.
    pub(crate) fn from_iter(cpus: impl IntoIterator<Item = usize>) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl Deref for CpuList {
    type Target = [usize];

    fn deref(&self) -> &[usize] {
        &self.0
    }
}

impl FromStr for CpuList {
    /// What is wrong, and what a list looks like.
    type Err = String;

    fn from_str(list: &str) -> Result<Self, String> {
        let number = |text: &str| {
            let number = text.parse().ok().filter(|_| text.bytes().all(|byte| byte.is_ascii_digit()));
            number.ok_or_else(|| format!("{text:?} is no number of a CPU; a list is like 0,2-3"))
        };
        let mut cpus = Vec::new();
        for part in list.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (usize, usize) = (number(first)?, number(last)?);
            if last < first {
                return Err(format!("{part} goes downwards: give {last}-{first}"));
            }
            if last >= CPUS_MAX {
                return Err(format!("there is no CPU {last}"));
            }
            for cpu in first..=last {
                if cpus.contains(&cpu) {
                    return Err(format!("CPU {cpu} is in it twice"));
                }
                cpus.push(cpu);
            }
        }
        Ok(Self(cpus))
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs = self.0.chunk_by(|one, next| one + 1 == *next);
        for (index, run) in runs.enumerate() {
            let comma = if index > 0 { "," } else { "" };
            match run {
                [first, .., last] => write!(f, "{comma}{first}-{last}")?,
                _ => write!(f, "{comma}{}", run[0])?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_and_shown_as_the_kernel_shows_them() {
        for (text, cpus, shown) in [
            ("0", vec![0], "0"),
            ("0,2-3", vec![0, 2, 3], "0,2-3"),
            ("2-5", vec![2, 3, 4, 5], "2-5"),
            ("3,1", vec![3, 1], "3,1"),
            ("1,2,3,7-7", vec![1, 2, 3, 7], "1-3,7"),
        ] {
            let list: CpuList = text.parse().expect(text);
            assert_eq!((&*list, list.to_string().as_str()), (&*cpus, shown));
        }
    }

    #[test]
    fn a_mistake_is_told_what_would_do() {
        for (text, says) in [
            ("", "\"\" is no number of a CPU; a list is like 0,2-3"),
            ("0,", "\"\" is no number"),
            ("a", "\"a\" is no number"),
            ("+1", "\"+1\" is no number"),
            ("0 1", "\"0 1\" is no number"),
            ("1-", "\"\" is no number"),
            ("1-2-3", "\"2-3\" is no number"),
            ("0x3", "is no number"),
            ("99999999999999999999", "is no number"),
            ("3-1", "3-1 goes downwards: give 1-3"),
            ("0-2,1", "CPU 1 is in it twice"),
            ("0-99999999", "there is no CPU 99999999"),
        ] {
            let said = text.parse::<CpuList>().expect_err(text);
            assert!(said.contains(says), "{text}: {said}");
        }
    }
}
