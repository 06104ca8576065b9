//! Relay processes, each in its seat.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tokio::sync::{Mutex, MutexGuard};

use crate::plan::RELAYS;

/// What runs in a seat now, and how many were started in it.
#[derive(Default)]
pub(crate) struct Seat {
    child: Option<Child>,
    starts: usize,
}

pub(crate) struct Relays {
    config: PathBuf,
    folder: PathBuf,
    auto: bool,
    seats: [Mutex<Seat>; RELAYS],
}

impl Relays {
    pub(crate) async fn start(config: &Path, folder: &Path, auto: bool) -> Self {
        let relays = Self {
            config: config.to_owned(),
            folder: folder.to_owned(),
            auto,
            seats: Default::default(),
        };
        for index in 0..RELAYS {
            relays.start_in(index, &mut *relays.seats[index].lock().await);
        }
        relays
    }

    /// None if something is being done to it already.
    pub(crate) fn seat(&self, index: usize) -> Option<MutexGuard<'_, Seat>> {
        self.seats[index].try_lock().ok()
    }

    pub(crate) fn start_in(&self, index: usize, seat: &mut Seat) {
        seat.starts += 1;
        let log = File::create(self.folder.join(format!("relay-{index}-{}.log", seat.starts))).unwrap();
        let share = if self.auto {
            "auto".to_owned()
        } else {
            format!("{}/{RELAYS}", index + 1)
        };
        let child = Command::new(env!("CARGO_BIN_EXE_outbox-relay"))
            .args(["run", "-f", self.config.to_str().unwrap(), "--share", &share])
            .args(["--listen", "127.0.0.1:0"])
            .env_remove("RUST_LOG")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        seat.child = Some(child);
    }

    /// All of them, in order.
    pub(crate) async fn stop(&self) {
        for seat in &self.seats {
            let mut seat = seat.lock().await;
            tokio::task::block_in_place(|| seat.stop());
        }
    }
}

impl Seat {
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// SIGTERM, and a good end. Blocks.
    pub(crate) fn stop(&mut self) {
        self.signal("TERM");
        if let Some(mut child) = self.child.take() {
            let ended = child.wait().unwrap();
            assert!(ended.success(), "a relay that was asked to stop: {ended}");
        }
    }

    pub(crate) fn signal(&self, name: &str) {
        let Some(child) = &self.child else { return };
        let status = Command::new("kill")
            .args([&format!("-{name}"), &child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// A relay never ends by itself.
    pub(crate) fn assert_runs(&mut self) {
        let ended = self.child.as_mut().and_then(|child| child.try_wait().unwrap());
        assert!(ended.is_none(), "a relay ended by itself: {ended:?}");
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
