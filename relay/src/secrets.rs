//! Secrets are named in the configuration and read here, from files and environment variables only.

use std::path::{Path, PathBuf};

use crds::secrets::Credentials;

/// A user name and its password. Printed without the password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Login({})", self.username)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error("{field}: cannot read {path}; accepted: a readable file")]
    File {
        field: String,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{field}: the environment variable {name} is not set")]
    Environment { field: String, name: String },
    #[error("{field} is missing; accepted: exactly one of {accepted}")]
    Missing { field: String, accepted: &'static str },
}

/// Reads a login. `field` is where the configuration names it, for errors.
///
/// # Errors
/// When a file or variable that is named cannot be read, or none is named.
pub fn login(field: &str, credentials: &Credentials) -> Result<Login, SecretError> {
    let missing = |name: &str, accepted| SecretError::Missing {
        field: format!("{field}.{name}"),
        accepted,
    };
    let username = match (&credentials.username, &credentials.username_file) {
        (Some(username), _) => username.clone(),
        (None, Some(path)) => read(&format!("{field}.usernameFile"), path)?.trim().to_owned(),
        (None, None) => return Err(missing("username", "username, usernameFile")),
    };
    let password = match (&credentials.password_env, &credentials.password_file) {
        (Some(name), _) => std::env::var(name).map_err(|_| SecretError::Environment {
            field: format!("{field}.passwordEnv"),
            name: name.clone(),
        })?,
        (None, Some(path)) => read(&format!("{field}.passwordFile"), path)?
            .trim_end_matches(['\r', '\n'])
            .to_owned(),
        (None, None) => return Err(missing("password", "passwordEnv, passwordFile")),
    };
    Ok(Login { username, password })
}

fn read(field: &str, path: &Path) -> Result<String, SecretError> {
    std::fs::read_to_string(path).map_err(|source| SecretError::File {
        field: field.to_owned(),
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lose_their_line_end_and_missing_ones_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (user, password) = (folder.path().join("user"), folder.path().join("password"));
        std::fs::write(&user, " relay\n").unwrap();
        std::fs::write(&password, " s3cret \n").unwrap();
        let named = Credentials {
            username_file: Some(user),
            password_file: Some(password.clone()),
            ..Credentials::default()
        };
        let login = login("source.credentials", &named).unwrap();
        assert_eq!(
            (login.username.as_str(), login.password.as_str()),
            ("relay", " s3cret ")
        );
        assert!(!format!("{login:?}").contains("s3cret"));
        let gone = Credentials {
            password_file: Some(folder.path().join("gone")),
            ..named
        };
        let error = super::login("source.credentials", &gone).unwrap_err().to_string();
        assert!(
            error.starts_with("source.credentials.passwordFile: cannot read"),
            "{error}"
        );
        let error = super::login("sink.sasl", &Credentials::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("sink.sasl.username is missing"), "{error}");
    }
}
