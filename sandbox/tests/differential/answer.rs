//! What a node answers to a statement, and when two nodes have said the same.

use scylla::client::session::Session;
use scylla::errors::{DbError, ExecutionError, RequestAttemptError};
use scylla::response::query_result::QueryResult;
use scylla::response::{PagingState, PagingStateResponse};
use scylla::statement::Statement;
use scylla::value::{CqlValue, Row};

/// How far loose values may lie apart: seconds between the two reads of a TTL.
const LOOSE: i32 = 60;

/// The first column of what a conditional write answers.
const APPLIED: &str = "[applied]";

type Values = Vec<Option<CqlValue>>;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    Void,
    /// Rows by page.
    Rows(Vec<Page>),
    Error(i32, String),
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Page {
    columns: Vec<String>,
    rows: Vec<Values>,
}

/// How an answer of ScyllaDB agrees with Cassandra's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    Same,
    /// A conditional write answers with the rows as they were, also when it was applied.
    OldRows,
    /// Pages end early, also behind the last row.
    EarlyPages,
}

/// Asks for pages of `page` rows, or for everything at once.
pub(crate) async fn ask(session: &Session, text: &str, page: Option<i32>) -> Answer {
    let mut statement = Statement::new(text);
    let Some(size) = page else {
        return match session.query_unpaged(statement, ()).await {
            Ok(result) => page_of(result).map_or(Answer::Void, |page| Answer::Rows(vec![page])),
            Err(error) => failure(&error),
        };
    };
    statement.set_page_size(size);
    let (mut pages, mut state) = (Vec::new(), PagingState::start());
    loop {
        match session.query_single_page(statement.clone(), (), state).await {
            Ok((result, next)) => {
                pages.extend(page_of(result));
                match next {
                    PagingStateResponse::HasMorePages { state: next } => state = next,
                    PagingStateResponse::NoMorePages => return Answer::Rows(pages),
                }
            }
            Err(error) => return failure(&error),
        }
    }
}

fn page_of(result: QueryResult) -> Option<Page> {
    let rows = result.into_rows_result().ok()?;
    let columns = rows.column_specs().iter().map(|column| column.name().to_owned());
    Some(Page {
        columns: columns.collect(),
        rows: rows
            .rows::<Row>()
            .unwrap()
            .map(|row| row.unwrap().columns)
            .collect(),
    })
}

fn failure(error: &ExecutionError) -> Answer {
    let ExecutionError::LastAttemptError(RequestAttemptError::DbError(code, text)) = error else {
        panic!("not an answer of the database: {error}");
    };
    let code = match code {
        DbError::Other(code) => *code,
        known => known.code(&Default::default()),
    };
    Answer::Error(code, text.clone())
}

/// Texts of errors are people's business; codes are the contract. A trailing empty page is the server's choice.
pub(crate) fn same(ours: &Answer, theirs: &Answer, loose: Option<usize>) -> bool {
    match (ours, theirs) {
        (Answer::Void, Answer::Void) => true,
        (Answer::Error(ours, _), Answer::Error(theirs, _)) => ours == theirs,
        (Answer::Rows(ours), Answer::Rows(theirs)) => {
            let full = |pages: &[Page]| -> Vec<Vec<Values>> {
                let full = pages.iter().filter(|page| !page.rows.is_empty());
                full.map(|page| page.rows.clone()).collect()
            };
            let columns = |pages: &[Page]| pages.first().map(|page| page.columns.clone());
            let theirs_full = full(theirs);
            columns(ours) == columns(theirs)
                && format!("{:?}", blur(full(ours), &theirs_full, loose)) == format!("{theirs_full:?}")
        }
        _ => false,
    }
}

/// Whether `ours` is what ScyllaDB answers where Cassandra answers `theirs`: the same, but for the two forms of
/// [`Form`]. `old` is what Cassandra had of a conditional write's rows before it.
pub(crate) fn agrees(
    ours: &Answer,
    theirs: &Answer,
    page: Option<i32>,
    loose: Option<usize>,
    old: &[Answer],
) -> Option<Form> {
    if let Answer::Rows(theirs) = theirs
        && let [outcome] = &theirs[..]
        && outcome.columns.first().is_some_and(|name| name == APPLIED)
    {
        return shows_old_rows(ours, &outcome.rows[0][0], old).then_some(Form::OldRows);
    }
    if same(ours, theirs, loose) {
        return Some(Form::Same);
    }
    let (Answer::Rows(mine), Some(size)) = (ours, page) else {
        return None;
    };
    let fit = mine.iter().all(|page| page.rows.len() <= size as usize);
    (fit && same(&joined(ours), &joined(theirs), loose)).then_some(Form::EarlyPages)
}

/// One row for each statement: whether all was applied, and what `old` found of it before; a column that `old` does
/// not have is null.
fn shows_old_rows(ours: &Answer, applied: &Option<CqlValue>, old: &[Answer]) -> bool {
    let Answer::Rows(pages) = ours else {
        return false;
    };
    let [page] = &pages[..] else { return false };
    let shows = |row: &Values, old: &Answer| {
        let Answer::Rows(old) = old else { return false };
        let before = &old[0];
        let was = |name: &String| {
            let column = before.columns.iter().position(|column| column == name)?;
            before.rows.first()?[column].clone()
        };
        let mut expected = vec![applied.clone()];
        expected.extend(page.columns[1..].iter().map(was));
        let all_shown = before.columns.iter().all(|name| page.columns.contains(name));
        before.rows.len() <= 1 && all_shown && page.columns[0] == APPLIED && *row == expected
    };
    !old.is_empty()
        && page.rows.len() == old.len()
        && page.rows.iter().zip(old).all(|(row, old)| shows(row, old))
}

fn joined(answer: &Answer) -> Answer {
    let Answer::Rows(pages) = answer else {
        return answer.clone();
    };
    Answer::Rows(vec![Page {
        columns: pages.first().map(|page| page.columns.clone()).unwrap_or_default(),
        rows: pages.iter().flat_map(|page| page.rows.clone()).collect(),
    }])
}

/// `ours` with the loose column taken from `theirs` where the two are close.
fn blur(mut ours: Vec<Vec<Values>>, theirs: &[Vec<Values>], loose: Option<usize>) -> Vec<Vec<Values>> {
    let Some(column) = loose else { return ours };
    for (a, b) in ours.iter_mut().flatten().zip(theirs.iter().flatten()) {
        if let (Some(Some(CqlValue::Int(mine))), Some(Some(CqlValue::Int(other)))) =
            (a.get(column), b.get(column))
            && (mine - other).abs() <= LOOSE
        {
            a[column] = b[column].clone();
        }
    }
    ours
}
