//! What processes use of the machine, as Linux counts it in `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::str::FromStr;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::BenchError;

/// Ticks a second in `/proc`: USER_HZ, 100 on every architecture that Rust's tier 1 and 2 Linux targets name.
const TICKS_PER_SECOND: f64 = 100.0;

/// The measured process itself, among the others.
pub const SELF: &str = "self";
/// All that ran on the machine besides the named processes: much of it makes a measurement worthless.
pub const OTHER: &str = "other";

/// A process, by the name that the report gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    pub name: String,
    pub pid: u32,
}

impl FromStr for Watched {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("NAME=PID is expected, as in broker=4711, not {text:?}");
        let (name, pid) = text.split_once('=').ok_or_else(expected)?;
        Ok(Self {
            name: name.to_owned(),
            pid: pid.parse().map_err(|_| expected())?,
        })
    }
}

/// Wall time, and CPU seconds by process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    pub seconds: f64,
    pub cpu_seconds: BTreeMap<String, f64>,
}

impl Usage {
    /// CPU seconds of one process; 0 if it was not watched.
    pub fn cpu(&self, name: &str) -> f64 {
        self.cpu_seconds.get(name).copied().unwrap_or_default()
    }
}

/// Counts from its start.
pub struct Meter {
    watched: Vec<Watched>,
    started: Instant,
    before: Vec<f64>,
    busy_before: f64,
}

impl Meter {
    /// # Errors
    /// One of the processes is not there.
    pub fn start(watched: &[Watched]) -> Result<Self, BenchError> {
        Ok(Self {
            watched: watched.to_vec(),
            before: watched
                .iter()
                .map(|process| cpu_seconds(process.pid))
                .collect::<Result<_, _>>()?,
            busy_before: busy_seconds()?,
            started: Instant::now(),
        })
    }

    /// # Errors
    /// One of the processes has ended.
    pub fn read(&self) -> Result<Usage, BenchError> {
        let seconds = self.started.elapsed().as_secs_f64();
        let mut used = BTreeMap::new();
        for (process, before) in self.watched.iter().zip(&self.before) {
            used.insert(process.name.clone(), cpu_seconds(process.pid)? - before);
        }
        let other = busy_seconds()? - self.busy_before - used.values().sum::<f64>();
        // Both are read one after the other and in ticks.
        used.insert(OTHER.to_owned(), other.max(0.0));
        Ok(Usage {
            seconds,
            cpu_seconds: used,
        })
    }
}

/// Resident memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    pub resident: u64,
    /// The most it ever was.
    pub peak: u64,
}

/// # Errors
/// The process is not there.
pub fn memory(pid: u32) -> Result<Memory, BenchError> {
    let (path, text) = proc_file(&format!("{pid}/status"))?;
    let field = |name: &str| kibibytes(&text, name).map(|kibibytes| kibibytes * 1024);
    match (field("VmRSS:"), field("VmHWM:")) {
        (Some(resident), Some(peak)) => Ok(Memory { resident, peak }),
        _ => Err(BenchError::new(path, "no VmRSS or VmHWM: the process has ended")),
    }
}

fn cpu_seconds(pid: u32) -> Result<f64, BenchError> {
    let (path, text) = proc_file(&format!("{pid}/stat"))?;
    process_ticks(&text)
        .map(|ticks| ticks as f64 / TICKS_PER_SECOND)
        .ok_or_else(|| BenchError::new(path, format!("unexpected content {text:?}")))
}

fn busy_seconds() -> Result<f64, BenchError> {
    let (path, text) = proc_file("stat")?;
    busy_ticks(&text)
        .map(|ticks| ticks as f64 / TICKS_PER_SECOND)
        .ok_or_else(|| BenchError::new(path, "no line of all CPUs"))
}

fn proc_file(name: &str) -> Result<(String, String), BenchError> {
    let path = format!("/proc/{name}");
    let text = fs::read_to_string(&path).map_err(|error| BenchError::new(path.clone(), error))?;
    Ok((path, text))
}

/// User and system time of all threads. The second field, the name in parentheses, may hold anything.
fn process_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace().skip(11);
    let (user, system) = (fields.next()?, fields.next()?);
    Some(user.parse::<u64>().ok()? + system.parse::<u64>().ok()?)
}

/// All that was not idle: user, nice, system, irq, softirq, steal. Guest time is part of user time.
fn busy_ticks(stat: &str) -> Option<u64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<u64> = line
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    let idle = fields.get(3)? + fields.get(4)?;
    Some(fields.iter().take(8).sum::<u64>() - idle)
}

fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    value.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 9 9 20 0 5 0 1 2 3";
        assert_eq!(process_ticks(stat), Some(300));
        assert_eq!(process_ticks("7 (a S 1"), None);
        let machine = "cpu  10 1 5 1000 7 2 3 4 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(machine), Some(10 + 1 + 5 + 2 + 3 + 4));
        let status = "Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(kibibytes(status, "VmHWM:"), Some(2048));
        assert_eq!(kibibytes(status, "VmSwap:"), None);
    }

    #[test]
    fn work_of_this_process_is_counted_as_its_own() {
        let own = Watched {
            name: SELF.to_owned(),
            pid: std::process::id(),
        };
        let meter = Meter::start(std::slice::from_ref(&own)).unwrap();
        let mut sum = 0_u64;
        while meter.read().unwrap().cpu(SELF) < 0.05 {
            sum = std::hint::black_box((0..1_000_000).fold(sum, u64::wrapping_add));
        }
        let usage = meter.read().unwrap();
        assert!(usage.seconds > 0.0 && usage.cpu_seconds.contains_key(OTHER));
        assert!(memory(own.pid).unwrap().peak >= memory(own.pid).unwrap().resident / 2);
        assert!(Meter::start(&["gone=4294967295".parse().unwrap()]).is_err());
    }

    #[test]
    fn watched_processes_have_a_name_and_an_id() {
        assert_eq!("broker=12".parse::<Watched>().unwrap().pid, 12);
        for bad in ["broker", "broker=", "12", "broker=-1"] {
            assert!(bad.parse::<Watched>().is_err(), "{bad}");
        }
    }
}
