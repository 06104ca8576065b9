//! The program: its ready line, what it refuses, how it stops.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_outbox-sandbox");

/// Free ports, unless the case says otherwise.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    let given = |flag: &str| arguments.contains(&flag);
    for flag in ["--listen", "--admin"].into_iter().filter(|flag| !given(flag)) {
        command.args([flag, "127.0.0.1:0"]);
    }
    command.args(arguments);
    command.env_remove("OUTBOX_SANDBOX_USER");
    command
}

/// Starts it and reads the ready line.
fn ready(arguments: &[&str]) -> (Child, String) {
    let mut child = command(arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    (child, line)
}

#[test]
fn it_says_where_it_listens_and_stops_when_told() {
    let (mut child, line) = ready(&["--nodes", "3", "--user", "ann:secret", "--log-format", "json"]);
    let addresses = line
        .strip_prefix("ready cql=")
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    let addresses: Vec<&str> = addresses.split(',').collect();
    assert_eq!(addresses.len(), 3, "{line}");
    for address in &addresses {
        TcpStream::connect(address).unwrap();
    }
    assert!(line.contains(" admin=http://127.0.0.1:"), "{line}");
    let stopped = Instant::now();
    let pid = child.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .unwrap()
            .success()
    );
    assert!(child.wait().unwrap().success());
    assert!(
        stopped.elapsed() < Duration::from_secs(5),
        "{:?}",
        stopped.elapsed()
    );
    assert!(TcpStream::connect(addresses[0]).is_err());
}

#[test]
fn what_it_cannot_do_it_names() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let check = |arguments: &[&str], expected: &[&str]| {
        let output = command(arguments).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        for part in expected {
            assert!(said.contains(part), "{arguments:?}: {said}");
        }
    };
    check(&["--listen", &taken], &[&taken, "--listen IP:PORT", "in use"]);
    check(&["--admin", &taken], &[&taken, "--admin IP:PORT", "in use"]);
    check(&["--nodes", "0"], &["--nodes", "from 1 to 9"]);
    check(&["--vnodes", "1000"], &["--vnodes", "from 1 to 256"]);
    check(&["--user", "secret"], &["--user", "name:password"]);
    check(
        &["--user-file", "/nowhere/users"],
        &["--user-file /nowhere/users"],
    );
}
