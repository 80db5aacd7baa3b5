//! Messages that are known by their descriptors only, as tonic sends and receives them.

use prost::Message;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Sends any message and receives those of one kind.
pub(super) struct Messages {
    received: MessageDescriptor,
}

impl Messages {
    pub(super) fn new(received: MessageDescriptor) -> Self {
        Self { received }
    }
}

impl Codec for Messages {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = Sent;
    type Decoder = Received;

    fn encoder(&mut self) -> Sent {
        Sent
    }

    fn decoder(&mut self) -> Received {
        Received(self.received.clone())
    }
}

pub(super) struct Sent;

impl Encoder for Sent {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, message: DynamicMessage, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        message.encode(buffer).map_err(|error| Status::internal(format!("the request cannot be encoded: {error}")))
    }
}

pub(super) struct Received(MessageDescriptor);

impl Decoder for Received {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let message = DynamicMessage::decode(self.0.clone(), buffer);
        message.map(Some).map_err(|error| Status::internal(format!("the answer cannot be decoded: {error}")))
    }
}
