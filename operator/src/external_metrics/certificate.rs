//! The server's certificate: made by itself, kept in a Secret that all replicas read, and told to the aggregator. The key
//! of the authority that signs it is never kept, so nothing else can be signed.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::jiff::Timestamp;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1::APIService;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use openssl::asn1::Asn1Time;
use openssl::bn::{BigNum, MsbOption};
use openssl::ec::{EcGroup, EcKey};
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{PKey, Private};
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509NameBuilder};
use std::collections::BTreeMap;
use tracing::{info, warn};

use super::{GROUP, VERSION};
use crate::names::MANAGER;

const VALID_DAYS: u32 = 365;

/// A certificate with less than this left is replaced.
const RENEW_DAYS: u32 = 120;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertificateError {
    #[error("the Secret or the APIService cannot be read or written: {0}")]
    Api(#[from] Box<kube::Error>),
    #[error("no certificate can be made: {0}")]
    Make(#[from] ErrorStack),
}

impl From<kube::Error> for CertificateError {
    fn from(error: kube::Error) -> Self {
        Self::Api(Box::new(error))
    }
}

/// Certificate and key, in PEM, and the authorities by which the aggregator knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
    authorities: Vec<u8>,
}

/// Keeps the certificate good and known.
pub(super) struct Keeper {
    client: Client,
    namespace: String,
    service: String,
}

impl Keeper {
    pub(super) fn new(client: Client, namespace: &str, service: &str) -> Self {
        Self {
            client,
            namespace: namespace.to_owned(),
            service: service.to_owned(),
        }
    }

    /// The certificate that is good now: the one that is kept, or a new one.
    pub(super) async fn keep(&self) -> Result<Pair, CertificateError> {
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let kept = secrets.get_opt(&self.service).await?;
        let pair = kept.as_ref().and_then(pair_of);
        if let Some(pair) = pair.as_ref().filter(|pair| is_good(pair, &self.name())) {
            return Ok(pair.clone());
        }
        let new = make(&self.name(), pair.as_ref())?;
        let secret = self.secret(&new, kept.as_ref().and_then(|kept| kept.resource_version()));
        let parameters = PostParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PostParams::default()
        };
        let written = match kept {
            Some(_) => secrets.replace(&self.service, &parameters, &secret).await,
            None => secrets.create(&parameters, &secret).await,
        };
        match written {
            Ok(_) => info!(secret = self.service, "a certificate was made"),
            // Another replica was faster; the next look finds what it made.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => {
                let kept = secrets.get(&self.service).await?;
                return Ok(pair_of(&kept).unwrap_or(new));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(new)
    }

    /// Tells the aggregator by which authorities it knows this server. Another server's APIService is not touched.
    pub(super) async fn publish(&self, pair: &Pair) -> Result<(), CertificateError> {
        let services: Api<APIService> = Api::all(self.client.clone());
        let name = format!("{VERSION}.{GROUP}");
        let spec = services.get_opt(&name).await?.and_then(|service| service.spec);
        let of = spec.as_ref().and_then(|spec| spec.service.as_ref());
        let is_ours = of.is_some_and(|of| {
            of.name.as_ref() == Some(&self.service) && of.namespace.as_ref() == Some(&self.namespace)
        });
        if !is_ours {
            warn!(
                apiservice = name,
                "it is missing or another server's, so autoscalers do not get metrics from here"
            );
            return Ok(());
        }
        let bundle = ByteString(pair.authorities.clone());
        if spec.and_then(|spec| spec.ca_bundle).as_ref() == Some(&bundle) {
            return Ok(());
        }
        let patch = Patch::Merge(serde_json::json!({"spec": {"caBundle": bundle}}));
        let parameters = PatchParams {
            field_manager: Some(MANAGER.to_owned()),
            ..PatchParams::default()
        };
        services.patch(&name, &parameters, &patch).await?;
        Ok(())
    }

    /// As the aggregator calls it.
    fn name(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }

    fn secret(&self, pair: &Pair, version: Option<String>) -> Secret {
        let data = [
            ("tls.crt", &pair.certificate),
            ("tls.key", &pair.key),
            ("ca.crt", &pair.authorities),
        ];
        let data: BTreeMap<_, _> = data
            .map(|(key, value)| (key.to_owned(), ByteString(value.clone())))
            .into();
        let mut secret = Secret {
            type_: Some("kubernetes.io/tls".to_owned()),
            data: Some(data),
            ..Secret::default()
        };
        secret.metadata.name = Some(self.service.clone());
        secret.metadata.namespace = Some(self.namespace.clone());
        secret.metadata.resource_version = version;
        secret
    }
}

fn pair_of(secret: &Secret) -> Option<Pair> {
    let data = secret.data.as_ref()?;
    let part = |key: &str| Some(data.get(key)?.0.clone());
    Some(Pair {
        certificate: part("tls.crt")?,
        key: part("tls.key")?,
        authorities: part("ca.crt")?,
    })
}

/// Whether a certificate is for this name, fits its key, and has enough time left.
fn is_good(pair: &Pair, name: &str) -> bool {
    let look = || -> Option<bool> {
        let certificate = X509::from_pem(&pair.certificate).ok()?;
        let key = PKey::private_key_from_pem(&pair.key).ok()?;
        let renew = Asn1Time::days_from_now(RENEW_DAYS).ok()?;
        let names = certificate.subject_alt_names()?;
        Some(
            names.iter().any(|one| one.dnsname() == Some(name))
                && certificate.public_key().ok()?.public_eq(&key)
                && certificate.not_after() > renew,
        )
    };
    look().unwrap_or(false)
}

/// A new certificate. Its authorities hold those of the one before: replicas change from one to the other within a
/// minute, and both must be known meanwhile.
fn make(name: &str, before: Option<&Pair>) -> Result<Pair, ErrorStack> {
    let authority_key = new_key()?;
    let authority = authority(&authority_key)?;
    let key = new_key()?;
    let mut builder = start(name, &authority, &key)?;
    builder.append_extension(BasicConstraints::new().critical().build()?)?;
    builder.append_extension(KeyUsage::new().critical().digital_signature().build()?)?;
    builder.append_extension(ExtendedKeyUsage::new().server_auth().build()?)?;
    let names = SubjectAlternativeName::new()
        .dns(name)
        .build(&builder.x509v3_context(Some(&authority), None))?;
    builder.append_extension(names)?;
    builder.sign(&authority_key, MessageDigest::sha256())?;
    let mut authorities = authority.to_pem()?;
    let former = before.and_then(|pair| X509::stack_from_pem(&pair.authorities).ok());
    // Only the last one: the one before that is on no replica any more.
    if let Some(former) = former.as_ref().and_then(|all| all.first()) {
        authorities.extend(former.to_pem()?);
    }
    Ok(Pair {
        certificate: builder.build().to_pem()?,
        key: key.private_key_to_pem_pkcs8()?,
        authorities,
    })
}

fn authority(key: &PKey<Private>) -> Result<X509, ErrorStack> {
    // Authorities of one name and different keys would be taken for each other.
    let name = format!("{MANAGER} {}", Timestamp::now().as_second());
    let mut subject = X509NameBuilder::new()?;
    subject.append_entry_by_nid(Nid::COMMONNAME, &name)?;
    let subject = subject.build();
    let mut builder = X509::builder()?;
    prepare(&mut builder, key)?;
    builder.set_subject_name(&subject)?;
    builder.set_issuer_name(&subject)?;
    builder.append_extension(BasicConstraints::new().critical().ca().pathlen(0).build()?)?;
    builder.append_extension(KeyUsage::new().critical().key_cert_sign().build()?)?;
    builder.sign(key, MessageDigest::sha256())?;
    Ok(builder.build())
}

fn start(name: &str, authority: &X509, key: &PKey<Private>) -> Result<X509Builder, ErrorStack> {
    let mut subject = X509NameBuilder::new()?;
    // At most 64 characters by its definition; verifiers look at the alternative name.
    subject.append_entry_by_nid(Nid::COMMONNAME, name.get(..64).unwrap_or(name))?;
    let mut builder = X509::builder()?;
    prepare(&mut builder, key)?;
    builder.set_subject_name(&subject.build())?;
    builder.set_issuer_name(authority.subject_name())?;
    Ok(builder)
}

fn prepare(builder: &mut X509Builder, key: &PKey<Private>) -> Result<(), ErrorStack> {
    let mut serial = BigNum::new()?;
    serial.rand(127, MsbOption::MAYBE_ZERO, false)?;
    // Version 3.
    builder.set_version(2)?;
    let serial = serial.to_asn1_integer()?;
    builder.set_serial_number(&serial)?;
    builder.set_pubkey(key)?;
    // An hour ago, for clocks that are behind.
    let from = Asn1Time::from_unix(Timestamp::now().as_second() - 3600)?;
    builder.set_not_before(&from)?;
    let until = Asn1Time::days_from_now(VALID_DAYS)?;
    builder.set_not_after(&until)
}

fn new_key() -> Result<PKey<Private>, ErrorStack> {
    let curve = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1)?;
    PKey::from_ec_key(EcKey::generate(&curve)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_good_for_its_name_and_both_authorities_are_known() {
        let first = make("metrics.system.svc", None).unwrap();
        assert!(is_good(&first, "metrics.system.svc"));
        assert!(!is_good(&first, "other.system.svc"));
        let second = make("metrics.system.svc", Some(&first)).unwrap();
        let mixed = Pair {
            key: second.key.clone(),
            ..first.clone()
        };
        assert!(!is_good(&mixed, "metrics.system.svc"), "the key is another one's");
        let authorities = X509::stack_from_pem(&second.authorities).unwrap();
        assert_eq!(authorities.len(), 2);
        for pair in [&first, &second] {
            let certificate = X509::from_pem(&pair.certificate).unwrap();
            let signed = |authority: &X509| certificate.verify(&authority.public_key().unwrap()).unwrap();
            assert!(authorities.iter().any(signed));
        }
        let third = make("metrics.system.svc", Some(&second)).unwrap();
        assert_eq!(X509::stack_from_pem(&third.authorities).unwrap().len(), 2);
    }
}
