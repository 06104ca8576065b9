//! The nodes of the cluster and the ring they form: addresses, ids, tokens, and who is up.
//!
//! All nodes live in this process and share one store, so there are no replicas that could differ; what the
//! nodes have of their own is an address, a share of the ring and whether they answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};

use uuid::Uuid;

/// Nodes that fit the loopback addresses and a test machine.
pub const MAX_NODES: usize = 9;

/// Tokens per node that keep the ring, and with it the streams of a generation, at a sensible size.
pub const MAX_TOKENS_PER_NODE: usize = 256;

/// Shards per node. Drivers open a connection per shard and node; one process needs no more.
pub const SHARDS_PER_NODE: u32 = 1;

/// What the nodes are made of.
#[derive(Debug, Clone)]
pub struct Topology {
    pub cluster_name: String,
    pub datacenter: String,
    /// What system.local and system.peers call it.
    pub release_version: String,
    pub nodes: usize,
    pub tokens_per_node: usize,
}

#[derive(Debug)]
pub struct Cluster {
    pub name: String,
    pub datacenter: String,
    pub release_version: String,
    nodes: Vec<Node>,
}

#[derive(Debug)]
pub struct Node {
    pub index: usize,
    /// Where clients dial: a loopback address of its own, the port of all.
    pub address: SocketAddr,
    pub host_id: Uuid,
    pub rack: String,
    /// Ascending. Each ends a range of the ring that starts behind the token before it.
    pub tokens: Vec<i64>,
    up: AtomicBool,
}

impl Cluster {
    /// Lays the nodes out from `first` upward: 127.0.0.1, 127.0.0.2, ... with the same port.
    ///
    /// Tokens are spread evenly and dealt in turn, the same at each start; host ids follow from the cluster's
    /// name. So two runs with the same options look the same to a client.
    pub fn new(topology: &Topology, first: SocketAddr) -> Self {
        let nodes = topology.nodes.clamp(1, MAX_NODES);
        let per_node = topology.tokens_per_node.clamp(1, MAX_TOKENS_PER_NODE);
        let nodes = (0..nodes)
            .map(|index| Node {
                index,
                address: nth_address(first, index),
                host_id: Uuid::new_v5(
                    &Uuid::NAMESPACE_OID,
                    format!("{}/{index}", topology.cluster_name).as_bytes(),
                ),
                rack: format!("rack{}", index + 1),
                tokens: (0..per_node)
                    .map(|turn| even_token(turn * nodes + index, nodes * per_node))
                    .collect(),
                up: AtomicBool::new(false),
            })
            .collect();
        Self {
            name: topology.cluster_name.clone(),
            datacenter: topology.datacenter.clone(),
            release_version: topology.release_version.clone(),
            nodes,
        }
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub fn node(&self, index: usize) -> Option<&Node> {
        self.nodes.get(index)
    }

    /// All tokens of the ring, ascending.
    pub fn ring(&self) -> Vec<i64> {
        let mut tokens: Vec<i64> = self
            .nodes
            .iter()
            .flat_map(|node| node.tokens.iter().copied())
            .collect();
        tokens.sort_unstable();
        tokens
    }
}

impl Node {
    pub fn ip(&self) -> IpAddr {
        self.address.ip()
    }

    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    pub(crate) fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Release);
    }
}

/// The address of the `index`-th node if `first` is that of node 0.
pub fn nth_address(first: SocketAddr, index: usize) -> SocketAddr {
    // At most MAX_NODES: fits a u32.
    let step = index as u32;
    let ip = match first.ip() {
        IpAddr::V4(v4) => IpAddr::from(u32::from(v4).wrapping_add(step).to_be_bytes()),
        IpAddr::V6(v6) => IpAddr::from(u128::from(v6).wrapping_add(u128::from(step)).to_be_bytes()),
    };
    SocketAddr::new(ip, first.port())
}

/// The end of the `index`-th of `count` equal ranges; the last one ends the ring.
fn even_token(index: usize, count: usize) -> i64 {
    let ring = 1_u128 << 64;
    let end = (index as u128 + 1) * ring / count as u128;
    // `end` is in (0, 2^64]: one less fits, and flipping the sign bit turns ring order into token order.
    ((end - 1) as u64 ^ (1 << 63)) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(nodes: usize, tokens_per_node: usize) -> Cluster {
        let topology = Topology {
            cluster_name: "test".into(),
            datacenter: "datacenter1".into(),
            release_version: "3.0.8".into(),
            nodes,
            tokens_per_node,
        };
        Cluster::new(&topology, SocketAddr::from(([127, 0, 0, 1], 9042)))
    }

    #[test]
    fn tokens_are_even_distinct_and_dealt_in_turn() {
        let cluster = cluster(3, 4);
        let ring = cluster.ring();
        assert_eq!(ring.len(), 12);
        assert_eq!(ring.last(), Some(&i64::MAX));
        let widths: Vec<u64> = ring
            .windows(2)
            .map(|pair| pair[1].wrapping_sub(pair[0]) as u64)
            .collect();
        assert!(
            widths.iter().all(|width| width.abs_diff(u64::MAX / 12) <= 1),
            "{widths:?}"
        );
        assert_eq!(cluster.nodes()[1].tokens[0], ring[1]);
        assert_eq!(cluster.nodes()[1].tokens[1], ring[4]);
    }

    #[test]
    fn nodes_have_addresses_and_ids_of_their_own() {
        let cluster = cluster(3, 1);
        let addresses: Vec<String> = cluster
            .nodes()
            .iter()
            .map(|node| node.address.to_string())
            .collect();
        assert_eq!(addresses, ["127.0.0.1:9042", "127.0.0.2:9042", "127.0.0.3:9042"]);
        assert_ne!(cluster.nodes()[0].host_id, cluster.nodes()[1].host_id);
    }
}
