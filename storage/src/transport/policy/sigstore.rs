//! Signatures that lie beside an image in its registry, verified by public keys.
//!
//! # Source
//! cosign's `SIGNATURE_SPEC.md`: the tag `sha256-<hex>.sig`, layers of `application/vnd.dev.cosign.simplesigning.v1+json`.

use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

use super::{Keys, Signed, parse_payload};
use crate::digest::Digest;
use crate::transport::ImageSource;

const KIND: &str = "cosign container image signature";

/// What verified signatures of a manifest say; a signature that is not good says why.
pub(super) fn find(
    source: &dyn ImageSource,
    manifest: &Digest,
    keys: &Keys,
) -> Result<Vec<Result<Signed, String>>, String> {
    let keys = keys.read()?.iter().map(|pem| PublicKey::parse(pem)).collect::<Result<Vec<_>, _>>()?;
    let attached = source.attachments(manifest).map_err(|error| error.to_string())?;
    let verified = attached.into_iter().map(|attached| {
        let is_signed = keys.iter().any(|key| key.has_signed(&attached.payload, &attached.signature));
        match is_signed {
            true => parse_payload(&attached.payload, KIND),
            false => Err("it is by another key".to_owned()),
        }
    });
    Ok(verified.collect())
}

/// A key that signatures are verified by.
struct PublicKey {
    algorithm: &'static dyn ring::signature::VerificationAlgorithm,
    bytes: Vec<u8>,
}

/// The object identifiers of the algorithms, encoded.
const EC_P256: &[u8] =
    &[0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
const ED_25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];

impl PublicKey {
    /// Reads a PEM `PUBLIC KEY`.
    fn parse(pem: &[u8]) -> Result<Self, String> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| "a key is no PEM public key".to_owned())?;
        let malformed = || "a key is malformed".to_owned();
        let (0x30, outer, _) = element(&der).ok_or_else(malformed)? else { return Err(malformed()) };
        let (0x30, algorithm, rest) = element(outer).ok_or_else(malformed)? else { return Err(malformed()) };
        let (0x03, bits, _) = element(rest).ok_or_else(malformed)? else { return Err(malformed()) };
        // The first byte counts the bits that are not used in the last.
        let Some((0, bytes)) = bits.split_first() else { return Err(malformed()) };
        let algorithm: &'static dyn ring::signature::VerificationAlgorithm = match algorithm {
            EC_P256 => &ECDSA_P256_SHA256_ASN1,
            RSA => &RSA_PKCS1_2048_8192_SHA256,
            ED_25519 => &ED25519,
            _ => return Err("a key is of an unsupported kind: use EC P-256, RSA or Ed25519".to_owned()),
        };
        Ok(Self { algorithm, bytes: bytes.to_vec() })
    }

    fn has_signed(&self, payload: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(self.algorithm, &self.bytes).verify(payload, signature).is_ok()
    }
}

/// The first DER element: its tag, its content, and what follows it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x83 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |len, digit| len << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(len)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_are_none_are_refused() {
        for bad in ["", "x", "-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n"] {
            assert!(PublicKey::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        let mut random = 7_u64;
        for _ in 0..2000 {
            let bytes: Vec<u8> = (0..40)
                .map(|_| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (random >> 33) as u8
                })
                .collect();
            let _ = element(&bytes);
        }
    }
}
