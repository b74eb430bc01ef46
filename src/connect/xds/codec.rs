//! How gRPC reads requests and writes responses.

use std::marker::PhantomData;

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

/// The most bytes of a request.
pub(super) const REQUEST_BYTES: usize = 256 << 10;

/// Requests are decoded; responses are encoded already.
pub(super) struct Encoded<A>(PhantomData<A>);

impl<A> Default for Encoded<A> {
    fn default() -> Encoded<A> {
        Encoded(PhantomData)
    }
}

impl<A: Message + Default + 'static> Codec for Encoded<A> {
    type Encode = Bytes;
    type Decode = A;
    type Encoder = Encoded<A>;
    type Decoder = Encoded<A>;
    fn encoder(&mut self) -> Encoded<A> {
        Encoded(PhantomData)
    }
    fn decoder(&mut self) -> Encoded<A> {
        Encoded(PhantomData)
    }
}

impl<A: Message + Default + 'static> Encoder for Encoded<A> {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl<A: Message + Default + 'static> Decoder for Encoded<A> {
    type Item = A;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<A>, Status> {
        debug_assert!(buffer.remaining() <= REQUEST_BYTES);
        A::decode(buffer).map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}
