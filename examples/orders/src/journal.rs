//! What the load generator committed: an append-only file, one JSON object per line.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One event that the load generator wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub event_id: Uuid,
    pub aggregate_id: Uuid,
    /// Rises with the commits of the aggregate; gaps are allowed.
    pub sequence: i64,
    /// When the schedule asked for the write, in microseconds since the Unix epoch.
    pub scheduled_us: i64,
    /// When the write was answered; absent where no answer came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_us: Option<i64>,
    #[serde(default)]
    pub outcome: Outcome,
    /// [`digest`] of what was written; None: not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<u64>,
}

/// Tells an event's content from another one: FNV-1a of type and payload. Nobody forges events here, so 64 bits will do.
pub fn digest(event_type: &[u8], payload: &[u8]) -> u64 {
    // No UTF-8 text holds 0xff, so it separates the two.
    let bytes = event_type.iter().chain(&[0xff]).chain(payload);
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What is known about a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// In the outbox table: it must arrive.
    #[default]
    Committed,
    /// Neither answered nor found in the table: it may arrive.
    Unknown,
}

/// The last line of a load.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    pub offered: u64,
    pub committed: u64,
    /// Answered with an error, and not in the table.
    pub refused: u64,
    /// Neither answered nor found.
    pub unknown: u64,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Event(Entry),
    End(Totals),
}

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("journal {path}: {cause}")]
    Io { path: PathBuf, cause: io::Error },
    #[error("journal {path}, line {line}: {cause}")]
    Malformed {
        path: PathBuf,
        line: u64,
        cause: serde_json::Error,
    },
}

/// Appends to a journal.
pub struct JournalWriter {
    path: PathBuf,
    file: BufWriter<File>,
}

impl JournalWriter {
    /// Opens or creates a journal. A torn last line, left by a killed load, is cut off.
    pub fn open(path: &Path) -> Result<Self, JournalError> {
        let open = || {
            let mut file = OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .open(path)?;
            let mut content = Vec::new();
            file.read_to_end(&mut content)?;
            let whole = content
                .iter()
                .rposition(|byte| *byte == b'\n')
                .map_or(0, |at| at + 1);
            file.set_len(whole as u64)?;
            Ok(file)
        };
        let file = open().map_err(|cause| JournalError::Io {
            path: path.to_owned(),
            cause,
        })?;
        Ok(Self {
            path: path.to_owned(),
            file: BufWriter::new(file),
        })
    }

    /// Appends an entry; readers see it after the next `flush`.
    pub fn write(&mut self, entry: Entry) -> Result<(), JournalError> {
        self.append(&Line::Event(entry))
    }

    /// Says that the load is over, and flushes.
    pub fn end(&mut self, totals: Totals) -> Result<(), JournalError> {
        self.append(&Line::End(totals))?;
        self.flush()
    }

    pub fn flush(&mut self) -> Result<(), JournalError> {
        self.file.flush().map_err(|cause| self.io(cause))
    }

    fn append(&mut self, line: &Line) -> Result<(), JournalError> {
        let written = serde_json::to_writer(&mut self.file, line)
            .map_err(io::Error::from)
            .and_then(|()| self.file.write_all(b"\n"));
        written.map_err(|cause| self.io(cause))
    }

    fn io(&self, cause: io::Error) -> JournalError {
        JournalError::Io {
            path: self.path.clone(),
            cause,
        }
    }
}

/// What a journal says, and why it cannot be all that was committed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Journal {
    pub entries: Vec<Entry>,
    /// Loads that were killed, or whose lines are not those that they counted: what is missing in the journal would be
    /// missed by nobody.
    pub gaps: Vec<String>,
}

/// Reads a journal, also while it is being written.
pub struct JournalReader {
    path: PathBuf,
    /// Bytes read as whole lines.
    position: u64,
    lines: u64,
    entries: Vec<Entry>,
    ended: Option<Totals>,
    /// Committed and unknown events since the last load that ended.
    noted: [u64; 2],
    gaps: Vec<String>,
}

impl JournalReader {
    /// A reader at the start of a journal, which need not exist yet.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            position: 0,
            lines: 0,
            entries: Vec::new(),
            ended: None,
            noted: [0; 2],
            gaps: Vec::new(),
        }
    }

    /// Reads the whole lines that were added since the last call. A file that does not exist has none.
    pub fn poll(&mut self) -> Result<(), JournalError> {
        let added = match read_from(&self.path, self.position) {
            Ok(added) => added,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(cause) => {
                return Err(JournalError::Io {
                    path: self.path.clone(),
                    cause,
                });
            }
        };
        for line in added
            .split_inclusive(|byte| *byte == b'\n')
            .filter(|line| line.ends_with(b"\n"))
        {
            self.lines += 1;
            let parsed = serde_json::from_slice(line).map_err(|cause| JournalError::Malformed {
                path: self.path.clone(),
                line: self.lines,
                cause,
            })?;
            self.position += line.len() as u64;
            match parsed {
                Line::Event(entry) => {
                    self.noted[usize::from(entry.outcome == Outcome::Unknown)] += 1;
                    self.entries.push(entry);
                    self.ended = None;
                }
                Line::End(totals) => self.end(totals),
            }
        }
        Ok(())
    }

    /// A load that was killed leaves no such line, so its events are counted to the next one's.
    fn end(&mut self, totals: Totals) {
        let [committed, unknown] = std::mem::take(&mut self.noted);
        if (committed, unknown) != (totals.committed, totals.unknown) {
            self.gaps.push(format!(
                "line {}: a load counted {} committed and {} unknown events, its lines are {committed} and {unknown}",
                self.lines, totals.committed, totals.unknown
            ));
        }
        self.ended = Some(totals);
    }

    /// All that was read. Lines that no load has ended are a gap: whoever wrote them was killed, or still runs.
    pub fn into_journal(mut self) -> Journal {
        if self.noted != [0; 2] {
            self.gaps.push(format!(
                "the load that wrote line {} did not end: what it committed last may not be noted",
                self.lines
            ));
        }
        Journal {
            entries: self.entries,
            gaps: self.gaps,
        }
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Totals of the last load, once it is over.
    pub fn ended(&self) -> Option<Totals> {
        self.ended
    }
}

fn read_from(path: &Path, position: u64) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(position))?;
    let mut added = Vec::new();
    file.read_to_end(&mut added)?;
    Ok(added)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(sequence: i64) -> Entry {
        Entry {
            event_id: Uuid::from_u128(sequence as u128),
            aggregate_id: Uuid::from_u128(7),
            sequence,
            scheduled_us: 10,
            committed_us: Some(20),
            outcome: Outcome::Committed,
            digest: Some(u64::MAX),
        }
    }

    #[test]
    fn a_reader_follows_the_writer_line_by_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut reader = JournalReader::new(&path);
        reader.poll().unwrap();
        assert!(
            reader.entries().is_empty(),
            "a journal that does not exist yet is empty"
        );

        let mut writer = JournalWriter::open(&path).unwrap();
        writer.write(entry(1)).unwrap();
        writer.flush().unwrap();
        reader.poll().unwrap();
        assert_eq!(reader.entries(), [entry(1)]);
        assert_eq!(reader.ended(), None);

        let totals = Totals {
            offered: 2,
            committed: 2,
            ..Totals::default()
        };
        writer.write(entry(2)).unwrap();
        writer.end(totals).unwrap();
        reader.poll().unwrap();
        assert_eq!(reader.entries(), [entry(1), entry(2)]);
        assert_eq!(reader.ended(), Some(totals));
        assert_eq!(reader.into_journal().gaps, [""; 0]);
    }

    /// The journal of several loads: events of each, and what it said in the end.
    fn gaps(loads: &[(i64, Option<u64>)]) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut sequence = 0..;
        for (events, end) in loads {
            let mut writer = JournalWriter::open(&path).unwrap();
            for number in sequence.by_ref().take(*events as usize) {
                writer.write(entry(number)).unwrap();
            }
            match end {
                Some(committed) => writer
                    .end(Totals {
                        committed: *committed,
                        ..Totals::default()
                    })
                    .unwrap(),
                None => writer.flush().unwrap(),
            }
        }
        let mut reader = JournalReader::new(&path);
        reader.poll().unwrap();
        reader.into_journal().gaps
    }

    #[test]
    fn a_load_that_was_killed_leaves_a_gap() {
        for (loads, expected) in [
            (&[][..], None),
            (&[(0, Some(0))], None),
            (&[(3, Some(3)), (2, Some(2))], None),
            (&[(3, None)], Some("did not end")),
            (&[(3, Some(3)), (2, None)], Some("did not end")),
            (
                &[(3, None), (2, Some(2))],
                Some("2 committed and 0 unknown events, its lines are 5 and 0"),
            ),
            (
                &[(2, Some(3))],
                Some("3 committed and 0 unknown events, its lines are 2 and 0"),
            ),
        ] {
            let found = gaps(loads);
            assert_eq!(
                found.len(),
                usize::from(expected.is_some()),
                "{loads:?}: {found:?}"
            );
            assert!(
                expected.is_none_or(|text| found[0].contains(text)),
                "{loads:?}: {found:?}"
            );
        }
    }

    #[test]
    fn digests_tell_contents_apart() {
        let all = [
            digest(b"OrderCreated", b"{}"),
            digest(b"OrderCreated", b"{ }"),
            digest(b"OrderCreate", b"d{}"),
            digest(b"", b""),
        ];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn a_torn_line_is_not_read_and_is_cut_off_by_the_next_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let mut writer = JournalWriter::open(&path).unwrap();
        writer.write(entry(1)).unwrap();
        writer.flush().unwrap();
        drop(writer);
        OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap()
            .write_all(b"{\"event\":{")
            .unwrap();

        let mut reader = JournalReader::new(&path);
        reader.poll().unwrap();
        assert_eq!(reader.entries(), [entry(1)]);

        let mut writer = JournalWriter::open(&path).unwrap();
        writer.write(entry(2)).unwrap();
        writer.flush().unwrap();
        reader.poll().unwrap();
        assert_eq!(reader.entries(), [entry(1), entry(2)]);
    }

    #[test]
    fn a_malformed_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        std::fs::write(
            &path,
            "{\"end\":{\"offered\":0,\"committed\":0,\"refused\":0,\"unknown\":0}}\nnonsense\n",
        )
        .unwrap();
        let error = JournalReader::new(&path).poll().unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
    }
}
