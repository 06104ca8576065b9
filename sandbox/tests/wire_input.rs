//! Bad bytes: an error or a closed connection, never a panic, and others are served all the while.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on has failed"
)]

use std::path::Path;
use std::time::Duration;

use proptest::prelude::{Strategy, any, prop};
use proptest::test_runner::{Config, TestRunner};
use sandbox::Sandbox;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const OPTIONS: u8 = 0x05;
const STARTUP: u8 = 0x01;
const QUERY: u8 = 0x07;

/// What the node did with some bytes.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Answers with these opcodes and, for an error, its code; the connection still answers OPTIONS.
    Open(Vec<Answer>),
    /// The same, and then the connection was closed.
    Closed(Vec<Answer>),
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Error(i32),
    Other(u8),
}

fn frame(opcode: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![4, 0, 0, 1, opcode];
    out.extend((body.len() as u32).to_be_bytes());
    out.extend(body);
    out
}

fn startup() -> Vec<u8> {
    frame(STARTUP, b"\0\x01\0\x0bCQL_VERSION\0\x053.3.1")
}

/// Sends bytes on a connection that has done STARTUP, or on a new one, and closes its writing half if told to.
async fn send(sandbox: &Sandbox, ready: bool, bytes: &[u8], finish: bool) -> Outcome {
    let mut stream = TcpStream::connect(sandbox.addr()).await.unwrap();
    if ready {
        stream.write_all(&startup()).await.unwrap();
        assert_eq!(read_answer(&mut stream).await, Some(Answer::Other(0x02)));
    }
    // The node may have closed before all is sent.
    let _ = stream.write_all(bytes).await;
    if finish {
        stream.shutdown().await.unwrap();
    } else {
        let _ = stream.write_all(&frame(OPTIONS, b"")).await;
    }
    let mut answers = Vec::new();
    loop {
        match read_answer(&mut stream).await {
            Some(Answer::Other(0x06)) => return Outcome::Open(answers),
            Some(answer) => answers.push(answer),
            None => return Outcome::Closed(answers),
        }
    }
}

/// The next answer; None once the connection is closed.
async fn read_answer(stream: &mut TcpStream) -> Option<Answer> {
    let read = async {
        let mut header = [0; 9];
        stream.read_exact(&mut header).await.ok()?;
        assert_eq!(header[0], 0x84, "answers are of version 4");
        let length = u32::from_be_bytes(header[5..9].try_into().unwrap()) as usize;
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.ok()?;
        Some(match header[4] {
            0 => Answer::Error(i32::from_be_bytes(body[..4].try_into().unwrap())),
            opcode => Answer::Other(opcode),
        })
    };
    tokio::time::timeout(Duration::from_secs(15), read)
        .await
        .expect("an answer or a closed connection")
}

async fn assert_serves(sandbox: &Sandbox) {
    assert_eq!(send(sandbox, true, b"", false).await, Outcome::Open(vec![]));
}

#[tokio::test]
async fn bad_frames_get_an_error_or_a_closed_connection() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let protocol_error = || vec![Answer::Error(0x000A)];
    let open = |bytes: Vec<u8>| (true, bytes, Outcome::Open(protocol_error()));
    let closed = |bytes: Vec<u8>| (true, bytes, Outcome::Closed(protocol_error()));
    let oversized = |length: u32| {
        let mut bytes = frame(QUERY, b"");
        bytes[5..9].copy_from_slice(&length.to_be_bytes());
        bytes
    };
    let mut compressed = frame(QUERY, b"\0\0\0\x04");
    compressed[1] = 0x01;
    let cases = [
        closed(b"GET / HTTP/1.1\r\n\r\n".to_vec()),
        closed(vec![5, 0, 0, 0, 5, 0, 0, 0, 0]),
        closed(vec![3, 0, 0, 0, 5, 0, 0, 0, 0]),
        closed(vec![0x84, 0, 0, 0, 6, 0, 0, 0, 0]),
        (
            true,
            oversized(16 * 1024 * 1024 + 1),
            Outcome::Closed(vec![Answer::Error(0x2200)]),
        ),
        (
            true,
            oversized(u32::MAX),
            Outcome::Closed(vec![Answer::Error(0x2200)]),
        ),
        open(frame(0x55, b"")),
        open(frame(0x08, b"")),
        open(frame(QUERY, b"")),
        open(frame(QUERY, b"\x7f\xff\xff\xff")),
        open(frame(QUERY, b"\0\0\0\x01\xff\0\x01\0")),
        open(frame(0x09, b"\xff\xff\xff\xff")),
        open(frame(0x0A, b"\0\x10short")),
        open(frame(0x0D, b"\0\xff\xff")),
        open(frame(0x0B, b"\0\x01\0\x05MAYBE")),
        open(compressed),
        open(startup()),
        (
            false,
            frame(QUERY, b"\0\0\0\x01x\0\x01\0"),
            Outcome::Open(protocol_error()),
        ),
        (false, frame(STARTUP, b"\0\0"), Outcome::Open(protocol_error())),
        (false, oversized(100_001), Outcome::Closed(protocol_error())),
    ];
    for (ready, bytes, expected) in cases {
        assert_eq!(
            send(&sandbox, ready, &bytes, false).await,
            expected,
            "{bytes:02x?}"
        );
    }
    assert_serves(&sandbox).await;
}

#[tokio::test]
async fn half_frames_do_not_hold_up_others() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let mut half = TcpStream::connect(sandbox.addr()).await.unwrap();
    half.write_all(&startup()[..12]).await.unwrap();
    let silent = TcpStream::connect(sandbox.addr()).await.unwrap();
    assert_serves(&sandbox).await;
    // What the client leaves unfinished ends with it.
    assert_eq!(
        send(&sandbox, true, &frame(QUERY, b"\0\0")[..10], true).await,
        Outcome::Closed(vec![])
    );
    half.write_all(&startup()[12..]).await.unwrap();
    assert_eq!(read_answer(&mut half).await, Some(Answer::Other(0x02)));
    drop(silent);
}

#[tokio::test]
async fn connections_that_never_introduce_themselves_are_closed() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let mut silent = TcpStream::connect(sandbox.addr()).await.unwrap();
    // The node's timeout of 10 s in real time: the node's clock is not the test's.
    assert_eq!(read_answer(&mut silent).await, None);
    assert_serves(&sandbox).await;
}

#[tokio::test]
async fn the_corpus_is_harmless() {
    let sandbox = Sandbox::builder().start().await.unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz-corpus/wire");
    let mut files: Vec<_> = std::fs::read_dir(&corpus)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(files.len() >= 20, "{} files in {}", files.len(), corpus.display());
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        send(&sandbox, false, &bytes, true).await;
        send(&sandbox, true, &bytes, true).await;
    }
    assert_serves(&sandbox).await;
}

#[test]
fn random_frames_are_harmless() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sandbox = runtime.block_on(Sandbox::builder().start()).unwrap();
    let random_frame = (
        prop::sample::select(vec![0x01_u8, 0x05, 0x07, 0x09, 0x0A, 0x0B, 0x0D, 0x0F, 0x42]),
        prop::sample::select(vec![0_u8, 0, 0, 1, 2, 4, 8, 0xff]),
        prop::collection::vec(any::<u8>(), 0..200),
    );
    let frames = prop::collection::vec(random_frame, 1..5).prop_map(|frames| {
        let encoded = frames.into_iter().map(|(opcode, flags, body)| {
            let mut bytes = frame(opcode, &body);
            bytes[1] = flags;
            bytes
        });
        encoded.flatten().collect::<Vec<u8>>()
    });
    let input =
        prop::strategy::Union::new([frames.boxed(), prop::collection::vec(any::<u8>(), 0..300).boxed()]);
    let mut runner = TestRunner::new(Config {
        cases: 300,
        ..Config::default()
    });
    let outcome = runner.run(&(any::<bool>(), input), |(ready, bytes)| {
        runtime.block_on(send(&sandbox, ready, &bytes, true));
        Ok(())
    });
    outcome.unwrap();
    runtime.block_on(assert_serves(&sandbox));
    runtime.block_on(sandbox.stop());
}
