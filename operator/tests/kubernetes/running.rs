//! An operator as a process of its own.

use crate::cluster::{Place, kubeconfig_of_operator};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

pub(crate) struct Running {
    process: Child,
    pub(crate) log: PathBuf,
}

/// An operator for one namespace with the rights of its service account there.
pub(crate) async fn operator(place: &Place, port: u16, name: &str) -> Running {
    operator_with(place, port, name, &["--namespace", &place.namespace], false).await
}

pub(crate) async fn operator_with(
    place: &Place,
    port: u16,
    name: &str,
    arguments: &[&str],
    everywhere: bool,
) -> Running {
    let kubeconfig = kubeconfig_of_operator(place, everywhere).await;
    let log = place.dir.join(format!("{}-{name}.log", place.namespace));
    let refresh: &[_] = if arguments.contains(&"--secret-refresh-seconds") {
        &[]
    } else {
        &["--secret-refresh-seconds", "1"]
    };
    let process = Command::new(env!("CARGO_BIN_EXE_outbox-relay-operator"))
        .args([
            "--listen",
            "127.0.0.1:0",
            "--log-format",
            "text",
            "--instance",
            name,
        ])
        .args(["--relay-image", "relay:test", "--relay-port", &port.to_string()])
        .args(refresh)
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .env_remove("POD_NAMESPACE")
        .env("RUST_LOG", "info")
        .stdin(Stdio::null())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    Running { process, log }
}

impl Running {
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) async fn until_log(&self, text: &str) {
        let deadline = tokio::time::Instant::now() + crate::cluster::PATIENCE;
        while !self.log().contains(text) {
            assert!(
                tokio::time::Instant::now() < deadline,
                "no {text:?} in\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// SIGTERM; true if it ended well.
    pub(crate) async fn stop(&mut self) -> bool {
        let sent = Command::new("kill")
            .arg(self.process.id().to_string())
            .status()
            .unwrap();
        assert!(sent.success());
        for _ in 0..200 {
            if let Some(status) = self.process.try_wait().unwrap() {
                return status.success();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("the operator did not end within 10 s:\n{}", self.log());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}
