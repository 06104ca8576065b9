//! Roles, passwords and permissions, as far as clients of the relay's kind meet them.
//!
//! Kept in memory, for all nodes. Enforced only if a user was given at start; without, everyone may do
//! everything and role statements are refused, as with ScyllaDB's AllowAllAuthenticator.

mod listing;
mod permissions;
mod statements;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use parking_lot::RwLock;

use crate::cql::ast::Statement;
use crate::cql::ast::access::{Permission, Resource};
use crate::error::{CqlError, ErrorKind};
use crate::query::api::QueryResult;
use crate::query::hooks::Administration;
use crate::query::virtual_table::VirtualContext;

/// Roles at a time: far more than a test makes.
const MAX_ROLES: usize = 1_000;

pub struct Roles {
    enforced: bool,
    roles: RwLock<BTreeMap<String, Role>>,
}

/// A user that exists from the start, a superuser.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub password: String,
}

#[derive(Default)]
struct Role {
    password: Option<String>,
    superuser: bool,
    login: bool,
    member_of: BTreeSet<String>,
    grants: Vec<(Resource, Permission)>,
}

impl Roles {
    /// With no users nothing is enforced.
    pub fn new(users: Vec<User>) -> Self {
        let enforced = !users.is_empty();
        let roles = users
            .into_iter()
            .map(|user| {
                let role = Role {
                    password: Some(user.password),
                    superuser: true,
                    login: true,
                    ..Role::default()
                };
                (user.name, role)
            })
            .collect();
        Self {
            enforced,
            roles: RwLock::new(roles),
        }
    }

    /// True if clients must log in.
    pub fn enforced(&self) -> bool {
        self.enforced
    }

    /// Checks a SASL PLAIN token (`authzid NUL user NUL password`) and gives the role.
    ///
    /// # Errors
    /// BadCredentials, in ScyllaDB's words; the same for an unknown user and a wrong password.
    pub fn log_in(&self, token: &[u8]) -> Result<String, CqlError> {
        let refused = |message: &str| CqlError::new(ErrorKind::BadCredentials, message);
        let mut parts = token.split(|byte| *byte == 0);
        let (Some(_), Some(user), Some(password), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(refused(
                "Authentication data must have the form authzid NUL user NUL password",
            ));
        };
        let (Ok(user), Ok(password)) = (std::str::from_utf8(user), std::str::from_utf8(password)) else {
            return Err(refused("Username and/or password are not UTF-8"));
        };
        let roles = self.roles.read();
        match roles.get(user) {
            Some(role) if role.password.as_deref() == Some(password) => match role.login {
                true => Ok(user.to_owned()),
                false => Err(refused(&format!("{user} is not permitted to log in"))),
            },
            _ => Err(refused("Username and/or password are incorrect")),
        }
    }
}

impl Administration for Roles {
    fn authorize(
        &self,
        context: &VirtualContext<'_>,
        statement: &Statement,
        keyspace: Option<&str>,
    ) -> Result<(), CqlError> {
        match &context.session.user {
            Some(user) if self.enforced => self.check_permissions(user, statement, keyspace),
            _ => Ok(()),
        }
    }

    fn execute(&self, context: &VirtualContext<'_>, statement: &Statement) -> Result<QueryResult, CqlError> {
        if !self.enforced {
            return Err(CqlError::invalid(
                "Roles need password authentication, which is off: start the node with a user to turn it on",
            ));
        }
        self.change(context, statement)
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::api::Session;
    use crate::schema::Catalog;

    fn user(name: &str, password: &str) -> User {
        User {
            name: name.into(),
            password: password.into(),
        }
    }

    #[test]
    fn plain_tokens() {
        let roles = Roles::new(vec![user("ann", "secret")]);
        let check = |token: &[u8], expected: Result<&str, &str>| match (roles.log_in(token), expected) {
            (Ok(user), Ok(expected)) => assert_eq!(user, expected),
            (Err(error), Err(text)) => {
                assert_eq!(error.code(), 0x0100);
                assert!(error.message.contains(text), "{}", error.message);
            }
            (found, _) => panic!("{found:?}"),
        };
        check(b"\0ann\0secret", Ok("ann"));
        check(b"other\0ann\0secret", Ok("ann"));
        check(b"\0ann\0wrong", Err("incorrect"));
        check(b"\0bob\0secret", Err("incorrect"));
        check(b"ann\0secret", Err("must have the form"));
        check(b"", Err("must have the form"));
        check(b"\0\xff\0secret", Err("UTF-8"));
    }

    /// What one statement by one user comes to: "ok", the rows of a LIST, or code and beginning of the error.
    fn outcome(roles: &Roles, user: &str, text: &str) -> String {
        let (catalog, session) = (
            Catalog::default(),
            Session {
                user: Some(user.to_owned()),
                keyspace: Some("ks".to_owned()),
                ..Session::default()
            },
        );
        let context = VirtualContext {
            catalog: &catalog,
            session: &session,
        };
        let statement = crate::cql::parse(text).unwrap().statement;
        let authorized = roles.authorize(&context, &statement, Some("ks"));
        let about_roles = text.contains("ROLE") || text.contains("GRANT") || text.contains("REVOKE");
        let result = authorized.and_then(|()| match about_roles || text.starts_with("LIST") {
            true => roles.execute(&context, &statement),
            false => Ok(QueryResult::Void),
        });
        match result {
            Ok(QueryResult::Rows(rows)) => {
                let cells = rows.to_vec().into_iter().flatten().flatten();
                let cells: Vec<String> = cells
                    .map(|cell| String::from_utf8_lossy(&cell).into_owned())
                    .collect();
                cells.join(" ")
            }
            Ok(_) => "ok".to_owned(),
            Err(error) => format!("{:#06x} {}", error.code(), error.message),
        }
    }

    #[test]
    fn permissions_are_granted_inherited_and_taken() {
        let roles = Roles::new(vec![user("root", "r")]);
        let steps = [
            (
                "root",
                "CREATE ROLE app WITH PASSWORD = 'a' AND LOGIN = true",
                "ok",
            ),
            ("root", "CREATE ROLE app", "0x2200 Role app already exists"),
            ("root", "CREATE ROLE IF NOT EXISTS app", "ok"),
            ("root", "CREATE ROLE readers", "ok"),
            ("app", "CREATE ROLE x", "0x2100"),
            (
                "app",
                "SELECT * FROM t",
                "0x2100 User app has no SELECT permission on <table ks.t>",
            ),
            ("app", "SELECT * FROM system.local", "ok"),
            ("app", "SELECT * FROM system_schema.tables", "ok"),
            (
                "app",
                "SELECT * FROM system_distributed.cdc_streams_descriptions_v2",
                "0x2100",
            ),
            ("root", "GRANT SELECT ON KEYSPACE ks TO readers", "ok"),
            ("root", "GRANT readers TO app", "ok"),
            ("app", "SELECT * FROM t", "ok"),
            ("app", "INSERT INTO t (a) VALUES (1)", "0x2100"),
            ("root", "GRANT MODIFY ON t TO app", "ok"),
            ("app", "INSERT INTO t (a) VALUES (1)", "ok"),
            (
                "app",
                "BEGIN BATCH INSERT INTO t (a) VALUES (1); INSERT INTO u (a) VALUES (1); APPLY BATCH",
                "0x2100",
            ),
            (
                "app",
                "CREATE TABLE v (a int PRIMARY KEY)",
                "0x2100 User app has no CREATE permission on <keyspace ks>",
            ),
            (
                "root",
                "LIST ALL PERMISSIONS OF app",
                "app app <table ks.t> MODIFY",
            ),
            ("root", "REVOKE MODIFY ON t FROM app", "ok"),
            ("app", "DELETE FROM t WHERE a = 1", "0x2100"),
            ("root", "REVOKE readers FROM app", "ok"),
            ("app", "SELECT * FROM t", "0x2100"),
            ("app", "ALTER ROLE app WITH PASSWORD = 'b'", "ok"),
            ("app", "ALTER ROLE app WITH SUPERUSER = true", "0x2100"),
            ("root", "DROP ROLE root", "0x2200 Cannot DROP"),
            ("root", "DROP ROLE readers", "ok"),
            ("root", "DROP ROLE readers", "0x2200 Role readers doesn't exist"),
        ];
        for (user, text, expected) in steps {
            let found = outcome(&roles, user, text);
            assert!(found.starts_with(expected), "{user}: {text}: {found}");
        }
        assert_eq!(roles.log_in(b"\0app\0b").unwrap(), "app");
    }

    #[test]
    fn role_statements_need_authentication() {
        let found = outcome(&Roles::new(Vec::new()), "nobody", "CREATE ROLE x");
        assert!(
            found.starts_with("0x2200 Roles need password authentication"),
            "{found}"
        );
    }

    #[test]
    fn passwords_are_not_printed() {
        assert!(!format!("{:?}", user("ann", "secret")).contains("secret"));
    }
}
