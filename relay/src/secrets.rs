//! Secrets are named in the configuration and read here, from files and environment variables only.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crds::relay_config::Http;
use crds::secrets::{Credentials, Tls};
use crds::{Sink, Source};
use openssl::error::ErrorStack;
use openssl::pkey::{PKey, Private};
use openssl::sha::Sha256;
use openssl::x509::X509;

/// How often files that hold secrets are looked at for changes. They are few and small; a kubelet renews the mount of a
/// Secret within about a minute.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Fewer can be guessed.
const SHORTEST_TOKEN: usize = 16;

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
    #[error(
        "{field}: there is no token in {path}; accepted: at least {SHORTEST_TOKEN} printable characters without blanks"
    )]
    NoToken { field: String, path: PathBuf },
    #[error("{field}: there is no certificate in {path}; accepted: certificates in PEM")]
    NoCertificate {
        field: String,
        path: PathBuf,
        source: ErrorStack,
    },
    #[error(
        "{field}: there is no private key in {path}; accepted: a private key in PEM, without a passphrase"
    )]
    NoKey {
        field: String,
        path: PathBuf,
        source: ErrorStack,
    },
    #[error(
        "{field}: the private key in {path} has a passphrase; accepted: a private key in PEM without one, in a file that \
         only the relay can read"
    )]
    EncryptedKey { field: String, path: PathBuf },
    #[error(
        "{field}: the private key in {path} is not that of the certificate in {certificate}; accepted: its own key"
    )]
    AnotherKey {
        field: String,
        path: PathBuf,
        certificate: PathBuf,
    },
}

/// A certificate, those of the intermediate authorities that lead to it, and its private key.
pub struct KeyPair {
    pub certificate: X509,
    pub intermediates: Vec<X509>,
    pub key: PKey<Private>,
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

/// Reads the client certificate that is named below `field`, if one is. The authorities are read too, only to know that
/// they can be.
///
/// # Errors
/// When a file cannot be read, is not what it should be, or the key is not the certificate's.
pub fn client_certificate(field: &str, tls: &Tls) -> Result<Option<KeyPair>, SecretError> {
    if let Some(path) = &tls.ca_file {
        certificates(&format!("{field}.caFile"), path)?;
    }
    let (Some(certificate), Some(key)) = (&tls.certificate_file, &tls.key_file) else {
        return Ok(None);
    };
    key_pair(field, certificate, key).map(Some)
}

/// Reads a certificate and its key from `certificateFile` and `keyFile` below `field`.
///
/// # Errors
/// When a file cannot be read, is not what it should be, or the key is not the certificate's.
pub fn key_pair(field: &str, certificate: &Path, key: &Path) -> Result<KeyPair, SecretError> {
    let chain = certificates(&format!("{field}.certificateFile"), certificate)?;
    let key_field = format!("{field}.keyFile");
    let private = private_key(&key_field, key)?;
    let mut chain = chain.into_iter();
    let fits = |leaf: &X509| leaf.public_key().is_ok_and(|public| private.public_eq(&public));
    match chain.next().filter(fits) {
        Some(leaf) => Ok(KeyPair {
            certificate: leaf,
            intermediates: chain.collect(),
            key: private,
        }),
        None => Err(SecretError::AnotherKey {
            field: key_field,
            path: key.to_owned(),
            certificate: certificate.to_owned(),
        }),
    }
}

/// At least one certificate.
///
/// # Errors
/// When the file cannot be read or holds none.
pub fn certificates(field: &str, path: &Path) -> Result<Vec<X509>, SecretError> {
    let missing = |source| SecretError::NoCertificate {
        field: field.to_owned(),
        path: path.to_owned(),
        source,
    };
    let text = read(field, path)?;
    let certificates = X509::stack_from_pem(text.as_bytes()).map_err(missing)?;
    if certificates.is_empty() {
        return Err(missing(ErrorStack::get()));
    }
    Ok(certificates)
}

/// The certificate of the relay's own port, if it is to have one.
///
/// # Errors
/// When a file cannot be read, is not what it should be, or the key is not the certificate's.
pub fn server_certificate(http: &Http) -> Result<Option<KeyPair>, SecretError> {
    let Some(tls) = &http.tls else { return Ok(None) };
    match (&tls.certificate_file, &tls.key_file) {
        (Some(certificate), Some(key)) => key_pair("http.tls", certificate, key).map(Some),
        _ => Err(SecretError::Missing {
            field: "http.tls".to_owned(),
            accepted: "certificateFile and keyFile",
        }),
    }
}

/// The token that the relay's own port asks for, if it does.
///
/// # Errors
/// See [`token`].
pub fn token_of_http(http: &Http) -> Result<Option<String>, SecretError> {
    http.token_file
        .as_ref()
        .map(|path| token("http.tokenFile", path))
        .transpose()
}

/// A bearer token. White space around it is dropped.
///
/// # Errors
/// When the file cannot be read, or what it holds is too short or could not be sent in a header.
pub fn token(field: &str, path: &Path) -> Result<String, SecretError> {
    let text = read(field, path)?;
    let token = text.trim();
    if token.len() < SHORTEST_TOKEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(SecretError::NoToken {
            field: field.to_owned(),
            path: path.to_owned(),
        });
    }
    Ok(token.to_owned())
}

/// What some files hold, as far as one can tell whether it has changed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

/// Of files that cannot be read as well: what becomes readable has changed.
pub fn fingerprint(files: &[PathBuf]) -> Fingerprint {
    let mut sum = Sha256::new();
    for path in files {
        let content = std::fs::read(path).ok();
        let length = content.as_ref().map_or(u64::MAX, |content| content.len() as u64);
        sum.update(&length.to_be_bytes());
        sum.update(&content.unwrap_or_default());
    }
    Fingerprint(sum.finish())
}

/// The files that the session to ScyllaDB is made with.
pub fn files_of_source(source: &Source) -> Vec<PathBuf> {
    let credentials = source.credentials.as_ref();
    [files_of_login(credentials), files_of_tls(source.tls.as_ref())].concat()
}

/// The files that Kafka's clients are made with.
pub fn files_of_sink(sink: &Sink) -> Vec<PathBuf> {
    let sasl = sink.sasl.as_ref();
    let credentials = sasl.and_then(|sasl| sasl.credentials.as_ref());
    let token_server = sasl.and_then(|sasl| sasl.oauth_bearer.as_ref());
    let authorities = token_server.and_then(|server| server.ca_file.clone());
    [
        files_of_login(credentials),
        authorities.into_iter().collect(),
        files_of_tls(sink.tls.as_ref()),
    ]
    .concat()
}

/// The files of the relay's own port.
pub fn files_of_http(http: &Http) -> Vec<PathBuf> {
    let tls = http.tls.as_ref();
    let certificate = tls.and_then(|tls| tls.certificate_file.clone());
    let key = tls.and_then(|tls| tls.key_file.clone());
    [certificate, key, http.token_file.clone()]
        .into_iter()
        .flatten()
        .collect()
}

fn files_of_login(credentials: Option<&Credentials>) -> Vec<PathBuf> {
    let files = credentials.map(|named| [named.username_file.clone(), named.password_file.clone()]);
    files.into_iter().flatten().flatten().collect()
}

fn files_of_tls(tls: Option<&Tls>) -> Vec<PathBuf> {
    let files = tls.map(|named| {
        [
            named.ca_file.clone(),
            named.certificate_file.clone(),
            named.key_file.clone(),
        ]
    });
    files.into_iter().flatten().flatten().collect()
}

fn private_key(field: &str, path: &Path) -> Result<PKey<Private>, SecretError> {
    let text = read(field, path)?;
    let asked = Cell::new(false);
    // Without an answer of ours OpenSSL would ask the terminal.
    let read = PKey::private_key_from_pem_callback(text.as_bytes(), |_| {
        asked.set(true);
        Ok(0)
    });
    let (field, path) = (field.to_owned(), path.to_owned());
    read.map_err(|source| {
        if asked.get() {
            SecretError::EncryptedKey { field, path }
        } else {
            SecretError::NoKey { field, path, source }
        }
    })
}

fn read(field: &str, path: &Path) -> Result<String, SecretError> {
    std::fs::read_to_string(path).map_err(|source| SecretError::File {
        field: field.to_owned(),
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A certificate of this IP address, signed by itself, and its key.
    pub(crate) fn certificate(address: &str) -> (Vec<u8>, PKey<Private>) {
        use openssl::asn1::Asn1Time;
        use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
        let group = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
        let key = PKey::from_ec_key(openssl::ec::EcKey::generate(&group).unwrap()).unwrap();
        let mut builder = X509::builder().unwrap();
        let mut name = openssl::x509::X509Name::builder().unwrap();
        name.append_entry_by_text("CN", "test").unwrap();
        let name = name.build();
        builder.set_version(2).unwrap();
        builder.set_subject_name(&name).unwrap();
        builder.set_issuer_name(&name).unwrap();
        builder.set_pubkey(&key).unwrap();
        builder
            .set_not_before(&Asn1Time::days_from_now(0).unwrap())
            .unwrap();
        builder
            .set_not_after(&Asn1Time::days_from_now(1).unwrap())
            .unwrap();
        builder
            .append_extension(BasicConstraints::new().critical().ca().build().unwrap())
            .unwrap();
        let names = SubjectAlternativeName::new()
            .ip(address)
            .build(&builder.x509v3_context(None, None))
            .unwrap();
        builder.append_extension(names).unwrap();
        builder
            .sign(&key, openssl::hash::MessageDigest::sha256())
            .unwrap();
        (builder.build().to_pem().unwrap(), key)
    }

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

    #[test]
    fn what_files_hold_tells_whether_they_changed() {
        let folder = tempfile::tempdir().unwrap();
        let files = ["one", "two"].map(|name| folder.path().join(name));
        let write = |contents: [Option<&str>; 2]| {
            for (path, content) in files.iter().zip(contents) {
                match content {
                    Some(content) => std::fs::write(path, content).unwrap(),
                    None => drop(std::fs::remove_file(path)),
                }
            }
            fingerprint(&files)
        };
        let all = [
            write([None, None]),
            write([Some(""), None]),
            write([Some("ab"), Some("c")]),
            write([Some("a"), Some("bc")]),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(all[..index].iter().all(|other| other != one), "{index}");
        }
        assert!(write([Some("ab"), Some("c")]) == all[2]);
    }

    #[test]
    fn a_certificate_has_its_own_key_without_a_passphrase() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let certificate = |name: &str| {
            let (certificate, key) = certificate("127.0.0.1");
            std::fs::write(path(name), certificate).unwrap();
            key
        };
        let (key, other) = (certificate("crt"), certificate("other.crt"));
        std::fs::write(path("key"), key.private_key_to_pem_pkcs8().unwrap()).unwrap();
        let cipher = openssl::symm::Cipher::aes_256_cbc();
        let locked = other.private_key_to_pem_pkcs8_passphrase(cipher, b"hunter2");
        std::fs::write(path("locked"), locked.unwrap()).unwrap();
        let check = |ca: &str, certificate: &str, key: &str| {
            let tls = Tls {
                ca_file: Some(path(ca)),
                certificate_file: Some(path(certificate)),
                key_file: Some(path(key)),
                ..Tls::default()
            };
            client_certificate("sink.tls", &tls)
                .err()
                .map(|error| error.to_string())
        };
        assert_eq!(check("other.crt", "crt", "key"), None);
        for (files, expected) in [
            (
                ["crt", "other.crt", "key"],
                "sink.tls.keyFile: the private key in",
            ),
            (
                ["key", "crt", "key"],
                "sink.tls.caFile: there is no certificate in",
            ),
            (
                ["crt", "key", "key"],
                "sink.tls.certificateFile: there is no certificate in",
            ),
            (
                ["crt", "crt", "crt"],
                "sink.tls.keyFile: there is no private key in",
            ),
            (["crt", "other.crt", "locked"], "has a passphrase"),
            (["crt", "crt", "gone"], "sink.tls.keyFile: cannot read"),
        ] {
            let [ca, certificate, key] = files;
            let error = check(ca, certificate, key).unwrap();
            assert!(error.contains(expected), "{error}");
        }
    }
}
