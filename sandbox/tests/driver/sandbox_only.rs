//! Passwords and TLS, which the sandbox is started with.

use openssl::asn1::Asn1Time;
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use openssl::rsa::Rsa;
use openssl::ssl::{SslContext, SslMethod, SslVerifyMode};
use openssl::x509::extension::SubjectAlternativeName;
use openssl::x509::{X509, X509NameBuilder};
use sandbox::Sandbox;
use sandbox::embed::TlsFiles;
use scylla::client::session_builder::SessionBuilder;
use scylla::errors::DbError;

use super::{db_error, make_table};

#[tokio::test]
async fn passwords_are_asked_for_and_checked() {
    let sandbox = Sandbox::builder().user("ann", "secret").start().await.unwrap();
    let log_in = async |user: &str, password: &str| {
        let builder = SessionBuilder::new().known_node_addr(sandbox.addr());
        builder.user(user, password).build().await
    };
    let refused = format!("{:?}", log_in("ann", "wrong").await.err().unwrap());
    assert!(
        refused.contains("AuthenticationError") || refused.contains("incorrect"),
        "{refused}"
    );
    let nobody = SessionBuilder::new()
        .known_node_addr(sandbox.addr())
        .build()
        .await;
    assert!(nobody.is_err());

    let ann = log_in("ann", "secret").await.unwrap();
    make_table(&ann, "ks").await;
    for statement in [
        "CREATE ROLE reader WITH PASSWORD = 'r' AND LOGIN = true",
        "GRANT SELECT ON ks.t TO reader",
    ] {
        ann.query_unpaged(statement, ()).await.unwrap();
    }
    let reader = log_in("reader", "r").await.unwrap();
    reader.query_unpaged("SELECT * FROM ks.t", ()).await.unwrap();
    let refused = reader
        .query_unpaged("INSERT INTO ks.t (pk, ck) VALUES (1, 1)", ())
        .await;
    assert_eq!(db_error(refused.unwrap_err()), DbError::Unauthorized);
    ann.query_unpaged("GRANT MODIFY ON KEYSPACE ks TO reader", ())
        .await
        .unwrap();
    reader
        .query_unpaged("INSERT INTO ks.t (pk, ck) VALUES (1, 1)", ())
        .await
        .unwrap();
    ann.query_unpaged("DROP ROLE reader", ()).await.unwrap();
    assert!(log_in("reader", "r").await.is_err());
}

/// A certificate for the node's address, signed by itself, and its key, as PEM files in `directory`.
fn self_signed(directory: &std::path::Path) -> TlsFiles {
    let key = PKey::from_rsa(Rsa::generate(2_048).unwrap()).unwrap();
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("CN", "sandbox").unwrap();
    let name = name.build();
    let mut certificate = X509::builder().unwrap();
    certificate.set_version(2).unwrap();
    certificate.set_subject_name(&name).unwrap();
    certificate.set_issuer_name(&name).unwrap();
    certificate.set_pubkey(&key).unwrap();
    certificate
        .set_not_before(&Asn1Time::days_from_now(0).unwrap())
        .unwrap();
    certificate
        .set_not_after(&Asn1Time::days_from_now(1).unwrap())
        .unwrap();
    let address = SubjectAlternativeName::new()
        .ip("127.0.0.1")
        .build(&certificate.x509v3_context(None, None));
    certificate.append_extension(address.unwrap()).unwrap();
    certificate.sign(&key, MessageDigest::sha256()).unwrap();
    let files = TlsFiles {
        certificate: directory.join("certificate.pem"),
        key: directory.join("key.pem"),
        client_authorities: None,
    };
    std::fs::write(&files.certificate, certificate.build().to_pem().unwrap()).unwrap();
    std::fs::write(&files.key, key.private_key_to_pem_pkcs8().unwrap()).unwrap();
    files
}

#[tokio::test]
async fn tls_for_those_who_trust_the_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let files = self_signed(directory.path());
    let sandbox = Sandbox::builder().tls(files.clone()).start().await.unwrap();
    let plain = SessionBuilder::new()
        .known_node_addr(sandbox.addr())
        .build()
        .await;
    assert!(plain.is_err());
    let mut context = SslContext::builder(SslMethod::tls()).unwrap();
    context.set_verify(SslVerifyMode::PEER);
    let stranger = SessionBuilder::new().known_node_addr(sandbox.addr());
    let stranger = stranger.tls_context(Some(context.build())).build().await;
    assert!(stranger.is_err());
    let mut context = SslContext::builder(SslMethod::tls()).unwrap();
    context.set_verify(SslVerifyMode::PEER);
    context.set_ca_file(&files.certificate).unwrap();
    let builder = SessionBuilder::new().known_node_addr(sandbox.addr());
    let session = builder.tls_context(Some(context.build())).build().await.unwrap();
    make_table(&session, "ks").await;
    let long = "outbox ".repeat(100_000);
    let insert = "INSERT INTO ks.t (pk, ck, v) VALUES (1, 1, ?)";
    session.query_unpaged(insert, (&long,)).await.unwrap();
    let found = session.query_unpaged("SELECT v FROM ks.t", ()).await.unwrap();
    let found = found.into_rows_result().unwrap();
    assert_eq!(found.single_row::<(String,)>().unwrap().0, long);

    let wrong = TlsFiles {
        key: directory.path().join("missing.pem"),
        ..files
    };
    let refused = Sandbox::builder().tls(wrong).start().await.err().unwrap();
    assert!(refused.to_string().contains("missing.pem"), "{refused}");
}
