//! Whom to trust: system certificates, `certs.d` directories, client certificates, or everybody.
//!
//! # Source
//! `containers-certs.d(5)`; rustls 0.23.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::RegistryError;
use super::answer::innermost;

/// Where distributions keep the certificates of the world.
const SYSTEM_BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What a registry's certificate directory holds.
#[derive(Default)]
pub(in crate::transport) struct CertDir {
    authorities: Vec<CertificateDer<'static>>,
    identity: Option<(Vec<CertificateDer<'static>>, PathBuf)>,
}

impl CertDir {
    /// Whether a client certificate is to be shown to the registry.
    pub(super) fn has_identity(&self) -> bool {
        self.identity.is_some()
    }

    /// Reads `*.crt` (authorities) and `*.cert` with `*.key` (the client's own).
    pub(super) fn read(dir: &Path) -> Result<Self, RegistryError> {
        let failed = |path: &Path, reason: String| RegistryError::Setup { what: path.display().to_string(), reason };
        let entries = fs::read_dir(dir).map_err(|error| failed(dir, crate::sys::reason(&error)))?;
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        let mut found = Self::default();
        for path in paths {
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("crt") => found.authorities.extend(certificates(&path)?),
                Some("cert") => {
                    let key = path.with_extension("key");
                    if !key.exists() {
                        return Err(failed(&path, format!("its key {} is missing", key.display())));
                    }
                    found.identity = Some((certificates(&path)?, key));
                }
                Some("key") if !path.with_extension("cert").exists() => {
                    return Err(failed(&path, "a .cert file of the same name is missing".to_owned()));
                }
                _ => {}
            }
        }
        Ok(found)
    }
}

/// The certificate directory of a registry: the first that exists, the user's before the system's.
pub(super) fn find_cert_dir(registry: &str, config_home: Option<&Path>) -> Option<PathBuf> {
    let user = config_home.map(|home| [home.join("containers/certs.d"), home.join("docker/certs.d")]);
    let system = ["/etc/containers/certs.d", "/etc/docker/certs.d"].map(PathBuf::from);
    user.into_iter().flatten().chain(system).map(|dir| dir.join(registry)).find(|dir| dir.is_dir())
}

/// A configuration that trusts nobody: for connections that are not encrypted.
pub(in crate::transport) fn trust_nobody() -> Result<ClientConfig, RegistryError> {
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// The configuration for a registry. `identity` says whether the client's own certificate may be shown.
pub(in crate::transport) fn config(verify: bool, dir: &CertDir, identity: bool) -> Result<ClientConfig, RegistryError> {
    let builder = builder()?;
    let builder = match verify {
        true => {
            let trusted: Vec<_> = system_certificates().into_iter().chain(dir.authorities.iter().cloned()).collect();
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(trusted.iter().cloned());
            match WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build() {
                Ok(usual) => {
                    builder.dangerous().with_custom_certificate_verifier(Arc::new(Trusting { usual, trusted }))
                }
                // Nobody is trusted.
                Err(_) => builder.with_root_certificates(RootCertStore::empty()),
            }
        }
        false => builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustEverybody(provider()))),
    };
    let mut config = match &dir.identity {
        Some((chain, key_path)) if identity => {
            let failed = |reason: String| RegistryError::Setup { what: key_path.display().to_string(), reason };
            let key = PrivateKeyDer::from_pem_file(key_path).map_err(|error| failed(innermost(&error)))?;
            builder.with_client_auth_cert(chain.clone(), key).map_err(|error| failed(error.to_string()))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(ring::default_provider())
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, RegistryError> {
    ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| RegistryError::Setup { what: "TLS".to_owned(), reason: error.to_string() })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RegistryError> {
    let failed = |reason: String| RegistryError::Setup { what: path.display().to_string(), reason };
    let found: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| failed(innermost(&error)));
    match found {
        Ok(found) if found.is_empty() => Err(failed("no certificate in it".to_owned())),
        other => other,
    }
}

/// All that can be read; what cannot is what the handshake will complain about. `SSL_CERT_FILE` and `SSL_CERT_DIR`
/// replace the system's, as for OpenSSL.
fn system_certificates() -> Vec<CertificateDer<'static>> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let (file, dir) = (variable("SSL_CERT_FILE"), variable("SSL_CERT_DIR"));
    let file = match (&file, &dir) {
        (None, None) => SYSTEM_BUNDLES.iter().map(PathBuf::from).find(|path| path.exists()),
        _ => file,
    };
    let mut found: Vec<CertificateDer<'static>> = Vec::new();
    let mut read = |path: &Path| {
        if let Ok(certificates) = CertificateDer::pem_file_iter(path) {
            found.extend(certificates.flatten());
        }
    };
    if let Some(file) = &file {
        read(file);
    }
    // Several directories may be given, like PATH.
    for dir in dir.iter().flat_map(std::env::split_paths) {
        let entries: io::Result<Vec<_>> = fs::read_dir(dir).map(|entries| entries.flatten().collect());
        entries.unwrap_or_default().iter().for_each(|entry| read(&entry.path()));
    }
    found
}

/// Trusts what the authorities vouch for, and a certificate that is trusted itself although it is an authority's: what
/// `openssl req -x509` makes, as the manuals of registries tell people to. OpenSSL and Go take it, rustls alone does not.
#[derive(Debug)]
struct Trusting {
    usual: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

/// What rustls says of an authority's certificate that a server shows as its own.
const AUTHORITYS_OWN: &str = "CaUsedAsEndEntity";

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // Its dates have been looked at by then, its name has not.
            Err(rustls::Error::InvalidCertificate(CertificateError::Other(why)))
                if why.0.to_string() == AUTHORITYS_OWN =>
            {
                if !self.trusted.iter().any(|trusted| trusted.as_ref() == end_entity.as_ref()) {
                    return Err(CertificateError::UnknownIssuer.into());
                }
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.usual.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}

/// `--tls-verify=false`: encrypts, to whomever.
#[derive(Debug)]
struct TrustEverybody(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustEverybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
