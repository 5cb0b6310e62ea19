//! A dataplane in this process, and its client.
use dataplane::{
    config::{Config, Frames, Kind, Pages},
    live::Shared,
    serve, start,
    store::Store,
};
use proto::v1::{
    self, ApplyReply, ApplyRequest, CountersReply, CountersRequest, Delta, Desired, Prefix, StatusReply, StatusRequest,
    apply_request::Change, dataplane_client::DataplaneClient, port, route::NextHop,
};
use std::net::IpAddr;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

pub(crate) struct Rig {
    pub(crate) client: DataplaneClient<Channel>,
    pub(crate) config: Config,
    dir: TempDir,
    shared: Shared,
    server: JoinHandle<()>,
}

impl Rig {
    pub(crate) async fn new() -> Self {
        Rig::in_dir(tempfile::tempdir().unwrap()).await
    }

    /// The same dataplane as a new process finds it.
    pub(crate) async fn restarted(self) -> Self {
        self.server.abort();
        self.shared.lock().stop();
        drop(self.shared);
        Rig::in_dir(self.dir).await
    }

    pub(crate) async fn apply(&mut self, change: Change) -> Result<ApplyReply, Status> {
        let request = ApplyRequest { change: Some(change), dry_run: false };
        self.client.apply(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn status(&mut self) -> StatusReply {
        self.client.status(StatusRequest {}).await.unwrap().into_inner()
    }

    pub(crate) async fn counters(&mut self) -> CountersReply {
        self.client.counters(CountersRequest {}).await.unwrap().into_inner()
    }

    async fn in_dir(dir: TempDir) -> Self {
        let config = Config {
            frames: Frames { small: 2048, jumbo: 64, super_: 16 },
            pages: Pages { kind: Kind::Plain, lock: false },
            flows: 1024,
            state_dir: dir.path().join("state"),
            run_dir: dir.path().join("run"),
            ..Config::default()
        };
        let (store, state) = Store::open(&config.state_dir).unwrap();
        let shared = Shared::new(start::begin(&config, 1, (Some(store), state), None).unwrap());
        let (socket, served) = (config.socket(), shared.clone());
        let _old = std::fs::remove_file(&socket);
        let server = tokio::spawn(async move { serve::serve(&socket, served).await.unwrap() });
        while !config.socket().exists() {
            tokio::task::yield_now().await;
        }
        let endpoint = Endpoint::from_shared(format!("unix://{}", config.socket().display())).unwrap();
        let client = DataplaneClient::new(endpoint.connect().await.unwrap());
        Rig { client, config, dir, shared, server }
    }
}

pub(crate) fn delta(expected_generation: u64, upserts: Desired) -> Change {
    Change::Delta(Delta { expected_generation, upserts: Some(upserts), deletes: vec![] })
}

pub(crate) fn null(id: &str) -> v1::Port {
    let kind = Some(port::Kind::Null(v1::Null {}));
    v1::Port { id: id.into(), kind, role: v1::Role::Host.into(), mac: MAC.to_vec(), ..v1::Port::default() }
}

pub(crate) fn loopback(id: &str) -> v1::Port {
    v1::Port { kind: Some(port::Kind::Loopback(v1::Loopback {})), ..null(id) }
}

pub(crate) fn route_to(id: &str, to: &str, port: &str) -> v1::Route {
    let (address, len) = to.split_once('/').unwrap();
    let prefix = Prefix::new(address.parse().unwrap(), len.parse().unwrap());
    let next_hop = Some(NextHop::Via(v1::route::Via { port: port.into(), gateway: vec![] }));
    v1::Route { id: id.into(), vrf: 0, prefix: Some(prefix), next_hop }
}

/// Two ports, and a station behind each.
pub(crate) fn pair() -> Desired {
    let neighbour = |id: &str, address: &str| {
        let address: IpAddr = address.parse().unwrap();
        let (port, mac) = (id.to_owned(), vec![2, 0, 0, 0, 0, 9]);
        v1::Neighbour { id: id.into(), port, address: proto::ip_bytes(address), mac }
    };
    Desired {
        settings: None,
        ports: vec![null("in"), null("out")],
        routes: vec![route_to("in", "10.0.0.1/32", "in"), route_to("out", "10.0.0.2/32", "out")],
        neighbours: vec![neighbour("in", "10.0.0.1"), neighbour("out", "10.0.0.2")],
        tunnels: vec![],
    }
}

const MAC: [u8; 6] = [2, 0, 0, 0, 1, 0];

/// A TCP SYN from 10.0.0.1 to 10.0.0.2, as it enters by port "in".
pub(crate) fn ping() -> Vec<u8> {
    let mut frame = MAC.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    let mut ip = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    let sum = checksum(&ip, 0);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut tcp = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];
    let pseudo = [10, 0, 0, 1, 10, 0, 0, 2, 0, 6, 0, 20];
    let sum = checksum(&tcp, words(&pseudo));
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend(tcp);
    frame
}

fn words(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum()
}

fn checksum(bytes: &[u8], more: u32) -> u16 {
    let sum = words(bytes) + more;
    let sum = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
}
