//! Random statements, well formed and not, with random values and paging states, at a running node: every one gets
//! an answer of the protocol, none ends the connection or a thread, and memory stays bounded.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

#[path = "random_statements/grammar.rs"]
mod grammar;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use grammar::Grammar;
use proptest::prelude::any;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sandbox::Sandbox;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

const STARTUP: u8 = 0x01;
const QUERY: u8 = 0x07;
const PREPARE: u8 = 0x09;
const EXECUTE: u8 = 0x0A;
const BATCH: u8 = 0x0D;
const ERROR: u8 = 0x00;
const RESULT: u8 = 0x08;
const PREPARED: [u8; 4] = [0, 0, 0, 4];

/// All error codes that a statement may be answered with.
const CODES: [i32; 7] = [0x0000, 0x000A, 0x2000, 0x2100, 0x2200, 0x2300, 0x2400];

/// Panics of any thread of this process, the node's among them.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

static TAKEN: AtomicUsize = AtomicUsize::new(0);
static REFUSED: AtomicUsize = AtomicUsize::new(0);

fn record_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICS.lock().unwrap().push(info.to_string());
        usual(info);
    }));
}

struct Client(TcpStream);

impl Client {
    async fn connect(sandbox: &Sandbox) -> Self {
        let mut client = Self(TcpStream::connect(sandbox.addr()).await.unwrap());
        let ready = client.ask(STARTUP, b"\0\x01\0\x0bCQL_VERSION\0\x053.3.1").await;
        assert_eq!(ready.unwrap().0, 0x02);
        client
    }

    /// Opcode and body of the answer; an error if there is none.
    async fn ask(&mut self, opcode: u8, body: &[u8]) -> Result<(u8, Vec<u8>), String> {
        let mut frame = vec![4, 0, 0, 1, opcode];
        frame.extend((body.len() as u32).to_be_bytes());
        frame.extend(body);
        let exchange = async {
            self.0.write_all(&frame).await?;
            let mut header = [0; 9];
            self.0.read_exact(&mut header).await?;
            let mut body = vec![0; u32::from_be_bytes(header[5..9].try_into().unwrap()) as usize];
            self.0.read_exact(&mut body).await?;
            Ok::<_, std::io::Error>((header[4], body))
        };
        match tokio::time::timeout(Duration::from_secs(30), exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(format!("no answer: {error}")),
            Err(_) => Err("no answer within 30 s".to_owned()),
        }
    }

    /// Says what is wrong with the answer, if anything is.
    async fn check(&mut self, opcode: u8, body: &[u8]) -> Result<Vec<u8>, String> {
        let (answer, body) = self.ask(opcode, body).await?;
        let code = i32::from_be_bytes(body[..4].try_into().unwrap());
        match answer {
            RESULT => {
                TAKEN.fetch_add(1, Ordering::Relaxed);
                Ok(body)
            }
            ERROR if CODES.contains(&code) => {
                REFUSED.fetch_add(1, Ordering::Relaxed);
                Ok(body)
            }
            _ => Err(format!("answer {answer:#04x} {code:#06x}")),
        }
    }
}

fn long_string(text: &str) -> Vec<u8> {
    [&(text.len() as u32).to_be_bytes(), text.as_bytes()].concat()
}

/// Consistency, flags and what they announce, as a client that means no good may send it: well framed.
fn parameters(rng: &mut StdRng, binds: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let consistency: u16 = match rng.random_range(0..4) {
        0 => rng.random_range(0..11),
        1 => rng.random(),
        _ => 1,
    };
    out.extend(consistency.to_be_bytes());
    // Values in any case; half of the time all that a client may add.
    let flags = match rng.random_bool(0.5) {
        true => rng.random::<u8>() & 0b0011_1111,
        false => rng.random::<u8>() & 0b0000_0111 | 0x01,
    };
    out.push(flags);
    if flags & 0x01 != 0 {
        let count = match rng.random_range(0..4) {
            0 => rng.random_range(0..5),
            _ => binds,
        };
        out.extend((count as u16).to_be_bytes());
        for _ in 0..count {
            out.extend(value(rng));
        }
    }
    if flags & 0x04 != 0 {
        let size: i32 = match rng.random_range(0..3) {
            0 => rng.random(),
            _ => rng.random_range(-1..4),
        };
        out.extend(size.to_be_bytes());
    }
    if flags & 0x08 != 0 {
        out.extend(value(rng));
    }
    if flags & 0x10 != 0 {
        out.extend(rng.random_range(7_u16..11).to_be_bytes());
    }
    if flags & 0x20 != 0 {
        let timestamp: i64 = match rng.random_range(0..2) {
            0 => rng.random(),
            _ => rng.random_range(-5..5),
        };
        out.extend(timestamp.to_be_bytes());
    }
    out
}

/// Null, unset, empty, or a few bytes: a number, a text, a broken collection.
fn value(rng: &mut StdRng) -> Vec<u8> {
    let bytes: Vec<u8> = match rng.random_range(0..8) {
        0 => return (-1_i32).to_be_bytes().to_vec(),
        1 => return (-2_i32).to_be_bytes().to_vec(),
        2 => Vec::new(),
        3 => rng.random_range(-2_i32..4).to_be_bytes().to_vec(),
        4 => b"text".to_vec(),
        5 => [
            &[0, 0, 0, 1, 0, 0, 0, 4][..],
            &rng.random_range(0_i32..4).to_be_bytes(),
        ]
        .concat(),
        6 => [&[1, 0, 0, 0][..], &rng.random::<[u8; 4]>()].concat(),
        _ => (0..rng.random_range(0..40)).map(|_| rng.random()).collect(),
    };
    [&(bytes.len() as u32).to_be_bytes()[..], &bytes].concat()
}

/// One conversation: a connection, and some statements one after another.
async fn converse(sandbox: &Sandbox, seed: u64) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut client = Client::connect(sandbox).await;
    for _ in 0..12 {
        let text = Grammar(&mut rng).statement();
        let binds = text.matches('?').count();
        let failed = |problem: String| format!("{problem}\nseed {seed}: {text}");
        match rng.random_range(0..4) {
            0 => {
                let answer = client.check(PREPARE, &long_string(&text)).await.map_err(failed)?;
                if !answer.starts_with(&PREPARED) {
                    continue;
                }
                // [short bytes] of the id, as EXECUTE wants them.
                let id = &answer[4..22];
                for _ in 0..3 {
                    let body = [id, &parameters(&mut rng, binds)].concat();
                    client.check(EXECUTE, &body).await.map_err(failed)?;
                }
            }
            1 => {
                let mut body = vec![rng.random_range(0..3), 0, 2];
                for text in [&text, &Grammar(&mut rng).write()] {
                    body.push(0);
                    body.extend(long_string(text));
                    let binds = text.matches('?').count();
                    body.extend((binds as u16).to_be_bytes());
                    body.extend((0..binds).flat_map(|_| value(&mut rng)));
                }
                body.extend([0, 1, 0]);
                client.check(BATCH, &body).await.map_err(failed)?;
            }
            _ => {
                let body = [long_string(&text), parameters(&mut rng, binds)].concat();
                client.check(QUERY, &body).await.map_err(failed)?;
            }
        }
    }
    Ok(())
}

#[test]
fn every_statement_gets_an_answer() {
    record_panics();
    let runtime = Runtime::new().unwrap();
    let sandbox = runtime
        .block_on(Sandbox::builder().tokens_per_node(2).start())
        .unwrap();
    runtime.block_on(async {
        let mut client = Client::connect(&sandbox).await;
        for text in grammar::SCHEMA {
            let body = [long_string(text), vec![0, 1, 0]].concat();
            let (opcode, answer) = client.ask(QUERY, &body).await.unwrap();
            assert_eq!(opcode, RESULT, "{text}: {}", String::from_utf8_lossy(&answer));
        }
    });
    let mut runner = TestRunner::new(Config {
        cases: 250,
        // A seed says it all.
        max_shrink_iters: 0,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&any::<u64>(), |seed| {
        let result = runtime.block_on(converse(&sandbox, seed));
        let panics = std::mem::take(&mut *PANICS.lock().unwrap());
        match (result, &panics[..]) {
            (Ok(()), []) => Ok(()),
            (result, panics) => Err(TestCaseError::fail(format!(
                "{result:?}, panics: {panics:?}, seed {seed}"
            ))),
        }
    });
    outcome.unwrap();
    let [refused, taken] = [&REFUSED, &TAKEN].map(|count| count.load(Ordering::Relaxed));
    println!("{taken} statements taken, {refused} refused");
    assert!(
        taken > 500 && refused > 500,
        "the grammar reaches one side only: {taken} statements taken, {refused} refused"
    );
    runtime.block_on(sandbox.stop());
}

/// Resident memory of this process, in MiB: the node lives in it.
fn resident_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib / 1024
}

/// What clients claim, and what they prepare and never use, takes no memory to speak of.
#[tokio::test]
async fn claims_take_no_memory() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let before = resident_mib();
    let mut claimants = Vec::new();
    for _ in 0..100 {
        let mut client = Client::connect(&sandbox).await;
        // A frame of 16 MiB whose body never comes, but for its first bytes.
        client
            .0
            .write_all(&[4, 0, 0, 1, QUERY, 1, 0, 0, 0])
            .await
            .unwrap();
        client.0.write_all(&[0; 1_000]).await.unwrap();
        claimants.push(client);
    }
    let mut client = Client::connect(&sandbox).await;
    let padding = "x".repeat(1024 * 1024);
    for number in 0..200 {
        let text = format!("SELECT key FROM system.local WHERE key = '{number}{padding}'");
        let (opcode, _) = client.ask(PREPARE, &long_string(&text)).await.unwrap();
        assert!(opcode == RESULT || opcode == ERROR);
    }
    let after = resident_mib();
    assert!(
        after < before + 150,
        "{before} MiB before, {after} MiB after 100 claims of 16 MiB and 200 MiB of statements"
    );
    drop(claimants);
}
