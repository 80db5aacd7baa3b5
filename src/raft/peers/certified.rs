//! Whether a certificate is that of the node which presents it. Without TLS there is none, and nothing to
//! check.

use super::admission::{Introduction, Refusal};
use crate::env::tls::Certificate;
use crate::proto::internal::peer_error::Code;
use crate::types::NodeId;

/// A node must be named by its own certificate.
pub(super) fn check_introduction(certificate: Option<&Certificate>, theirs: &Introduction) -> Result<(), Refusal> {
    let Some(certificate) = certificate else { return Ok(()) };
    certificate.check_name(&theirs.name).map_err(|why| untrusted(theirs.node, &why))
}

/// The name that a node's id is known by counts, and not the one that it may give itself.
pub(super) fn check_expected(
    certificate: Option<&Certificate>,
    node: NodeId,
    known: Option<&str>,
) -> Result<(), Refusal> {
    let (Some(certificate), Some(known)) = (certificate, known) else { return Ok(()) };
    certificate.check_name(known).map_err(|why| untrusted(node, &why))
}

fn untrusted(node: NodeId, why: &str) -> Refusal {
    let message =
        format!("who says to be node {node} does not prove it: {why}; give each node a certificate of its own");
    Refusal::new(Code::Untrusted, message)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate(names: &[&str]) -> Certificate {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let signed = CertificateParams::new(names).unwrap().self_signed(&KeyPair::generate().unwrap()).unwrap();
        Certificate::of(signed.der().clone())
    }

    fn introduction(name: &str) -> Introduction {
        Introduction {
            name: name.to_owned(),
            node: NodeId(2),
            boot: 1,
            nonce: 1,
            cluster_id: None,
            founding_hash: 1,
            position: 0,
            earlier: Vec::new(),
        }
    }

    #[test]
    fn a_certificate_must_hold_the_name_that_is_stated_and_the_one_that_is_known() {
        let n2 = certificate(&["db.example.org", "n2"]);
        assert_eq!(check_introduction(Some(&n2), &introduction("n2")), Ok(()));
        let refusal = check_introduction(Some(&n2), &introduction("n3")).unwrap_err();
        assert_eq!(refusal.code, Code::Untrusted);
        assert!(refusal.message.contains("its certificate names db.example.org, n2, not n3"), "{refusal}");
        assert_eq!(check_expected(Some(&n2), NodeId(2), Some("n2")), Ok(()));
        // Its own name, but another node's id.
        assert_eq!(check_expected(Some(&n2), NodeId(3), Some("n3")).unwrap_err().code, Code::Untrusted);
        assert_eq!(check_expected(Some(&n2), NodeId(9), None), Ok(()), "a node that nobody knows yet");
    }

    #[test]
    fn a_name_that_no_certificate_can_hold_is_refused() {
        let refusal = check_introduction(Some(&certificate(&["n2"])), &introduction("-")).unwrap_err();
        assert!(refusal.message.contains("no DNS name"), "{refusal}");
    }

    #[test]
    fn without_tls_there_is_nothing_to_check() {
        assert_eq!(check_introduction(None, &introduction("n2")), Ok(()));
        assert_eq!(check_expected(None, NodeId(2), Some("n3")), Ok(()));
    }
}
