//! Why a handshake failed, in words that say what to do. The same cause always has the same words.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

/// Names of a certificate that are shown,
const NAMES_SHOWN_MAX: usize = 8;
/// and characters of each.
const NAME_CHARS_SHOWN_MAX: usize = 80;

/// What a failed handshake means to this end.
pub(super) fn handshake(error: &io::Error) -> String {
    match of(error) {
        Some(error) => tls(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "it closed the connection during the TLS handshake".to_owned()
        }
        None => error.to_string(),
    }
}

/// What the other end said of this one before it said anything else; `None` for other failures.
pub(super) fn alert(error: &io::Error) -> Option<String> {
    of(error).filter(|error| matches!(error, Error::AlertReceived(_))).map(tls)
}

/// The failure of TLS itself in a failed read or write.
pub(super) fn of(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

pub(super) fn tls(error: &Error) -> String {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the list is open")]
    match error {
        Error::InvalidCertificate(error) => certificate(error),
        Error::NoCertificatesPresented => {
            "it presented no certificate: it needs one that is signed by a CA which is trusted here".to_owned()
        }
        Error::AlertReceived(alert) => said(*alert),
        Error::InvalidMessage(_) => "it does not speak TLS".to_owned(),
        Error::PeerIncompatible(_) => "it does not speak TLS 1.3".to_owned(),
        other => format!("the TLS handshake failed: {other}"),
    }
}

fn certificate(error: &CertificateError) -> String {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the list is open")]
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "its certificate has expired: replace it (or set the clock)".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet: check the clocks".to_owned()
        }
        // A CA that was made anew under its old name signs what the old one does not know.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "its certificate is not signed by a CA which is trusted here: check the files of the CA at both ends"
                .to_owned()
        }
        CertificateError::NotValidForNameContext { expected, presented } => {
            let mut named: Vec<_> = presented.iter().take(NAMES_SHOWN_MAX).map(|name| plain(name)).collect();
            match presented.len() {
                0 => named.push("nothing".to_owned()),
                more if more > NAMES_SHOWN_MAX => named.push("…".to_owned()),
                _ => {}
            }
            let named = named.join(", ");
            format!("its certificate names {named}, not {}", expected.to_str())
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its certificate is not made for this (extended key usage): servers need serverAuth, clients clientAuth, \
             and nodes among each other both"
                .to_owned()
        }
        other => format!("its certificate cannot be trusted: {other}"),
    }
}

/// `DnsName("n1")` as `n1`. A name comes from outside: it is kept short, and within its line.
fn plain(presented: &str) -> String {
    let inner = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(presented);
    let name = inner.trim_matches('"').chars().take(NAME_CHARS_SHOWN_MAX);
    name.map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn said(alert: AlertDescription) -> String {
    #[allow(clippy::wildcard_enum_match_arm, reason = "the list is open")]
    match alert {
        AlertDescription::CertificateRequired => {
            "it wants a certificate from this end: give one and its key (--tls-cert and --tls-key)".to_owned()
        }
        AlertDescription::CertificateExpired => {
            "it says that the certificate of this end has expired: replace it".to_owned()
        }
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "it says that the certificate of this end is not signed by a CA which it trusts".to_owned()
        }
        AlertDescription::UnsupportedCertificate => {
            "it says that the certificate of this end is not made for this: check its extended key usage".to_owned()
        }
        AlertDescription::BadCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateUnknown
        | AlertDescription::AccessDenied => format!("it does not accept the certificate of this end ({alert:?})"),
        AlertDescription::ProtocolVersion => "it does not speak TLS 1.3".to_owned(),
        _ => format!("it broke the TLS handshake off ({alert:?})"),
    }
}

#[cfg(test)]
mod tests {
    use super::plain;

    #[test]
    fn names_are_shown_as_they_are_written_and_within_a_line() {
        assert_eq!(plain("DnsName(\"n1\")"), "n1");
        assert_eq!(plain("IpAddress(127.0.0.1)"), "127.0.0.1");
        assert_eq!(plain("DnsName(\"a\nb\")"), "a\u{fffd}b");
        assert_eq!(plain(&format!("DnsName(\"{}\")", "x".repeat(500))).len(), super::NAME_CHARS_SHOWN_MAX);
    }
}
