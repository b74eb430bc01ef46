//! Clients of xDS: each has a connection and a stream of its own (state of the world, by ADS), and acknowledges each
//! response.

use std::{net::SocketAddr, sync::Arc};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use gwm::{
    connect::xds::{
        messages::{ClusterLoadAssignment, DiscoveryRequest, DiscoveryResponse, Node},
        snapshot::Kind,
    },
    sasp::{Endpoint, component::TCP},
};
use h2::{SendStream, client};
use http::Request;
use prost::Message;
use tokio::{net::TcpStream, task::JoinSet};

use super::{Board, GROUP, Receiver};
use crate::Result;

/// How many clients connect at a time.
const CONNECTING: usize = 64;

/// The prefix of a message of gRPC: a flag and the length.
const PREFIX_BYTES: usize = 5;

/// Follows until the run ends.
pub(super) fn follow(board: &Arc<Board>, to: SocketAddr, streams: u32) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build();
    runtime.map_err(|error| format!("can not start the clients: {error}"))?.block_on(async {
        let turns = Arc::new(tokio::sync::Semaphore::new(CONNECTING));
        let mut clients = JoinSet::new();
        for number in 0..streams {
            let (board, turns) = (board.clone(), turns.clone());
            clients.spawn(async move {
                let done = Client::new(&board).live(to, number, &turns).await;
                // At the end the connector ends the streams.
                if board.stage.ended() { Ok(()) } else { done.map_err(|error| format!("xDS client {number}: {error}")) }
            });
        }
        while let Some(done) = clients.join_next().await {
            done.map_err(|error| format!("an xDS client: {error}"))??;
        }
        Ok(())
    })
}

struct Client {
    receiver: Receiver,
    weights: Vec<u32>,
}

impl Client {
    fn new(board: &Arc<Board>) -> Client {
        Client { receiver: Receiver::new(board), weights: vec![0; board.members.len()] }
    }

    async fn live(mut self, to: SocketAddr, number: u32, turns: &tokio::sync::Semaphore) -> Result<()> {
        let failed = |error: h2::Error| error.to_string();
        let turn = turns.acquire().await.map_err(|error| error.to_string())?;
        let socket = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
        socket.set_nodelay(true).map_err(|error| error.to_string())?;
        let (client, connection) = client::handshake(socket).await.map_err(failed)?;
        let connection = tokio::spawn(connection);
        let path = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
        let request = Request::post(format!("http://{to}{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .map_err(|error| error.to_string())?;
        let mut client = client.ready().await.map_err(failed)?;
        let (response, mut requests) = client.send_request(request, false).map_err(failed)?;
        let mut request = DiscoveryRequest {
            node: Some(Node { id: format!("client-{number}"), cluster: String::new() }),
            resource_names: vec![GROUP.into()],
            type_url: Kind::Endpoints.type_url().into(),
            ..DiscoveryRequest::default()
        };
        send(&mut requests, &request)?;
        request.node = None;
        let mut body = response.await.map_err(failed)?.into_body();
        drop(turn);
        let mut received = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(failed)?;
            body.flow_control().release_capacity(data.len()).map_err(failed)?;
            received.extend_from_slice(&data);
            while let Some(message) = next_message(&mut received) {
                let response = DiscoveryResponse::decode(message).map_err(|error| error.to_string())?;
                self.take(&response)?;
                request.version_info = response.version_info;
                request.response_nonce = response.nonce;
                send(&mut requests, &request)?;
            }
        }
        connection.abort();
        Err("the stream ended".into())
    }

    fn take(&mut self, response: &DiscoveryResponse) -> Result<()> {
        let [resource] = &response.resources[..] else {
            return Err(format!("{} resources in place of one", response.resources.len()));
        };
        let assignment = ClusterLoadAssignment::decode(resource.value.clone()).map_err(|error| error.to_string())?;
        self.weights.fill(0);
        for locality in assignment.endpoints {
            let weight = locality.load_balancing_weight.map_or(0, |weight| weight.value);
            for endpoint in locality.lb_endpoints {
                let address = endpoint.endpoint.and_then(|endpoint| endpoint.address);
                let address = address.and_then(|address| address.socket_address).ok_or("an endpoint has no address")?;
                let port = address.port_value.try_into().map_err(|_| "a port above 65535")?;
                let ip = address.address.parse().map_err(|_| "an address that is none")?;
                let place = self.receiver.board.member(Endpoint::new(ip, TCP, port)).ok_or("an unknown endpoint")?;
                self.weights[place] = weight;
            }
        }
        self.receiver.has(&self.weights);
        Ok(())
    }
}

fn send(requests: &mut SendStream<Bytes>, request: &DiscoveryRequest) -> Result<()> {
    let mut frame = BytesMut::with_capacity(PREFIX_BYTES + request.encoded_len());
    frame.put_u8(0);
    frame.put_u32(request.encoded_len() as u32);
    request.encode(&mut frame).map_err(|error| error.to_string())?;
    requests.send_data(frame.freeze(), false).map_err(|error| error.to_string())
}

/// Takes a whole message off the received bytes.
fn next_message(received: &mut BytesMut) -> Option<Bytes> {
    let length = u32::from_be_bytes(*received.get(1..)?.first_chunk()?) as usize;
    if received.len() < PREFIX_BYTES + length {
        return None;
    }
    received.advance(PREFIX_BYTES);
    Some(received.split_to(length).freeze())
}
