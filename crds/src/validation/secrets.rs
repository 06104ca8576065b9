//! Credentials and certificates: files and variables in the relay's file, Secrets in the custom resource.

use super::Form;
use crate::names::{is_object_name, is_secret_key};
use crate::problems::{Found, Problems};
use crate::secrets::{Credentials, CredentialsSecretRef, Tls};
use std::path::Path;

const OBJECT_NAME: &str = "the name of a Secret: lower case letters, digits, dashes and dots";
const SECRET_KEY: &str = "a key of the Secret: letters, digits, dots, underscores and dashes";

/// Checks the two ways of naming credentials below `part`.
pub(super) fn credentials(
    part: &str,
    secret: Option<&CredentialsSecretRef>,
    files: Option<&Credentials>,
    form: Form,
    problems: &mut Problems,
) {
    let (secret_path, files_path) = (
        format!("{part}.credentialsSecretRef"),
        format!("{part}.credentials"),
    );
    if let Some(secret) = secret {
        if form == Form::File {
            let accepted = format!("{files_path}; Secrets are named in an OutboxRelay");
            problems.add(&secret_path, Found::Value("a Secret".to_owned()), accepted);
        }
        object_name(format!("{secret_path}.name"), &secret.name, problems);
        secret_key(
            format!("{secret_path}.usernameKey"),
            &secret.username_key,
            problems,
        );
        secret_key(
            format!("{secret_path}.passwordKey"),
            &secret.password_key,
            problems,
        );
    }
    if let Some(files) = files {
        if form == Form::Resource {
            let accepted = format!("{secret_path}; files are named in a relay's own configuration");
            problems.add(
                &files_path,
                Found::Value("files or variables".to_owned()),
                accepted,
            );
        }
        user_and_password(&files_path, files, problems);
    }
}

fn user_and_password(path: &str, files: &Credentials, problems: &mut Problems) {
    let user = [files.username.is_some(), files.username_file.is_some()];
    let password = [files.password_file.is_some(), files.password_env.is_some()];
    exactly_one(path, user, ["username", "usernameFile"], problems);
    exactly_one(path, password, ["passwordFile", "passwordEnv"], problems);
    file(
        format!("{path}.usernameFile"),
        files.username_file.as_deref(),
        problems,
    );
    file(
        format!("{path}.passwordFile"),
        files.password_file.as_deref(),
        problems,
    );
    if files.username.as_deref() == Some("") {
        problems.refuse_text(format!("{path}.username"), "", "a user name");
    }
    if let Some(name) = &files.password_env
        && (name.is_empty() || name.contains(['=', '\0']))
    {
        problems.add(
            format!("{path}.passwordEnv"),
            Found::Hidden,
            "the name of an environment variable",
        );
    }
}

fn exactly_one(path: &str, given: [bool; 2], names: [&str; 2], problems: &mut Problems) {
    let [first, second] = names;
    match given {
        [false, false] => problems.missing(format!("{path}.{first}"), format!("either {first} or {second}")),
        [true, true] => {
            let found = Found::Value(format!("both {first} and {second}"));
            problems.add(
                format!("{path}.{second}"),
                found,
                format!("either {first} or {second}"),
            );
        }
        _ => {}
    }
}

/// Checks the certificates below `part`.
pub(super) fn tls(part: &str, tls: &Tls, form: Form, problems: &mut Problems) {
    if let Some(ca) = &tls.ca_secret_ref {
        let path = format!("{part}.caSecretRef");
        if form == Form::File {
            let accepted = format!("{part}.caFile; Secrets are named in an OutboxRelay");
            problems.add(&path, Found::Value("a Secret".to_owned()), accepted);
        }
        object_name(format!("{path}.name"), &ca.name, problems);
        secret_key(format!("{path}.key"), &ca.key, problems);
    }
    if tls.ca_file.is_some() && form == Form::Resource {
        let accepted = format!("{part}.caSecretRef; files are named in a relay's own configuration");
        problems.add(
            format!("{part}.caFile"),
            Found::Value("a file".to_owned()),
            accepted,
        );
    }
    file(format!("{part}.caFile"), tls.ca_file.as_deref(), problems);
}

fn file(path: String, file: Option<&Path>, problems: &mut Problems) {
    if file.is_some_and(|file| file.as_os_str().is_empty()) {
        problems.refuse_text(path, "", "a path");
    }
}

fn object_name(path: String, name: &str, problems: &mut Problems) {
    match name {
        "" => problems.missing(path, OBJECT_NAME),
        name if !is_object_name(name) => problems.refuse_text(path, name, OBJECT_NAME),
        _ => {}
    }
}

fn secret_key(path: String, key: &str, problems: &mut Problems) {
    match key {
        "" => problems.missing(path, SECRET_KEY),
        key if !is_secret_key(key) => problems.refuse_text(path, key, SECRET_KEY),
        _ => {}
    }
}
