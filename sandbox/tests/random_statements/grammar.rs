//! A grammar of CQL that is as likely to be refused as to be understood.

use rand::Rng;
use rand::rngs::StdRng;

/// What most statements are about.
pub(crate) const SCHEMA: [&str; 6] = [
    "CREATE KEYSPACE ks WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1} AND tablets = {'enabled': false}",
    "CREATE KEYSPACE tb WITH replication = {'class': 'NetworkTopologyStrategy', 'replication_factor': 1} AND tablets = {'enabled': true}",
    "CREATE TYPE ks.u (a int, b text)",
    "CREATE TABLE ks.t (p int, c int, v text, i int, s int static, m map<int, text>, l list<int>, w set<text>, u u, \
     PRIMARY KEY (p, c)) WITH cdc = {'enabled': true, 'preimage': true, 'postimage': true}",
    "CREATE TABLE tb.t (p int, q text, c timeuuid, d int, v blob, PRIMARY KEY ((p, q), c, d)) \
     WITH CLUSTERING ORDER BY (c DESC, d ASC) AND cdc = {'enabled': true, 'preimage': 'full'}",
    "CREATE TABLE ks.n (k text PRIMARY KEY, n counter)",
];

const TABLES: [&str; 9] = [
    "ks.t",
    "ks.t",
    "tb.t",
    "ks.n",
    "ks.t_scylla_cdc_log",
    "tb.t_scylla_cdc_log",
    "system.local",
    "system.cdc_streams",
    "ks.nope",
];
const COLUMNS: [&str; 17] = [
    "p",
    "c",
    "v",
    "i",
    "s",
    "m",
    "l",
    "w",
    "u",
    "q",
    "d",
    "k",
    "n",
    "u.a",
    "\"cdc$time\"",
    "m[1]",
    "nope",
];
const TYPES: [&str; 14] = [
    "int",
    "text",
    "blob",
    "timeuuid",
    "duration",
    "varint",
    "decimal",
    "counter",
    "list<int>",
    "map<text, int>",
    "set<frozen<list<int>>>",
    "tuple<int, text>",
    "frozen<u>",
    "vector<float, 3>",
];
const LITERALS: [&str; 30] = [
    "0",
    "1",
    "2",
    "-1",
    "2147483648",
    "99999999999999999999",
    "1.5",
    "-0.0",
    "NaN",
    "null",
    "true",
    "''",
    "'x'",
    "'it''s'",
    "$$x$$",
    "0x",
    "0xcafe",
    "0xabc",
    "?",
    "?",
    "?",
    ":name",
    "1d2h",
    "'2024-02-30'",
    "'2024-01-01T00:00:00Z'",
    "550e8400-e29b-41d4-a716-446655440000",
    "50554d6e-29bb-11e5-b345-feff819cdc9f",
    "(int) 1",
    "now()",
    "uuid()",
];
const OPERATORS: [&str; 11] = [
    "=",
    "=",
    "=",
    "<",
    "<=",
    ">",
    ">=",
    "!=",
    "IN",
    "CONTAINS",
    "CONTAINS KEY",
];
const FUNCTIONS: [&str; 18] = [
    "count",
    "min",
    "max",
    "sum",
    "avg",
    "writetime",
    "ttl",
    "token",
    "toTimestamp",
    "dateOf",
    "minTimeuuid",
    "blobAsInt",
    "intAsBlob",
    "textAsBlob",
    "toJson",
    "fromJson",
    "cast",
    "nope",
];
const OPTIONS: [&str; 10] = [
    "cdc = {'enabled': true}",
    "cdc = {'enabled': false}",
    "cdc = {'enabled': true, 'ttl': -1}",
    "cdc = {'delta': 'keys'}",
    "default_time_to_live = 1",
    "gc_grace_seconds = 0",
    "comment = 'x'",
    "compaction = {'class': 'Nope'}",
    "nope = 1",
    "CLUSTERING ORDER BY (c DESC)",
];

/// Statements that fit the schema, so that many get as far as they go; `#` is a small number.
const FITTING_WRITES: [&str; 10] = [
    "INSERT INTO ks.t (p, c, v, i, s, m, l, w, u) VALUES (#, #, 'x', #, #, {1: 'a'}, [1, 2], {'a'}, {a: 1, b: 'b'})",
    "INSERT INTO ks.t (p, c, i, m) VALUES (#, #, ?, {#: 'b'}) USING TTL 5",
    "INSERT INTO ks.t (p, c, v) VALUES (#, #, ?) IF NOT EXISTS",
    "UPDATE ks.t SET m = m + {#: 'b'}, l = l - [#], w = w + {'z'}, s = # WHERE p = # AND c = #",
    "UPDATE ks.t SET l = [#] + l, u.a = # WHERE p = # AND c IN (#, #) ",
    "UPDATE ks.t SET i = # WHERE p = # AND c = # IF i >= # AND l != null",
    "DELETE FROM ks.t WHERE p = # AND c > # AND c <= #",
    "DELETE m[#], l FROM ks.t WHERE p = # AND c = #",
    "INSERT INTO tb.t (p, q, c, d, v) VALUES (#, 'q', now(), #, 0x0#)",
    "UPDATE ks.n SET n = n + # WHERE k = 'a'",
];
const FITTING_READS: [&str; 12] = [
    "SELECT * FROM ks.t WHERE p IN (#, #) AND c >= #",
    "SELECT * FROM ks.t WHERE p = ? AND c > ? ORDER BY c DESC LIMIT #",
    "SELECT p, c, count(*), max(i) FROM ks.t GROUP BY p, c PER PARTITION LIMIT #",
    "SELECT DISTINCT p, s FROM ks.t",
    "SELECT * FROM ks.t_scylla_cdc_log",
    "SELECT * FROM ks.t_scylla_cdc_log WHERE \"cdc$stream_id\" IN ? AND \"cdc$time\" > minTimeuuid(#)",
    "SELECT * FROM tb.t WHERE token(p, q) > # PER PARTITION LIMIT #",
    "SELECT v, writetime(v), ttl(v) FROM ks.t WHERE i > # ALLOW FILTERING",
    "SELECT JSON * FROM ks.t LIMIT #",
    "SELECT c FROM ks.t WHERE p IN (#, #) ORDER BY c LIMIT #",
    "SELECT n FROM ks.n WHERE k IN ('a', 'b')",
    "SELECT stream_id FROM system.cdc_streams WHERE keyspace_name = 'tb' AND table_name = 't' AND timestamp > #",
];

pub(crate) struct Grammar<'r>(pub(crate) &'r mut StdRng);

impl Grammar<'_> {
    /// Any statement; one in ten is broken somewhere.
    pub(crate) fn statement(&mut self) -> String {
        let mut text = match self.0.random_range(0..20) {
            0..6 => self.fitting(&FITTING_WRITES),
            6..10 => self.fitting(&FITTING_READS),
            10..14 => self.write(),
            14..18 => self.select(),
            18 => self.definition(),
            _ => self.rest(),
        };
        if self.0.random_ratio(1, 10) {
            self.damage(&mut text);
        }
        text
    }

    fn fitting(&mut self, choices: &[&str]) -> String {
        let mut pieces = self.pick(choices).split('#');
        let first = pieces.next().unwrap_or_default().to_owned();
        pieces.fold(first, |text, piece| {
            format!("{text}{}{piece}", self.0.random_range(1..4))
        })
    }

    pub(crate) fn write(&mut self) -> String {
        match self.0.random_range(0..5) {
            0 => self.insert(),
            1 => self.update(),
            2 => self.delete(),
            3 => {
                let json = self.pick(&[
                    "{}",
                    "{\"p\": 1, \"c\": 2}",
                    "{\"p\": [1]}",
                    "[",
                    "{\"p\":1,\"c\":1,\"m\":{\"1\":null}}",
                ]);
                format!(
                    "INSERT INTO {} JSON '{json}' {}",
                    self.table(),
                    self.pick(&["", "DEFAULT UNSET", "IF NOT EXISTS"])
                )
            }
            _ => {
                let kind = self.pick(&["", "UNLOGGED", "COUNTER"]);
                let statements: String = (0..self.0.random_range(0..4))
                    .map(|_| self.simple_write() + "; ")
                    .collect();
                format!("BEGIN {kind} BATCH {}{statements}APPLY BATCH", self.using())
            }
        }
    }

    fn simple_write(&mut self) -> String {
        match self.0.random_range(0..3) {
            0 => self.insert(),
            1 => self.update(),
            _ => self.delete(),
        }
    }

    fn insert(&mut self) -> String {
        let columns: Vec<_> = match self.0.random_range(0..3) {
            0 => self.list(4, |grammar| grammar.pick(&COLUMNS).to_owned()),
            _ => vec!["p".into(), "c".into(), self.pick(&COLUMNS).into()],
        };
        let values: Vec<_> = columns.iter().map(|_| self.term(2)).collect();
        let exists = self.pick(&["", "", "", "IF NOT EXISTS"]);
        format!(
            "INSERT INTO {} ({}) VALUES ({}) {exists} {}",
            self.table(),
            columns.join(", "),
            values.join(", "),
            self.using()
        )
    }

    fn update(&mut self) -> String {
        let assignments = self.list(3, |grammar| {
            let column = grammar.pick(&COLUMNS);
            match grammar.0.random_range(0..4) {
                0 => format!("{column} = {column} + {}", grammar.term(2)),
                1 => format!("{column} = {column} - {}", grammar.term(2)),
                2 => format!("{column}[{}] = {}", grammar.term(1), grammar.term(1)),
                _ => format!("{column} = {}", grammar.term(2)),
            }
        });
        format!(
            "UPDATE {} {}SET {} {}{}",
            self.table(),
            self.using(),
            assignments.join(", "),
            self.key(),
            self.condition()
        )
    }

    fn delete(&mut self) -> String {
        let columns = self.list(2, |grammar| grammar.pick(&COLUMNS).to_owned());
        format!(
            "DELETE {} FROM {} {}{}{}",
            columns.join(", "),
            self.table(),
            self.using(),
            self.key(),
            self.condition()
        )
    }

    fn select(&mut self) -> String {
        let what = match self.0.random_range(0..4) {
            0 => "*".to_owned(),
            1 => "count(*)".to_owned(),
            _ => self.list(3, Self::selector).join(", "),
        };
        let mut text = format!(
            "SELECT {} {what} FROM {}",
            self.pick(&["", "", "", "DISTINCT", "JSON"]),
            self.table()
        );
        if self.0.random_bool(0.7) {
            text += " ";
            text += &self.key();
        }
        if self.0.random_ratio(1, 6) {
            text += &format!(
                " GROUP BY {}",
                self.list(2, |grammar| grammar.pick(&COLUMNS).to_owned())
                    .join(", ")
            );
        }
        if self.0.random_ratio(1, 4) {
            text += &format!(
                " ORDER BY {} {}",
                self.pick(&COLUMNS),
                self.pick(&["", "ASC", "DESC"])
            );
        }
        if self.0.random_ratio(1, 4) {
            text += &format!(" PER PARTITION LIMIT {}", self.pick(&["1", "2", "0", "?"]));
        }
        if self.0.random_ratio(1, 3) {
            text += &format!(" LIMIT {}", self.pick(&["1", "3", "-1", "?", "null"]));
        }
        text + self.pick(&["", "", " ALLOW FILTERING", " BYPASS CACHE", " USING TIMEOUT 50ms"])
    }

    fn selector(&mut self) -> String {
        let column = self.pick(&COLUMNS);
        match self.0.random_range(0..4) {
            0 => {
                let function = self.pick(&FUNCTIONS);
                let argument = self.term(1);
                self.pick(&[
                    &format!("{function}({column})"),
                    &format!("{function}({argument})"),
                    &format!("{function}({column}, {argument}) AS x"),
                    &format!(
                        "cast({column} AS {})",
                        TYPES[self.0.clone().random_range(0..TYPES.len())]
                    ),
                ])
                .to_owned()
            }
            _ => column.to_owned(),
        }
    }

    /// A WHERE clause, mostly one that names a partition.
    fn key(&mut self) -> String {
        let mut relations = Vec::new();
        if self.0.random_bool(0.8) {
            relations.push(match self.0.random_range(0..4) {
                0 => format!("p IN ({}, {})", self.term(1), self.term(1)),
                1 => "p IN ?".to_owned(),
                _ => format!("p = {}", self.pick(&["0", "1", "2", "?"])),
            });
        }
        relations.extend(self.list(3, |grammar| {
            let operator = grammar.pick(&OPERATORS);
            match grammar.0.random_range(0..6) {
                0 => format!("token(p) {operator} {}", grammar.term(1)),
                1 => format!("(c, d) {operator} ({}, {})", grammar.term(1), grammar.term(1)),
                2 => format!("(c) IN (({}), ({}))", grammar.term(1), grammar.term(1)),
                3 => format!("c {operator} {}", grammar.pick(&["0", "1", "2", "?", "(1, 2)"])),
                _ => format!("{} {operator} {}", grammar.pick(&COLUMNS), grammar.term(2)),
            }
        }));
        match relations.is_empty() {
            true => String::new(),
            false => format!("WHERE {}", relations.join(" AND ")),
        }
    }

    fn condition(&mut self) -> String {
        match self.0.random_range(0..8) {
            0 => " IF EXISTS".to_owned(),
            1 => {
                let operator = self.pick(&OPERATORS);
                format!(
                    " IF {} {operator} {} AND v != null",
                    self.pick(&COLUMNS),
                    self.term(2)
                )
            }
            _ => String::new(),
        }
    }

    fn using(&mut self) -> String {
        match self.0.random_range(0..10) {
            0 => format!("USING TTL {} ", self.term(1)),
            1 => format!("USING TIMESTAMP {} ", self.term(1)),
            2 => format!("USING TIMESTAMP {} AND TTL {} ", self.term(1), self.term(1)),
            3 => "USING TIMEOUT 5s ".to_owned(),
            _ => String::new(),
        }
    }

    fn term(&mut self, depth: usize) -> String {
        if depth == 0 || self.0.random_bool(0.7) {
            return self.pick(&LITERALS).to_owned();
        }
        let (a, b) = (self.term(depth - 1), self.term(depth - 1));
        let function = self.pick(&FUNCTIONS);
        self.pick(&[
            &format!("[{a}, {b}]"),
            &format!("{{{a}, {b}}}"),
            &format!("{{{a}: {b}}}"),
            &format!("{{a: {a}, b: {b}}}"),
            &format!("({a}, {b})"),
            &format!("{function}({a})"),
            "[]",
            "{}",
        ])
        .to_owned()
    }

    fn definition(&mut self) -> String {
        let name = self.pick(&["ks.a", "ks.b", "tb.a", "ks.t", "nope.t"]);
        let (ty, column, option) = (self.pick(&TYPES), self.pick(&COLUMNS), self.pick(&OPTIONS));
        match self.0.random_range(0..9) {
            0..3 => format!("CREATE TABLE {name} (p int, c {ty}, v {ty}, PRIMARY KEY (p, c)) WITH {option}"),
            3 => format!("ALTER TABLE {name} ADD {column} {ty}"),
            4 => format!("ALTER TABLE {name} DROP {column}"),
            5 => format!("ALTER TABLE ks.a WITH {option} AND {}", self.pick(&OPTIONS)),
            6 => format!(
                "DROP TABLE IF EXISTS {}",
                self.pick(&["ks.a", "ks.b", "tb.a", "ks.t_scylla_cdc_log"])
            ),
            7 => format!("CREATE TYPE ks.{} (a {ty}, b {ty})", self.pick(&["x", "y", "u"])),
            _ => format!("CREATE INDEX ON {name} ({column})"),
        }
    }

    fn rest(&mut self) -> String {
        let name = self.pick(&TABLES);
        match self.0.random_range(0..6) {
            0 => format!("USE {}", self.pick(&["ks", "tb", "nope", "\"KS\""])),
            1 => format!("TRUNCATE {name}"),
            2 => format!("DESCRIBE TABLE {name}"),
            3 => format!("GRANT SELECT ON {name} TO someone"),
            4 => format!("LIST ALL PERMISSIONS OF {}", self.pick(&["someone", "cassandra"])),
            _ => format!("ALTER KEYSPACE ks WITH durable_writes = {}", self.term(1)),
        }
    }

    /// Cuts, doubles or replaces a piece.
    fn damage(&mut self, text: &mut String) {
        let boundaries: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        let Some(&at) = boundaries.get(self.0.random_range(0..boundaries.len().max(1))) else {
            return;
        };
        match self.0.random_range(0..4) {
            0 => text.truncate(at),
            1 => text.insert_str(
                at,
                self.pick(&["(", ")", "'", "\"", "$$", "/*", "--", ";", "\0", "é", "{", "?"]),
            ),
            2 => {
                let tail = text[at..].to_owned();
                text.push_str(&tail);
            }
            _ => text.drain(..at).for_each(drop),
        }
    }

    fn table(&mut self) -> &'static str {
        self.pick(&TABLES)
    }

    fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.0.random_range(0..choices.len())]
    }

    /// None to `most` of something.
    fn list(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> String) -> Vec<String> {
        (0..self.0.random_range(0..=most)).map(|_| make(self)).collect()
    }
}
