//! How credentials and certificates are named. The custom resource names Kubernetes Secrets; the relay's file names
//! files and environment variables. Neither ever holds a secret itself.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A Secret of the resource's namespace that holds a user name and a password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CredentialsSecretRef {
    /// Name of the Secret.
    pub name: String,
    /// Key of the user name.
    pub username_key: String,
    /// Key of the password.
    pub password_key: String,
}

impl Default for CredentialsSecretRef {
    fn default() -> Self {
        Self {
            name: String::new(),
            username_key: "username".to_owned(),
            password_key: "password".to_owned(),
        }
    }
}

/// One key of a Secret of the resource's namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    pub name: String,
    /// Key within the Secret.
    pub key: String,
}

/// A Secret of the resource's namespace that holds a certificate and its private key, such as one of type
/// kubernetes.io/tls.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct CertificateSecretRef {
    /// Name of the Secret.
    pub name: String,
    /// Key of the certificate (PEM), followed by those of intermediate authorities.
    pub certificate_key: String,
    /// Key of the certificate's private key (PEM, without a passphrase).
    pub private_key_key: String,
}

impl Default for CertificateSecretRef {
    fn default() -> Self {
        Self {
            name: String::new(),
            certificate_key: "tls.crt".to_owned(),
            private_key_key: "tls.key".to_owned(),
        }
    }
}

/// Where the relay finds a user name and a password. Exactly one field of each pair is set.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Credentials {
    /// The user name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// File that holds the user name; white space around it is dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username_file: Option<PathBuf>,
    /// Environment variable that holds the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_env: Option<String>,
    /// File that holds the password; line ends after it are dropped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

/// TLS to a server whose certificate is checked. An empty section turns it on with the system's authorities.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "kubernetes", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Tls {
    /// Certificates (PEM) of the authorities that may sign the server's certificate; the system's unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyRef>,
    /// File with the certificates (PEM) of the authorities that may sign the server's certificate; the system's
    /// unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// Client certificate that is shown to the server, and its key; none unless given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_secret_ref: Option<CertificateSecretRef>,
    /// File with the client certificate (PEM) that is shown to the server, followed by those of intermediate
    /// authorities; none unless given. It takes keyFile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_file: Option<PathBuf>,
    /// File with the private key (PEM, without a passphrase) of certificateFile.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    /// Whether the server's certificate must name the host that the relay connects to: a broker's name, a ScyllaDB
    /// node's IP address.
    pub verify_hostname: bool,
}

impl Default for Tls {
    fn default() -> Self {
        Self {
            ca_secret_ref: None,
            ca_file: None,
            certificate_secret_ref: None,
            certificate_file: None,
            key_file: None,
            verify_hostname: true,
        }
    }
}
