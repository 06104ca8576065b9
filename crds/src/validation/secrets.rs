//! Credentials and certificates: files and variables in the relay's file, Secrets in the custom resource.

use super::Form;
use crate::names::{is_object_name, is_secret_key};
use crate::problems::{Found, Problems};
use crate::relay_config::ServerTls;
use crate::secrets::{CertificateSecretRef, Credentials, CredentialsSecretRef, SecretKeyRef, Tls};
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
    one_file(
        &format!("{part}.ca"),
        tls.ca_secret_ref.as_ref(),
        tls.ca_file.as_deref(),
        form,
        problems,
    );
    certificate(
        part,
        tls.certificate_secret_ref.as_ref(),
        [tls.certificate_file.as_deref(), tls.key_file.as_deref()],
        form,
        problems,
    );
}

/// Checks the two ways of naming one file: `<path>SecretRef` and `<path>File`.
pub(super) fn one_file(
    path: &str,
    secret: Option<&SecretKeyRef>,
    named: Option<&Path>,
    form: Form,
    problems: &mut Problems,
) {
    let (secret_path, file_path) = (format!("{path}SecretRef"), format!("{path}File"));
    if let Some(secret) = secret {
        if form == Form::File {
            let accepted = format!("{file_path}; Secrets are named in an OutboxRelay");
            problems.add(&secret_path, Found::Value("a Secret".to_owned()), accepted);
        }
        object_name(format!("{secret_path}.name"), &secret.name, problems);
        secret_key(format!("{secret_path}.key"), &secret.key, problems);
    }
    if named.is_some() && form == Form::Resource {
        let accepted = format!("{secret_path}; files are named in a relay's own configuration");
        problems.add(&file_path, Found::Value("a file".to_owned()), accepted);
    }
    file(file_path, named, problems);
}

/// Checks the certificate of the relay's own port.
pub(super) fn server_tls(part: &str, tls: &ServerTls, form: Form, problems: &mut Problems) {
    let (secret, authorities) = (tls.certificate_secret_ref.as_ref(), tls.ca_secret_ref.as_ref());
    let files = [tls.certificate_file.as_deref(), tls.key_file.as_deref()];
    certificate(part, secret, files, form, problems);
    match (form, authorities) {
        (Form::Resource, None) => problems.missing(
            format!("{part}.caSecretRef"),
            "the authorities of the certificate: operator and Prometheus check it",
        ),
        (Form::File, Some(_)) => problems.add(
            format!("{part}.caSecretRef"),
            Found::Value("a Secret".to_owned()),
            "nothing: only operator and Prometheus check the certificate",
        ),
        _ => one_file(&format!("{part}.ca"), authorities, None, form, problems),
    }
    match form {
        Form::Resource if secret.is_none() => {
            problems.missing(
                format!("{part}.certificateSecretRef"),
                "a certificate and its key",
            );
        }
        Form::File if files == [None, None] => {
            problems.missing(
                format!("{part}.certificateFile"),
                "the file with the certificate (PEM)",
            );
        }
        _ => {}
    }
}

/// Checks the two ways of naming a certificate and its key below `part`.
fn certificate(
    part: &str,
    secret: Option<&CertificateSecretRef>,
    [certificate, key]: [Option<&Path>; 2],
    form: Form,
    problems: &mut Problems,
) {
    let (secret_path, names) = (
        format!("{part}.certificateSecretRef"),
        ["certificateFile", "keyFile"],
    );
    let [certificate_path, key_path] = names.map(|name| format!("{part}.{name}"));
    if let Some(secret) = secret {
        if form == Form::File {
            let accepted = format!("{certificate_path} and {key_path}; Secrets are named in an OutboxRelay");
            problems.add(&secret_path, Found::Value("a Secret".to_owned()), accepted);
        }
        object_name(format!("{secret_path}.name"), &secret.name, problems);
        for (name, key) in [
            ("certificateKey", &secret.certificate_key),
            ("privateKeyKey", &secret.private_key_key),
        ] {
            secret_key(format!("{secret_path}.{name}"), key, problems);
        }
    }
    for (path, named) in [(&certificate_path, certificate), (&key_path, key)] {
        if named.is_some() && form == Form::Resource {
            let accepted = format!("{secret_path}; files are named in a relay's own configuration");
            problems.add(path, Found::Value("a file".to_owned()), accepted);
        }
        file(path.clone(), named, problems);
    }
    match (certificate, key) {
        (Some(_), None) => problems.missing(key_path, "the file with the certificate's private key (PEM)"),
        (None, Some(_)) => problems.missing(certificate_path, "the file with the key's certificate (PEM)"),
        _ => {}
    }
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
