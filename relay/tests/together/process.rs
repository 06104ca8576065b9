//! One relay process, seen from outside.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crds::relay_status::RelayStatus;

/// Far beyond what anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const POLL: Duration = Duration::from_millis(20);

pub(crate) struct Relay {
    child: Child,
    address: SocketAddr,
    log: tempfile::NamedTempFile,
}

impl Relay {
    pub(crate) fn start(config: &Path, share: &str) -> Self {
        Self::start_with(config, share, &[])
    }

    /// With environment variables, as for passwords.
    pub(crate) fn start_with(config: &Path, share: &str, environment: &[(&str, &str)]) -> Self {
        let address = free_address();
        let log = tempfile::NamedTempFile::new().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_outbox-relay"))
            .args(["run", "-f", config.to_str().unwrap(), "--share", share])
            .args(["--listen", &address.to_string()])
            .env_remove("RUST_LOG")
            .envs(environment.iter().copied())
            .stdout(Stdio::null())
            .stderr(log.reopen().unwrap())
            .spawn()
            .unwrap();
        Self { child, address, log }
    }

    pub(crate) fn signal(&self, name: &str) {
        let (name, pid) = (format!("-{name}"), self.child.id().to_string());
        assert!(
            Command::new("kill")
                .args([&name, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    /// SIGTERM, and a good end.
    pub(crate) fn stop(mut self) {
        self.signal("TERM");
        let ended = self.child.wait().unwrap();
        assert!(ended.success(), "{ended}: {}", self.said());
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// The log so far.
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(self.log.path()).unwrap()
    }

    pub(crate) fn status(&self) -> Option<RelayStatus> {
        let answer = self.get("/status").ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    pub(crate) fn metrics(&self) -> String {
        self.get("/metrics").unwrap_or_default()
    }

    pub(crate) fn owned(&self) -> u16 {
        self.status().map_or(0, |status| status.slots.owned)
    }

    /// Waits until `/readyz` answers with `code` and says `part`, and not that something merely starts; what it says.
    pub(crate) fn readyz(&self, code: u16, part: &str) -> String {
        let started = Instant::now();
        loop {
            let answer = self.get("/readyz").unwrap_or_default();
            if answer.starts_with(&format!("HTTP/1.1 {code}"))
                && answer.contains(part)
                && !answer.contains(": starting")
            {
                return answer;
            }
            assert!(
                started.elapsed() < PATIENCE,
                "/readyz never said {code} {part}: {answer}"
            );
            std::thread::sleep(POLL);
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The most memory that it had resident at once, in KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|peak| peak.split_whitespace().next());
        kib.unwrap().parse().unwrap()
    }

    fn get(&self, path: &str) -> std::io::Result<String> {
        get(self.address, path)
    }
}

pub(crate) fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

impl Drop for Relay {
    fn drop(&mut self) {
        // It has ended already unless the test failed.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.said());
        }
    }
}

/// How long it took.
pub(crate) fn wait(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "{what} never came");
        std::thread::sleep(POLL);
    }
    started.elapsed()
}

pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}
