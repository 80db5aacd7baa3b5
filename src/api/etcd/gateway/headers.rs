//! Which headers of a request become metadata of its call, and which metadata of the answer become headers.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::{HeaderMap, HeaderName};
use tonic::Status;
use tonic::metadata::MetadataMap;

/// Before the name of metadata in a header.
const PREFIX: &str = "grpc-metadata-";
/// Before the names of our own metadata, which stand without a prefix.
const OURS: &str = "quorate-";
/// After the name of metadata that is binary, and therefore in base64.
const BINARY: &str = "-bin";
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The metadata of a call: `authorization`, `grpc-timeout`, `quorate-*`, and `grpc-metadata-*` without
/// that prefix.
///
/// # Errors
/// When binary metadata is not base64.
pub(super) fn inward(headers: &HeaderMap) -> Result<MetadataMap, Status> {
    let mut metadata = HeaderMap::new();
    for (header, value) in headers {
        let Some(name) = metadata_name(header.as_str()) else { continue };
        if name.as_str().ends_with(BINARY) && BASE64.decode(value).is_err() {
            return Err(Status::invalid_argument(format!("the binary header {header} is not base64")));
        }
        metadata.append(name, value.clone());
    }
    Ok(MetadataMap::from_headers(metadata))
}

fn metadata_name(header: &str) -> Option<HeaderName> {
    let by_itself = matches!(header, "authorization" | "grpc-timeout") || header.starts_with(OURS);
    let name = if by_itself { header } else { header.strip_prefix(PREFIX).filter(|name| !is_reserved(name))? };
    name.parse().ok()
}

/// The headers of an answer.
pub(super) fn outward(metadata: &MetadataMap) -> HeaderMap {
    let metadata = metadata.clone().into_headers();
    let shown = metadata.iter().filter(|(name, _)| !is_reserved(name.as_str()));
    shown.filter_map(|(name, value)| Some((format!("{PREFIX}{name}").parse().ok()?, value.clone()))).collect()
}

/// Names that belong to HTTP or to gRPC itself.
fn is_reserved(name: &str) -> bool {
    const RESERVED: [&str; 8] =
        ["connection", "content-length", "content-type", "date", "host", "te", "transfer-encoding", "user-agent"];
    name.starts_with("grpc-") || RESERVED.contains(&name)
}
